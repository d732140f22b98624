"""Cleaning that is visible: every rule has a name, a count and examples, and nothing disappears without being listed."""

import re
import unicodedata

import pandas as pd

BOILERPLATE = re.compile(r"(?:downloaded from|all rights reserved|click here|cookie policy|subscribe to|copyright ©)", re.IGNORECASE)
URL = re.compile(r"(?:https?://|www\.)\S+")
BREAK = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")  # other ways to end a line or page: the words at both sides stay two words
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ufeff\u00ad]")
MEANT = "\u00b2\u00b3\u00b9\u2070-\u207f\u00bc-\u00be\u2150-\u215f\u2189"  # superscripts and fractions: NFKC makes 109 of 10⁹ and 11⁄2 of 1½
NOT_MEANT = re.compile(f"[^{MEANT}]+")


def _unicode(text: str) -> str:
    return NOT_MEANT.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)


def _control(text: str) -> str:
    return CONTROL.sub("", BREAK.sub("\n", text))


def _urls(text: str) -> str:
    return URL.sub("", text)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


def _boilerplate(text: str) -> str:
    if not BOILERPLATE.search(text):  # leaves untouched text exactly as it was
        return text
    lines = (" ".join(s for s in _sentences(line) if not BOILERPLATE.search(s)) for line in text.split("\n"))
    return "\n".join(line for line in lines if line.strip())


def _repeated(text: str) -> str:
    """A sentence that repeats the one right before it is dropped (extraction from PDF doubles lines)."""
    lines = []
    for line in text.split("\n"):
        sentences = _sentences(line)
        kept = [sentence for before, sentence in zip([None, *sentences], sentences) if sentence != before]
        lines.append(" ".join(kept) if len(kept) < len(sentences) else line)
    return "\n".join(lines)


def _spaces(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().split("\n"))


# In the order in which they are applied: later rules see what earlier ones left.
RULES = {
    "unicode form (NFKC)": _unicode,
    "control characters": _control,
    "URLs": _urls,
    "boilerplate sentences": _boilerplate,
    "repeated sentences": _repeated,
    "spaces": _spaces,
}
TOO_SHORT = "too short"


def clean(documents: pd.DataFrame, minimum_words: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Apply every rule to the `text` of documents.

    Returns the documents that remain, a table with one row per rule (rule, source, changed, dropped), and the log of every
    change (id, source, rule, before, after; `after` is empty for a dropped document).
    """
    log, kept = [], []
    for row in documents.to_dict("records"):
        text = row["text"]
        for rule, change in RULES.items():
            changed = change(text)
            if changed != text:
                log.append({"id": row["id"], "source": row["source"], "rule": rule, "before": text, "after": changed})
                text = changed
        if len(text.split()) < minimum_words:
            log.append({"id": row["id"], "source": row["source"], "rule": TOO_SHORT, "before": text, "after": ""})
        else:
            kept.append(row | {"text": text})
    changes = pd.DataFrame(log, columns=["id", "source", "rule", "before", "after"])
    counts = [{"rule": rule, "source": source, "changed": 0 if rule == TOO_SHORT else len(part), "dropped": len(part) if rule == TOO_SHORT else 0}
              for source in documents["source"].unique() for rule in (*RULES, TOO_SHORT)
              for part in [changes[(changes["rule"] == rule) & (changes["source"] == source)]]]
    return pd.DataFrame(kept, columns=documents.columns), pd.DataFrame(counts), changes


def example(changes: pd.DataFrame, width: int = 90) -> pd.DataFrame:
    """One change per rule, cut to the place where it happened: rule, source, before, after."""
    rows = []
    for rule, part in changes.groupby("rule", sort=False):
        before, after = part.iloc[0]["before"], part.iloc[0]["after"]
        same = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
        start = max(0, same - width // 3)
        rows.append({"rule": rule, "source": part.iloc[0]["source"], "before": before[start:start + width], "after": after[start:start + width] or "(dropped)"})
    return pd.DataFrame(rows, columns=["rule", "source", "before", "after"])
