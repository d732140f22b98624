"""Preference accuracy before and after DPO, with paired intervals over questions."""

import pandas as pd

from hippo_utils.statistics import bootstrap, paired_difference

MEASURES = ("summed", "normalised")


def before_and_after(before: pd.DataFrame, after: pd.DataFrame, pairs: pd.DataFrame, *, seed: int, resamples: int = 2000) -> pd.DataFrame:
    """One row per kind of pair (and `all`) and measure: n pairs, accuracy before and after, the paired difference.

    `before` and `after` are what training.preference.preference_accuracy returns for `pairs`. Intervals are 95 % bootstrap
    over questions, because the pairs of one question share its best answer.
    """
    question = pairs["prompt"].to_numpy()
    rows = []
    for kind in ("all", *sorted(pairs["kind"].unique())):
        of_kind = (pairs["kind"] == kind).to_numpy() | (kind == "all")
        for measure in MEASURES:
            a, b, clusters = before[measure].to_numpy()[of_kind], after[measure].to_numpy()[of_kind], question[of_kind]
            first, second = (bootstrap(values, seed=seed, clusters=clusters, resamples=resamples) for values in (a, b))
            change = paired_difference(b, a, seed=seed, clusters=clusters, resamples=resamples)
            rows.append({"kind": kind, "measure": measure, "n": int(of_kind.sum()), "before": first.estimate, "before_low": first.low,
                         "before_high": first.high, "after": second.estimate, "after_low": second.low, "after_high": second.high,
                         "difference": change.estimate, "difference_low": change.low, "difference_high": change.high})
    return pd.DataFrame(rows)


def for_figure(table: pd.DataFrame) -> pd.DataFrame:
    """The summed accuracies in long form: series (stage), x (kind), y, low, high."""
    summed = table[table["measure"] == "summed"]
    parts = [summed.assign(series=stages, x=summed["kind"], y=summed[when], low=summed[f"{when}_low"], high=summed[f"{when}_high"])
             for stages, when in (("CP+SFT", "before"), ("CP+SFT+DPO", "after"))]
    return pd.concat(parts)[["series", "x", "y", "low", "high"]]
