"""Every training text against every benchmark question: shared word n-grams, with the text, the score, the rule and the decision kept.

The score of a pair is the share of the question's words that lie in an n-gram which the training text holds too (as in the
LLaMA-2 report, arXiv 2307.09288, appendix A.6). 1.0 means that the text holds the whole question. Case, punctuation and spacing
do not count. Where the questions are in Chinese, each character is a word, and so is each number and each run of other letters,
in whatever width and spacing they stand. Questions shorter than n words are matched whole; because a text may hold
"Treatment of choice is" by chance, such a question counts as leaked only where the text holds all its options too, in any order.
"""

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable

import numpy as np
import pandas as pd

from hippo_utils import chinese
from hippo_utils.corpus import cleaning, streams
from hippo_utils.corpus.accounts import as_text

WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
FACTOR = np.uint64(0x9E3779B97F4A7C15)
WHOLE, PART, SHORT, WITH_OPTIONS = "whole question", "n-grams", "short question", "short question with its options"
FLAGGED, REMOVED, CLEAN = "flagged", "removed", "clean"
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 1.0)
COLUMNS = ["benchmark", "item", "group", "source", "text_id", "score", "rule", "decision", "matched"]


def words(text: str) -> list[str]:
    """The words of a text in small letters; punctuation, blanks to fill in and spacing do not count.

    Training texts come cleaned and questions as they are: what cleaning does to signs is done here to both."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", cleaning.RULES["control characters"](text))
    return WORD.findall(text.casefold())


def ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words; a text of exactly n words has one."""
    return [tuple(tokens[i:i + n]) for i in range(len(tokens) - n + 1)]


@dataclass(frozen=True)
class Index:
    """The n-grams of all questions. Of each length: the hashes in order, and for each hash where it stands (item, position)."""
    items: list[str]
    questions: list[list[str]]
    options: list[list[str]]
    vocabulary: dict[str, int]
    grams: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]  # length -> (hashes, first place of each, items, positions)
    n: int
    words: Callable[[str], list[str]]  # how questions and texts are cut


def index(items: pd.DataFrame, n: int) -> Index:
    """Index the questions of item records; an abstract belongs to its question. They are cut as Chinese where most of them are."""
    asked = [f"{context} {question}" for context, question in zip(items["context"], items["question"])]
    cut = chinese.tokens if 2 * sum(map(chinese.written, asked)) > len(asked) else words
    questions = [cut(question) for question in asked]
    options = [[" ".join(cut(option)) for option in row] for row in items["options"]] if "options" in items else [[] for _ in questions]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(word for question in questions for word in question))}
    found: dict[int, list[np.ndarray]] = defaultdict(list)
    for number, question in enumerate(questions):
        size = min(n, len(question))
        if size:
            hashes = _rolled(np.array([vocabulary[word] for word in question]), size)
            found[size].append(np.stack([hashes, np.full(len(hashes), number, np.uint64), np.arange(len(hashes), dtype=np.uint64)]))
    grams = {}
    for size, parts in found.items():
        hashes, numbers, positions = np.concatenate(parts, axis=1)
        order = np.argsort(hashes, kind="stable")
        unique, first = np.unique(hashes[order], return_index=True)
        grams[size] = unique, np.append(first, len(hashes)), numbers[order].astype(np.int64), positions[order].astype(np.int64)
    return Index(items["id"].tolist(), questions, options, vocabulary, grams, n, cut)


def _rolled(codes: np.ndarray, size: int) -> np.ndarray:
    """A 64-bit hash of every window of `size` word numbers."""
    codes = codes.astype(np.uint64) + np.uint64(1)
    rolled = np.zeros(max(0, len(codes) - size + 1), np.uint64)
    for offset in range(size):
        rolled = rolled * FACTOR + codes[offset:offset + len(rolled)]
    return rolled


def scores(texts: pd.DataFrame, questions: Index) -> pd.DataFrame:
    """The score of every pair of a text and a question that share an n-gram: text (row number), item (number), score."""
    lookup = questions.vocabulary.get
    # A word that no question holds is -1, and so is the end of a text: no window reaches over either.
    codes = [np.fromiter((lookup(word, -1) for word in questions.words(text)), np.int64) for text in texts["text"]]
    ends = np.cumsum([len(part) + 1 for part in codes])
    stream = np.concatenate([np.append(part, -1) for part in codes]) if codes else np.empty(0, np.int64)
    unknown = np.append(0, np.cumsum(stream < 0))
    pairs = []
    for size, (hashes, first, items, positions) in questions.grams.items():
        if len(stream) < size:
            continue
        windows = np.flatnonzero(unknown[size:] == unknown[:len(unknown) - size])
        rolled = np.zeros(len(windows), np.uint64)
        for offset in range(size):
            rolled = rolled * FACTOR + (stream[windows + offset] + 1).astype(np.uint64)
        gram = np.searchsorted(hashes, rolled)
        hit = (gram < len(hashes)) & (hashes[np.minimum(gram, len(hashes) - 1)] == rolled)
        # Each n-gram of a text once, then every place in the questions where it stands.
        in_text, held = np.divmod(np.unique(np.searchsorted(ends, windows[hit], side="right") * len(hashes) + gram[hit]), len(hashes))
        times = first[held + 1] - first[held]
        place = np.repeat(first[held] - np.append(0, np.cumsum(times)[:-1]), times) + np.arange(times.sum())
        text, item, position = np.repeat(in_text, times), items[place], positions[place]
        order = np.lexsort((position, item, text))
        text, item, position = text[order], item[order], position[order]
        last = np.append((text[1:] != text[:-1]) | (item[1:] != item[:-1]), True) if len(text) else np.empty(0, bool)
        covered = np.where(last, size, np.minimum(size, np.append(position[1:], 0) - position))
        starts = np.append(0, np.flatnonzero(last)[:-1] + 1) if len(text) else np.empty(0, np.int64)
        pairs.append(pd.DataFrame({"text": text[last], "item": item[last], "covered": np.add.reduceat(covered, starts) if len(text) else covered}))
    found = pd.concat(pairs, ignore_index=True) if pairs else pd.DataFrame({"text": [], "item": [], "covered": []}, dtype=np.int64)
    lengths = np.array([len(question) for question in questions.questions])
    return found.assign(score=found["covered"] / lengths[found["item"]])[["text", "item", "score"]]


def compare(texts: pd.DataFrame, questions: Index, threshold: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The best-matching text of each source for every question, with rule, decision and matched words; and (source, text_id, item)
    of every pair that is flagged."""
    found = scores(texts, questions)
    found["source"] = texts["source"].to_numpy()[found["text"]]
    short = np.array([len(question) < questions.n for question in questions.questions])
    at = np.flatnonzero(short[found["item"]])
    with_options = np.zeros(len(found), bool)
    for place in at:  # few: short questions that stand whole in a text
        with_options[place] = _holds(questions.words(texts["text"].iat[found["text"].iat[place]]), questions.options[found["item"].iat[place]])
    found["rule"] = np.where(short[found["item"]], np.where(with_options, WITH_OPTIONS, SHORT), np.where(found["score"] == 1, WHOLE, PART))
    found["decision"] = np.where((found["score"] >= threshold) & (found["rule"] != SHORT), FLAGGED, CLEAN)
    flagged = found[found["decision"] == FLAGGED]
    flagged = pd.DataFrame({"source": flagged["source"], "text_id": texts["id"].to_numpy()[flagged["text"]],
                            "item": [questions.items[number] for number in flagged["item"]]})
    return _named(_best(found), texts, questions), flagged


def _best(found: pd.DataFrame) -> pd.DataFrame:
    """One row per item and source: flagged before clean, then the highest score, then the first text."""
    ranked = found.assign(clean=found["decision"] != FLAGGED).sort_values(["item", "source", "clean", "score"], ascending=[True, True, True, False], kind="stable")
    return ranked.drop_duplicates(["item", "source"]).drop(columns="clean")


def _named(best: pd.DataFrame, texts: pd.DataFrame, questions: Index) -> pd.DataFrame:
    matched = [_matched(questions.questions[item], questions.words(texts["text"].iat[text]), questions.n) for text, item in zip(best["text"], best["item"])]
    return best.assign(text_id=texts["id"].to_numpy()[best["text"]], item=[questions.items[number] for number in best["item"]], matched=matched).drop(columns="text")


def _matched(question: list[str], text: list[str], n: int) -> str:
    """The question's words that the text shares, a dot for each of the others."""
    size = min(n, len(question))
    held, covered = set(ngrams(text, size)), set()
    for start, gram in enumerate(ngrams(question, size)):
        if gram in held:
            covered.update(range(start, start + size))
    return " ".join(word if place in covered else "·" for place, word in enumerate(question))


def _holds(text: list[str], options: list[str]) -> bool:
    said, options = f" {' '.join(text)} ", [option for option in options if option]  # "+" and "-" are no words
    return bool(options) and all(f" {option} " in said for option in options)


def audit_files(paths: Iterable[Path], items: pd.DataFrame, n: int, *, threshold: float, processes: int, decontaminate: Iterable[str] = (),
                leave_out: Iterable[str] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every text in files of records (those of the split test and of sources in `leave_out` aside) against every item.

    Returns the audit, one row per item and source that share an n-gram (columns COLUMNS), and (source, text_id, item) of every
    flagged pair of the sources in `decontaminate`: those texts are to be left out, and their decision is `removed`.
    """
    questions = index(items, n)
    best, flagged = [], []
    for path in paths:
        for found, pairs in streams.over(path, processes, _compare, questions, threshold, set(leave_out)):
            best.append(found)
            flagged.append(pairs[pairs["source"].isin(set(decontaminate))])
    return _audit(best, items, decontaminate), pd.concat(flagged, ignore_index=True) if flagged else pd.DataFrame(columns=["source", "text_id", "item"])


def _compare(batch: pd.DataFrame, questions: Index, threshold: float, leave_out: set[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    taught = batch[~batch["source"].isin(leave_out) & (batch["split"] == "train" if "split" in batch else True)]
    return compare(as_text(taught), questions, threshold)


def _audit(best: list[pd.DataFrame], items: pd.DataFrame, decontaminate: Iterable[str]) -> pd.DataFrame:
    if not best:
        return pd.DataFrame(columns=COLUMNS)
    found = _best(pd.concat(best, ignore_index=True))
    removed = found["source"].isin(set(decontaminate)) & (found["decision"] == FLAGGED)
    found = found.assign(decision=found["decision"].mask(removed, REMOVED))
    return found.merge(items[["id", "benchmark", "group"]].rename(columns={"id": "item"}), on="item").sort_values(["item", "source"], ignore_index=True)[COLUMNS]


def overlaps(texts: pd.DataFrame, items: pd.DataFrame, n: int, threshold: float = 0.8) -> pd.DataFrame:
    """The audit of texts in memory (id, source, text), one row per item that shares an n-gram with any: the best-matching text."""
    return worst(_audit([compare(texts, index(items, n), threshold)[0]], items, ()))


def worst(audit: pd.DataFrame) -> pd.DataFrame:
    """Of every item the source that matches best."""
    return audit.sort_values("score", ascending=False, kind="stable").drop_duplicates("item").sort_values("item", ignore_index=True)


def sweep(found: pd.DataFrame, items: pd.DataFrame, thresholds: tuple[float, ...] = THRESHOLDS) -> pd.DataFrame:
    """How many items of each benchmark and group are flagged at each threshold, because the choice decides the count; and how
    many this run's rule and threshold flag (`flagged`), texts that were removed not counted."""
    best = found.groupby("item")["score"].max()
    flagged = set(found.loc[found["decision"] == FLAGGED, "item"])
    rows = []
    for (benchmark, group), part in items.groupby(["benchmark", "group"], sort=True):
        reached = best.reindex(part["id"]).fillna(0)
        rows.append({"benchmark": benchmark, "group": group, "items": len(part)}
                    | {f"flagged at {threshold:g}": int((reached >= threshold).sum()) for threshold in thresholds}
                    | {"flagged": int(part["id"].isin(flagged).sum())})
    return pd.DataFrame(rows)


def by_source(found: pd.DataFrame) -> pd.DataFrame:
    """Which source leaks which benchmark: items that share an n-gram with it, items flagged, items whose texts were removed, by rule."""
    rows = [{"source": source, "benchmark": benchmark, "items with an overlap": len(part), "flagged": int((part["decision"] == FLAGGED).sum()),
             "removed": int((part["decision"] == REMOVED).sum())} | {rule: int(((part["rule"] == rule) & (part["decision"] != CLEAN)).sum()) for rule in (WHOLE, PART, WITH_OPTIONS)}
            for (source, benchmark), part in found.groupby(["source", "benchmark"], sort=True)]
    return pd.DataFrame(rows, columns=["source", "benchmark", "items with an overlap", "flagged", "removed", WHOLE, PART, WITH_OPTIONS])


def planted(items: pd.DataFrame, texts: pd.DataFrame, n: int, threshold: float, seed: int, most: int = 100) -> pd.DataFrame:
    """Recall on planted leaks: up to `most` test items are hidden in training texts in four ways, and searched.

    verbatim; re-punctuated (other case, marks and line breaks); options shuffled; inside a long document (between the words of
    other texts). A short question whose options are not all words ("+", "-") is left out: nothing tells its leak from chance.
    Columns: leak, planted, flagged, recall.
    """
    rng, asked = np.random.default_rng(seed), index(items, n)
    items = items[[len(question) >= n or bool(options) and all(options) for question, options in zip(asked.questions, asked.options)]]
    chosen = items.sample(min(most, len(items)), random_state=seed)
    questions, others = index(chosen, n), texts["text"].tolist() or [""]
    ways = {"verbatim": lambda q, o: f"{q} {' '.join(o)}", "re-punctuated": lambda q, o: "\n".join(questions.words(f"{q} {' -- '.join(o)}".upper())),
            "options shuffled": lambda q, o: f"{q} {' / '.join(rng.permutation(o))}",
            "inside a long document": lambda q, o: " ".join([*rng.choice(others, 20), q, *o, *rng.choice(others, 20)])}
    rows = []
    for name, way in ways.items():
        leaked = pd.DataFrame([(row["id"], "planted", way(f"{row['context']} {row['question']}".strip(), list(row["options"]))) for row in chosen.to_dict("records")],
                              columns=["id", "source", "text"])
        pairs = compare(leaked, questions, threshold)[1]
        flagged = int((pairs["text_id"] == pairs["item"]).sum())
        rows.append({"leak": name, "planted": len(leaked), "flagged": flagged, "recall": flagged / max(1, len(leaked))})
    return pd.DataFrame(rows)
