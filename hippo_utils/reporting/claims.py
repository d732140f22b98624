"""The claims ledger: every published number beside what a run measured, and what may be said of the two.

    ledger       one row per published number with a status: reproduced, differs, not comparable, not run
    arithmetic   does the paper's own arithmetic hold?
    statements   what the paper says in words, judged on its published numbers and on a run's predictions

A published number is *reproduced* when it lies inside the 95 % interval that the run measured for the same model under the
same protocol on as many items; a mini run measures another model on another exam and reproduces nothing, whatever it finds.
"""

import numpy as np
import pandas as pd

from hippo_utils.evaluation import confidence, scoring
from hippo_utils.reporting import paper
from hippo_utils.statistics import bootstrap, wilson

REPRODUCED, DIFFERS, NOT_COMPARABLE, NOT_RUN = STATUSES = ("reproduced", "differs", "not comparable", "not run")
KEYS = ["table", "model", "stages", "shots", "benchmark", "outcome", "unit"]
MEASURED = [*KEYS, "n", "protocol", "value", "low", "high"]

BENCHMARKS = tuple(paper.published("data").query("unit == 'items'")["benchmark"])            # the six that the averages are of
BASES = {"llama-2-7b-hf": "LLaMA-2 7b", "mistral-7b-v0.1": "Mistral 7b"}                     # hub name -> the paper's name
FAMILIES = {"llama": "LLaMA-2 7b", "mistral": "Mistral 7b"}                                  # what a mini base stands in for
RELEASED = {"LLaMA-2 7b": ("Hippo-LLaMA 7b", "CP+SFT"), "Mistral 7b": ("Hippo-Mistral 7b", "SFT")}  # rows of the main table
COT = ("CP+SFT+DPO", "step_by_step", "CP+SFT+DPO+CoT")                                       # the stage table's last row
TRAINED = ("continued pre-training", "instructions", "answers to judge")                     # kinds of text in 01's account
LARGE = ("70b", "72b")
FIGURE_3 = ("CP", "CP+SFT", "CP+SFT+DPO")
# The paper drew new examples for every item, for PubMedQA and USMLE from the test set; fixed examples are another protocol.
PAPER_PROTOCOL = {"zero-shot": "option_text", "few-shot": "option_text+paper_examples", "CoT": "step_by_step"}
SET_ASIDE = 0.01      # share of a benchmark that may be unanswerable
ROUNDED_TWICE = 0.06  # points between a printed percentage and k of n: 18.349 became 18.35 became 18.4


def published_protocol(row) -> str:
    """The protocol under which the paper measured one of its accuracies or confidences."""
    if row["stages"] == COT[2]:
        return PAPER_PROTOCOL["CoT"]
    return PAPER_PROTOCOL["few-shot" if row["shots"] > 0 else "zero-shot"]


def base_name(base: str | None, family: str | None = None) -> str | None:
    """The paper's name of a base: by hub id or folder, or for a model trained from scratch by its family. None: not in the paper."""
    return BASES.get(base.rstrip("/").split("/")[-1].lower()) if base else FAMILIES.get(family)


# --- what a run measured, in the paper's keys --------------------------------------------------------------------------

def measured(joined: pd.DataFrame, model: str | None, *, seed: int, resamples: int, baselines: pd.DataFrame | None = None,
             account: pd.DataFrame | None = None) -> pd.DataFrame:
    """What a run's predictions say in the places of the paper's tables (columns MEASURED; percent, probabilities, rows, tokens).

    `joined`: predictions with their items (scoring.join). `model`: the paper's name of the base (base_name). `baselines`:
    predictions of further models, whose `stages` is the model's name in the main table. `account`: what 01 counted (kind, source,
    rows, tokens); the documents' tokens together stand in the place of the paper's 298M.
    """
    found = []
    if model:
        steps = joined["protocol"] == COT[1]
        chosen = joined[~steps | (joined["stages"] == COT[0])]
        found += _accuracies(chosen.assign(table="stages", model=model, named=chosen["stages"].where(chosen["protocol"] != COT[1], COT[2])), "named")
        main = pd.concat([joined[(joined["stages"] == stages) & ~steps].assign(model=name) for name, stages in ((model, "base"), RELEASED[model])])
        found += _accuracies(main.assign(table="main", named=""), "named")
        if model == "Mistral 7b":
            found += _confidences(joined, model, seed, resamples)
    if baselines is not None and len(baselines):
        found += _accuracies(baselines.assign(table="main", model=baselines["stages"], named=""), "named")
    sizes = {(name, "items"): count for name, count in joined.drop_duplicates("item")["benchmark"].value_counts().items()}
    if account is not None:
        trained = account[account["kind"].isin(TRAINED)].groupby("source")[["rows", "tokens"]].sum()
        sizes |= {(name, unit): row[unit] for name, row in trained.iterrows() for unit in ("rows", "tokens")}
        sizes["all documents", "tokens"] = account.loc[account["kind"] == TRAINED[0], "tokens"].sum()
    for row in paper.published("data").to_dict("records"):
        place = (row["benchmark"] if isinstance(row["benchmark"], str) and row["benchmark"] else row["model"], row["unit"])
        if place in sizes:
            found.append({**{key: row.get(key, "data") for key in KEYS}, "n": np.nan, "protocol": "", "value": sizes[place]})
    return pd.DataFrame(found, columns=MEASURED)


def _accuracies(answers: pd.DataFrame, stages: str) -> list[dict]:
    """Accuracies in percent with Wilson's interval, and their mean over the six benchmarks where all six are there."""
    found = []
    for (table, model, name, shots, protocol), part in answers.groupby(["table", "model", stages, "shots", "protocol"], sort=False):
        keys = {"table": table, "model": model, "stages": name, "shots": shots, "outcome": "", "unit": "percent", "protocol": protocol}
        cells = {benchmark: wilson(int(cell["correct"].sum()), len(cell)) for benchmark, cell in part.groupby("benchmark")}
        found += [keys | {"benchmark": benchmark, "n": int((part["benchmark"] == benchmark).sum()), "value": 100 * cell.estimate,
                          "low": 100 * cell.low, "high": 100 * cell.high} for benchmark, cell in cells.items()]
        if set(cells) == set(BENCHMARKS):  # the mean of six independent shares; their variances add up
            share = part.groupby("benchmark")["correct"].agg(["mean", "size"])
            error = 196 / len(share) * np.sqrt((share["mean"] * (1 - share["mean"]) / share["size"]).sum())
            mean = 100 * share["mean"].mean()
            found.append(keys | {"benchmark": "average", "n": len(part), "value": mean, "low": mean - error, "high": mean + error})
    return found


def _confidences(joined: pd.DataFrame, model: str, seed: int, resamples: int) -> list[dict]:
    """Figure 3: the mean probability of the prediction, where right and where wrong, with a bootstrap interval over clusters."""
    found = []
    for protocol in ("option_text", PAPER_PROTOCOL["few-shot"]):
        chosen = joined[(joined["protocol"] == protocol) & (joined["shots"] == 5) & joined["stages"].isin(FIGURE_3)]
        if chosen.empty:
            continue
        sure = confidence.of_predictions(chosen, shots=5, protocol=protocol)
        for (stages, benchmark), cell in sure.groupby(["stages", "benchmark"], sort=False):
            for outcome, correct in (("correct", True), ("incorrect", False)):
                part = cell[cell["correct"] == correct]
                if part.empty:
                    continue
                mean = bootstrap(part["confidence"].to_numpy(), seed=seed, clusters=part["cluster"].to_numpy(), resamples=resamples)
                found.append({"table": "figure 3", "model": model, "stages": stages, "shots": 5, "benchmark": benchmark, "outcome": outcome,
                              "unit": "probability", "n": len(cell), "protocol": protocol, "value": mean.estimate, "low": mean.low, "high": mean.high})
    return found


# --- the ledger --------------------------------------------------------------------------------------------------------

def ledger(found: pd.DataFrame, scale: str, quarantined: dict[str, int] = {}) -> pd.DataFrame:
    """Every published number with what the run measured in its place (`measured`), a status of STATUSES, and the reason for it.

    `quarantined`: test items per benchmark that were set aside as unanswerable; up to SET_ASIDE of a benchmark, the rest counts as
    the same items, and the reason says how many are missing. Where a run measured a place under several protocols, the paper's is taken, or the first one when the paper's is not among them.
    """
    by_place: dict[tuple, list[dict]] = {}
    for row in found.to_dict("records"):
        by_place.setdefault(_place(row), []).append(row)
    lines = []
    for row in paper.ledger().to_dict("records"):
        protocol = "" if row["table"] == "data" else published_protocol(row)
        options = by_place.get(_place(row), [])
        run = next((option for option in options if option["protocol"] == protocol), options[0] if options else None)
        status, reason = judge(row, run, protocol, scale, sum(quarantined.values()) if row["benchmark"] == "average" else quarantined.get(row["benchmark"], 0))
        lines.append({**{key: row[key] for key in KEYS}, "published": row["value"], "published_n": row["n"], "protocol": protocol}
                     | {f"run_{key}": run[key] if run else None for key in ("value", "low", "high", "n", "protocol")}
                     | {"status": status, "reason": reason, "note": row["note"]})
    return pd.DataFrame(lines)


def _place(row: dict) -> tuple:
    return tuple("" if row[key] != row[key] else row[key] for key in KEYS)


def judge(row: dict, run: dict | None, protocol: str, scale: str, quarantined: int = 0) -> tuple[str, str]:
    """Status and reason of one published number; `run` is what a run measured in its place, None when it measured nothing."""
    if run is None:
        return NOT_RUN, "the run has no such row"
    if scale != "paper":
        return NOT_COMPARABLE, "a mini run: another model and another exam"
    if run["protocol"] != protocol:
        return NOT_COMPARABLE, f"measured under {run['protocol']}, published under {protocol}"
    if row["table"] == "data":
        rounded = "rounded" in row["note"]
        same = abs(run["value"] - row["value"]) <= 0.005 * row["value"] if rounded else run["value"] == row["value"]
        return (REPRODUCED, "the same count" + (", as rounded" if rounded else "")) if same else (DIFFERS, "counted after this run's cleaning and holding aside")
    n = _items() if row["benchmark"] == "average" else row["n"]
    if not run["n"] == n - quarantined >= (1 - SET_ASIDE) * n:
        return NOT_COMPARABLE, f"measured on {run['n']:.0f} items, published on {n:.0f}"
    missing = f", {quarantined} unanswerable items set aside" if quarantined else ""
    inside = run["low"] <= row["value"] <= run["high"]
    return (REPRODUCED, f"inside the 95 % interval{missing}") if inside else (DIFFERS, f"outside the 95 % interval{missing}")


def _items() -> float:
    return paper.published("data").query("unit == 'items'")["value"].sum()


def hypnos(sizes: dict[str, int], scale: str) -> pd.DataFrame:
    """What is public of Hypnos, each line with its mark, beside what this run has in its place: columns of paper.hypnos, run, status, reason.

    sizes: questions per benchmark of this run. Nothing is comparable: the paper's items and data sets were not released, so even
    a run at its scale asks other questions.
    """
    reason = "a mini run: another model and another exam" if scale == "mini" else "the paper's items were not released; the run asks others"
    rows = []
    for row in paper.hypnos().to_dict("records"):
        there = sizes.get(row["benchmark"])
        status, why = (NOT_COMPARABLE, reason) if there or row["unit"] == "method" else (NOT_RUN, "03 says how many rows this run kept; the paper's were not released")
        rows.append(row | {"run": there, "status": status, "reason": "a step of the method; 03 and 06 show what it does in this run" if row["unit"] == "method" else why})
    return pd.DataFrame(rows)


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """How many published numbers of each table have which status."""
    return table.groupby(["table", "status"], sort=False).size().unstack(fill_value=0).reindex(columns=list(STATUSES), fill_value=0).rename_axis(columns=None).reset_index()


# --- the paper's own arithmetic ----------------------------------------------------------------------------------------

def arithmetic() -> pd.DataFrame:
    """What can be checked in the published numbers alone: one row per check, with the printed and the computed number.

    Averages against their row (both printed to 0.1); USMLE shares against the nearest k of n; figure 1 and the stage table
    against the main table; sums of data sets. `agrees` is False where no rounding explains the difference.
    """
    rows = []

    def check(what: str, row: dict, printed: float, computed: float, tolerance: float, note: str = ""):
        rows.append({"check": what, **{key: row.get(key, "") for key in ("table", "model", "stages", "shots", "benchmark")}, "printed": printed,
                     "computed": round(computed, 2), "agrees": abs(printed - computed) <= tolerance + 1e-9, "note": note})

    published = paper.ledger()
    accuracies = published[published["unit"] == "percent"]
    for _, part in accuracies.groupby(["table", "model", "stages", "shots"], sort=False):
        average = part[part["benchmark"] == "average"].iloc[0].to_dict()
        check("average is the mean of its row", average, average["value"], part[part["benchmark"] != "average"]["value"].mean(), 0.1)
    for row in accuracies[accuracies["benchmark"].str.startswith("usmle")].to_dict("records"):
        k = round(row["value"] * row["n"] / 100)
        check("a whole number of items", row, row["value"], 100 * k / row["n"], ROUNDED_TWICE, f"nearest: {k} of {row['n']:.0f}")
    value = accuracies.set_index(["table", "model", "stages", "shots", "benchmark"])["value"]
    for base, (model, stages) in RELEASED.items():
        for row, name in ((("base", base), base), ((stages, base), model)):
            for benchmark in (*BENCHMARKS, "average"):
                check("stage table and main table show the same model", {"table": "stages", "model": base, "stages": row[0], "shots": 0, "benchmark": benchmark},
                      value[("stages", base, row[0], 0, benchmark)], value[("main", name, "", 0, benchmark)], 0.1)
    five_shot = {_spelled(model): number for (table, model, _, shots, benchmark), number in value.items() if (table, shots, benchmark) == ("main", 5, "medqa")}
    for row in paper.timeline().to_dict("records"):
        check("figure 1 is the main table's five-shot MedQA", {"table": "figure 1", "model": row["model"], "shots": 5, "benchmark": "medqa"},
              row["accuracy_percent"], five_shot[_spelled(row["model"])], 0.05)
    data = paper.published("data").set_index(["model", "unit"])["value"]
    parts = paper.published("data").query("benchmark != ''")
    general = parts[(parts["stages"] == "SFT") & ~parts["benchmark"].str.endswith("_train")]["value"].sum()
    tokens, instructions = parts[parts["unit"] == "tokens"]["value"].sum(), parts[parts["stages"] == "SFT"]["value"].sum()
    check("parts add up to the whole", {"table": "data", "model": "all documents"}, data["all documents", "tokens"], tokens, 0.5e6, "tokens; the parts are unconfirmed")
    check("parts add up to the whole", {"table": "data", "model": "all instructions"}, data["all instructions", "rows"], instructions, 500, "rows")
    check("parts add up to the whole", {"table": "data", "model": "General Instructions"}, data["General Instructions", "rows"], general, 5000, "printed as more than 400K")
    return pd.DataFrame(rows)


def _spelled(model: str) -> str:
    return model.lower().replace(" 1.5b", "").replace("-large", "")


# --- what the paper says in words --------------------------------------------------------------------------------------

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
EACH_STAGE = "each stage adds"
SURER_RIGHT = "the model is more confident when it is right"
MEDMCQA_SUREST = "confidence is highest on MedMCQA and lower on PubMedQA"
BEATS_70B = "Hippo-Mistral 7B surpasses models of 70B"
COT_SMALL = "the step-by-step prompt changes the average by less than a point"
STEPS = (("CP", "base"), ("SFT", "base"), ("CP+SFT", "SFT"), ("CP+SFT+DPO", "CP+SFT"))


def statements(paired: pd.DataFrame, joined: pd.DataFrame, found: pd.DataFrame, *, group: str, shots: int, seed: int, resamples: int) -> pd.DataFrame:
    """What the paper says in words, judged twice: on its published numbers, and on this run's predictions as a statement about this run.

    `paired`: scoring.ladder; `found`: measured. `group`: the items that the stages are judged on. `shots`: those of the
    confidences (the paper: 5). Columns: statement, judged_on, verdict (holds, does not hold, undecided, not run), evidence.
    """
    run = [_each_stage(paired, group), *_confidence(joined, shots, seed, resamples), _large(found), _cot(paired, group)]
    rows = [{"statement": what, "judged_on": where, "verdict": verdict, "evidence": evidence}
            for where, judged in (("published numbers", _on_published_numbers()), ("this run", run)) for what, verdict, evidence in judged]
    order = {what: place for place, what in enumerate((EACH_STAGE, SURER_RIGHT, MEDMCQA_SUREST, BEATS_70B, COT_SMALL))}
    return pd.DataFrame(rows).sort_values("statement", key=lambda column: column.map(order), kind="stable").reset_index(drop=True)


def _on_published_numbers() -> list[tuple[str, str, str]]:
    """(statement, verdict, evidence) from the paper's tables alone; they come without intervals, so every difference counts as printed."""
    stages = paper.published("stages").query("benchmark == 'average'").set_index(["model", "stages"])["value"]
    main = paper.published("main").query("benchmark == 'average'").set_index(["model", "shots"])["value"]
    means = paper.published("figure 3").pivot_table(index=["stages", "benchmark"], columns="outcome", values="value")
    steps = [(base, new, old, stages[base, new] - stages[base, old]) for base in RELEASED for new, old in STEPS]
    said = "; ".join(f"{base} {new} against {old} {change:+.1f}" for base, new, old, change in steps)
    gap = means["correct"] - means["incorrect"]
    highest = means["correct"].groupby("stages").idxmax().map(lambda place: place[1])
    large = sorted({model for model, _ in main.index if model.endswith(LARGE)})
    hippo = {shots: main["Hippo-Mistral 7b", shots] for shots in (0, 5)}
    above = [f"{model} {main[model, shots]:.1f} at {shots} shots" for shots in (0, 5) for model in large if main[model, shots] >= hippo[shots]]
    prompts = {base: stages[base, COT[2]] - stages[base, COT[0]] for base in RELEASED}
    return [
        (EACH_STAGE, HOLDS if all(change > 0 for *_, change in steps) else FAILS, f"averages, points: {said}"),
        (SURER_RIGHT, HOLDS if (gap > 0).all() else FAILS, f"figure 3's means, right minus wrong: {gap.min():+.3f} to {gap.max():+.3f} in {len(gap)} panels"),
        (MEDMCQA_SUREST, HOLDS if (highest == "medmcqa").all() else FAILS, "figure 3's highest mean where right: " + ", ".join(f"{name} in {stage}" for stage, name in highest.items())),
        (BEATS_70B, FAILS if above else HOLDS, f"averages: Hippo-Mistral {hippo[0]:.1f} zero-shot, {hippo[5]:.1f} five-shot; " + (f"not below it: {', '.join(above)}" if above else "all below it")),
        (COT_SMALL, HOLDS if max(map(abs, prompts.values())) < 1 else FAILS, "averages, points: " + "; ".join(f"{base} {change:+.1f}" for base, change in prompts.items())),
    ]


def _each_stage(paired: pd.DataFrame, group: str) -> tuple[str, str, str]:
    chosen = paired[(paired["benchmark"] == scoring.POOLED) & (paired["group"] == group) & (paired["protocol"] == "option_text")]
    rows = [row for new, old in STEPS for row in chosen[(chosen["stages"] == new) & (chosen["compared_with"] == old)].to_dict("records")]
    if not rows:
        return EACH_STAGE, NOT_RUN, "no two stages were evaluated on the same items"
    lows, highs = [row["difference_low"] for row in rows], [row["difference_high"] for row in rows]
    verdict = HOLDS if min(lows) > 0 and len(rows) == len(STEPS) else FAILS if min(highs) < 0 else UNDECIDED
    return EACH_STAGE, verdict, f"pooled knowledge items ({group}, n = {rows[0]['n']}), points: " + "; ".join(
        f"{row['stages']} against {row['compared_with']} {100 * row['difference']:+.1f} ({100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f})" for row in rows)


def _large(found: pd.DataFrame) -> tuple[str, str, str]:
    rows = found[(found["table"] == "main") & (found["benchmark"] == "average")]
    large, hippo = rows[rows["model"].str.endswith(LARGE)], rows[rows["model"] == "Hippo-Mistral 7b"]
    pairs = [(one, other) for one in hippo.to_dict("records") for other in large.to_dict("records") if (one["shots"], one["protocol"]) == (other["shots"], other["protocol"])]
    if not pairs:
        return BEATS_70B, NOT_RUN, "needs Hippo-Mistral and a 70B baseline on all six benchmarks"
    verdict = HOLDS if all(one["low"] > other["high"] for one, other in pairs) else FAILS if any(one["high"] < other["low"] for one, other in pairs) else UNDECIDED
    return BEATS_70B, verdict, "averages: " + "; ".join(f"{one['value']:.1f} against {other['model']} {other['value']:.1f} ({other['low']:.1f} to {other['high']:.1f}), {one['shots']}-shot"
                                                        for one, other in pairs)


def _cot(paired: pd.DataFrame, group: str) -> tuple[str, str, str]:
    rows = paired[(paired["benchmark"] == scoring.POOLED) & (paired["group"] == group) & (paired["protocol"] == COT[1])].to_dict("records")
    if not rows:
        return COT_SMALL, NOT_RUN, "no stage was scored behind the step-by-step prompt"
    row = rows[0]
    inside = row["difference_low"] > -0.01 and row["difference_high"] < 0.01
    outside = row["difference_low"] > 0.01 or row["difference_high"] < -0.01
    return COT_SMALL, HOLDS if inside else FAILS if outside else UNDECIDED, (
        f"pooled knowledge items ({group}, n = {row['n']}), points: {100 * row['difference']:+.1f} ({100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f})")


def _confidence(joined: pd.DataFrame, shots: int, seed: int, resamples: int) -> list[tuple[str, str, str]]:
    sure = joined[(joined["protocol"] == "option_text") & (joined["shots"] == shots) & joined["stages"].isin(FIGURE_3)]
    if sure.empty:
        return [(what, NOT_RUN, f"no {shots}-shot predictions of {', '.join(FIGURE_3)}") for what in (SURER_RIGHT, MEDMCQA_SUREST)]
    sure = confidence.of_predictions(sure, shots=shots)
    gaps = {}
    for stages, part in sure.groupby("stages", sort=False):
        if part["correct"].nunique() == 2:
            gaps[stages] = bootstrap(part[["confidence", "correct"]].to_numpy(float), _gap, seed=seed, clusters=part["cluster"].to_numpy(), resamples=min(resamples, 500))
    gap = (SURER_RIGHT, NOT_RUN, "every answer was right, or every one wrong") if not gaps else (
        SURER_RIGHT, HOLDS if min(g.low for g in gaps.values()) > 0 else FAILS if min(g.high for g in gaps.values()) < 0 else UNDECIDED,
        f"{shots}-shot, mean probability right minus wrong: " + "; ".join(f"{stages} {g.estimate:+.3f} ({g.low:+.3f} to {g.high:+.3f})" for stages, g in gaps.items()))
    means = {benchmark: bootstrap(part["confidence"].to_numpy(), seed=seed, clusters=part["cluster"].to_numpy(), resamples=resamples)
             for benchmark, part in sure[sure["benchmark"].isin(["medmcqa", "pubmedqa"])].groupby("benchmark")}
    if len(means) < 2:
        return [gap, (MEDMCQA_SUREST, NOT_RUN, "MedMCQA and PubMedQA were not both evaluated")]
    one, other = means["medmcqa"], means["pubmedqa"]
    verdict = HOLDS if one.low > other.high else FAILS if one.high < other.low else UNDECIDED
    return [gap, (MEDMCQA_SUREST, verdict, f"{shots}-shot, mean probability of the prediction: MedMCQA {one.estimate:.3f} ({one.low:.3f} to {one.high:.3f}), "
                  f"PubMedQA {other.estimate:.3f} ({other.low:.3f} to {other.high:.3f})")]


def _gap(rows: np.ndarray) -> float:
    """Mean of column 0 where column 1 is 1, minus where it is 0."""
    right = rows[:, 1] > 0
    return float(rows[right, 0].mean() - rows[~right, 0].mean()) if right.any() and not right.all() else float("nan")
