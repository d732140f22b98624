"""Cleaning that is visible: every rule has a name, a count and examples, and nothing disappears without being listed."""

import re
import unicodedata
from pathlib import Path

import pandas as pd
import pyarrow as pa

from hippo_utils import chinese
from hippo_utils.corpus import streams
from hippo_utils.records import SCHEMAS

# "Data were downloaded from GEO" and "Do you subscribe to the view that" are content: such words count where a sentence begins with them.
BOILERPLATE = re.compile(r"(?:^|(?<=[.!?]\s))\W{0,5}(?:please )?(?:downloaded from|click here|subscribe to)\b|all rights reserved|cookie policy|copyright ©", re.IGNORECASE | re.MULTILINE)
# What consultation sites put around an answer: a sentence that names the site and only greets, thanks or takes leave.
SITE = re.compile(r"health ?care ?magic|chat ?doctor|icliniq|\bhcm\b", re.IGNORECASE)
MANNERS = re.compile(r"\b(?:welcome|thank|thanks|greetings|regards|hello|hi|dear|consult|query|wish|hope)\b", re.IGNORECASE)
# ... and one that thanks for the query, as sites make doctors begin ("Hi, Thank you for posting your query.").
THANKS = re.compile(r"(?:^|(?<=[.!?]\s))\W{0,5}(?:(?:hi|hello|dear)\b\W{0,5})?(?:thanks|thank you|welcome)\b[^.?!]{0,40}\b(?:query|posting|consulting|forum)\b",
                    re.IGNORECASE | re.MULTILINE)
SHORT = 150  # characters: what is longer is not only boilerplate or manners
URL = re.compile(r"\s?\((?:https?://|www\.)[^\s()]+\)|(?:https?://|www\.)\S*[^\s.,;:!?)\]]")  # the mark behind an address ends the sentence
BREAK = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")  # other ways to end a line or page: the words at both sides stay two words
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ufeff\u00ad]")
# NFKC makes 109 of 10⁹, 11⁄2 of 1½, 12 mg of ①2 mg, o of the º in 38.5 ºC, and a space with a mark of the ´ in Alzheimer´s.
MEANT = "\u00b2\u00b3\u00b9\u2070-\u207f\u00bc-\u00be\u2150-\u215f\u2189\u2460-\u249b\u00a8\u00aa\u00af\u00b4\u00b8\u00ba\u02d8-\u02dd"
NOT_MEANT = re.compile(f"[^{MEANT}]+")
# The same for Chinese, where an address ends with the first character that is none of its own and a mark ends a sentence without a space.
BOILERPLATE_ZH = re.compile("版权所有|未经.{0,8}(?:转载|许可|授权)|点击(?:此处|这里|链接|下载|查看)|阅读原文|扫.{0,4}二维码|关注.{0,8}公众号|下载.{0,6}(?:APP|app|客户端)|责任编辑|本文(?:转载|来源)")
SITE_ZH = re.compile("好大夫|春雨医生|快速问医生|有问必答|寻医问药|平安好医生|[您你]的(?:咨询|提问|信任|关注)|我的(?:回答|解答|回复|建议)")
MANNERS_ZH = re.compile("[您你]好|感谢|谢谢|欢迎|希望|祝")
URL_ZH = re.compile(r"(?:https?://|www\.)[\x21-\x7e]+")
SENTENCE_ZH = re.compile(r"(?<=[。！？])(?![。！？”’」』）])|(?<=[。！？][”’」』）])(?![”’」』）])|(?<=[.!?]\s)")
MARK_ZH = re.compile("[\u3000-\u303f\uff00-\uff0f\uff1a-\uff20…—“”‘’]")
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


def _sentences_zh(text: str) -> list[str]:
    """The sentences of Chinese text, each with the space behind it: joined they are the text."""
    return SENTENCE_ZH.split(text)


def _without(text: str, unwanted, sentences=_sentences, space: str = " ") -> str:
    """The text without its unwanted sentences, and without lines that held nothing else; other lines stay exactly as they were."""
    lines = []
    for line in text.split("\n"):
        said = sentences(line)
        kept = [sentence for sentence in said if not unwanted(sentence)]
        if len(kept) == len(said):
            lines.append(line)
        elif "".join(kept).strip():
            lines.append(space.join(kept))
    return "\n".join(lines)


def _boilerplate(text: str) -> str:
    return _without(text, lambda s: len(s) < SHORT and BOILERPLATE.search(s)) if BOILERPLATE.search(text) else text


def _superfluous(text: str) -> str:
    if not SITE.search(text) and not THANKS.search(text):
        return text
    return _without(text, lambda s: len(s) < SHORT and (SITE.search(s) and MANNERS.search(s) or THANKS.search(s)))


def _repeated(text: str, split=_sentences, space: str = " ") -> str:
    """A sentence that repeats the one right before it is dropped (extraction from PDF doubles lines)."""
    lines = []
    for line in text.split("\n"):
        sentences = split(line)
        kept = [sentence for before, sentence in zip([None, *sentences], sentences) if sentence != before]
        lines.append(space.join(kept) if len(kept) < len(sentences) else line)
    return "\n".join(lines)


def _repeated_lines(text: str) -> str:
    lines = text.split("\n")
    kept = [line for before, line in zip([None, *lines], lines) if line != before or not line.strip()]
    return "\n".join(kept)


def _spaces(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().split("\n"))


def _inner_spaces(text: str) -> str:
    """As `_spaces`, but lines stay indented: instructions hold code."""
    return "\n".join(line[:len(line) - len(line.lstrip())] + " ".join(line.split()) if line.strip() else "" for line in text.strip().split("\n"))


def _boilerplate_zh(text: str) -> str:
    # Text without marks is one long "sentence": a short one alone can be judged by a word in it.
    return _without(text, lambda s: len(s) < 60 and BOILERPLATE_ZH.search(s), _sentences_zh, "") if BOILERPLATE_ZH.search(text) else text


def _superfluous_zh(text: str) -> str:
    return _without(text, lambda s: len(s) < 30 and SITE_ZH.search(s) and MANNERS_ZH.search(s), _sentences_zh, "") if SITE_ZH.search(text) else text


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
RULES_ZH = RULES | {
    "unicode form (NFKC)": chinese.widths,
    "URLs": lambda text: URL_ZH.sub("", text),
    "boilerplate sentences": _boilerplate_zh,
    "superfluous words": _superfluous_zh,
    "repeated sentences": lambda text: _repeated(text, _sentences_zh, ""),
    "spaces": lambda text: chinese.closed(_spaces(text)),
}
TOO_SHORT, WRONG_LANGUAGE, NOTHING_LEFT = "too short", "wrong language", "nothing left"
DROPS = (TOO_SHORT, WRONG_LANGUAGE, NOTHING_LEFT)
TEXTS = {"document": ("text",), "instruction": ("prompt", "completion"), "candidates": ("prompt", "answers")}  # what is cleaned of each kind
LOG = pa.schema([(name, pa.string()) for name in ("id", "source", "rule", "before", "after")])
WIDTH = 90            # characters of a change that the log keeps
FEW_ENGLISH = 0.04    # share of the words above in text that counts as English; prose has about 0.25 (ours)
JUDGED_FROM = 20      # words: shorter texts are not judged by language


def length(text: str) -> int:
    """Words, where a Chinese character counts as one; marks between Chinese characters are none."""
    characters = 0 if text.isascii() else len(chinese.CHARACTER.findall(text))
    return characters + len((MARK_ZH.sub(" ", chinese.CHARACTER.sub(" ", text)) if characters else text).split())


def wrong_language(text: str, language: str) -> bool:
    """Whether a text is not in the language (en or zh) that the corpus should be in."""
    words = WORD.findall(text.lower())
    if language == "zh":
        return sum(map(len, words)) >= JUDGED_FROM and not chinese.written(text)
    return len(words) >= JUDGED_FROM and sum(word in ENGLISH for word in words) < FEW_ENGLISH * len(words)


def clean(records: pd.DataFrame, minimum_words: int, kind: str = "document", language: str = "en") -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Apply every rule of the language to the texts of records. Documents below `minimum_words` or in another language are dropped, and any
    record of which nothing is left.

    Returns the records that remain, a table with one row per rule and source (rule, source, changed, dropped), and the log of
    every change (id, source, rule, before, after: cut to the place of the change; `after` is empty for a dropped record).
    """
    log, kept, rules = [], [], _rules(kind, language)
    for row in records.to_dict("records"):
        changes: list[tuple[str, str, str]] = []
        for column in TEXTS[kind]:
            several = isinstance(row[column], list)
            texts = [_clean(text, changes, rules, column) for text in (row[column] if several else [row[column]])]
            row[column] = texts if several else texts[0]
        if reason := _reason(row, kind, minimum_words, language):
            changes.append((reason, str(row[TEXTS[kind][0]])[:WIDTH], ""))
        else:
            kept.append(row)
        log += [(row["id"], row["source"], *change) for change in changes]
    changes = pd.DataFrame(log, columns=LOG.names)
    return pd.DataFrame(kept, columns=records.columns), count(changes, list(records["source"].unique())), changes


def _rules(kind: str, language: str) -> dict:
    """The rules of a language. In what is asked and answered a repetition is meant and code is indented; only documents come from PDF."""
    rules = RULES_ZH if language == "zh" else RULES
    if kind == "document":
        return rules
    asked = {rule: change for rule, change in rules.items() if not rule.startswith("repeated")}
    return asked if language == "zh" else asked | {"spaces": _inner_spaces}


def _clean(text: str, changes: list, rules: dict, column: str) -> str:
    # Answers begin with the space that the prompt ends before; Chinese ones have none.
    space = " " if column in ("completion", "answers") and text.startswith(" ") else ""
    text = text.removeprefix(" ")
    for rule, change in rules.items():
        changed = change(text)
        if changed != text:
            changes.append((rule, *_place(text, changed)))
            text = changed
    return space + text


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
