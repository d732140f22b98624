"""The spine's statistics against published values, other libraries, and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from hippo_utils.statistics import (
    bootstrap,
    cluster_codes,
    holm,
    mcnemar_exact,
    paired_difference,
    resample_counts,
    smallest_detectable_difference,
    wilson,
)

# -----------------------------------------------------------------------------
# Wilson


@pytest.mark.parametrize(
    "successes, n, low, high",
    # Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3 (score, no continuity correction)
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_values(successes, n, low, high):
    interval = wilson(successes, n)
    assert interval.estimate == successes / n
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_statsmodels_and_stays_inside(n, share, level):
    k = round(share * n)
    interval = wilson(k, n, level)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval[1:] == pytest.approx(proportion_confint(k, n, 1 - level, "wilson"), abs=1e-9)


def test_wilson_of_nothing_knows_nothing():
    interval = wilson(0, 0)
    assert np.isnan(interval.estimate) and interval[1:] == (0.0, 1.0)


@pytest.mark.parametrize("successes, n", [(5, 4), (-1, 4), (0.5, 4), (0, -1)])
def test_wilson_rejects_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="expected whole numbers"):
        wilson(successes, n)


# -----------------------------------------------------------------------------
# bootstrap


def test_bootstrap_interval_of_a_mean_covers_it_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(400):
        interval = bootstrap(rng.exponential(size=150), seed=i, resamples=400)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.90 <= covered / 400 <= 0.98


def test_cluster_bootstrap_covers_where_the_plain_one_does_not():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(60), 5)
    covered = {"plain": 0, "clusters": 0}
    for i in range(200):
        values = np.repeat(rng.normal(size=60), 5) + 0.3 * rng.normal(size=300)
        for name, labels in (("plain", None), ("clusters", clusters)):
            interval = bootstrap(values, seed=i, clusters=labels, resamples=300)
            covered[name] += interval.low <= 0 <= interval.high
    assert covered["clusters"] / 200 > 0.88
    assert covered["plain"] / 200 < 0.80


def test_duplicated_rows_narrow_the_plain_interval_but_not_the_clustered_one():
    values = np.random.default_rng(2).normal(size=80)
    copies, owner = np.repeat(values, 4), np.repeat(np.arange(80), 4)
    once = bootstrap(values, seed=3)
    plain = bootstrap(copies, seed=3)
    clustered = bootstrap(copies, seed=3, clusters=owner)
    assert clustered == pytest.approx(once)
    assert (plain.high - plain.low) == pytest.approx((once.high - once.low) / 2, rel=0.15)


def test_clusters_of_one_row_are_the_plain_bootstrap():
    values = np.random.default_rng(4).random(50)
    assert bootstrap(values, seed=5) == pytest.approx(bootstrap(values, seed=5, clusters=np.arange(50)))


@pytest.mark.parametrize("clusters", [None, np.repeat(list("abcdefghij"), 4)])
@pytest.mark.parametrize("columns", [None, 3])
def test_the_fast_mean_is_the_slow_mean(clusters, columns):
    values = np.random.default_rng(6).random((40, columns) if columns else 40)
    fast = bootstrap(values, seed=7, clusters=clusters, resamples=200)
    slow = bootstrap(values, lambda rows: rows.mean(), seed=7, clusters=clusters, resamples=200)
    assert fast == pytest.approx(slow)


def test_unequal_clusters_weigh_by_their_rows():
    values, clusters = np.array([1.0, 1, 1, 0]), np.array(["a", "a", "a", "b"])
    interval = bootstrap(values, seed=0, clusters=clusters)
    assert interval == (0.75, 0.0, 1.0)  # resamples: a a (1), a b (0.75), b b (0)


def test_rows_of_a_matrix_stay_together():
    x = np.random.default_rng(8).random(60)
    interval = bootstrap(np.column_stack([x, 2 * x]), lambda r: np.corrcoef(r.T)[0, 1], seed=9, resamples=50)
    assert interval == pytest.approx((1, 1, 1))


def test_seeds_decide_the_numbers_and_only_they():
    values = np.random.default_rng(10).random(100)
    first = bootstrap(values, seed=1)
    np.random.seed(0)
    assert bootstrap(values, seed=1) == first
    other = bootstrap(values, seed=2)
    assert other.estimate == first.estimate and other[1:] != first[1:]


def test_with_clusters_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(11)
    values, clusters = rng.random(90), rng.integers(0, 30, 90).astype(str)
    order = rng.permutation(90)
    shuffled = bootstrap(values[order], seed=12, clusters=clusters[order])
    assert shuffled == pytest.approx(bootstrap(values, seed=12, clusters=clusters), abs=1e-12)


def test_memory_pieces_do_not_change_the_draws(monkeypatch):
    whole = np.concatenate(list(resample_counts(31, 50, seed=1)))
    monkeypatch.setattr("hippo_utils.statistics.COUNTS_AT_ONCE", 31 * 7)
    assert np.array_equal(np.concatenate(list(resample_counts(31, 50, seed=1))), whole)
    assert whole.shape == (50, 31) and (whole.sum(axis=1) == 31).all()


def test_undefined_resamples_are_left_out_until_they_are_most():
    values = np.array([0.0, 1.0, 2.0, 3.0])
    sometimes = bootstrap(values, lambda rows: rows.mean() if rows.max() > 1 else np.nan, seed=0)
    mostly = bootstrap(values, lambda rows: rows.mean() if len(set(rows)) in (1, 4) else np.nan, seed=0)
    assert np.isfinite(sometimes).all()
    assert mostly.estimate == 1.5 and np.isnan(mostly[1:]).all()


def test_one_row_has_an_interval_without_width():
    assert bootstrap([0.3], seed=0) == (0.3, 0.3, 0.3)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(values=[]), "expected .n,. or .n, columns. with n >= 1"),
        (dict(values=[1.0, np.nan]), "row 1 .* is not finite"),
        (dict(values=[1.0, np.inf]), "row 1 .* is not finite"),
        (dict(values=[1.0, 2.0], clusters=["a"]), "one label for each of 2 rows"),
        (dict(values=[1.0, 2.0], clusters=["a", None]), "row 1 .* has no label"),
        (dict(values=[1.0, 2.0], clusters=[1.0, np.nan]), "row 1 .* has no label"),
        (dict(values=[1.0, 2.0], clusters=np.array(["a", 1], dtype=object)), "several types"),
        (dict(values=[1.0, 2.0], seed=None), "seed: None, expected a whole number"),
        (dict(values=[1.0, 2.0], resamples=0), "0 resamples"),
        (dict(values=[1.0, 2.0], level=95), "level: 95"),
    ],
)
def test_bootstrap_says_what_is_wrong(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        bootstrap(**{"seed": 0, **arguments})


def test_cluster_codes_number_sorted_labels():
    codes, groups = cluster_codes(["b", "a", "b"], 3)
    assert codes.tolist() == [1, 0, 1] and groups == 2


# -----------------------------------------------------------------------------
# paired tests


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.randoms())
def test_mcnemar_is_the_binomial_test_on_discordant_items(pairs, random):
    a, b = np.array(pairs).T
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = mcnemar_exact(a, b)
    if only_a + only_b == 0:
        assert p == 1.0
    else:
        assert p == pytest.approx(binomtest(only_a, only_a + only_b).pvalue)
        table = [[0, only_a], [only_b, 0]]
        assert p == pytest.approx(mcnemar(table, exact=True).pvalue)
    random.shuffle(pairs)
    assert mcnemar_exact(*np.array(pairs).T) == mcnemar_exact(b, a) == p


def test_mcnemar_by_hand():
    # 8 items only a, 1 item only b: 2 * (1 + 9) / 2^9; the items on which both agree say nothing
    a, b = np.array([1] * 8 + [0] + [1] * 50), np.array([0] * 8 + [1] + [1] * 50)
    assert mcnemar_exact(a, b) == pytest.approx(20 / 512)


def test_mcnemar_says_what_is_wrong():
    with pytest.raises(ValueError, match="same length; join both models' predictions"):
        mcnemar_exact([1, 0], [1])
    with pytest.raises(ValueError, match="expected 0/1"):
        mcnemar_exact([1, 0], [1, np.nan])


def test_paired_difference_has_the_sign_of_b_and_is_narrower_than_unpaired():
    rng = np.random.default_rng(0)
    a = rng.random(400) < 0.6
    b = a | (rng.random(400) < 0.2)
    difference = paired_difference(b, a, seed=1)
    assert difference.estimate == pytest.approx(b.mean() - a.mean()) and difference.low > 0
    assert paired_difference(a, b, seed=1) == pytest.approx((-difference[0], -difference[2], -difference[1]))
    unpaired = wilson(int(b.sum()), 400)
    assert difference.high - difference.low < unpaired.high - unpaired.low


def test_paired_difference_of_a_model_with_itself_is_zero():
    a = np.array([1, 0, 1])
    assert paired_difference(a, a, seed=0) == (0, 0, 0)


# -----------------------------------------------------------------------------
# several tests


@pytest.mark.parametrize("tests", [1, 2, 5, 12])
def test_holm_is_statsmodels_holm(tests):
    p_values = np.round(np.random.default_rng(tests).random(tests) ** 3, 2)  # rounded: with ties
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_by_hand_and_nan_does_not_count():
    adjusted = holm([0.01, np.nan, 0.04, 0.03])
    assert adjusted[[0, 2, 3]] == pytest.approx([0.03, 0.06, 0.06]) and np.isnan(adjusted[1])
    assert np.isnan(holm([np.nan])).all() and len(holm([])) == 0


def test_holm_rejects_what_is_no_p_value():
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, 1.2])


# -----------------------------------------------------------------------------
# what n can show


@pytest.mark.parametrize("n, share", [(100, 0.2), (500, 0.3), (1273, 0.25)])
def test_smallest_difference_solves_connors_formula(n, share):
    d = smallest_detectable_difference(n, share)
    z_a, z_b = 1.959964, 0.841621
    assert (z_a * np.sqrt(share) + z_b * np.sqrt(share - d**2)) ** 2 / d**2 == pytest.approx(n, rel=1e-5)


def test_smallest_difference_has_about_the_power_it_claims():
    n, share = 500, 0.2
    d = smallest_detectable_difference(n, share)
    rng = np.random.default_rng(0)
    only_b, only_a, _ = rng.multinomial(n, [(share + d) / 2, (share - d) / 2, 1 - share], size=1500).T
    found = [binomtest(int(b), int(a + b)).pvalue < 0.05 for b, a in zip(only_b, only_a)]
    assert 0.74 <= np.mean(found) <= 0.84  # the exact test is a little conservative


def test_smallest_difference_shrinks_with_n_and_may_not_exist():
    assert smallest_detectable_difference(2000) < smallest_detectable_difference(200)
    assert np.isnan(smallest_detectable_difference(20, 0.1))  # even 2 : 0 shows nothing
    with pytest.raises(ValueError, match="0 < discordant_share <= 1"):
        smallest_detectable_difference(100, 0)
