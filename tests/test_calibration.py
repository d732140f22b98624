"""Calibration metrics on distributions with known answers, against scikit-learn, torchmetrics, crepes and brute force."""

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from hippo_utils.evaluation import calibration as c


def perfect(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Items of a perfectly calibrated model: (confidence, correct)."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.25, 1, n)
    return confidence, rng.random(n) < confidence


def exam(n: int, seed: int, options: int = 4, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(log-likelihoods, answers): softmax(log-likelihoods / temperature) is exactly right."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(n, options))
    p = c.option_probabilities(logits)
    answers = (rng.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(max=options - 1)
    return logits * temperature - 30, answers


# -----------------------------------------------------------------------------
# probabilities


def test_softmax_over_ragged_options():
    p = c.option_probabilities([[0.0, np.log(3.0)], [-5.0, -5.0, -5.0]])
    assert p[0, :2] == pytest.approx([0.25, 0.75]) and np.isnan(p[0, 2])
    assert p[1] == pytest.approx([1 / 3] * 3)


def test_lengths_and_temperature_divide_the_log_likelihoods():
    p = c.option_probabilities([[-2.0, -9.0]], lengths=[[1, 3]], temperature=0.5)
    assert p[0] == pytest.approx(c.option_probabilities([[-4.0, -6.0]])[0])
    per_item = c.option_probabilities([[0.0, 2.0], [0.0, 2.0]], temperature=[1.0, 2.0])
    assert per_item[1] == pytest.approx(c.option_probabilities([[0.0, 1.0]])[0])


def test_far_below_zero_neither_overflows_nor_underflows_to_nan():
    p = c.option_probabilities([[-1e5, -1e5 - 1000, -1e5]])
    assert p[0] == pytest.approx([0.5, 0, 0.5])
    assert c.negative_log_likelihood(p, [1]) == pytest.approx(708.4, abs=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, None])
def test_a_log_likelihood_that_is_no_number_names_its_row(bad):
    with pytest.raises(ValueError, match=r"log-likelihoods: row 1, option 2 .*expected finite numbers"):
        c.option_probabilities([[-1.0, -2.0], [-1.0, -2.0, bad]])


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (([],), "no items"),
        (([[-1.0, -2.0], None],), "row 1 .* is None, expected one number for each of at least two options"),
        (([[-1.0]],), "row 0 .* at least two options"),
        (([[-1.0, -2.0]], [[1, 2, 3]]), "same ragged shape"),
        (([[-1.0, -2.0]], [[1, 0]]), "row 0 .* length of 0 or less"),
        (([[-1.0, -2.0]], None, 0.0), "temperature: expected finite numbers above 0"),
    ],
)
def test_option_probabilities_says_what_is_wrong(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        c.option_probabilities(*arguments)


def test_predicted_takes_the_first_of_equal_options_and_never_the_padding():
    p = np.array([[0.5, 0.5, np.nan], [0.1, 0.2, 0.7]])
    prediction, confidence, correct = c.predicted(p, [1, 2])
    assert prediction.tolist() == [0, 2] and confidence.tolist() == [0.5, 0.7] and correct.tolist() == [False, True]


@pytest.mark.parametrize(
    "p, answers, sentence",
    [
        ([[0.5, 0.6]], [0], "row 0 .* sum to 1"),
        ([[np.nan, 1.0]], [1], "nan only behind the last option"),
        ([0.5, 0.5], [0], r"expected \(items, options\)"),
        ([[0.5, 0.5, np.nan]], [2], "row 0 .* is 2, but the item has 2 options"),
        ([[0.5, 0.5]], [-1], "row 0 .* is -1"),
        ([[0.5, 0.5]], ["A"], "turn letters into indices"),
        ([[0.5, 0.5]], [0, 1], r"expected 1 whole numbers"),
    ],
)
def test_predicted_says_what_is_wrong(p, answers, sentence):
    with pytest.raises(ValueError, match=sentence):
        c.predicted(np.array(p), answers)


# -----------------------------------------------------------------------------
# calibration error


def test_ece_of_a_perfect_model_is_its_known_small_sample_bias_and_debiased_is_zero():
    n, bins, ece, debiased = 100, 15, [], []
    for seed in range(400):
        confidence, correct = perfect(n, seed)
        ece.append(c.expected_calibration_error(confidence, correct, bins))
        error = c.debiased_calibration_error(confidence, correct, bins)
        debiased.append(np.sign(error) * error**2)
    # A bin's gap is about normal with variance p (1 - p) n_b, so E|gap| = sqrt(2 / pi) sqrt(p (1 - p) n_b).
    middle = (np.arange(bins) + 0.5) / bins
    inside = middle > 0.25
    per_bin = np.sqrt(middle * (1 - middle) * n / inside.sum())[inside]
    known = np.sqrt(2 / np.pi) * per_bin.sum() / n
    assert np.mean(ece) == pytest.approx(known, rel=0.06) and 0.10 < known < 0.14  # "about 0.12 at n = 100"
    assert abs(np.mean(debiased)) < 3 * np.std(debiased) / np.sqrt(400)
    assert (np.array(debiased) < 0).mean() > 0.3


def test_ece_if_calibrated_is_that_bias():
    observed = [c.expected_calibration_error(*perfect(100, seed)) for seed in range(200)]
    expected = c.ece_if_calibrated(perfect(100, 0)[0], seed=0)
    assert expected.estimate == pytest.approx(np.mean(observed), rel=0.07)
    assert 0.9 < np.mean([expected.low <= e <= expected.high for e in observed]) <= 1


def test_debiased_error_finds_a_known_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 20_000)
    correct = rng.random(20_000) < confidence - 0.2
    assert c.debiased_calibration_error(confidence, correct) == pytest.approx(0.2, abs=0.01)
    assert c.expected_calibration_error(confidence, correct) == pytest.approx(0.2, abs=0.01)
    assert c.over_confidence(confidence, correct) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("scheme, strategy", [("equal_width", "uniform"), ("equal_mass", "quantile")])
@pytest.mark.parametrize("bins", [5, 10, 15])
def test_reliability_table_is_scikit_learns_calibration_curve(scheme, strategy, bins):
    confidence, correct = perfect(300, 1)
    confidence = confidence.round(2)  # many values on the edges of bins
    table = c.reliability_table(confidence, correct, bins, scheme)
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=bins, strategy=strategy)
    assert table["accuracy"].to_numpy() == pytest.approx(accuracy)
    assert table["mean_confidence"].to_numpy() == pytest.approx(mean_confidence)
    assert table["n"].sum() == 300
    assert ((table["accuracy_low"] <= table["accuracy"]) & (table["accuracy"] <= table["accuracy_high"])).all()
    ece = (table["n"] * (table["mean_confidence"] - table["accuracy"]).abs()).sum() / 300
    assert c.expected_calibration_error(confidence, correct, bins, scheme) == pytest.approx(ece)


@pytest.mark.parametrize("bins", [5, 10, 15])
def test_calibration_error_is_torchmetrics(bins):
    from torch import tensor
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, answers = exam(400, 19, temperature=2.0)
    p = c.option_probabilities(logits)
    _, confidence, correct = c.predicted(p, answers)
    theirs = [multiclass_calibration_error(tensor(p), tensor(answers), 4, bins, norm).item() for norm in ("l1", "l2")]
    assert c.expected_calibration_error(confidence, correct, bins) == pytest.approx(theirs[0])
    # Our squared error has the noise of each bin's accuracy taken out; put back, it is their plug-in estimate.
    table = c.reliability_table(confidence, correct, bins)
    assert table["n"].min() > 1
    noise = (table["n"] / 400 * table["accuracy"] * (1 - table["accuracy"]) / (table["n"] - 1)).sum()
    error = c.debiased_calibration_error(confidence, correct, bins)
    assert np.sqrt(np.sign(error) * error**2 + noise) == pytest.approx(theirs[1])


def test_ece_makes_as_many_bins_as_asked():
    confidence = (np.arange(15) + 0.5) / 15
    assert len(c.reliability_table(confidence, np.ones(15), 15)) == 15
    assert len(c.reliability_table(confidence, np.ones(15), 15, "equal_mass")) == 15


def test_a_bin_holds_its_upper_edge():
    table = c.reliability_table([0.2, 0.2001, 0.0, 1.0], [0, 0, 0, 1], bins=5)
    assert table["bin"].tolist() == [0, 1, 4] and table["n"].tolist() == [2, 1, 1]


@pytest.mark.parametrize("scheme", ["equal_width", "equal_mass"])
def test_constant_confidence_is_one_bin(scheme):
    correct = np.array([1] * 6 + [0] * 4)
    confidence = np.full(10, 0.9)
    assert c.expected_calibration_error(confidence, correct, scheme=scheme) == pytest.approx(0.3)
    assert len(c.reliability_table(confidence, correct, scheme=scheme)) == 1
    assert c.auroc_of_correctness(confidence, correct) == 0.5
    assert c.aurc(confidence, correct) == pytest.approx(0.4)
    assert c.accuracy_at_coverage(confidence, correct, 0.5) == pytest.approx(0.6)


@pytest.mark.parametrize("right", [0, 1])
def test_all_right_and_all_wrong(right):
    confidence, correct = np.linspace(0.3, 0.9, 30), np.full(30, right)
    gap = abs(right - confidence.mean())
    assert c.expected_calibration_error(confidence, correct) == pytest.approx(gap)
    assert c.over_confidence(confidence, correct) == pytest.approx(confidence.mean() - right)
    assert np.isnan(c.auroc_of_correctness(confidence, correct))
    assert c.aurc(confidence, correct) == pytest.approx(1 - right)
    assert c.accuracy_at_coverage(confidence, correct, 0.8) == right
    parts = c.brier_decomposition(confidence, correct)
    assert parts["uncertainty"] == parts["resolution"] == 0


def test_one_item():
    assert c.expected_calibration_error([0.7], [1]) == pytest.approx(0.3)
    assert c.brier([0.7], [1]) == pytest.approx(0.09)
    assert np.isnan(c.debiased_calibration_error([0.7], [1]))
    assert np.isnan(c.auroc_of_correctness([0.7], [1]))
    assert c.risk_coverage([0.7], [1])["risk"].tolist() == [0.0]


# -----------------------------------------------------------------------------
# proper scores and rankings, against other implementations


def test_brier_and_nll_are_scikit_learns():
    logits, answers = exam(300, 2)
    p = c.option_probabilities(logits)
    _, confidence, correct = c.predicted(p, answers)
    assert c.brier(confidence, correct) == pytest.approx(brier_score_loss(correct, confidence))
    assert c.brier_multiclass(p, answers) == pytest.approx(
        brier_score_loss(answers, p, labels=range(4), scale_by_half=False)
    )
    assert c.negative_log_likelihood(p, answers) == pytest.approx(log_loss(answers, p, labels=range(4)))


def test_brier_and_nll_of_ragged_items():
    p = np.array([[0.25, 0.75, np.nan], [0.2, 0.3, 0.5]])
    assert c.brier_multiclass(p, [1, 0]) == pytest.approx((2 * 0.25**2 + 0.8**2 + 0.3**2 + 0.5**2) / 2)
    assert c.negative_log_likelihood(p, [1, 0]) == pytest.approx(-np.log(0.75 * 0.2) / 2)


@pytest.mark.parametrize("scheme", ["equal_width", "equal_mass"])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_murphys_parts_sum_to_the_brier_score(scheme, bins):
    confidence, correct = perfect(200, 3)
    parts = c.brier_decomposition(confidence, correct, bins, scheme)
    whole = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bin"]
    assert whole == pytest.approx(c.brier(confidence, correct))
    rounded = np.ceil(confidence * 4) / 4  # one value per bin: nothing is hidden
    assert c.brier_decomposition(rounded, correct, 4)["within_bin"] == pytest.approx(0)


@pytest.mark.parametrize("digits", [8, 1])
def test_auroc_is_scikit_learns_also_with_ties(digits):
    confidence, correct = perfect(200, 4)
    confidence = confidence.round(digits)
    assert c.auroc_of_correctness(confidence, correct) == pytest.approx(roc_auc_score(correct, confidence))


@pytest.mark.parametrize("digits", [8, 1])
def test_risk_coverage_is_the_mean_over_all_orders_of_the_ties(digits):
    confidence, correct = perfect(40, 5)
    confidence = confidence.round(digits)
    rng, risks = np.random.default_rng(0), []
    for _ in range(3000 if digits == 1 else 1):
        order = np.lexsort([rng.random(40), -confidence])
        risks.append(np.cumsum(~correct[order]) / np.arange(1, 41))
    curve = c.risk_coverage(confidence, correct)
    assert curve["risk"].to_numpy() == pytest.approx(np.mean(risks, axis=0), abs=0.03 if digits == 1 else 1e-12)
    assert curve["coverage"].iloc[-1] == 1 and curve["risk"].iloc[-1] == pytest.approx(1 - correct.mean())
    assert c.aurc(confidence, correct) == pytest.approx(curve["risk"].mean())


def test_accuracy_at_coverage_counts_items():
    confidence, correct = np.linspace(0.9, 0.3, 15), np.array([1] * 12 + [0] * 3)
    assert c.accuracy_at_coverage(confidence, correct, 0.8) == 1.0  # 0.8 * 15 is 12, not 13
    assert c.accuracy_at_coverage(confidence, correct, 1.0) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="0 < coverage <= 1"):
        c.accuracy_at_coverage(confidence, correct, 80)


def test_metrics_do_not_depend_on_the_order_of_items():
    confidence, correct = perfect(150, 6)
    confidence = confidence.round(1)
    order = np.random.default_rng(0).permutation(150)
    for metric in (
        c.expected_calibration_error, c.debiased_calibration_error, c.over_confidence, c.brier,
        c.auroc_of_correctness, c.aurc,
    ):  # fmt: skip
        assert metric(confidence[order], correct[order]) == pytest.approx(metric(confidence, correct), abs=1e-12)


@pytest.mark.parametrize(
    "confidence, correct, sentence",
    [
        ([], [], "at least one item"),
        ([0.5], [1, 0], "same length"),
        ([0.5, np.nan], [1, 0], "row 1 .* is nan, expected a probability"),
        ([0.5, np.inf], [1, 0], "row 1 .* is inf"),
        ([-3.2], [1], "turn log-likelihoods into probabilities"),
        ([0.5], [0.5], "row 0 .* expected 0 or 1"),
    ],
)
def test_metrics_say_what_is_wrong(confidence, correct, sentence):
    for metric in (c.expected_calibration_error, c.brier, c.auroc_of_correctness, c.risk_coverage):
        with pytest.raises(ValueError, match=sentence):
            metric(confidence, correct)


def test_bins_say_what_is_wrong():
    with pytest.raises(ValueError, match="'equal_width' or 'equal_mass'"):
        c.expected_calibration_error([0.5], [1], scheme="uniform")
    with pytest.raises(ValueError, match="at least 1"):
        c.expected_calibration_error([0.5], [1], bins=0)


# -----------------------------------------------------------------------------
# one row of the table


def test_a_row_holds_what_the_single_metrics_say():
    logits, answers = exam(250, 7)
    p = c.option_probabilities(logits)
    _, confidence, correct = c.predicted(p, answers)
    row = c.calibration_row(p, answers, seed=0, resamples=200)
    expected = {
        "n": 250, "accuracy": correct.mean(), "mean_confidence": confidence.mean(),
        "over_confidence": c.over_confidence(confidence, correct),
        "ece": c.expected_calibration_error(confidence, correct),
        "ece_equal_mass": c.expected_calibration_error(confidence, correct, scheme="equal_mass"),
        "ece_equal_mass_10_bins": c.expected_calibration_error(confidence, correct, 10, "equal_mass"),
        "debiased_error": c.debiased_calibration_error(confidence, correct),
        "brier": c.brier(confidence, correct), "brier_multiclass": c.brier_multiclass(p, answers),
        "nll": c.negative_log_likelihood(p, answers), "auroc": c.auroc_of_correctness(confidence, correct),
        "aurc": c.aurc(confidence, correct), "accuracy_at_80": c.accuracy_at_coverage(confidence, correct, 0.8),
    }  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row["warning"] == ""
    intervals = [name for name in row if f"{name}_low" in row]
    assert len(intervals) == 14
    for name in intervals:
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], name
    assert len(pd.DataFrame([row, row]).dropna(axis=1).columns) == len(row)  # plain numbers, nothing missing


def test_vectorised_resamples_are_the_brute_force_ones():
    logits, answers = exam(60, 8)
    p = c.option_probabilities(logits).round(1)
    p[:, 0] += 1 - p.sum(axis=1)  # coarse, hence with ties
    p = p[(p >= 0).all(axis=1)]
    answers = answers[: len(p)]
    clusters = np.arange(len(p)) // 3
    row = c.calibration_row(p, answers, seed=3, clusters=clusters, resamples=150)
    _, confidence, correct = c.predicted(p, answers)

    drawn = np.concatenate(list(c.resample_counts(clusters.max() + 1, 150, seed=3)))
    brute = {"auroc": c.auroc_of_correctness, "aurc": c.aurc, "brier": c.brier, "over_confidence": c.over_confidence}
    brute["accuracy_at_80"] = lambda confidence, correct: 1 - c.risk_coverage(confidence, correct)["risk"].iloc[int(np.ceil(0.8 * len(correct) - 1e-9)) - 1]
    for name, metric in brute.items():
        values = []
        for counts in drawn:
            rows = np.repeat(np.arange(len(p)), counts[clusters])
            values.append(metric(confidence[rows], correct[rows]))
        low, high = np.nanquantile(values, [0.025, 0.975])
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((low, high)), name
    values = []
    for counts in drawn:
        rows = np.repeat(np.arange(len(p)), counts[clusters])
        values.append(c.negative_log_likelihood(p[rows], answers[rows]))
    assert (row["nll_low"], row["nll_high"]) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_intervals_of_the_biased_metrics_cover_the_truth(shift):
    """The reason why they are not percentile intervals: those covered it in 0 of 400 samples at shift 0."""
    covered = {"ece": 0, "debiased_error": 0, "over_confidence": 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.55, 1, 300)
        right = rng.random(300) < confidence - shift
        p = np.column_stack([confidence, 1 - confidence])
        row = c.calibration_row(p, np.where(right, 0, 1), seed=seed, resamples=200)
        for name in covered:
            covered[name] += row[f"{name}_low"] <= shift <= row[f"{name}_high"]
    assert min(covered.values()) >= 82, covered  # 86 to 99 % of 400 samples each, n = 100 to 1500


def test_rows_are_decided_by_the_seed():
    logits, answers = exam(100, 9)
    p = c.option_probabilities(logits)
    first = c.calibration_row(p, answers, seed=1, resamples=100)
    assert c.calibration_row(p, answers, seed=1, resamples=100) == first
    other = c.calibration_row(p, answers, seed=2, resamples=100)
    assert other["ece"] == first["ece"] and other["brier_low"] != first["brier_low"]


def test_with_clusters_the_order_of_items_does_not_matter():
    logits, answers = exam(120, 10)
    p, clusters = c.option_probabilities(logits), np.arange(120) // 2
    order = np.random.default_rng(0).permutation(120)
    row = c.calibration_row(p, answers, seed=0, clusters=clusters, resamples=100)
    shuffled = c.calibration_row(p[order], answers[order], seed=0, clusters=clusters[order], resamples=100)
    calibrated = ("ece_low", "ece_equal_mass_low", "ece_if_calibrated", "ece_if_calibrated_high", "warning")
    for name in set(row) - set(calibrated):  # those are drawn item by item
        assert shuffled[name] == pytest.approx(row[name], abs=1e-9), name


def test_duplicated_items_widen_the_interval_only_if_they_are_clusters():
    logits, answers = exam(100, 11)
    p, answers = np.repeat(c.option_probabilities(logits), 4, axis=0), np.repeat(answers, 4)
    width = {}
    for name, clusters in (("plain", None), ("clusters", np.repeat(np.arange(100), 4))):
        row = c.calibration_row(p, answers, seed=0, clusters=clusters, resamples=300)
        width[name] = {m: row[f"{m}_high"] - row[f"{m}_low"] for m in ("accuracy", "brier", "nll", "auroc", "aurc")}
    for metric, wide in width["clusters"].items():
        assert wide > 1.6 * width["plain"][metric], metric


def test_few_items_carry_a_warning_and_degenerate_ones_a_row():
    logits, answers = exam(199, 12)
    p = c.option_probabilities(logits)
    warning = c.calibration_row(p, answers, seed=0, resamples=100)["warning"]
    assert warning.startswith("n = 199, under 200: even a perfectly calibrated model would show an ECE of about 0.0")
    one = c.calibration_row(p[:1], answers[:1], seed=0, resamples=50)
    assert one["n"] == 1 and np.isnan(one["auroc"]) and np.isnan(one["auroc_low"]) and one["warning"]
    best = c.predicted(p, answers).prediction
    all_right = c.calibration_row(p, best, seed=0, resamples=50)
    assert all_right["accuracy"] == 1 and all_right["accuracy_low"] < 1 and np.isnan(all_right["auroc"])
    tied = c.calibration_row(np.full((50, 4), 0.25), np.arange(50) % 4, seed=0, resamples=50)
    assert tied["auroc"] == 0.5 and tied["ece"] == pytest.approx(abs(13 / 50 - 0.25))


def test_twenty_cells_of_500_items_take_seconds():
    logits, answers = exam(500, 13)
    p = c.option_probabilities(logits)
    start = time.process_time()
    for seed in range(3):
        c.calibration_row(p, answers, seed=seed)
    assert time.process_time() - start < 3 * 1.0  # 0.2 s a row: 20 cells take 4 s


# -----------------------------------------------------------------------------
# recalibration


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_recovers_the_known_one(temperature):
    logits, answers = exam(6000, 14, temperature=temperature)
    assert c.fit_temperature(logits, answers) == pytest.approx(temperature, rel=0.06)


def test_temperature_is_the_minimum_of_the_nll():
    logits, answers = exam(300, 15, temperature=2.0)
    ragged = [list(row[: 3 + i % 2]) for i, row in enumerate(logits)]
    answers = np.minimum(answers, 2)
    best = c.fit_temperature(ragged, answers)
    nll = []
    for temperature in (0.98 * best, best, 1.02 * best):
        p = c.option_probabilities(ragged, temperature=temperature)
        nll.append(c.negative_log_likelihood(p, answers))
    assert nll[1] < min(nll[0], nll[2])


def test_temperature_at_its_ends():
    right, wrong = np.tile([0.0, -3.0], (20, 1)), np.tile([-3.0, 0.0], (20, 1))
    assert c.fit_temperature(right, np.zeros(20, int)) == c.TEMPERATURES[0]
    assert c.fit_temperature(wrong, np.zeros(20, int)) == c.TEMPERATURES[1]
    assert c.fit_temperature(np.zeros((20, 3)), np.zeros(20, int)) == 1.0


def test_cross_fitted_temperature_repairs_over_confidence():
    logits, answers = exam(1500, 16, temperature=3.0)
    before = c.predicted(c.option_probabilities(logits), answers)
    fitted = c.cross_fitted_temperature(logits, answers, seed=0)
    after = c.predicted(fitted.probabilities, answers)
    assert (after.prediction == before.prediction).all()
    assert c.over_confidence(*before[1:]) > 0.15 and abs(c.over_confidence(*after[1:])) < 0.03
    assert fitted.probabilities == pytest.approx(c.option_probabilities(logits, temperature=fitted.temperature))
    assert len(np.unique(fitted.temperature)) == 5


def test_folds_never_split_a_cluster_and_ignore_the_order_of_rows():
    clusters = np.random.default_rng(0).integers(0, 40, 200).astype(str)
    fold = c.fold_of_item(200, seed=1, clusters=clusters)
    assert pd.Series(fold).groupby(clusters).nunique().max() == 1
    assert pd.Series(fold).groupby(fold).size().index.tolist() == [0, 1, 2, 3, 4]
    order = np.random.default_rng(1).permutation(200)
    assert (c.fold_of_item(200, seed=1, clusters=clusters[order]) == fold[order]).all()
    assert (c.fold_of_item(200, seed=2, clusters=clusters) != fold).any()
    with pytest.raises(ValueError, match="5 folds for 3 clusters"):
        c.fold_of_item(6, seed=0, clusters=[1, 1, 2, 2, 3, 3])


def test_an_items_own_cluster_never_reaches_its_fit():
    """Plant: change the answers of one cluster. Its own fits must not move, those of the other folds must."""
    logits, answers = exam(200, 17)
    clusters = np.arange(200) // 10
    planted = answers.copy()
    planted[clusters == 7] = logits[clusters == 7].argmin(axis=1)
    own_fold = c.fold_of_item(200, seed=0, clusters=clusters)
    own_fold = own_fold == own_fold[70]

    clean, dirty = (c.cross_fitted_temperature(logits, a, seed=0, clusters=clusters) for a in (answers, planted))
    assert (clean.temperature[own_fold] == dirty.temperature[own_fold]).all()
    assert (clean.temperature[~own_fold] != dirty.temperature[~own_fold]).all()

    p = c.option_probabilities(logits)
    clean, dirty = (c.cross_fitted_conformal(p, a, seed=0, clusters=clusters) for a in (answers, planted))
    assert (clean.sets[own_fold] == dirty.sets[own_fold]).all()
    assert (clean.threshold[~own_fold] < dirty.threshold[~own_fold]).all()


@pytest.mark.parametrize("coverage", [0.9, 0.95])
def test_split_conformal_coverage_is_nominal(coverage):
    covered, n = [], 199
    for seed in range(150):
        logits, answers = exam(n + 200, 100 + seed, temperature=2.5)  # it need not be calibrated
        p = c.option_probabilities(logits)
        threshold = c.conformal_threshold(p[:n], answers[:n], coverage)
        sets = c.conformal_sets(p[n:], threshold)
        covered.append(sets[np.arange(200), answers[n:]].mean())
    # exact for continuous scores: E coverage = ceil((n + 1) coverage) / (n + 1)
    assert np.mean(covered) == pytest.approx(np.ceil((n + 1) * coverage - 1e-9) / (n + 1), abs=0.008)


def summary(sets: np.ndarray, answers: np.ndarray) -> dict:
    return c.conformal_summary(sets[np.arange(len(sets)), answers], sets.sum(axis=1), seed=0)


def test_cross_fitted_conformal_coverage_is_nominal_and_clusters_are_kept():
    logits, answers = exam(4000, 18)
    p = c.option_probabilities(logits)
    fitted = c.cross_fitted_conformal(p, answers, seed=0, coverage=0.9)
    row = summary(fitted.sets, answers)
    assert row["coverage"] == pytest.approx(0.9, abs=0.015) and row["coverage_low"] <= 0.9 <= row["coverage_high"]
    assert 1 < row["set_size"] < 4 and row["set_size_low"] < row["set_size"] < row["set_size_high"]
    wider = summary(c.cross_fitted_conformal(p, answers, seed=0, coverage=0.95).sets, answers)
    assert wider["set_size"] > row["set_size"]


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
def test_conformal_sets_are_those_of_crepes(coverage):
    from crepes import ConformalClassifier

    logits, answers = exam(600, 20, temperature=2.0)
    p = c.option_probabilities(logits)
    scores = 1 - p[np.arange(600), answers]
    theirs = ConformalClassifier().fit(scores[:200]).predict_set(1 - p[200:], confidence=coverage, smoothing=False)
    assert (c.conformal_sets(p[200:], c.conformal_threshold(p[:200], answers[:200], coverage)) == np.array(theirs, bool)).all()


def test_conformal_threshold_by_hand():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    answers = np.zeros(4, int)
    assert c.conformal_threshold(p, answers, 0.6) == pytest.approx(0.3)  # ceil(5 * 0.6) = 3rd smallest of 0.1 ... 0.4
    assert c.conformal_threshold(p, answers, 0.8) == pytest.approx(0.4)
    assert c.conformal_threshold(p, answers, 0.9) == np.inf  # 4 items cannot promise 90 %
    assert c.conformal_sets(p, 0.35).tolist() == [[True, False]] * 3 + [[False, False]]


def test_sets_never_hold_an_option_that_an_item_does_not_have():
    p = np.array([[0.5, 0.5, np.nan], [0.3, 0.3, 0.4]])
    assert c.conformal_sets(p, np.inf).tolist() == [[True, True, False], [True, True, True]]
    row = c.conformal_summary([True, False], [1, 0], seed=0, resamples=20)
    assert (row["coverage"], row["set_size"], row["share_empty"], row["share_single"]) == (0.5, 0.5, 0.5, 0.5)


def test_calibration_never_imports_torch():
    code = "import sys, hippo_utils.evaluation.calibration; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
