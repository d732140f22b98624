"""Does the model's confidence mean anything? Computed from stored log-likelihoods alone: no torch, seconds.

The confidence of an answer is the softmax over the log-likelihoods of the item's options (the quantity behind
Figure 3 of Hippocrates), taken at the option that is predicted. Everything else follows from two vectors, that
`confidence` (n,) and `correct` (n,), or from the padded matrix `probabilities` (n, most options).

Items may have different numbers of options: an option that an item does not have is nan, never 0, so that it
cannot be mistaken for an option that the model finds impossible.

ECE is biased upward: with few items even a perfect model shows one. Three columns of `calibration_row` keep that in
sight: `ece_if_calibrated` (what a perfect model with these confidences would show), `debiased_error`, and `warning`.

Written here rather than taken from MAPIE, whose ECE makes one bin fewer than asked; the tests check the metrics
against scikit-learn and against brute force.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import logsumexp

from hippo_utils.statistics import Interval, bootstrap, cluster_codes, percentile_ends, resample_counts, wilson

FEW_ITEMS = 200  # below this many items, ECE is mostly noise (about 0.12 at n = 100 for a perfect model)
TEMPERATURES = (0.01, 1000.0)  # raw sums over long option texts need large ones
FOLDS = 5  # of cross-fitting
COVERAGES = (50, 80, 90)  # percent of the items that are answered, the most confident first


# -----------------------------------------------------------------------------
# from log-likelihoods to probabilities


def option_probabilities(
    log_likelihoods: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[float]] | None = None,
    temperature: float | np.ndarray = 1.0,
) -> np.ndarray:
    """Softmax over each item's options: (n, most options) probabilities, nan where an item has no such option.

    log_likelihoods: for each item one natural-log likelihood per option; the number of options may differ.
    lengths: same shape, the option's length in bytes (a prediction's option_bytes; lm-eval's acc_norm), by which the
        log-likelihoods are divided first. None: raw.
    temperature: one number, or one per item (n,); divides the log-likelihoods.
    Raises ValueError, naming the row, for nan or infinite log-likelihoods, fewer than two options or a length <= 0.
    """
    scores = _scores(log_likelihoods, lengths)
    temperature = np.broadcast_to(np.asarray(temperature, dtype=float), len(scores))
    if not (np.isfinite(temperature) & (temperature > 0)).all():
        raise ValueError("temperature: expected finite numbers above 0; 1 leaves the probabilities as they are")
    return np.exp(_log_softmax(scores / temperature[:, None]))


class Predicted(NamedTuple):
    """What the probabilities predict for n items."""

    prediction: np.ndarray  # (n,) index of the most probable option; of equal ones the first, as in lm-eval
    confidence: np.ndarray  # (n,) its probability
    correct: np.ndarray  # (n,) bool


def predicted(probabilities: np.ndarray, answers: Sequence[int]) -> Predicted:
    """The most probable option of each item, its probability, and whether it is the answer (an option index)."""
    probabilities, answers = _checked_probabilities(probabilities, answers)
    prediction = np.nanargmax(probabilities, axis=1)
    confidence = np.minimum(probabilities[np.arange(len(answers)), prediction], 1.0)  # rounding may leave it above
    return Predicted(prediction, confidence, prediction == answers)


# -----------------------------------------------------------------------------
# calibration error


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15, scheme: str = "equal_width"
) -> float:
    """ECE (Naeini et al. 2015; Guo et al. 2017, eq. 3): mean over items of |confidence - accuracy| of their bin.

    scheme: "equal_width" cuts [0, 1] into equal bins, "equal_mass" at the quantiles of the confidence. A bin holds
    its upper edge but not its lower one, and equal confidences always share a bin, as in scikit-learn's
    calibration_curve. Biased upward in small samples: see `ece_if_calibrated` and `debiased_calibration_error`.
    """
    confidence, correct = _checked(confidence, correct)
    return float(_ece(_bin_sums(_bin_of(confidence, bins, scheme), confidence, correct, bins)))


def debiased_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15, scheme: str = "equal_width"
) -> float:
    """Root mean squared calibration error with the sampling noise of each bin's accuracy taken out.

    Squared, it is the sum over bins of n_b / n * ((confidence_b - accuracy_b)^2 - accuracy_b (1 - accuracy_b) /
    (n_b - 1)), which is unbiased for fixed bins (Ferro and Fricker 2012; Broecker 2012; Kumar et al. 2019).
    For a well calibrated model it scatters around 0, so the square can be negative: the root keeps its sign
    (-0.03 is noise the other way, not an error), since cutting it off at 0 would bring the bias back.
    Bins with a single item say nothing about noise and are left out; nan when no bin has two. Assumes that
    items are independent.
    """
    confidence, correct = _checked(confidence, correct)
    _, debiased = _squared_errors(_bin_sums(_bin_of(confidence, bins, scheme), confidence, correct, bins))
    return float(_signed_root(debiased))


def ece_if_calibrated(
    confidence: np.ndarray,
    bins: int = 15,
    scheme: str = "equal_width",
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """The ECE that a perfectly calibrated model with these confidences would show: (mean, low, high).

    Correctness is drawn with the stated confidence ("consistency resampling", Broecker and Smith 2007). An observed
    ECE inside this interval is no evidence of miscalibration. Assumes that items are independent.
    """
    confidence, _ = _checked(confidence, np.zeros(len(confidence)))
    membership = _one_hot(_bin_of(confidence, bins, scheme), bins)
    rng = np.random.default_rng(seed)
    errors = []
    for start in range(0, resamples, 200):  # 200 at once bounds memory
        drawn = rng.random((min(200, resamples - start), len(confidence))) < confidence
        errors.append(np.abs((confidence - drawn) @ membership).sum(axis=1) / len(confidence))
    errors = np.concatenate(errors)
    return Interval(float(errors.mean()), *percentile_ends(errors, level))


def reliability_table(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15, scheme: str = "equal_width", level: float = 0.95
) -> pd.DataFrame:
    """The numbers of a reliability diagram, one row per bin that holds items, with Wilson intervals.

    Columns: bin (from 0), lower, upper (edges), n, mean_confidence, accuracy, accuracy_low, accuracy_high.
    """
    confidence, correct = _checked(confidence, correct)
    edges = _edges(confidence, bins, scheme)
    n, confidence_sum, correct_sum = _bin_sums(_bin_of(confidence, bins, scheme), confidence, correct, bins)
    rows = []
    for b in np.flatnonzero(n):
        accuracy = wilson(int(correct_sum[b]), int(n[b]), level)
        rows.append((b, edges[b], edges[b + 1], int(n[b]), confidence_sum[b] / n[b], *accuracy))
    columns = ["bin", "lower", "upper", "n", "mean_confidence", "accuracy", "accuracy_low", "accuracy_high"]
    return pd.DataFrame(rows, columns=columns)


def over_confidence(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean confidence minus accuracy: above 0 the model claims more than it delivers."""
    confidence, correct = _checked(confidence, correct)
    return float(confidence.mean() - correct.mean())


# -----------------------------------------------------------------------------
# proper scores


def brier(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Top-label Brier score: mean of (confidence - correct)^2, from 0 (best) to 1."""
    confidence, correct = _checked(confidence, correct)
    return float(np.mean((confidence - correct) ** 2))


def brier_multiclass(probabilities: np.ndarray, answers: Sequence[int]) -> float:
    """Brier's own score over all options (Brier 1950): mean of sum_k (p_k - y_k)^2, from 0 (best) to 2."""
    probabilities, answers = _checked_probabilities(probabilities, answers)
    return float(_brier_terms(probabilities, answers).mean())


def brier_decomposition(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15, scheme: str = "equal_width"
) -> dict[str, float]:
    """Murphy's (1973) decomposition of the top-label Brier score over the bins.

    brier = reliability - resolution + uncertainty + within_bin. Reliability is the squared calibration error (lower
    is better), resolution how far the bins' accuracies differ (higher is better), uncertainty the variance of
    correctness itself. within_bin (Stephenson et al. 2008) is what binning hides; without it the sum is not exact.
    """
    confidence, correct = _checked(confidence, correct)
    bin_of = _bin_of(confidence, bins, scheme)
    n, confidence_sum, correct_sum = _bin_sums(bin_of, confidence, correct, bins)
    mean_confidence, accuracy = confidence_sum / np.maximum(n, 1), correct_sum / np.maximum(n, 1)
    confidence_off = confidence - mean_confidence[bin_of]
    correct_off = correct - accuracy[bin_of]
    base = correct.mean()
    return {
        "reliability": float(np.average((mean_confidence - accuracy) ** 2, weights=n)),
        "resolution": float(np.average((accuracy - base) ** 2, weights=n)),
        "uncertainty": float(base * (1 - base)),
        "within_bin": float(np.mean(confidence_off**2 - 2 * confidence_off * correct_off)),
    }


def negative_log_likelihood(probabilities: np.ndarray, answers: Sequence[int]) -> float:
    """Mean of -ln p(right answer), in nats."""
    return float(nll_terms(probabilities, answers).mean())


def nll_terms(probabilities: np.ndarray, answers: Sequence[int]) -> np.ndarray:
    """(n,) -ln p(right answer) of each item, in nats, for paired comparisons.

    A probability that has underflowed to 0 counts as the smallest normal float (708 nats): one item then weighs
    heavily, but does not make the mean infinite.
    """
    probabilities, answers = _checked_probabilities(probabilities, answers)
    return -np.log(np.maximum(probabilities[np.arange(len(answers)), answers], np.finfo(float).tiny))


# -----------------------------------------------------------------------------
# does confidence rank right answers above wrong ones?


def auroc_of_correctness(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Probability that a right answer has a higher confidence than a wrong one; ties count one half.

    0.5 is useless, 1 perfect; nan when all answers are right or all are wrong. Blind to calibration.
    """
    confidence, correct = _checked(confidence, correct)
    n, right = _tie_sums(confidence, correct)
    return float(_auroc(n, right))


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> pd.DataFrame:
    """Error rate when only the k most confident items are answered, for k = 1 ... n (El-Yaniv and Wiener 2010).

    Columns: coverage (k / n), threshold (confidence of the k-th item), risk (error rate among the k). Where the cut
    falls among equal confidences, risk is its expectation over their order, so the order of items does not matter.
    """
    confidence, correct = _checked(confidence, correct)
    n, right = _tie_sums(confidence, correct)
    k = np.arange(1, len(confidence) + 1)
    # Inside a tie the expected number of errors grows linearly: interpolate between the ends of the ties.
    errors = np.interp(k, np.append(0, np.cumsum(n)), np.append(0, np.cumsum(n - right)))
    return pd.DataFrame({"coverage": k / len(k), "threshold": np.sort(confidence)[::-1], "risk": errors / k})


def aurc(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Area under the risk-coverage curve: mean risk over k = 1 ... n (Geifman et al. 2019). Lower is better.

    0 if all is right, 1 if all is wrong; a confidence that says nothing has about the error rate.
    """
    confidence, correct = _checked(confidence, correct)
    n, right = _tie_sums(confidence, correct)
    return float(_aurc(n, right))


def accuracy_at_coverage(confidence: np.ndarray, correct: np.ndarray, coverage: float) -> float:
    """Accuracy on the most confident share of the items (the first ceil(coverage * n)); the rest is abstained from."""
    if not 0 < coverage <= 1:
        raise ValueError(f"accuracy_at_coverage: coverage {coverage}, expected 0 < coverage <= 1, such as 0.8")
    confidence, correct = _checked(confidence, correct)
    n, right = _tie_sums(confidence, correct)
    return float(_accuracy_at(n, right, coverage))


# -----------------------------------------------------------------------------
# one row of table_calibration


def calibration_row(
    probabilities: np.ndarray,
    answers: Sequence[int],
    *,
    seed: int,
    clusters: np.ndarray | None = None,
    bins: int = 15,
    other_bins: Sequence[int] = (5, 10, 20),
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, float | int | str]:
    """All calibration metrics of one cell (stage x benchmark x shots x protocol), `x_low` and `x_high` beside x.

    probabilities: (n, most options) from `option_probabilities`; answers: (n,) option indices;
    clusters: (n,) labels of items that share a vignette, drawn together in the bootstrap.

    Intervals are percentile bootstrap, with three exceptions.
    - accuracy: Wilson's when items are independent, since the bootstrap has no width at 0 and 100 %.
    - ece and ece_equal_mass: resampling adds to the error the bias that it already has, so a percentile interval
      may lie wholly above the truth (in a simulation it covered that of a perfect model in 0 of 400 samples). Hence the
      basic bootstrap, 2 * ece - percentiles, from 0 when the ECE is one that a perfect model shows, and widened
      to the estimate where it would end below it.
    - debiased_error: basic bootstrap of the squares around their own truth, which is the plug-in error of the sample.
    The bins stay where the full sample puts them. With clusters, ece_if_calibrated and debiased_error still take
    items as independent.
    """
    probabilities, answers = _checked_probabilities(probabilities, answers)
    n = len(answers)
    codes, groups = cluster_codes(clusters, n)
    _, confidence, right = predicted(probabilities, answers)
    right = right.astype(float)
    nll_each, brier_each = nll_terms(probabilities, answers), _brier_terms(probabilities, answers)

    # Every mean and every bin is a sum over items, hence over clusters: one product with the counts of a resample
    # gives it for all resamples. Only the two rankings need the items themselves, in order of confidence.
    terms = np.column_stack([np.ones(n), right, confidence, (confidence - right) ** 2, brier_each, nll_each])
    per_item = [terms]
    for scheme in ("equal_width", "equal_mass"):
        membership = _one_hot(_bin_of(confidence, bins, scheme), bins)
        per_item += [membership, membership * confidence[:, None], membership * right[:, None]]
    per_item = np.hstack(per_item)
    per_cluster = np.zeros((groups, per_item.shape[1]))
    np.add.at(per_cluster, codes, per_item)
    order = np.argsort(-confidence, kind="stable")
    ties = _tie_starts(confidence[order])

    def metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
        """counts (some resamples, clusters) -> each metric (some resamples,)."""
        sums = counts @ per_cluster
        size, correct_sum, confidence_sum, brier_sum, brier_all_sum, nll_sum = sums[:, :6].T
        by_bin = sums[:, 6:].reshape(len(counts), 2, 3, bins)  # scheme, (n, confidence, correct), bin
        equal_width, equal_mass = by_bin[:, 0].swapaxes(0, 1), by_bin[:, 1].swapaxes(0, 1)
        plug_in, debiased = _squared_errors(equal_width)
        n_tied = counts[:, codes[order]]
        right_tied = n_tied * right[order]
        if len(ties) < n:
            n_tied, right_tied = np.add.reduceat(n_tied, ties, axis=1), np.add.reduceat(right_tied, ties, axis=1)
        return {
            "accuracy": correct_sum / size,
            "mean_confidence": confidence_sum / size,
            "over_confidence": (confidence_sum - correct_sum) / size,
            "ece": _ece(equal_width),
            "ece_equal_mass": _ece(equal_mass),
            "plug_in_squared": plug_in,
            "debiased_squared": debiased,
            "brier": brier_sum / size,
            "brier_multiclass": brier_all_sum / size,
            "nll": nll_sum / size,
            "auroc": _auroc(n_tied, right_tied),
            "aurc": _aurc(n_tied, right_tied),
        } | {f"accuracy_at_{percent}": _accuracy_at(n_tied, right_tied, percent / 100) for percent in COVERAGES}

    sample = {name: float(value[0]) for name, value in metrics(np.ones((1, groups), dtype=int)).items()}
    pieces = [metrics(counts) for counts in resample_counts(groups, resamples, seed=seed)]
    resampled = {name: np.concatenate([piece[name] for piece in pieces]) for name in sample}

    plug_in, debiased = sample.pop("plug_in_squared"), sample.pop("debiased_squared")
    ends = {name: percentile_ends(resampled[name], level) for name in sample}
    if groups == n:
        ends["accuracy"] = wilson(int(right.sum()), n, level)[1:]
    calibrated = {
        name: ece_if_calibrated(confidence, bins, scheme, seed=seed, resamples=resamples, level=level)
        for name, scheme in (("ece", "equal_width"), ("ece_equal_mass", "equal_mass"))
    }
    for name in calibrated:
        low, high = ends[name]
        low, high = 2 * sample[name] - high, 2 * sample[name] - low
        low = 0.0 if sample[name] <= calibrated[name].high else max(low, 0.0)
        ends[name] = min(low, sample[name]), max(high, sample[name])
    low, high = percentile_ends(resampled["debiased_squared"] - plug_in, level)
    sample["debiased_error"] = float(_signed_root(debiased))
    ends["debiased_error"] = float(_signed_root(debiased - high)), float(_signed_root(debiased - low))

    row: dict[str, float | int | str] = {"n": n, "clusters": groups}
    for name, estimate in sample.items():
        row[name], row[f"{name}_low"], row[f"{name}_high"] = estimate, *ends[name]
    row["ece_if_calibrated"], _, row["ece_if_calibrated_high"] = calibrated["ece"]
    for other in other_bins:
        for scheme in ("equal_width", "equal_mass"):
            row[f"ece_{scheme}_{other}_bins"] = expected_calibration_error(confidence, right, other, scheme)
    for name, part in brier_decomposition(confidence, right, bins).items():
        row[f"brier_{name}"] = part
    row["warning"] = ""
    if n < FEW_ITEMS:
        row["warning"] = (
            f"n = {n}, under {FEW_ITEMS}: even a perfectly calibrated model would show an ECE of about "
            f"{calibrated['ece'].estimate:.2f} here"
        )
    return row


# -----------------------------------------------------------------------------
# recalibration: never on the items that are reported


def fold_of_item(n: int, *, seed: int, clusters: np.ndarray | None = None, folds: int = FOLDS) -> np.ndarray:
    """(n,) fold numbers 0 ... folds - 1; a cluster is never split, and the order of the rows does not matter
    (for independent items, pass their ids as clusters)."""
    codes, groups = cluster_codes(clusters, n)
    if not 2 <= folds <= groups:
        raise ValueError(
            f"cross-fitting: {folds} folds for {groups} clusters, expected 2 <= folds <= clusters; ask for fewer folds"
        )
    return (np.random.default_rng(seed).permutation(groups) % folds)[codes]


def fit_temperature(
    log_likelihoods: Sequence[Sequence[float]], answers: Sequence[int], lengths: Sequence[Sequence[float]] | None = None
) -> float:
    """The temperature T that minimises the NLL of softmax(log-likelihood / T) (Guo et al. 2017, sec. 4.2).

    Above 1 the model was over-confident. Accuracy does not change: T keeps the order of the options.
    Where no finite T is best (all right: 0; no better than chance: infinite) the nearer end of TEMPERATURES.
    """
    scores = _scores(log_likelihoods, lengths)
    answers = _checked_answers(answers, (~np.isnan(scores)).sum(axis=1))
    return _fit_temperature(scores, answers)


class CrossFittedTemperature(NamedTuple):
    probabilities: np.ndarray  # (n, most options), each item scaled by a temperature that never saw its cluster
    temperature: np.ndarray  # (n,) that temperature
    fold: np.ndarray  # (n,)


def cross_fitted_temperature(
    log_likelihoods: Sequence[Sequence[float]],
    answers: Sequence[int],
    *,
    seed: int,
    clusters: np.ndarray | None = None,
    folds: int = FOLDS,
    lengths: Sequence[Sequence[float]] | None = None,
) -> CrossFittedTemperature:
    """Temperature scaling by cross-fitting: each fold is scaled with the temperature of all the others.

    Compare `calibration_row` of option_probabilities(...) with that of the result: before and after.
    """
    scores = _scores(log_likelihoods, lengths)
    answers = _checked_answers(answers, (~np.isnan(scores)).sum(axis=1))
    fold = fold_of_item(len(scores), seed=seed, clusters=clusters, folds=folds)
    temperature = np.empty(len(scores))
    for f in range(folds):
        temperature[fold == f] = _fit_temperature(scores[fold != f], answers[fold != f])
    return CrossFittedTemperature(np.exp(_log_softmax(scores / temperature[:, None])), temperature, fold)


def conformal_threshold(probabilities: np.ndarray, answers: Sequence[int], coverage: float = 0.9) -> float:
    """Split-conformal threshold (LAC; Sadinle et al. 2019): the ceil((n + 1) coverage)-th smallest 1 - p(right answer).

    inf when n is too small to promise this coverage (n < coverage / (1 - coverage)): every option is then in the set.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"conformal: coverage {coverage}, expected a share between 0 and 1 such as 0.9")
    probabilities, answers = _checked_probabilities(probabilities, answers)
    scores = np.sort(1 - probabilities[np.arange(len(answers)), answers])
    rank = int(np.ceil((len(scores) + 1) * coverage - 1e-9))
    return float(scores[rank - 1]) if rank <= len(scores) else float("inf")


def conformal_sets(probabilities: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """(n, most options) bool: the options with 1 - p <= threshold (one number, or one per item).

    A set may be empty: LAC keeps sets small on average and lets the items go on which no option is probable.
    """
    probabilities = _checked_probabilities(probabilities)[0]
    threshold = np.broadcast_to(np.asarray(threshold, dtype=float), len(probabilities))
    return 1 - probabilities <= threshold[:, None]  # nan (no such option) is never in the set


class CrossFittedConformal(NamedTuple):
    sets: np.ndarray  # (n, most options) bool
    threshold: np.ndarray  # (n,) from the folds that do not hold the item's cluster
    fold: np.ndarray  # (n,)


def cross_fitted_conformal(
    probabilities: np.ndarray,
    answers: Sequence[int],
    *,
    seed: int,
    coverage: float = 0.9,
    clusters: np.ndarray | None = None,
    folds: int = FOLDS,
) -> CrossFittedConformal:
    """Conformal sets by cross-fitting: the sets of each fold use the threshold of all the others.

    Pass the model's own probabilities. Those of `cross_fitted_temperature` would leak: the temperatures of the other
    folds have seen this one. Each fold's sets cover the answer with the promised probability if items are
    exchangeable; whole clusters only are when they share a vignette, so the promise is then approximate.
    """
    probabilities, answers = _checked_probabilities(probabilities, answers)
    fold = fold_of_item(len(answers), seed=seed, clusters=clusters, folds=folds)
    threshold = np.empty(len(answers))
    for f in range(folds):
        threshold[fold == f] = conformal_threshold(probabilities[fold != f], answers[fold != f], coverage)
    return CrossFittedConformal(conformal_sets(probabilities, threshold), threshold, fold)


def conformal_summary(
    covered: np.ndarray,
    size: np.ndarray,
    *,
    seed: int,
    clusters: np.ndarray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, float | int]:
    """Coverage and mean size of prediction sets, with bootstrap intervals, and the shares of empty and single sets.

    covered: (n,) bool, whether the set holds the answer; size: (n,) how many options it holds. Items with different
    numbers of options, or from several benchmarks, may stand together.
    """
    covered, size = np.asarray(covered, dtype=float), np.asarray(size, dtype=float)
    row: dict[str, float | int] = {"n": len(covered)}
    for name, values in (("coverage", covered), ("set_size", size)):
        interval = bootstrap(values, seed=seed, clusters=clusters, resamples=resamples, level=level)
        row[name], row[f"{name}_low"], row[f"{name}_high"] = interval
    row["share_empty"], row["share_single"] = float(np.mean(size == 0)), float(np.mean(size == 1))
    return row


# -----------------------------------------------------------------------------
# the arithmetic; sums and counts carry the resamples in their leading axes


def _edges(confidence: np.ndarray, bins: int, scheme: str) -> np.ndarray:
    if bins < 1 or int(bins) != bins:
        raise ValueError(f"calibration bins: {bins}, expected a whole number of at least 1 (15 is usual)")
    if scheme == "equal_width":
        return np.linspace(0, 1, bins + 1)
    if scheme == "equal_mass":
        return np.quantile(confidence, np.linspace(0, 1, bins + 1))
    raise ValueError(f"calibration bins: scheme {scheme!r}, expected 'equal_width' or 'equal_mass'")


def _bin_of(confidence: np.ndarray, bins: int, scheme: str) -> np.ndarray:
    return np.searchsorted(_edges(confidence, bins, scheme)[1:-1], confidence)


def _one_hot(bin_of: np.ndarray, bins: int) -> np.ndarray:
    return (bin_of[:, None] == np.arange(bins)).astype(float)


def _bin_sums(bin_of: np.ndarray, confidence: np.ndarray, correct: np.ndarray, bins: int) -> np.ndarray:
    """(3, bins): items, sum of confidence, sum of correct."""
    per_item = (np.ones(len(bin_of)), confidence, correct)
    return np.stack([np.bincount(bin_of, weights, minlength=bins) for weights in per_item])


def _ece(bin_sums: np.ndarray) -> np.ndarray:
    """bin_sums (3, ..., bins) -> (...)."""
    n, confidence, correct = bin_sums
    return np.abs(confidence - correct).sum(axis=-1) / n.sum(axis=-1)


def _squared_errors(bin_sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bin_sums (3, ..., bins) -> squared error (...), plug-in and debiased, over the bins of two or more items."""
    n, confidence, correct = np.where(bin_sums[0] > 1, bin_sums, 0.0)
    accuracy = correct / np.maximum(n, 1)
    squared = (confidence - correct) ** 2 / np.maximum(n, 1)
    noise = n * accuracy * (1 - accuracy) / np.maximum(n - 1, 1)
    total = n.sum(axis=-1)
    total = np.where(total > 0, total, np.nan)
    return squared.sum(axis=-1) / total, (squared - noise).sum(axis=-1) / total


def _signed_root(squared: float | np.ndarray) -> np.ndarray:
    return np.sign(squared) * np.sqrt(np.abs(squared))


def _tie_starts(descending: np.ndarray) -> np.ndarray:
    """Where a new value starts in a sorted vector."""
    return np.flatnonzero(np.append(True, np.diff(descending) != 0))


def _tie_sums(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items and right answers for each distinct confidence, from the highest to the lowest."""
    order = np.argsort(-confidence, kind="stable")
    starts = _tie_starts(confidence[order])
    return np.add.reduceat(np.ones(len(order), dtype=int), starts), np.add.reduceat(correct[order], starts)


def _auroc(n: np.ndarray, right: np.ndarray) -> np.ndarray:
    """n, right (..., distinct confidences, highest first) -> (...)."""
    wrong = n - right
    wrong_total, right_total = wrong.sum(axis=-1), right.sum(axis=-1)
    wrong_below = wrong_total[..., None] - np.cumsum(wrong, axis=-1)
    pairs = wrong_total * right_total
    return (right * (wrong_below + wrong / 2)).sum(axis=-1) / np.where(pairs > 0, pairs, np.nan)


def _aurc(n: np.ndarray, right: np.ndarray) -> np.ndarray:
    """n, right (..., distinct confidences, highest first) -> (...).

    With N items and E errors above a tie of m items with error rate r, the expected risk at k = N + 1 ... N + m is
    (E + (k - N) r) / k = r + (E - N r) / k; summed over k this needs only harmonic numbers.
    """
    wrong = n - right
    items, errors = np.cumsum(n, axis=-1), np.cumsum(wrong, axis=-1)
    items_above, errors_above = items - n, errors - wrong
    rate = wrong / np.maximum(n, 1)
    harmonic = np.append(0.0, np.cumsum(1 / np.arange(1, items[..., -1].max() + 1)))[items]
    of_tie = np.diff(harmonic, axis=-1, prepend=0.0)  # of k = N + 1 ... N + m
    risk_sum = wrong + (errors_above - items_above * rate) * of_tie
    return risk_sum.sum(axis=-1) / items[..., -1]


def _accuracy_at(n: np.ndarray, right: np.ndarray, coverage: float) -> np.ndarray:
    """n, right (..., distinct confidences, highest first) -> (...); within a tie the expectation over its order."""
    items, answered_right = np.cumsum(n, axis=-1), np.cumsum(right, axis=-1)
    k = np.maximum(np.ceil(coverage * items[..., -1] - 1e-9), 1)  # 0.8 * 15 is a little above 12 in floating point
    last = np.argmax(items >= k[..., None], axis=-1)[..., None]  # the tie that the cut falls into

    def at(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, last, axis=-1)[..., 0]

    missing = at(items) - k  # of that tie, so many are not answered
    return (at(answered_right) - missing * at(right) / np.maximum(at(n), 1)) / k


def _brier_terms(probabilities: np.ndarray, answers: np.ndarray) -> np.ndarray:
    truth = answers[:, None] == np.arange(probabilities.shape[1])
    return np.nansum((probabilities - truth) ** 2, axis=1)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    """(n, most options), nan where there is no option: it stays nan."""
    return scores - logsumexp(np.where(np.isnan(scores), -np.inf, scores), axis=1, keepdims=True)


def _fit_temperature(scores: np.ndarray, answers: np.ndarray) -> float:
    # NLL is convex in b = 1 / T, with slope E_p[score] - score of the answer: look for the zero of the slope.
    shifted = scores - np.nanmax(scores, axis=1, keepdims=True)  # the best option at 0: no overflow for any T
    of_answer = shifted[np.arange(len(answers)), answers]

    def slope(log_temperature: float) -> float:
        p = np.exp(_log_softmax(shifted / np.exp(log_temperature)))
        return float(np.mean(np.nansum(p * shifted, axis=1) - of_answer))

    if not np.nansum(np.abs(shifted)):
        return 1.0  # all options of all items are equally likely: any temperature gives the same probabilities
    low, high = np.log(TEMPERATURES)
    if slope(low) <= 0:
        return TEMPERATURES[0]
    if slope(high) >= 0:
        return TEMPERATURES[1]
    return float(np.exp(brentq(slope, low, high, xtol=1e-10)))


# -----------------------------------------------------------------------------
# checks


def _padded(rows: Sequence[Sequence[float]], what: str) -> np.ndarray:
    """Ragged rows -> (n, longest) floats, nan behind the end of a row."""
    if len(rows) == 0:
        raise ValueError(f"{what}: no items; check that the selection before this call is not empty")
    rows = list(rows)
    for i, row in enumerate(rows):
        if not hasattr(row, "__len__") or isinstance(row, str) or len(row) < 2:
            raise ValueError(
                f"{what}: row {i} (counting from 0) is {row!r}, expected one number for each of at least two options; "
                "predictions that were generated and parsed carry none: select a protocol scored by log-likelihood"
            )
    count = np.array([len(row) for row in rows])
    padded = np.full((len(rows), count.max()), np.nan)
    has_option = np.arange(count.max()) < count[:, None]
    padded[has_option] = np.concatenate([np.asarray(row, dtype=float) for row in rows])
    bad = has_option & ~np.isfinite(padded)
    if bad.any():
        i, k = np.argwhere(bad)[0]
        raise ValueError(
            f"{what}: row {i}, option {k} (counting from 0) is {padded[i, k]}, expected finite numbers; "
            "look for an empty option or an overflow in half precision where they were computed"
        )
    return padded


def _scores(log_likelihoods: Sequence[Sequence[float]], lengths: Sequence[Sequence[float]] | None) -> np.ndarray:
    """(n, most options) log-likelihoods, divided by the lengths if given."""
    scores = _padded(log_likelihoods, "log-likelihoods")
    if lengths is None:
        return scores
    divisor = _padded(lengths, "lengths")
    if divisor.shape != scores.shape or (np.isnan(divisor) != np.isnan(scores)).any():
        raise ValueError("lengths: expected one for each log-likelihood, in the same ragged shape")
    if (divisor <= 0).any():
        i = int(np.argmax((divisor <= 0).any(axis=1)))
        raise ValueError(f"lengths: row {i} (counting from 0) has a length of 0 or less, expected lengths above 0")
    return scores / divisor


def _checked(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if confidence.ndim != 1 or confidence.shape != correct.shape or len(confidence) == 0:
        raise ValueError(
            f"calibration: confidence {confidence.shape} and correct {correct.shape}, "
            "expected two vectors of the same length with at least one item"
        )
    inside = (confidence >= 0) & (confidence <= 1)  # False for nan
    if not inside.all():
        i = int(np.argmin(inside))
        raise ValueError(
            f"calibration: confidence of row {i} (counting from 0) is {confidence[i]}, expected a probability; "
            "turn log-likelihoods into probabilities with option_probabilities first"
        )
    binary = np.isin(correct, (0, 1))
    if not binary.all():
        i = int(np.argmin(binary))
        raise ValueError(f"calibration: correct of row {i} (counting from 0) is {correct[i]}, expected 0 or 1")
    return confidence, correct


def _checked_answers(answers: Sequence[int], options: np.ndarray) -> np.ndarray:
    """(n,) int answers, each an index into its item's options."""
    numbers = np.asarray(answers)
    if numbers.shape != options.shape or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"answers: shape {numbers.shape} of {numbers.dtype}, expected {len(options)} whole numbers, the index of "
            "the right option counting from 0; turn letters into indices first"
        )
    inside = (numbers >= 0) & (numbers < options)
    if not inside.all():
        i = int(np.argmin(inside))
        raise ValueError(f"answers: row {i} (counting from 0) is {numbers[i]}, but the item has {options[i]} options")
    return numbers


def _checked_probabilities(
    probabilities: np.ndarray, answers: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    probabilities = np.asarray(probabilities, dtype=float)
    if probabilities.ndim != 2 or len(probabilities) == 0:
        raise ValueError(
            f"probabilities: shape {probabilities.shape}, expected (items, options) with at least one item; "
            "make them with option_probabilities"
        )
    has_option = ~np.isnan(probabilities)
    padded_at_end = (has_option[:, :-1] >= has_option[:, 1:]).all(axis=1)
    filled = np.where(has_option, probabilities, 0.0)
    good = padded_at_end & (filled >= 0).all(axis=1) & (np.abs(filled.sum(axis=1) - 1) < 1e-6)
    if not good.all():
        i = int(np.argmin(good))
        raise ValueError(
            f"probabilities: row {i} (counting from 0) is {probabilities[i]}, expected numbers >= 0 that sum to 1, "
            "with nan only behind the last option; make them with option_probabilities"
        )
    return probabilities, None if answers is None else _checked_answers(answers, has_option.sum(axis=1))
