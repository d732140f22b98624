"""Preference accuracy before and after DPO, with paired intervals over questions."""

import numpy as np
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


def movement(before: pd.DataFrame, after: pd.DataFrame, pairs: pd.DataFrame, drift: pd.DataFrame, *, beta: float, seed: int, resamples: int = 2000) -> pd.DataFrame:
    """How far DPO moved the policy, each with n and a 95 % interval over questions.

    The implicit reward of an answer is beta times its log-likelihood under the policy minus that under the reference, the
    model before (Rafailov et al., section 4); margin: chosen minus rejected. `drift` is training.preference.drift's.
    """
    margin = beta * (after["margin"] - before["margin"]).to_numpy()
    question, rows = pairs["prompt"].to_numpy(), []
    for kind in ("all", *sorted(pairs["kind"].unique())):
        of_kind = (pairs["kind"] == kind).to_numpy() | (kind == "all")
        for what, values in (("reward margin (nats)", margin), ("reward accuracy", np.sign(margin) / 2 + 0.5)):
            rows.append((what, f"held-out pairs, {kind}", int(of_kind.sum()), *bootstrap(values[of_kind], seed=seed, clusters=question[of_kind], resamples=resamples)))
    before_length, after_length = drift["tokens_before"].to_numpy(), drift["tokens_after"].to_numpy()
    of = ("sampled answers", len(drift))
    rows += [("tokens per answer, before", *of, *bootstrap(before_length, seed=seed, resamples=resamples)),
             ("tokens per answer, after", *of, *bootstrap(after_length, seed=seed, resamples=resamples)),
             ("length drift (tokens)", *of, *paired_difference(after_length, before_length, seed=seed, resamples=resamples)),
             ("KL to the reference (nats per answer)", *of, *bootstrap(drift["kl"].to_numpy(), seed=seed, resamples=resamples)),
             ("KL to the reference (nats per token)", *of, *bootstrap(np.column_stack([drift["kl"], after_length]), lambda drawn: drawn[:, 0].sum() / drawn[:, 1].sum(),
                                                                      seed=seed, resamples=resamples))]
    return pd.DataFrame(rows, columns=["what", "of", "n", "value", "low", "high"])


def for_figure(table: pd.DataFrame) -> pd.DataFrame:
    """The summed accuracies in long form: series (stage), x (kind), y, low, high."""
    summed = table[table["measure"] == "summed"]
    parts = [summed.assign(series=stages, x=summed["kind"], y=summed[when], low=summed[f"{when}_low"], high=summed[f"{when}_high"])
             for stages, when in (("CP+SFT", "before"), ("CP+SFT+DPO", "after"))]
    return pd.concat(parts)[["series", "x", "y", "low", "high"]]
