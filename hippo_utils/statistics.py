"""Intervals and paired tests: the only place where uncertainty is computed.

Which one to use:
    wilson                         accuracy of one model, independent items
    bootstrap(clusters=...)        the mean of anything else, or items that share a vignette
    mcnemar_exact, holm            is model B different from model A on the same items; over several tasks
    paired_difference              by how much, with an interval
    smallest_detectable_difference what this number of items could have shown at all

Every random function takes an integer `seed` and starts its own generator from it, so a number does not
depend on what was computed before.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

# A resample is a row of counts; this many counts are held at once (16 MB), however many are asked for.
COUNTS_AT_ONCE = 2_000_000


class Interval(NamedTuple):
    """An estimate and the two ends of its interval, in the unit of the estimate."""

    estimate: float
    low: float
    high: float


# -----------------------------------------------------------------------------
# one model


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Share of successes with Wilson's score interval (Wilson 1927; no continuity correction).

    Unlike the textbook p +- 1.96 se it stays inside [0, 1] and has a width at 0 and n successes. It assumes
    independent items: use `bootstrap` with clusters where items share a vignette.
    n = 0 gives (nan, 0, 1): nothing is known. Raises ValueError if not 0 <= successes <= n, both whole.
    """
    _check_level(level)
    if int(successes) != successes or int(n) != n or not 0 <= successes <= n:
        raise ValueError(
            f"wilson: {successes} successes of {n}, expected whole numbers with 0 <= successes <= n; "
            "pass counts, not shares"
        )
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0)
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence_level=level, method="wilson")
    return Interval(successes / n, float(interval.low), float(interval.high))


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    seed: int,
    clusters: np.ndarray | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a statistic over rows or over whole clusters (Efron 1979).

    values: (n,) or (n, columns) finite numbers; rows are resampled.
    statistic: rows -> one number. The mean has a fast path; anything else is called once per resample.
    clusters: (n,) labels; all rows of a drawn cluster enter together. None: each row by itself.

    Clusters are drawn in the order of their sorted labels, so with clusters the order of the rows does not
    matter; pass item ids as clusters to get this for independent items too. Resamples in which the statistic
    is undefined (nan) are left out; when more than half are, the ends are nan.
    Raises ValueError for empty or non-finite values, and labels that are missing or do not fit.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(
            f"bootstrap: values have shape {values.shape}, expected (n,) or (n, columns) with n >= 1; "
            "check that the selection before this call is not empty"
        )
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"bootstrap: row {int(np.argmin(finite))} (counting from 0) is not finite, expected numbers only; "
            "drop or repair the missing rows first, and say how many"
        )
    codes, groups = cluster_codes(clusters, len(values))
    estimate = float(statistic(values))

    resampled = []
    if statistic is np.mean:
        # The mean over a resample is (sum of its clusters' sums) / (sum of its clusters' sizes).
        row_means = values.reshape(len(values), -1).mean(axis=1)
        sums = np.bincount(codes, weights=row_means, minlength=groups)
        sizes = np.bincount(codes, minlength=groups)
        for counts in resample_counts(groups, resamples, seed=seed):
            resampled.append((counts @ sums) / (counts @ sizes))
    else:
        rows = np.arange(len(values))
        for counts in resample_counts(groups, resamples, seed=seed):
            resampled.append([float(statistic(values[np.repeat(rows, count[codes])])) for count in counts])
    return Interval(estimate, *percentile_ends(np.concatenate(resampled), level))


def resample_counts(groups: int, resamples: int, *, seed: int) -> Iterator[np.ndarray]:
    """Yield arrays (some resamples, groups): how often each group (row or cluster) is drawn.

    Every row sums to `groups`. Together the arrays hold `resamples` rows; they come in pieces to bound memory.
    """
    _check_seed(seed)
    if resamples < 1:
        raise ValueError(f"bootstrap: {resamples} resamples, expected at least 1; 1000 to 10000 are usual")
    rng = np.random.default_rng(seed)
    piece = max(1, COUNTS_AT_ONCE // groups)
    for start in range(0, resamples, piece):
        size = min(piece, resamples - start)
        draws = rng.integers(0, groups, size=(size, groups))
        draws += np.arange(size)[:, None] * groups  # one bincount for all: resample i owns the labels i*groups ...
        yield np.bincount(draws.ravel(), minlength=size * groups).reshape(size, groups)


def cluster_codes(clusters: np.ndarray | None, n: int) -> tuple[np.ndarray, int]:
    """Number n labels 0, 1, ... in sorted order: ((n,) codes, number of clusters). None: each row its own."""
    if clusters is None:
        return np.arange(n), n
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise ValueError(f"clusters: shape {labels.shape}, expected one label for each of {n} rows")
    missing = np.array([label is None or label != label for label in labels.tolist()], dtype=bool)
    if missing.any():
        raise ValueError(
            f"clusters: row {int(np.argmax(missing))} (counting from 0) has no label, expected one for every row; "
            "give an item that shares nothing its own id"
        )
    try:
        names, codes = np.unique(labels, return_inverse=True)
    except TypeError:
        raise ValueError("clusters: labels of several types, expected all strings or all numbers") from None
    return codes, len(names)


def percentile_ends(resampled: np.ndarray, level: float) -> tuple[float, float]:
    """The two ends of a percentile interval; nan when more than half of the resamples are undefined."""
    _check_level(level)
    defined = resampled[~np.isnan(resampled)]
    if len(defined) * 2 < len(resampled):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# -----------------------------------------------------------------------------
# two models on the same items


def mcnemar_exact(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Two-sided exact McNemar test: p-value that two models answer the same items equally well.

    correct_a, correct_b: (n,) of 0/1 or bool, item by item in the same order. Only items that exactly one of
    them answers correctly say anything; under equality each is a fair coin (McNemar 1947, exact binomial form).
    1.0 when there is none. Raises ValueError for other values or different lengths.
    """
    a, b = _paired(correct_a, correct_b, "mcnemar_exact")
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError("mcnemar_exact: expected 0/1 per item; for graded scores use paired_difference")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def paired_difference(
    correct_b: np.ndarray,
    correct_a: np.ndarray,
    *,
    seed: int,
    clusters: np.ndarray | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """mean(b) - mean(a) on the same items, with a paired bootstrap: an item (or cluster) is drawn for both.

    correct_b, correct_a: (n,) correctness or any score per item. Note the order: positive means b is better.
    """
    b, a = _paired(correct_b, correct_a, "paired_difference")
    return bootstrap(b - a, seed=seed, clusters=clusters, resamples=resamples, level=level)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values (Holm 1979), in the given order.

    A nan (a comparison that could not be made) stays nan and does not count as a test.
    Raises ValueError for a p-value outside [0, 1].
    """
    p_values = np.asarray(p_values, dtype=float)
    if p_values.ndim != 1 or ((p_values < 0) | (p_values > 1)).any():
        raise ValueError("holm: expected a list of p-values between 0 and 1 (nan for a test not made)")
    adjusted = np.full(len(p_values), np.nan)
    made = np.flatnonzero(~np.isnan(p_values))
    order = made[np.argsort(p_values[made], kind="stable")]
    still_open = len(order) - np.arange(len(order))  # the smallest p is compared with all m tests, the next with m - 1
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * still_open))
    return adjusted


def smallest_detectable_difference(
    n: int, discordant_share: float = 0.2, level: float = 0.95, power: float = 0.8
) -> float:
    """Difference in accuracy that a McNemar test on n items finds with the given power: what this n can show.

    discordant_share: share of items that exactly one of the two models answers correctly. The default is ours
    and only good for planning; pass the observed share when there is one.

    Connor (1987), Biometrics 43:207-211: with d = difference, s = discordant share, a two-sided test needs
        n = (z_a sqrt(s) + z_b sqrt(s - d^2))^2 / d^2,   z_a = z((1 + level) / 2), z_b = z(power).
    Here it is solved for d (a quadratic). It is an approximation; the exact test needs a little more.
    nan when no difference would do: d cannot exceed s, where every discordant item points the same way.
    """
    _check_level(level)
    if n < 1 or not 0 < discordant_share <= 1 or not 0.5 <= power < 1:
        raise ValueError(
            f"smallest_detectable_difference: n={n}, discordant_share={discordant_share}, power={power}; "
            "expected n >= 1, 0 < discordant_share <= 1, 0.5 <= power < 1"
        )
    z_a, z_b = norm.ppf((1 + level) / 2), norm.ppf(power)
    under_root = n + z_b**2 - z_a**2
    if under_root < 0:
        return float("nan")
    difference = np.sqrt(discordant_share) * (z_a * np.sqrt(n) + z_b * np.sqrt(under_root)) / (n + z_b**2)
    return float(difference) if difference <= discordant_share else float("nan")


# -----------------------------------------------------------------------------
# checks


def _paired(first: np.ndarray, second: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"{where}: shapes {first.shape} and {second.shape}, expected two vectors of the same length; "
            "join both models' predictions on the item id first"
        )
    return first, second


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level: {level}, expected a share between 0 and 1 such as 0.95")


def _check_seed(seed: int) -> None:
    # None would quietly give other numbers in every run.
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed: {seed!r}, expected a whole number >= 0; pass the seed that the run derives by name")
