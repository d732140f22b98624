"""The runs of a study side by side: what is the same for every seed, and how far do the numbers spread?

Runs are called <study>-<variant>; variants that differ only by a seed at the end of their name (llama_seed0, llama_seed1)
are replicates of one setting. Reads the tables and predictions of the runs, writes figures/<study>/.
"""

import re

import pandas as pd

from hippo_utils import manifest, paths, records
from hippo_utils.evaluation import scoring
from hippo_utils.params import derive_seed
from hippo_utils.reporting import figures
from hippo_utils.reporting.tables import DIGITS, MARKS, markdown
from hippo_utils.statistics import holm

KEYS = ["setting", "stages", "benchmark", "group", "shots", "protocol"]


def names() -> set[str]:
    """What the study files of params/ are called."""
    return {file.stem for file in paths.study_files()}


def setting_of(run: str, study: str) -> str:
    """The setting that a run replicates: its variant's name without the seed at the end."""
    return re.sub(r"[-_]?(seed)?[-_]?\d+$", "", run.removeprefix(study).strip("-_")) or study


def collect(study: str, runs: list[str], table: str) -> pd.DataFrame:
    """One table of all runs, each row with its run and setting."""
    parts = []
    for run in runs:
        file = paths.figures(run) / f"table_{table}.csv"
        if not file.is_file():
            raise manifest.StageError(f"{paths.shown(file)} is missing; {run} is not finished")
        parts.append(pd.read_csv(file).assign(run=run, setting=setting_of(run, study)))
    return pd.concat(parts, ignore_index=True)


def spread(rows: pd.DataFrame, keys: list[str], value: str, low: str, high: str) -> pd.DataFrame:
    """Over the replicates of each setting: how many, mean, standard deviation, smallest and largest value, and n, the items behind each
    (the fewest). low and high are the 95 % interval of a setting's one run, or again the smallest and largest value of its replicates."""
    found = rows.groupby(keys, sort=False).agg(runs=(value, "size"), mean=(value, "mean"), sd=(value, "std"), min=(value, "min"), max=(value, "max"),
                                               n=("n", "min"), low=(low, "min"), high=(high, "max")).reset_index()
    return found.assign(low=found["low"].where(found["runs"] == 1, found["min"]), high=found["high"].where(found["runs"] == 1, found["max"]))


def judge_noise(study: str, runs: list[str]) -> pd.DataFrame:
    """How often the judge was wrong on training questions against what DPO gained on held-out ones: a row per run and kind of pair.

    Empty when no run was audited against a reference, or all judges were equally good.
    """
    if not all((paths.figures(run) / f"table_{name}.csv").is_file() for run in runs for name in ("audit", "preferences")):
        return pd.DataFrame()
    habits = collect(study, runs, "audit")
    right = habits[(habits["what"] == "agreed with the reference") & (habits["of"] == "questions, train")].set_index("run")["value"]
    gain = collect(study, runs, "preferences").query("measure == 'summed'")
    gain = gain[gain["run"].isin(right.index)]
    if gain["run"].map(right).nunique() < 2:
        return pd.DataFrame()
    return pd.DataFrame({"run": gain["run"], "series": gain["kind"], "x": 1 - gain["run"].map(right), "y": gain["difference"],
                         "low": gain["difference_low"], "high": gain["difference_high"]})


def against_first(study: str, runs: list[str]) -> pd.DataFrame:
    """Every setting against the first one on identical items, zero-shot: a row per setting, stage, benchmark (pools included) and group, as in
    06's table_paired (paired bootstrap over clusters, exact McNemar, here Holm over the settings). Empty when settings have replicates
    or the runs were examined on different items.
    """
    exams = {(manifest.read(run, "01_corpus") or {}).get("outputs", {}).get("items.parquet", {}).get("sha256") for run in runs}
    if len({setting_of(run, study) for run in runs}) < len(runs) or len(exams) > 1:
        return pd.DataFrame()
    items = records.read("item", paths.stage_folder(runs[0], "01_corpus") / "items.parquet")
    made, parts = manifest.read(runs[0], "06_ablations"), []
    for run in runs:
        found = records.read("prediction", paths.stage_folder(run, "05_evaluation") / "predictions.parquet")
        asked = found[(found["protocol"] == "option_text") & (found["shots"] == 0)]
        parts.append(scoring.with_all(scoring.with_pools(scoring.join(asked, items))).assign(setting=setting_of(run, study)))
    answers, first, rows = pd.concat(parts, ignore_index=True), setting_of(runs[0], study), []
    for (stages, benchmark, group), part in answers.groupby(["stages", "benchmark", "group"], sort=False):
        for setting in part["setting"].unique()[1:]:
            rows.append({"setting": setting, "compared_with": first, "stages": stages, "benchmark": benchmark, "group": group}
                        | scoring.difference(part, part["setting"] == first, part["setting"] == setting, derive_seed(made["seed"], "settings"), made["parameters"]["ablations"]["resamples"]))
    table = pd.DataFrame(rows)
    return table.assign(p_holm=table.groupby(["stages", "benchmark", "group"])["p_mcnemar"].transform(lambda p: holm(p.to_numpy())))


def for_figure(accuracies: pd.DataFrame) -> pd.DataFrame:
    """One bar per group, setting and stage: zero-shot accuracy on the pooled knowledge items (else on the benchmark with most items).

    low and high are the interval of a setting's one run, or the smallest and largest value of its replicates.
    """
    benchmark = "knowledge" if "knowledge" in set(accuracies["benchmark"]) else accuracies.loc[accuracies["n"].idxmax(), "benchmark"]
    shown = accuracies[(accuracies["benchmark"] == benchmark) & (accuracies["shots"] == 0) & (accuracies["protocol"] == "option_text") & (accuracies["group"] != "control")]
    rows = []
    for (group, setting, stages), part in shown.groupby(["group", "setting", "stages"], sort=False):
        low, high = (part["ci_low"].min(), part["ci_high"].max()) if len(part) == 1 else (part["accuracy"].min(), part["accuracy"].max())
        rows.append({"group": group, "benchmark": benchmark, "setting": setting, "stages": stages, "runs": len(part), "accuracy": part["accuracy"].mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def report(study: str, runs: list[str]) -> None:
    """Write table_spread (accuracies), table_steps (paired differences of stages), where it can be table_settings (of settings), table_claims, fig_study,
    of Hippocrates table_preferences and, if its judges differ, fig_judge_noise, of Hypnos table_filters and table_curriculum, and print what holds in
    how many runs."""
    folder = paths.figures(study)
    folder.mkdir(parents=True, exist_ok=True)
    accuracies = collect(study, runs, "pooled")
    claims = collect(study, runs, "claims")
    steps, ends = ["setting", "stages", "protocol", "compared_with", "benchmark", "group"], ("difference", "difference_low", "difference_high")
    made = {"spread": spread(accuracies, KEYS, "accuracy", "ci_low", "ci_high"), "steps": spread(collect(study, runs, "paired"), steps, *ends),
            "claims": claims[["setting", "run", "claim", "n", "value", "low", "high", "holds"]]}
    for name, keys in (("preferences", ["setting", "kind", "measure"]), ("filters", steps), ("curriculum", steps)):  # the first of Hippocrates, the others of Hypnos
        if any((paths.figures(run) / f"table_{name}.csv").is_file() for run in runs):
            made[name] = spread(collect(study, runs, name), keys, *ends)
    if len(against := against_first(study, runs)):
        made["settings"] = against
    (folder / "study.json").unlink(missing_ok=True)  # it is written last: without it nothing here is believed
    for old in [*folder.glob("table_*"), *folder.glob("fig_*")]:
        old.unlink()
    scales = {read["scale"] for run in runs if (read := manifest.read(run, "06_ablations"))}
    scale = "paper" if scales == {"paper"} else "mini" if "mini" in scales else "small"
    for name, table in made.items():
        table.to_csv(folder / f"table_{name}.csv", index=False, float_format=DIGITS, lineterminator="\n")
        (folder / f"table_{name}.md").write_text(f"{markdown(table)}\n{MARKS[scale]}{len(runs)} runs. Not for clinical use.\n", encoding="utf-8")
    drawn = {"study": for_figure(accuracies), "judge_noise": judge_noise(study, runs)}
    for name, frame in drawn.items():
        if len(frame):
            frame.to_csv(folder / f"fig_{name}.csv", index=False, float_format=DIGITS, lineterminator="\n")
            figures.draw(name, folder, scale)
    files = sorted([*folder.glob("table_*"), *folder.glob("fig_*")])
    manifest.write_json({"runs": manifest.made_from(runs), "scale": scale, "drawing": manifest.drawing_hash(),
                         "files": {file.name: manifest.entry(file) for file in files}}, folder / "study.json")
    print(f"{len(runs)} runs side by side, in {paths.shown(folder)}:")
    for claim, part in claims.groupby("claim", sort=False):
        print(f"  {int(part['holds'].sum())} of {len(part)} runs: {claim}")
