"""Every training text against every benchmark question: shared word n-grams, with the text, the score and the verdict kept.

The score of a pair is the share of the question's words that lie in an n-gram which the training text holds too (as in the
LLaMA-2 report, arXiv 2307.09288, appendix A.6). 1.0 means that the text holds the whole question.
"""

import re
from collections import defaultdict

import pandas as pd

WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text in small letters; punctuation and spacing do not count."""
    return WORD.findall(text.lower())


def ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words; a text of exactly n words has one."""
    return [tuple(tokens[i:i + n]) for i in range(len(tokens) - n + 1)]


def overlaps(texts: pd.DataFrame, items: pd.DataFrame, n: int) -> pd.DataFrame:
    """Best-matching training text for every benchmark item that shares at least one n-gram with any.

    `texts` has id, source, text; `items` are item records. Questions shorter than n words are matched whole. An abstract
    belongs to its question. Columns: item, benchmark, group, score, text_id, source, matched.
    """
    questions, index = {}, defaultdict(set)
    for item, context, question in items[["id", "context", "question"]].itertuples(index=False):
        tokens = words(f"{context} {question}")
        questions[item] = tokens
        for gram in ngrams(tokens, min(n, len(tokens))):
            index[gram].add(item)
    lengths = sorted({len(gram) for gram in index})
    best: dict[str, tuple] = {}
    for identity, source, text in texts[["id", "source", "text"]].itertuples(index=False):
        tokens = words(text)
        shared = {gram for length in lengths for gram in ngrams(tokens, length) if gram in index}
        for item in {item for gram in shared for item in index[gram]}:
            question = questions[item]
            size = min(n, len(question))
            covered = set()
            for start, gram in enumerate(ngrams(question, size)):
                if gram in shared:
                    covered.update(range(start, start + size))
            score = len(covered) / len(question)
            if score > best.get(item, (0.0,))[0]:
                best[item] = (score, identity, source, " ".join(question[i] if i in covered else "·" for i in range(len(question))))
    known = items.set_index("id")[["benchmark", "group"]]
    rows = [(item, *known.loc[item], *found) for item, found in sorted(best.items())]
    return pd.DataFrame(rows, columns=["item", "benchmark", "group", "score", "text_id", "source", "matched"])


def audit(found: pd.DataFrame, items: pd.DataFrame, thresholds: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 1.0)) -> pd.DataFrame:
    """How many items of each benchmark and group are flagged at each threshold: a sweep, because the choice decides the count."""
    rows = []
    for (benchmark, group), part in items.groupby(["benchmark", "group"], sort=True):
        scores = found[found["item"].isin(part["id"])]["score"]
        rows.append({"benchmark": benchmark, "group": group, "items": len(part)}
                    | {f"flagged at {threshold:g}": int((scores >= threshold).sum()) for threshold in thresholds})
    return pd.DataFrame(rows)
