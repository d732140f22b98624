"""Exact and near duplicates, within and across sources, with MinHash from datasketch (Broder 1997; Lee et al., arXiv 2107.06499)."""

import hashlib

import numpy as np
import pandas as pd

SHINGLE = 5        # characters; words would not do for Chinese, where a sentence has no spaces
PERMUTATIONS = 128
MISSED = 0.001     # share of the pairs exactly at the threshold that MinHash may overlook


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
    codes = np.frombuffer(" ".join(text.lower().split()).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < SHINGLE:
        codes = np.pad(codes, (0, SHINGLE - len(codes)))
    rolled = np.zeros(len(codes) - SHINGLE + 1, dtype=np.uint64)
    for offset in range(SHINGLE):  # a polynomial hash of each window, all windows at once
        rolled = rolled * np.uint64(1_000_003) + codes[offset:offset + len(rolled)]
    return np.unique((rolled ^ (rolled >> np.uint64(29))) & np.uint64(0xFFFFFFFF))


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Share of common shingles."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def deduplicate(documents: pd.DataFrame, threshold: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the first document of every cluster of exact or near duplicates.

    MinHash finds candidates; a pair counts only if its true Jaccard similarity of character 5-grams is at least `threshold`.
    Returns the documents that remain and the dropped ones (id, source, kept_id, kept_source, kind, similarity).
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(params=bands(threshold), num_perm=PERMUTATIONS)
    blank = MinHash(num_perm=PERMUTATIONS, seed=seed % 2**31, hashfunc=int)
    exact, sets, dropped, kept = {}, {}, [], []
    for position, (identity, source, text) in enumerate(documents[["id", "source", "text"]].itertuples(index=False)):
        digest = hashlib.sha256(" ".join(text.lower().split()).encode()).digest()
        if digest in exact:
            twin = exact[digest]
            dropped.append((identity, source, *twin, "exact", 1.0))
            continue
        grams = shingles(text)
        signature = blank.copy()
        signature.update_batch(grams.tolist())
        near = [(jaccard(grams, sets[other]), -other) for other in index.query(signature)]
        best = max(near, default=(0.0, 0))
        if best[0] >= threshold:
            dropped.append((identity, source, *documents.iloc[-best[1]][["id", "source"]], "near", best[0]))
            continue
        exact[digest] = (identity, source)
        sets[position] = grams
        index.insert(position, signature, check_duplication=False)
        kept.append(position)
    columns = ["id", "source", "kept_id", "kept_source", "kind", "similarity"]
    return documents.iloc[kept].reset_index(drop=True), pd.DataFrame(dropped, columns=columns)
