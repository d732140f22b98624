"""Exact and near duplicates, within and across sources, with MinHash from datasketch (Broder 1997; Lee et al., arXiv 2107.06499).

First every text is sketched (in several processes): a hash of the text, and MinHash bands. Then the texts are walked through in
order, and only those that share a band with another are compared: memory holds the sketches and the shingles of those few.
"""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Iterable

import numpy as np
import pandas as pd

from hippo_utils import chinese
from hippo_utils.corpus import streams
from hippo_utils.corpus.accounts import as_text
from hippo_utils.records import SCHEMAS

SHINGLE = 5        # characters; words would not do for Chinese, where a sentence has no spaces
PERMUTATIONS = 128
MISSED = 0.001     # share of the pairs exactly at the threshold that MinHash may overlook
RIVALS = 4         # of a band, with which an instruction is compared: thousands share one template, and all their pairs would take days
DROPPED = ["id", "source", "kept_id", "kept_source", "kind", "similarity"]


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows in each) of the MinHash index: the longest rows that find a pair at the threshold with probability 1 - MISSED.

    datasketch's own choice weighs candidates in vain as much as duplicates overlooked and finds half of them; here each
    candidate is checked exactly, so candidates in vain cost only time.
    """
    fit = [rows for rows in range(1, PERMUTATIONS // 2 + 1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED]
    rows = max(fit, default=1)
    return PERMUTATIONS // rows, rows


def shingles(text: str) -> np.ndarray:
    """The distinct character 5-grams of a text (small letters, single spaces) as 32-bit hashes."""
    codes = np.frombuffer(" ".join(text.lower().split()).encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < SHINGLE:
        codes = np.pad(codes, (0, SHINGLE - len(codes)))
    rolled = np.zeros(len(codes) - SHINGLE + 1, dtype=np.uint64)
    for offset in range(SHINGLE):  # a polynomial hash of each window, all windows at once
        rolled = rolled * np.uint64(1_000_003) + codes[offset:offset + len(rolled)]
    return np.unique(((rolled ^ (rolled >> np.uint64(29))) & np.uint64(0xFFFFFFFF)).astype(np.uint32))


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Share of common shingles."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def sketch(batch: pd.DataFrame, threshold: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every text a hash that is equal for exact copies (case and spacing aside), and one key per MinHash band: (n,), (n, bands)."""
    from datasketch import MinHash

    number, rows = bands(threshold)
    blank = MinHash(num_perm=PERMUTATIONS, seed=seed % 2**31, hashfunc=int)
    hashes, keys = np.empty(len(batch), "V16"), np.zeros((len(batch), number), np.uint64)
    for position, text in enumerate(batch["text"]):
        hashes[position] = np.void(hashlib.sha256(" ".join(text.lower().split()).encode("utf-8", "replace")).digest()[:16])
        signature = blank.copy()
        signature.update_batch(shingles(text).tolist())
        values = signature.hashvalues[:number * rows].reshape(number, rows)
        for row in range(rows):
            keys[position] = keys[position] * np.uint64(0x9E3779B97F4A7C15) + values[:, row]
    return hashes, keys


def duplicates(batches: Iterable[pd.DataFrame], sketches: Iterable[tuple[np.ndarray, np.ndarray]], threshold: float, most: int | None = None
               ) -> Iterable[tuple[pd.DataFrame, pd.DataFrame]]:
    """(kept, dropped) of every batch, in order: the first text of every cluster of exact or near duplicates is kept.

    A pair counts only if its true Jaccard similarity of character 5-grams is at least `threshold`. With `most`, a text is compared
    with that many earlier ones of each band only (the latest), so some near copies are missed.
    """
    hashes, keys = (np.concatenate(parts) for parts in zip(*sketches))
    copied = _shared(hashes[:, None])[:, 0]
    buckets = _shared(keys)
    first, members, sets, names = {}, defaultdict(list), {}, {}
    position = -1
    for batch in batches:
        kept, dropped = [], []
        for row, (identity, source, text) in enumerate(batch[["id", "source", "text"]].itertuples(index=False)):
            position += 1
            if copied[position] in first:
                dropped.append((identity, source, *first[copied[position]], "exact", 1.0))
                continue
            mine = buckets[position][buckets[position] >= 0].tolist()
            if mine:
                grams = shingles(text)
                rivals = {other for bucket in mine for other in members[bucket][-(most or 0):]}
                best, other = max(((jaccard(grams, sets[other]), -other) for other in rivals), default=(0.0, 0))
                if best >= threshold:
                    dropped.append((identity, source, *names[-other], "near", best))
                    continue
                sets[position], names[position] = grams, (identity, source)
                for bucket in mine:
                    members[bucket].append(position)
            if copied[position] >= 0:
                first[copied[position]] = (identity, source)
            kept.append(row)
        yield batch.iloc[kept].reset_index(drop=True), pd.DataFrame(dropped, columns=DROPPED)


def _shared(keys: np.ndarray) -> np.ndarray:
    """For every key a number that equal keys of one column share, and -1 for a key that is alone in its column."""
    numbers, used = np.full(keys.shape, -1, np.int64), 0
    for column in range(keys.shape[1]):
        _, place, times = np.unique(keys[:, column], return_inverse=True, return_counts=True)
        numbers[:, column] = np.where(times[place] > 1, place + used, -1)
        used += len(times)
    return numbers


def deduplicate(documents: pd.DataFrame, threshold: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The documents that remain, and the dropped ones (id, source, kept_id, kept_source, kind, similarity)."""
    if documents.empty:
        return documents, pd.DataFrame(columns=DROPPED)
    return next(iter(duplicates([documents], [sketch(documents, threshold, seed)], threshold)))


def deduplicate_file(path: Path, kept: Path, *, threshold: float, seed: int, processes: int) -> pd.DataFrame:
    """`deduplicate` for a file of document records: writes those that remain to `kept`, returns the dropped ones."""
    dropped = [pd.DataFrame(columns=DROPPED)]
    with streams.Writer(kept, SCHEMAS["document"]) as out:
        sketches = list(streams.over(path, processes, sketch, threshold, seed))
        for remaining, gone in duplicates(streams.batches(path), sketches, threshold) if sketches else ():
            out.write(remaining)
            dropped.append(gone)
    return pd.concat([part for part in dropped if len(part)] or dropped[:1], ignore_index=True)


def instructions_file(path: Path, *, threshold: float, seed: int, processes: int) -> pd.DataFrame:
    """Leave exact copies (prompt and completion, case and spacing aside) out of a file of instruction records, within and across sources.

    Returns the copies (columns as of `deduplicate`): kind "exact", which are gone, and "near, kept", which stay. A question that
    comes with another answer is no exact copy. Of near copies at least those are named that RIVALS comparisons find.
    """
    parts = list(streams.over(path, processes, _sketch_instructions, threshold, seed))
    if not parts:
        return pd.DataFrame(columns=DROPPED)
    hashes, keys = (np.concatenate(part) for part in zip(*parts))
    names = streams.columns(path, ["id", "source"])
    _, first, same = np.unique(hashes, return_index=True, return_inverse=True)
    copy = first[same] != np.arange(len(hashes))
    original = names.iloc[first[same][copy]]
    exact = names[copy].assign(kept_id=original["id"].to_numpy(), kept_source=original["source"].to_numpy(), kind="exact", similarity=1.0)
    streams.select(path, path, dict.fromkeys(exact["id"], 0), otherwise=1)
    near = [gone.assign(kind="near, kept") for _, gone in duplicates(map(as_text, streams.batches(path)), [(hashes[~copy], keys[~copy])], threshold, RIVALS)]
    return pd.concat([part for part in (exact, *near) if len(part)] or [pd.DataFrame(columns=DROPPED)], ignore_index=True)


def _sketch_instructions(batch: pd.DataFrame, threshold: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return sketch(as_text(batch), threshold, seed)


def clusters(dropped: pd.DataFrame) -> pd.DataFrame:
    """The clusters, largest first: cluster (the id that was kept), texts, exact, near, the sources they come from."""
    rows = [{"cluster": cluster, "texts": len(part) + 1, "exact": int((part["kind"] == "exact").sum()), "near": int((part["kind"] == "near").sum()),
             "sources": ", ".join(sorted({*part["source"], *part["kept_source"]}))} for cluster, part in dropped.groupby("kept_id", sort=True)]
    return pd.DataFrame(rows, columns=["cluster", "texts", "exact", "near", "sources"]).sort_values(["texts", "cluster"], ascending=[False, True], ignore_index=True)


def planted(documents: pd.DataFrame, threshold: float, seed: int, most: int = 300) -> pd.DataFrame:
    """How well copies are found: up to `most` documents get a copy in which words (six characters of Chinese) were exchanged, and the copies are searched.

    One row per range of true similarity: planted, found, recall, and precision (found copies that are truly at the threshold).
    """
    rng = np.random.default_rng(seed)
    chosen = documents.sample(min(most, len(documents)), random_state=seed)
    pool = np.array(sorted({word for text in chosen["text"] for word in _words(text)[0]}) or ["x"])
    copies = chosen.assign(id=chosen["id"] + " (planted)", text=[_reworded(text, pool, rng) for text in chosen["text"]])
    similarity = [jaccard(shingles(text), shingles(copy)) for text, copy in zip(chosen["text"], copies["text"])]
    _, dropped = deduplicate(pd.concat([chosen, copies], ignore_index=True), threshold, seed)
    frame = pd.DataFrame({"similarity": similarity, "found": copies["id"].isin(dropped["id"]).to_numpy()})
    edges = sorted({0.0, *(edge for edge in (0.5, 0.8, 0.9, 0.95) if edge != threshold), threshold, 1.0})
    frame["range"] = pd.cut(frame["similarity"], edges, right=False).astype(str).where(frame["similarity"] < 1, "copy")
    table = frame.groupby("range", sort=True).agg(planted=("found", "size"), found=("found", "sum")).reset_index()
    truly = frame["similarity"] >= threshold
    return table.assign(recall=table["found"] / table["planted"], precision=float((truly & frame["found"]).sum() / max(1, frame["found"].sum())))


def _reworded(text: str, pool: np.ndarray, rng: np.random.Generator) -> str:
    words, space = _words(text)
    for _ in range(int(rng.integers(0, max(2, len(words) // 12)))):
        words[int(rng.integers(len(words)))] = str(rng.choice(pool))
    return space.join(words)


def _words(text: str) -> tuple[list[str], str]:
    """Pieces of a text and what stands between them: words, or six characters each where there are no spaces."""
    return ([text[at:at + 6] for at in range(0, len(text), 6)], "") if chinese.written(text) else (text.split(), " ")
