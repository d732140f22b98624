"""Cleaning that is visible: every rule has a name, a count and examples, and nothing disappears without being listed."""

import re
import unicodedata
from pathlib import Path

import pandas as pd
import pyarrow as pa

from hippo_utils.corpus import streams
from hippo_utils.records import SCHEMAS

BOILERPLATE = re.compile(r"(?:downloaded from|all rights reserved|click here|cookie policy|subscribe to|copyright ©)", re.IGNORECASE)
# What consultation sites put around an answer: a sentence that names the site and only greets, thanks or takes leave.
SITE = re.compile(r"health ?care ?magic|chat ?doctor|icliniq|\bhcm\b", re.IGNORECASE)
MANNERS = re.compile(r"\b(?:welcome|thank|thanks|greetings|regards|hello|hi|dear|consult|query|wish|hope)\b", re.IGNORECASE)
URL = re.compile(r"(?:https?://|www\.)\S+")
BREAK = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")  # other ways to end a line or page: the words at both sides stay two words
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ufeff\u00ad]")
MEANT = "\u00b2\u00b3\u00b9\u2070-\u207f\u00bc-\u00be\u2150-\u215f\u2189"  # superscripts and fractions: NFKC makes 109 of 10⁹ and 11⁄2 of 1½
NOT_MEANT = re.compile(f"[^{MEANT}]+")
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
# Words that make up a quarter of English prose and are no words of German, French, Spanish or Italian.
ENGLISH = frozenset("the of and to is with for that were by this which are from as be or it not have has had at their should been may when".split())
WORD = re.compile(r"[^\W\d_]+")


def _unicode(text: str) -> str:
    return text if text.isascii() else NOT_MEANT.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)


def _control(text: str) -> str:
    return CONTROL.sub("", BREAK.sub("\n", text))


def _urls(text: str) -> str:
    return URL.sub("", text)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


def _without(text: str, unwanted) -> str:
    lines = (" ".join(s for s in _sentences(line) if not unwanted(s)) for line in text.split("\n"))
    return "\n".join(line for line in lines if line.strip())


def _boilerplate(text: str) -> str:
    return _without(text, BOILERPLATE.search) if BOILERPLATE.search(text) else text  # leaves untouched text exactly as it was


def _superfluous(text: str) -> str:
    return _without(text, lambda s: len(s) < 150 and SITE.search(s) and MANNERS.search(s)) if SITE.search(text) else text


def _repeated(text: str) -> str:
    """A sentence that repeats the one right before it is dropped (extraction from PDF doubles lines)."""
    lines = []
    for line in text.split("\n"):
        sentences = _sentences(line)
        kept = [sentence for before, sentence in zip([None, *sentences], sentences) if sentence != before]
        lines.append(" ".join(kept) if len(kept) < len(sentences) else line)
    return "\n".join(lines)


def _repeated_lines(text: str) -> str:
    lines = text.split("\n")
    kept = [line for before, line in zip([None, *lines], lines) if line != before or not line.strip()]
    return "\n".join(kept)


def _spaces(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().split("\n"))


# In the order in which they are applied: later rules see what earlier ones left.
RULES = {
    "unicode form (NFKC)": _unicode,
    "control characters": _control,
    "URLs": _urls,
    "boilerplate sentences": _boilerplate,
    "superfluous words": _superfluous,
    "repeated sentences": _repeated,
    "repeated lines": _repeated_lines,
    "spaces": _spaces,
}
TOO_SHORT, WRONG_LANGUAGE, NOTHING_LEFT = "too short", "wrong language", "nothing left"
DROPS = (TOO_SHORT, WRONG_LANGUAGE, NOTHING_LEFT)
TEXTS = {"document": ("text",), "instruction": ("prompt", "completion"), "candidates": ("prompt", "answers")}  # what is cleaned of each kind
LOG = pa.schema([(name, pa.string()) for name in ("id", "source", "rule", "before", "after")])
WIDTH = 90            # characters of a change that the log keeps
FEW_ENGLISH = 0.04    # share of the words above in text that counts as English; prose has about 0.25 (ours)
JUDGED_FROM = 20      # words: shorter texts are not judged by language


def length(text: str) -> int:
    """Words, where a Chinese character counts as one."""
    characters = 0 if text.isascii() else len(HAN.findall(text))
    return characters + len((HAN.sub(" ", text) if characters else text).split())


def wrong_language(text: str, language: str) -> bool:
    """Whether a text is not in the language (en or zh) that the corpus should be in."""
    words = WORD.findall(text.lower())
    if language == "zh":
        letters = sum(map(len, words))
        return letters >= JUDGED_FROM and len(HAN.findall(text)) < 0.3 * letters
    return len(words) >= JUDGED_FROM and sum(word in ENGLISH for word in words) < FEW_ENGLISH * len(words)


def clean(records: pd.DataFrame, minimum_words: int, kind: str = "document", language: str = "en") -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Apply every rule to the texts of records. Documents below `minimum_words` or in another language are dropped, and any
    record of which nothing is left.

    Returns the records that remain, a table with one row per rule and source (rule, source, changed, dropped), and the log of
    every change (id, source, rule, before, after: cut to the place of the change; `after` is empty for a dropped record).
    """
    log, kept = [], []
    for row in records.to_dict("records"):
        changes: list[tuple[str, str, str]] = []
        for column in TEXTS[kind]:
            start = " " if column in ("completion", "answers") else ""  # they begin with the space that the prompt ends before
            row[column] = [start + _clean(text, changes) for text in row[column]] if isinstance(row[column], list) else start + _clean(row[column], changes)
        if reason := _reason(row, kind, minimum_words, language):
            changes.append((reason, str(row[TEXTS[kind][0]])[:WIDTH], ""))
        else:
            kept.append(row)
        log += [(row["id"], row["source"], *change) for change in changes]
    changes = pd.DataFrame(log, columns=LOG.names)
    return pd.DataFrame(kept, columns=records.columns), count(changes, list(records["source"].unique())), changes


def _clean(text: str, changes: list) -> str:
    text = text.removeprefix(" ")
    for rule, change in RULES.items():
        changed = change(text)
        if changed != text:
            changes.append((rule, *_place(text, changed)))
            text = changed
    return text


def _reason(row: dict, kind: str, minimum_words: int, language: str) -> str:
    texts = [text for column in TEXTS[kind] for text in (row[column] if isinstance(row[column], list) else [row[column]])]
    if kind == "document" and length(row["text"]) < minimum_words:
        return TOO_SHORT
    if not all(text.strip() for text in texts):
        return NOTHING_LEFT
    return WRONG_LANGUAGE if kind == "document" and wrong_language(row["text"], language) else ""


def _place(before: str, after: str) -> tuple[str, str]:
    same = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
    start = max(0, same - WIDTH // 3)
    return before[start:start + WIDTH], after[start:start + WIDTH]


def count(changes: pd.DataFrame, sources: list[str]) -> pd.DataFrame:
    """One row per source and rule: how many records it changed and how many it dropped."""
    times = changes.drop_duplicates(["id", "rule"]).groupby(["source", "rule"]).size()
    return pd.DataFrame([{"rule": rule, "source": source, "changed": 0 if rule in DROPS else times.get((source, rule), 0),
                          "dropped": times.get((source, rule), 0) if rule in DROPS else 0} for source in sources for rule in (*RULES, *DROPS)])


def clean_file(path: Path, cleaned: Path, log: Path, *, kind: str, minimum_words: int, language: str, processes: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`clean` for a file of records: writes the records that remain and the log; returns the counts and one example per rule."""
    counts, examples = [], {}
    with streams.Writer(cleaned, SCHEMAS[kind]) as out, streams.Writer(log, LOG) as listed:
        for kept, counted, changes in streams.over(path, processes, clean, minimum_words, kind, language):
            out.write(kept)
            listed.write(changes)
            counts.append(counted)
            for row in changes.drop_duplicates("rule").to_dict("records"):
                examples.setdefault(row["rule"], row)
    columns = ["rule", "source", "changed", "dropped"]
    total = pd.concat(counts).groupby(["source", "rule"], sort=False, as_index=False).sum()[columns] if counts else pd.DataFrame(columns=columns)
    return total, example(pd.DataFrame(examples.values(), columns=LOG.names))


def example(changes: pd.DataFrame) -> pd.DataFrame:
    """One change per rule, in the order of the rules: rule, source, before, after."""
    first = changes.drop_duplicates("rule").set_index("rule").reindex([rule for rule in (*RULES, *DROPS) if rule in set(changes["rule"])])
    return first.assign(after=first["after"].where(first["after"] != "", "(dropped)")).reset_index()[["rule", "source", "before", "after"]]
