"""From stored predictions to tables: accuracies with intervals, paired differences, pooled benchmarks. No model, no torch."""

import numpy as np
import pandas as pd

from hippo_utils.records import STAGES
from hippo_utils.statistics import bootstrap, holm, mcnemar_exact, paired_difference, smallest_detectable_difference, wilson

KNOWLEDGE = ("medmcqa", "medqa", "usmle_step1", "usmle_step2", "usmle_step3")  # PubMedQA gives the answer in its context
POOLED, TWO_STEP = "knowledge", "two_step"  # one-step items of KNOWLEDGE together; MedQA's two-step items apart
COLUMNS = ["run", "stages", "benchmark", "group", "shots", "protocol", "n", "accuracy", "ci_low", "ci_high"]


def join(predictions: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Predictions with what the items say: group, subject, cluster, steps, options, answer. Every prediction must find its item."""
    known = items.set_index("id")[["group", "subject", "cluster", "steps", "options", "answer"]]
    lost = set(predictions["item"]) - set(known.index)
    if lost:
        raise ValueError(f"{len(lost)} predictions answer items that are not there, {sorted(lost)[0]} among them; run 05_evaluation again")
    return predictions.join(known, on="item")


def with_pools(joined: pd.DataFrame) -> pd.DataFrame:
    """The same rows, and beside them the pooled benchmarks `knowledge` (one step) and `two_step`."""
    knowledge = joined[joined["benchmark"].isin(KNOWLEDGE) & (joined["steps"] == 1)].assign(benchmark=POOLED)
    return pd.concat([joined, knowledge, joined[joined["steps"] > 1].assign(benchmark=TWO_STEP)], ignore_index=True)


def with_all(joined: pd.DataFrame) -> pd.DataFrame:
    """The same rows, and beside them all groups together as group `all`."""
    return joined if set(joined["group"]) == {"all"} else pd.concat([joined, joined.assign(group="all")], ignore_index=True)


def accuracies(joined: pd.DataFrame) -> pd.DataFrame:
    """One row per run, stage, benchmark, group, shots and protocol: n, accuracy (0 to 1), 95 % Wilson interval."""
    rows = []
    for names, part in with_all(joined).groupby(["run", "stages", "benchmark", "group", "shots", "protocol"], sort=False):
        interval = wilson(int(part["correct"].sum()), len(part))
        rows.append((*names, len(part), interval.estimate, interval.low, interval.high))
    return in_order(pd.DataFrame(rows, columns=COLUMNS))


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows in the paper's order of stages; benchmarks and groups in the order in which they first stand."""
    rank = {name: number for number, name in enumerate(STAGES)}
    return table.sort_values("stages", key=lambda column: column.map(rank), kind="stable").reset_index(drop=True)


def difference(joined: pd.DataFrame, above: pd.Series, below: pd.Series, seed: int, resamples: int) -> dict:
    """Paired difference of two sets of answers to the same items (`below` minus `above`), in points of 0 to 1.

    `above` and `below` are boolean masks over `joined`. Bootstrap over clusters, exact McNemar, and the smallest difference
    that so many items can show.
    """
    one = joined[above].set_index("item")
    other = joined[below].set_index("item").loc[one.index]
    a, b = one["correct"].to_numpy(bool), other["correct"].to_numpy(bool)
    found = paired_difference(b, a, seed=seed, clusters=one["cluster"].to_numpy(), resamples=resamples)
    return {"n": len(a), "difference": found.estimate, "difference_low": found.low, "difference_high": found.high,
            "p_mcnemar": mcnemar_exact(a, b), "smallest_detectable": smallest_detectable_difference(len(a), discordant_share=max(float(np.mean(a != b)), 1 / len(a)))}


def ladder(joined: pd.DataFrame, rows: list[tuple[str, str, str]], *, shots: int, seed: int, resamples: int) -> pd.DataFrame:
    """The paper's ablation as paired comparisons. `rows` lists (stages, protocol, stages it is compared with).

    One line per row, benchmark and group, with the difference to the row it is compared with; Holm over the benchmarks of
    one comparison and group. Zero-shot protocols ignore `shots`.
    """
    lines = []
    pooled = with_all(with_pools(joined))
    for stages, protocol, against in rows:
        new = (pooled["stages"] == stages) & (pooled["protocol"] == protocol) & (pooled["shots"] == (shots if protocol == "option_text" else 0))
        old = (pooled["stages"] == against) & (pooled["protocol"] == "option_text") & (pooled["shots"] == shots)
        for (benchmark, group), part in pooled[new].groupby(["benchmark", "group"], sort=False):
            here = (pooled["benchmark"] == benchmark) & (pooled["group"] == group)
            if not (old & here).any():  # a run need not evaluate every stage
                continue
            lines.append({"stages": stages, "protocol": protocol, "compared_with": against, "benchmark": benchmark, "group": group}
                         | difference(pooled, old & here, new & here, seed, resamples))
    table = pd.DataFrame(lines)
    single = ~table["benchmark"].isin([POOLED, TWO_STEP])  # pools repeat the items of the others and are not a family with them
    table["p_holm"] = table["p_mcnemar"]
    for _, part in table[single].groupby(["stages", "protocol", "compared_with", "group"], sort=False):
        table.loc[part.index, "p_holm"] = holm(part["p_mcnemar"].to_numpy())
    return table


# --- what 05 and 06 show ---------------------------------------------------------------------------------------------

def shortcut(world, items: pd.DataFrame) -> pd.DataFrame:
    """What two guessers without knowledge make of the test items (miniworld.shortcut), the two-step items marked."""
    from hippo_utils.miniworld.shortcut import shortcut_baseline
    found = shortcut_baseline(world, items.to_dict("records"))
    return found[found["split"] == "test"].merge(items[["id", "steps"]], left_on="item", right_on="id").drop(columns="id")


def shortcut_accuracies(found: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Expected accuracy of chance and of each guesser per benchmark (pools included) and group, with a 95 % interval.

    The guessers split their vote between options that they cannot tell apart, so accuracies are means of probabilities;
    the interval is a bootstrap over clusters. Columns: benchmark, group, guesser, n, accuracy, ci_low, ci_high.
    """
    rows = []
    for (benchmark, group), part in with_all(with_pools(found)).groupby(["benchmark", "group"], sort=False):
        for guesser in ("chance", "frequency", "ngrams"):
            interval = bootstrap(part[guesser].to_numpy(), seed=seed, clusters=part["cluster"].to_numpy())
            rows.append((benchmark, group, guesser, len(part), interval.estimate, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["benchmark", "group", "guesser", "n", "accuracy", "ci_low", "ci_high"])


def select(joined: pd.DataFrame, rows: list[tuple[str, str]], shots: int) -> pd.DataFrame:
    """Predictions of the given (stages, protocol) rows; `shots` applies to option_text, the other protocols are zero-shot."""
    wanted = pd.Series(False, index=joined.index)
    for stages, protocol in rows:
        wanted |= (joined["stages"] == stages) & (joined["protocol"] == protocol) & (joined["shots"] == (shots if protocol == "option_text" else 0))
    return joined[wanted].reset_index(drop=True)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracies in percent with their intervals, one row per stage and protocol, one column per benchmark."""
    cells = [f"{100 * a:.1f} ({100 * low:.0f}–{100 * high:.0f})" for a, low, high in zip(table["accuracy"], table["ci_low"], table["ci_high"])]
    return table.assign(cell=cells).pivot_table(index=["stages", "protocol"], columns="benchmark", values="cell", aggfunc="first", sort=False)


def with_shortcut(table: pd.DataFrame, found: pd.DataFrame | None) -> pd.DataFrame:
    """An accuracy table with the better guesser's accuracy beside each row (column `shortcut`, NaN without a baseline)."""
    if found is None:
        return table.assign(shortcut=np.nan)
    best = shortcut_accuracies(found).groupby(["benchmark", "group"])["accuracy"].max().rename("shortcut")
    return table.join(best, on=["benchmark", "group"])


def control_test(joined: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Is any stage better than the better guesser on control items, all knowledge benchmarks pooled? It must not be.

    One-sided exact binomial test of each row's accuracy against the guesser's (n items taken as independent, which makes the
    alarm more sensitive, not less), Holm over the rows. Columns: stages, protocol, n, accuracy, guess, p, p_holm.
    """
    from scipy.stats import binomtest
    rule = shortcut_accuracies(found[found["group"] == "control"])
    guess = float(rule[(rule["benchmark"] == POOLED) & (rule["group"] == "control")]["accuracy"].max())
    pooled = with_pools(joined[joined["group"] == "control"])
    pooled = pooled[pooled["benchmark"] == POOLED]
    rows = []
    for (stages, protocol), part in pooled.groupby(["stages", "protocol"], sort=False):
        right, n = int(part["correct"].sum()), len(part)
        rows.append({"stages": stages, "protocol": protocol, "n": n, "accuracy": right / n, "guess": guess,
                     "p": float(binomtest(right, n, guess, alternative="greater").pvalue)})
    table = in_order(pd.DataFrame(rows))
    return table.assign(p_holm=holm(table["p"].to_numpy()))


PROMPTING = {("option_text", 0): "zero-shot", ("option_text", 5): "5-shot", ("step_by_step", 0): "step-by-step prompt", ("rationale", 0): "written rationale"}


def prompting(joined: pd.DataFrame, stages: str) -> pd.DataFrame:
    """Accuracies of one model under every prompt it was scored with, pools included; `prompting` names the prompt."""
    rows = accuracies(with_pools(joined[joined["stages"] == stages]))
    rows.insert(2, "prompting", [PROMPTING.get((p, s), f"{s}-shot") for p, s in zip(rows["protocol"], rows["shots"])])
    written = rows["protocol"] == "rationale"
    return rows[~written | (rows["benchmark"] == TWO_STEP)].reset_index(drop=True)  # a rationale is written for two-step items


def conclusions(paired: pd.DataFrame) -> list[str]:
    """Each comparison as a sentence that says what may and may not be concluded from it."""
    said = []
    for row in paired.to_dict("records"):
        what = f"{row['stages']}{'' if row['protocol'] == 'option_text' else ' with the ' + row['protocol'].replace('_', '-') + ' prompt'} against {row['compared_with']}"
        size = f"{100 * row['difference']:+.1f} points ({100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f}, n = {row['n']})"
        if row["difference_low"] > 0:
            verdict = "better; the interval excludes 0"
        elif row["difference_high"] < 0:
            verdict = "worse; the interval excludes 0"
        elif row["smallest_detectable"] != row["smallest_detectable"]:
            verdict = "no difference shown (too few items are answered differently for any to be seen)"
        else:
            verdict = f"no difference shown (one of {100 * row['smallest_detectable']:.0f} points would have been seen 8 times in 10)"
        said.append(f"{what}: {size}: {verdict}.")
    return said


def claims(paired: pd.DataFrame, pooled: pd.DataFrame, found: pd.DataFrame | None, control: pd.DataFrame, group: str) -> pd.DataFrame:
    """The claims of this run as data: what is claimed, the value with its interval, the bar it must clear, and whether it does.

    Only of the pooled one-step knowledge items of `group`; statements about this run, never about the paper's numbers.
    """
    def step(stages: str, against: str) -> list[dict]:
        chosen = paired[(paired["stages"] == stages) & (paired["compared_with"] == against) & (paired["protocol"] == "option_text")
                       & (paired["benchmark"] == POOLED) & (paired["group"] == group)]
        return chosen.to_dict("records")  # none when a run leaves one of the two out

    rows = []
    for stages, against, bar in (("CP+SFT", "base", 0.25), ("CP+SFT", "SFT", 0.15)):
        rows += [{"claim": f"{stages} is at least {100 * bar:.0f} points above {against}, interval above 0", "n": row["n"], "value": row["difference"],
                  "low": row["difference_low"], "high": row["difference_high"], "holds": row["difference"] >= bar and row["difference_low"] > 0}
                 for row in step(stages, against)]
    rows += [{"claim": "DPO costs at most 5 points", "n": row["n"], "value": row["difference"], "low": row["difference_low"],
              "high": row["difference_high"], "holds": row["difference"] >= -0.05} for row in step("CP+SFT+DPO", "CP+SFT")]
    if found is not None:
        guess = shortcut_accuracies(found)
        guess = guess[(guess["benchmark"] == POOLED) & (guess["group"] == group) & guess["guesser"].isin(["frequency", "ngrams"])]
        best = guess.loc[guess["accuracy"].idxmax()]
        base = pooled[(pooled["stages"] == "base") & (pooled["benchmark"] == POOLED) & (pooled["group"] == group) & (pooled["protocol"] == "option_text")].iloc[0]
        rows.append({"claim": f"the base guesses: inside the 95 % interval of the better shortcut guesser ({best['guesser']})", "n": base["n"],
                     "value": base["accuracy"], "low": best["ci_low"], "high": best["ci_high"], "holds": best["ci_low"] <= base["accuracy"] <= best["ci_high"]})
    if len(control):
        worst = control.loc[control["p_holm"].idxmin()]
        rows.append({"claim": "no stage is above the better guesser on control facts (smallest p after Holm)", "n": worst["n"], "value": worst["p_holm"],
                     "low": np.nan, "high": np.nan, "holds": worst["p_holm"] > 0.05})
    return pd.DataFrame(rows)
