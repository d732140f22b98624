"""From stored predictions to tables: accuracies with intervals, paired differences, pooled benchmarks. No model, no torch."""

import json

import numpy as np
import pandas as pd

from hippo_utils.evaluation.extraction import NO_ANSWER
from hippo_utils.records import STAGES
from hippo_utils.statistics import bootstrap, holm, mcnemar_exact, paired_difference, smallest_detectable_difference, wilson

KNOWLEDGE = ("medmcqa", "medqa", "usmle_step1", "usmle_step2", "usmle_step3", "anecq")  # PubMedQA gives the answer in its context
POOLED, TWO_STEP = "knowledge", "two_step"  # one-step items of KNOWLEDGE together (for Hypnos AneCQ itself); MedQA's two-step items apart
FILTERS = ("general+random", "general+same", "general+unfiltered")  # what cross-filtering is held against (Hypnos)
CURRICULA = ("specific", "mixed")  # what general, then specific is held against
METHOD = "general+specific"  # the paper's: general medicine, then cross-filtered rows of anesthesiology
PAIRED = ["stages", "protocol", "compared_with", "benchmark", "group", "n", "difference", "difference_low", "difference_high", "p_mcnemar", "smallest_detectable"]
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
    one, other = joined[above].set_index("item"), joined[below].set_index("item")
    if set(one["shots"]) != set(other["shots"]):  # an item that was shown as an example is not scored where it was
        both = one.index.intersection(other.index)
        one, other = one.loc[both], other.loc[both]
    alone = sorted(set(one.index) ^ set(other.index))
    if alone:
        names = [f"{part['stages'].iloc[0]} ({part['protocol'].iloc[0]}, {part['benchmark'].iloc[0]})" for part in (one, other) if len(part)]
        raise ValueError(f"{' and '.join(names)} are to be compared on the same items, and {len(alone)} were answered by one of them only, {alone[0]} among them; run 05_evaluation again")
    other = other.loc[one.index]
    a, b = one["correct"].to_numpy(bool), other["correct"].to_numpy(bool)
    found = paired_difference(b, a, seed=seed, clusters=one["cluster"].to_numpy(), resamples=resamples)
    return {"n": len(a), "difference": found.estimate, "difference_low": found.low, "difference_high": found.high,
            "p_mcnemar": mcnemar_exact(a, b), "smallest_detectable": smallest_detectable_difference(len(a), discordant_share=max(float(np.mean(a != b)), 1 / len(a)))}


def against(joined: pd.DataFrame, others: tuple[str, ...], *, shots: int, seed: int, resamples: int) -> pd.DataFrame:
    """Hypnos' method against each of `others` on the same items by option text, per benchmark and group: `ladder`, with both accuracies
    (columns accuracy, accuracy_other) beside the difference and Holm over the others. Those that were not evaluated are left out."""
    table = ladder(joined, [(METHOD, "option_text", other) for other in others], shots=shots, seed=seed, resamples=resamples)
    table = table[~table["benchmark"].isin([POOLED, TWO_STEP])].reset_index(drop=True)
    share = accuracies(joined[(joined["protocol"] == "option_text") & (joined["shots"] == shots)]).set_index(["stages", "benchmark", "group"])["accuracy"]
    for place, (column, name) in enumerate((("accuracy", "stages"), ("accuracy_other", "compared_with")), list(table).index("n") + 1):
        table.insert(place, column, [share[key] for key in zip(table[name], table["benchmark"], table["group"])])
    for _, part in table.groupby(["benchmark", "group"], sort=False):
        table.loc[part.index, "p_holm"] = holm(part["p_mcnemar"].to_numpy(float))
    return table


def arms(joined: pd.DataFrame, *, shots: int, guess: pd.DataFrame | None) -> pd.DataFrame:
    """Long form for fig_filters: panel, group, stages, n, accuracy, low, high (Wilson), shortcut (the better guesser's, of `guess`: shortcut);
    the pool of all groups is left out."""
    share = accuracies(joined[(joined["protocol"] == "option_text") & (joined["shots"] == shots)]).rename(columns={"ci_low": "low", "ci_high": "high"})
    share = with_shortcut(share, guess)
    share = share[(share["group"] != "all") | (set(share["group"]) == {"all"})]
    panels = {"The filter: general medicine, then …": (METHOD, *FILTERS), "The order of training": ("general", METHOD, *CURRICULA)}
    return pd.concat([share[share["stages"].isin(names)].assign(panel=panel) for panel, names in panels.items()], ignore_index=True)


def final(stages: list[str]) -> str:
    """The model that a paper arrives at, of those that were evaluated: Hypnos' method, or the last of Hippocrates' stages."""
    there = [name for name in STAGES if name in set(stages)]
    return METHOD if METHOD in there else there[-1]


def categories(joined: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by subject (and `all`) of what was answered zero-shot by option text: by the sum of log-likelihoods, and per byte of the option.

    Columns: stages, benchmark, subject, n, accuracy, ci_low, ci_high, per_byte, per_byte_low, per_byte_high (Wilson).
    """
    asked = joined[(joined["protocol"] == "option_text") & (joined["shots"] == 0)]
    per_byte = [int(np.argmax(np.divide(scores, sizes))) == answer for scores, sizes, answer in zip(asked["log_likelihoods"], asked["option_bytes"], asked["answer"])]
    asked = asked.assign(per_byte=per_byte)
    rows = []
    for names, part in pd.concat([asked.assign(subject="all"), asked]).groupby(["stages", "benchmark", "subject"], sort=False):
        rows.append((*names, len(part), *wilson(int(part["correct"].sum()), len(part)), *wilson(int(part["per_byte"].sum()), len(part))))
    return in_order(pd.DataFrame(rows, columns=["stages", "benchmark", "subject", "n", "accuracy", "ci_low", "ci_high", "per_byte", "per_byte_low", "per_byte_high"]))


def ladder(joined: pd.DataFrame, rows: list[tuple[str, str, str]], *, shots: int, seed: int, resamples: int) -> pd.DataFrame:
    """The paper's ablation as paired comparisons. `rows` lists (stages, protocol, stages it is compared with).

    One line per row, benchmark and group, with the difference to the row it is compared with; Holm over the benchmarks of
    one comparison and group. Zero-shot protocols ignore `shots`. Empty when no two of the rows were evaluated.
    """
    def asked(frame: pd.DataFrame, stages: str, protocol: str) -> pd.Series:
        return (frame["stages"] == stages) & (frame["protocol"] == protocol) & (frame["shots"] == (shots if protocol == "option_text" else 0))

    lines = []
    for stages, protocol, against in rows:
        both = set(joined[asked(joined, stages, protocol)]["benchmark"]) & set(joined[asked(joined, against, "option_text")]["benchmark"])
        pooled = with_all(with_pools(joined[joined["benchmark"].isin(both)]))  # a run need not evaluate every stage on everything
        new, old = asked(pooled, stages, protocol), asked(pooled, against, "option_text")
        for (benchmark, group), part in pooled[new].groupby(["benchmark", "group"], sort=False):
            here = (pooled["benchmark"] == benchmark) & (pooled["group"] == group)
            lines.append({"stages": stages, "protocol": protocol, "compared_with": against, "benchmark": benchmark, "group": group}
                         | difference(pooled, old & here, new & here, seed, resamples))
    table = pd.DataFrame(lines, columns=PAIRED)
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
    alarm more sensitive, not less), Holm over the rows. Columns: stages, protocol, n, accuracy, guess, p, p_holm, and noticed_from,
    the accuracy that alone among the rows would have raised the alarm: what so few items let pass.
    """
    from scipy.stats import binom, binomtest
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
    noticed = [next((right / n for right in range(n + 1) if len(table) * binom.sf(right - 1, n, guess) <= 0.05), np.nan) for n in table["n"]]
    return table.assign(p_holm=holm(table["p"].to_numpy()), noticed_from=noticed)


def for_rationales(items: pd.DataFrame) -> pd.DataFrame:
    """The items without the test questions for which no rationale is written: those of one step in exams that also have two-step questions."""
    longer = items["steps"] > 1
    return items[longer | ~items["benchmark"].isin(items["benchmark"][longer]) | (items["split"] != "test")]


PROMPTING = {"step_by_step": "step-by-step prompt", "rationale": "written rationale"}


def prompting(joined: pd.DataFrame, stages: str) -> pd.DataFrame:
    """Accuracies of one model under every prompt it was scored with, pools included; `prompting` names the prompt.

    A rationale is written for questions of two steps: where an exam has such, its other items are left out of those rows.
    """
    def name(protocol: str, shots: int) -> str:
        if protocol == "self_consistency":
            return f"vote of {votes} rationales"
        return PROMPTING.get(protocol) or ("zero-shot" if shots == 0 else f"{shots}-shot")

    chosen = joined[(joined["stages"] == stages) & joined["protocol"].isin(["option_text", *PROMPTING, "self_consistency"])]
    sampled = chosen[chosen["protocol"] == "self_consistency"]
    votes = len(json.loads(sampled["generated_text"].iloc[0])) if len(sampled) else 0
    rows = accuracies(with_pools(chosen))
    rows.insert(2, "prompting", [name(p, s) for p, s in zip(rows["protocol"], rows["shots"])])
    written = rows["protocol"].isin(["rationale", "self_consistency"])
    rows = rows[~written | (rows["benchmark"] == TWO_STEP)] if (chosen["steps"] > 1).any() else rows
    rank = {protocol: number for number, protocol in enumerate(("option_text", *PROMPTING, "self_consistency"))}
    return rows.assign(rank=rows["protocol"].map(rank)).sort_values(["rank", "shots"], kind="stable").drop(columns="rank").reset_index(drop=True)


def unread(joined: pd.DataFrame) -> pd.DataFrame:
    """Of what a model wrote: how many replies name none of the options, per stage and protocol. They count as wrong."""
    written = joined[joined["generated_text"].notna()]
    table = written.assign(unread=written["prediction"] == NO_ANSWER).groupby(["stages", "protocol"], sort=False)["unread"].agg(n="size", unread="sum").reset_index()
    return table.assign(share=table["unread"] / table["n"])


# --- how far the protocol alone moves a number -----------------------------------------------------------------------

RULES = {"sum": "", "per byte": ", per byte", "read": ""}  # acc, acc_norm, and what was read of a written reply
PROTOCOL_NAMES = {"option_text": "option text", "step_by_step": "option text, step-by-step prompt", "letter": "letter", "generate": "written answer",
                  "permuted": "options permuted", "chat": "chat template", "paper_examples": "new examples per item"}


def sensitivity(joined: pd.DataFrame) -> pd.DataFrame:
    """One model on the same items under every protocol: accuracy with its interval, per benchmark and pooled, all groups together.

    Of each stage only the items count that all its protocols were asked for. `rule`: the sum of log-likelihoods (acc), per byte of
    the option (acc_norm), or read. `unread`: share of replies that name no option. `same_choice`: share of items on which the
    model chooses what it chooses under the paper's protocol. `moved`: points above that protocol.
    """
    rows = []
    for stages, answers in joined.groupby("stages", sort=False):
        asked = answers.groupby(["protocol", "shots"])["item"].agg(set)
        common = set.intersection(*asked)
        answers = with_pools(answers[answers["item"].isin(common)].assign(group="all"))
        paper = answers[(answers["protocol"] == "option_text") & (answers["shots"] == 0)].set_index(["benchmark", "item"])
        for (protocol, shots, benchmark), part in answers.groupby(["protocol", "shots", "benchmark"], sort=False):
            name, *variations = protocol.split("+")
            label = ", ".join([PROTOCOL_NAMES[name], *([f"{shots}-shot"] if shots else []), *(PROTOCOL_NAMES[v] for v in variations)])
            rules = ["read"] if name == "generate" else ["sum"] if name == "letter" else ["sum", "per byte"]
            usual = paper.loc[[(benchmark, item) for item in part["item"]]] if len(paper) else None
            for rule in rules:
                chosen = part["prediction"].to_numpy() if rule != "per byte" else np.array([
                    int(np.argmax(np.divide(scores, sizes))) for scores, sizes in zip(part["log_likelihoods"], part["option_bytes"])])
                right = chosen == part["answer"].to_numpy()
                share = wilson(int(right.sum()), len(right))
                rows.append({"stages": stages, "scoring": label + RULES[rule], "protocol": protocol, "shots": shots, "rule": rule, "benchmark": benchmark, "n": len(right),
                             "accuracy": share.estimate, "ci_low": share.low, "ci_high": share.high, "unread": float((chosen == NO_ANSWER).mean()) if rule == "read" else np.nan,
                             "same_choice": float((chosen == usual["prediction"].to_numpy()).mean()) if usual is not None else np.nan,
                             "moved": share.estimate - float(usual["correct"].mean()) if usual is not None else np.nan})
    table = pd.DataFrame(rows)
    table["name"] = table["protocol"].str.split("+").str[0].map({name: rank for rank, name in enumerate(PROTOCOL_NAMES)})
    return in_order(table.sort_values(["name", "shots", "protocol"], kind="stable").drop(columns="name"))


def spread(table: pd.DataFrame, benchmark: str) -> list[str]:
    """How far one model's accuracy moves with the protocol, in words."""
    said = []
    for stages, part in table[table["benchmark"] == benchmark].groupby("stages", sort=False):
        low, high = part.loc[part["accuracy"].idxmin()], part.loc[part["accuracy"].idxmax()]
        said.append(f"{stages}, the same {low['n']} items ({benchmark}): {100 * low['accuracy']:.1f} % ({low['scoring']}) to {100 * high['accuracy']:.1f} % ({high['scoring']})")
    return said


# --- what n can show, and what the training data gave away -----------------------------------------------------------

def detectable(sizes: dict[str, int], discordant_share: float = 0.2) -> pd.DataFrame:
    """For planning: half the width of a 95 % interval around 50 %, and the smallest difference between two models that n items show
    with 80 % power when they disagree about `discordant_share` of them (ours). In points of 0 to 1."""
    return pd.DataFrame([{"benchmark": name, "n": n, "half_width": (wilson(n // 2, n).high - wilson(n // 2, n).low) / 2,
                          "smallest_detectable": smallest_detectable_difference(n, discordant_share)} for name, n in sizes.items()])


def flagged(audit: pd.DataFrame, weights: dict[str, float]) -> set[str]:
    """The items that the contamination audit flags because of texts that were trained on: a source of weight 0 was audited and read
    by no model. Sources that `weights` does not name were trained on."""
    return set(audit.loc[(audit["decision"] == "flagged") & (audit["source"].map(weights).fillna(1) > 0), "item"])


def by_contamination(joined: pd.DataFrame, flagged: set[str]) -> pd.DataFrame:
    """Accuracies on items that the contamination audit flagged and on the clean ones, apart; the column `items` says which."""
    parts = [accuracies(with_pools(part)).assign(items=name) for name, part in (("clean", joined[~joined["item"].isin(flagged)]), ("flagged", joined[joined["item"].isin(flagged)])) if len(part)]
    table = pd.concat(parts, ignore_index=True)
    return in_order(table[["run", "stages", "benchmark", "group", "items", *COLUMNS[4:]]])


def conclusions(paired: pd.DataFrame) -> list[str]:
    """Each comparison as a sentence that says what may and may not be concluded from it."""
    if paired.empty:
        return ["No two rows of the ladder were evaluated, so there is nothing to compare."]
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
    for other in ("base", *FILTERS, *CURRICULA):
        rows += [{"claim": f"{METHOD} is above {other}, interval above 0", "n": row["n"], "value": row["difference"], "low": row["difference_low"],
                  "high": row["difference_high"], "holds": row["difference_low"] > 0} for row in step(METHOD, other)]
    if found is not None:
        guess = shortcut_accuracies(found)
        guess = guess[(guess["benchmark"] == POOLED) & (guess["group"] == group) & guess["guesser"].isin(["frequency", "ngrams"])]
        best = guess.loc[guess["accuracy"].idxmax()]
        bases = pooled[(pooled["stages"] == "base") & (pooled["benchmark"] == POOLED) & (pooled["group"] == group) & (pooled["protocol"] == "option_text")]
        rows += [{"claim": f"the base guesses: inside the 95 % interval of the better shortcut guesser ({best['guesser']})", "n": base["n"],
                     "value": base["accuracy"], "low": best["ci_low"], "high": best["ci_high"], "holds": best["ci_low"] <= base["accuracy"] <= best["ci_high"]} for base in bases.to_dict("records")]
    if len(control):
        worst = control.loc[control["p_holm"].idxmin()]
        rows.append({"claim": "no stage is above the better guesser on control facts (smallest p after Holm)", "n": worst["n"], "value": worst["p_holm"],
                     "low": np.nan, "high": np.nan, "holds": worst["p_holm"] > 0.05})
    return pd.DataFrame(rows)
