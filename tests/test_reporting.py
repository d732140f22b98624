"""The reporting room: the paper's numbers are the paper's, figures come from their CSV alone, and a mini run says that it is one."""

import re

import numpy as np
import pandas as pd
import pytest

from hippo_utils import manifest, params, paths
from hippo_utils.reporting import __main__ as command
from hippo_utils.reporting import captions, comparison, figures, page, paper, summary, tables

STAGES, BENCHMARKS = ("base", "CP", "SFT", "CP+SFT", "CP+SFT+DPO"), ("medmcqa", "medqa", "pubmedqa", "usmle_step1", "usmle_step2", "usmle_step3")


# --- published numbers -----------------------------------------------------------------------------------------------

def test_all_published_numbers_are_there():
    main, stages, uncertainty = (paper.published(name) for name in ("main", "stages", "figure 3"))
    assert (len(main), len(stages), len(uncertainty), len(paper.timeline())) == (294, 84, 18, 9)
    assert main.groupby(["model", "shots"])["benchmark"].nunique().eq(7).all() and main["model"].nunique() == 21
    assert stages.groupby(["model", "stages"])["benchmark"].nunique().eq(7).all() and stages["stages"].nunique() == 6
    assert main["value"].between(0, 100).all() and uncertainty["value"].between(0, 1).all()


@pytest.mark.parametrize("table, where, value", [
    ("main", {"model": "Hippo-Mistral 7b", "shots": 5, "benchmark": "medqa"}, 59.9),
    ("stages", {"model": "LLaMA-2 7b", "stages": "base", "benchmark": "average"}, 34.0),
    ("stages", {"model": "LLaMA-2 7b", "stages": "CP+SFT", "benchmark": "average"}, 53.0),
    ("figure 3", {"stages": "CP+SFT", "benchmark": "medqa", "outcome": "correct"}, 0.886),
    ("main", {"model": "Qwen 72b", "shots": 5, "benchmark": "average"}, 62.5)])
def test_published_values(table, where, value):
    rows = paper.published(table)
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert rows["value"].tolist() == [value]


def test_published_timeline():
    assert paper.timeline().set_index("model")["accuracy_percent"]["Meditron 70B"] == 58.5


def test_the_averages_that_are_not_the_mean_of_their_row_are_flagged_and_no_others():
    for table in ("main", "stages"):
        rows = paper.published(table)
        off = set()
        for names, part in rows.groupby(["model", "stages", "shots"]):
            parts, printed = part[part["benchmark"] != "average"], part[part["benchmark"] == "average"]
            assert len(parts) == 6 and len(printed) == 1
            if abs(parts["value"].mean() - printed["value"].iloc[0]) > 0.15:
                off.add(names)
        flagged = rows[rows["note"].str.contains("not the mean")]
        assert off == set(zip(flagged["model"], flagged["stages"], flagged["shots"]))
        assert len(off) == (5 if table == "main" else 0)


def test_main_and_stage_tables_agree_where_they_show_the_same_model():
    """Hippo-LLaMA is CP+SFT on LLaMA-2, zero-shot; Hippo-Mistral, as released, is SFT on Mistral."""
    main, stages = paper.published("main"), paper.published("stages")
    for model, base, row in (("Hippo-LLaMA 7b", "LLaMA-2 7b", "CP+SFT"), ("Hippo-Mistral 7b", "Mistral 7b", "SFT"), ("LLaMA-2 7b", "LLaMA-2 7b", "base")):
        one = main[(main["model"] == model) & (main["shots"] == 0)].set_index("benchmark")["value"]
        other = stages[(stages["model"] == base) & (stages["stages"] == row)].set_index("benchmark")["value"]
        assert (one - other[one.index]).abs().max() <= 0.2, f"{model} and {base} {row}"


# --- figures ---------------------------------------------------------------------------------------------------------

def curve(panel: str, *names: str) -> list[dict]:
    return [{"panel": panel, "series": name, "x": step, "y": 3 / step, "low": np.nan, "high": np.nan} for name in names for step in (1, 2, 3)]


def bar(panel: str, x: str, *names: str) -> list[dict]:
    return [{"panel": panel, "series": name, "x": x, "y": 0.6, "low": 0.5, "high": 0.7} for name in names]


def grid(**columns) -> list[dict]:
    return [{"benchmark": benchmark, "stages": stage} | columns for benchmark in ("medmcqa", "medqa") for stage in ("base", "CP+SFT+DPO")]


def measured(*measures: str) -> dict:
    return {f"{measure}{end}": value for measure in measures for end, value in (("", 0.5), ("_low", 0.4), ("_high", 0.6))}


SMALL = {  # the smallest data of every figure, in the columns that its notebook writes
    "corpus": [{"kind": kind, "source": f"mini_{kind}", "tokens": 1000 * n} for n, kind in enumerate(("documents", "held out", "instructions"), 1)],
    "pretraining": curve("loss", "base", "CP") + bar("perplexity", "mini_guidelines", "base", "CP"),
    "instruction": curve("loss", "SFT", "CP+SFT") + bar("rows", "mini_flashcards", ""),
    "judge": [{"panel": panel, "x": x, "y": 0.4, "low": 0.3, "high": 0.5, "fair": 0.5} for panel, x in (("place", "place 1"), ("length", "1–9"), ("winner", "clinician"))],
    "judge_noise": [{"run": f"errors_{x}", "series": "all", "x": x, "y": 0.2 - x, "low": 0.1 - x, "high": 0.3 - x} for x in (0.0, 0.4)],
    "preference": curve("loss", "loss") + bar("accuracy", "fact", "CP+SFT", "CP+SFT+DPO"),
    "study": [{"group": group, "setting": setting, "stages": stages, "benchmark": "knowledge", "runs": 1, "accuracy": 0.5, "low": 0.4, "high": 0.6}
              for group in ("seen", "held_out") for setting in ("all", "patients") for stages in ("base", "SFT", "CP+SFT")],
    "timeline": paper.timeline().to_dict("records"),
    "stages": [row | {"group": group, "accuracy": 0.5, "low": 0.4, "high": 0.6, "shortcut": 0.3} for group in ("seen", "held_out", "control") for row in grid()],
    "prompting": [row | {"prompting": prompt, "group": "held_out", "accuracy": 0.5, "low": 0.4, "high": 0.6} for prompt in ("zero-shot", "5-shot") for row in grid()[:1]],
    "scoring": [{"stages": "CP+SFT", "scoring": name, "n": 90, "accuracy": 0.5, "low": 0.4, "high": 0.6} for name in ("option text", "option text, per byte", "letter")],
    "uncertainty": [row | {"outcome": outcome, "probability": p, "density": p * (1 - p), "mean": 0.5, "n": 9}
                    for row in grid() for outcome in ("correct", "incorrect") for p in np.linspace(0, 1, 11)],
    "reliability": [{"stages": stage, "bin_low": low, "bin_high": low + 0.5, "n": n, "confidence": low + 0.2 if n else np.nan, "accuracy": low + 0.1 if n else np.nan,
                     "low": low if n else np.nan, "high": low + 0.3 if n else np.nan, "ece": 0.1} for stage in ("base", "CP") for low, n in ((0.0, 0), (0.5, 9))],
    "risk_coverage": [{"stages": stage, "coverage": c, "risk": c / 2, "aurc": 0.3} for stage in ("base", "CP") for c in (0.1, 0.5, 1.0)],
    "subjects": [{"stages": stage, "subject": subject, "n": 9} | measured("accuracy", "mean_confidence") for stage in ("base", "CP") for subject in ("cardiology", "neurology")],
    "path": [row | measured("accuracy", "ece") for row in grid()],
    "crossfilter": [{"generator": generator, "judge": judge, "score": score / 9, "truth": truth, "threshold": 0.5, "auroc": 0.7, "kept_rate": 0.5}
                    for generator in "AB" for judge in "AB" for score, truth in enumerate(("wrong", "right", "unknown") * 3)],
    "generators": [{"series": name, "x": step, "y": 3 / step} for name in ("base", "llama_writer", "mistral_writer") for step in (1, 2, 3)],
    "filters": [{"panel": panel, "group": group, "stages": stages, "accuracy": 0.5, "low": 0.4, "high": 0.6, "shortcut": 0.25} for panel, other in (("the filter", "general+random"), ("the order", "specific"))
                for group in ("held_out", "seen", "control") for stages in ("general+specific", other)],
    "answers": [{"benchmark": benchmark, "stages": stages} | measured("rougeL", "agrees", "length") for benchmark in ("aneqa", "anerc") for stages in ("base", "general+specific")],
    "protocols": [{"setting": setting, "stages": stage, "n": 9} | measured("ece", "auroc") for setting in ("option text, 5-shot", "letter, 5-shot") for stage in ("base", "CP")],
}


def stage_at(folder, scale: str = "mini") -> manifest.Stage:
    settings = params.load("tiny" if scale == "mini" else "hippo_llama")
    folder.mkdir(parents=True, exist_ok=True)
    return manifest.Stage("05_evaluation", settings, folder, folder, {}, 0.0)


def test_every_figure_has_a_title_and_is_tested_here():
    assert set(figures.DRAW) == set(captions.TITLES) == set(SMALL)
    assert all(title.strip() for title in captions.TITLES.values())


@pytest.mark.filterwarnings("error")  # matplotlib only warns when labels leave no room for the axes
@pytest.mark.parametrize("name", figures.DRAW)
def test_a_figure_is_drawn_from_its_csv_with_its_mark_and_the_same_bytes_each_time(name, tmp_path):
    stage = stage_at(tmp_path)
    picture = figures.show(stage, name, pd.DataFrame(SMALL[name]))
    assert stage.figure_files == [f"fig_{name}.{ending}" for ending in ("csv", "png", "svg", "pdf")], "the manifest must know every file"
    first = {ending: (tmp_path / f"fig_{name}.{ending}").read_bytes() for ending in ("png", "svg", "pdf")}
    assert picture.data == first["png"]
    figures.draw(name, tmp_path, "mini")
    assert {ending: (tmp_path / f"fig_{name}.{ending}").read_bytes() for ending in first} == first
    text = first["svg"].decode()
    assert captions.TITLES[name].split(",")[0] in text
    mark = captions.PUBLISHED_MARK if name in captions.PUBLISHED else captions.MINI_MARK
    assert mark in re.sub(r"(</?\w[^>]*>|<!--.*?-->|\s)+", " ", text), "in one line or in two"
    assert b"matplotlib" not in first["png"].lower() + first["pdf"].lower() and "<dc:date>" not in text and b"CreationDate" not in first["pdf"]


@pytest.mark.parametrize("name", ["stages", "timeline"])
def test_a_figure_of_a_paper_run_does_not_call_itself_mini(name, tmp_path):
    figures.show(stage_at(tmp_path, "paper"), name, pd.DataFrame(SMALL[name]))
    text = (tmp_path / f"fig_{name}.svg").read_text()
    assert "mini run" not in text and "not for clinical use" in text or name in captions.PUBLISHED


def test_the_mini_mark_says_what_must_not_be_done():
    assert "mini run" in captions.MINI_MARK and "not comparable with the paper" in captions.MINI_MARK and "not for clinical use" in captions.MINI_MARK


def test_redrawing_reads_the_csv_and_updates_the_manifest(home):
    folder = paths.figures("tiny")
    stage = stage_at(folder)
    figures.show(stage, "risk_coverage", pd.DataFrame(SMALL["risk_coverage"]))
    made = {name: manifest.entry(folder / name) for name in stage.figure_files}
    paths.stage_folder("tiny", "05_evaluation").mkdir(parents=True)
    manifest.write_json({"stage": "05_evaluation", "scale": "mini", "key": {}, "outputs": {}, "figures": made, "drawing": "old"}, paths.manifest("tiny", "05_evaluation"))
    (folder / "fig_risk_coverage.svg").write_text("an older drawing")
    assert command.main(["redraw", "tiny", "05_evaluation"]) == 0
    after = manifest.read("tiny", "05_evaluation")
    assert after["drawing"] == manifest.drawing_hash()
    assert {name: entry["sha256"] for name, entry in after["figures"].items()} == {name: entry["sha256"] for name, entry in made.items()}


# --- tables ----------------------------------------------------------------------------------------------------------

def test_tables_are_written_for_machines_and_for_people(tmp_path):
    frame = pd.DataFrame({"name": ["a|b", "c\nd"], "share": [1 / 3, np.nan], "n": [1000, 2]})
    stage = stage_at(tmp_path)
    assert tables.write(stage, "main", frame) is frame and stage.figure_files == ["table_main.csv", "table_main.md"]
    assert (tmp_path / "table_main.csv").read_bytes() == b'name,share,n\na|b,0.333333,1000\n"c\nd",,2\n'
    text = (tmp_path / "table_main.md").read_text()
    assert "| a\\|b | 0.333 | 1000 |\n| c d |  | 2 |" in text
    assert "Mini run: synthetic exams, not comparable with the paper." in text and "Not for clinical use." in text and "Seed 0" in text
    tables.write(stage_at(tmp_path / "paper", "paper"), "main", frame)
    assert "Mini run" not in (tmp_path / "paper" / "table_main.md").read_text()


@pytest.mark.parametrize("value, shown", [(0.5, "0.5"), (2.0, "2"), (0.12345, "0.123"), (100.0, "100"), (0.0, "0"), (float("nan"), ""), (True, "True"), ("x", "x"), (10, "10")])
def test_numbers_in_markdown(value, shown):
    assert tables.markdown(pd.DataFrame({"a": [value]}, dtype=object)).splitlines()[-1] == f"| {shown} |"


# --- comparison with the reference -----------------------------------------------------------------------------------

TABLE = pd.DataFrame({"stages": ["base", "CP"], "n": [10, 10], "accuracy": [0.5, 0.6], "ci_low": [0.4, 0.5], "ci_high": [0.6, 0.7], "perplexity": [100.0, 50.0]})
RULES = {"n": "exact", "accuracy": ("ci_low", "ci_high"), "perplexity": 0.1}


def compared(**changes):
    return comparison.differences(TABLE, TABLE.assign(**changes), ["stages"], RULES)


def test_a_run_agrees_with_itself():
    assert compared() == ([], 0, 2)


def test_rows_on_one_side_only_are_named():
    assert comparison.differences(TABLE, TABLE.head(1), ["stages"], RULES)[0] == ["1 rows missing in the run, first: CP"]
    assert comparison.differences(TABLE.head(1), TABLE, ["stages"], RULES)[0] == ["1 rows not in the reference, first: CP"]


def test_counts_must_be_equal_and_numbers_within_their_tolerance():
    assert compared(n=[10, 11])[0] == ["n differs in 1 rows, first: CP: 10 in the reference, 11 here"]
    assert compared(perplexity=[109.0, 46.0])[0] == []
    assert compared(perplexity=[111.0, 50.0])[0] == ["perplexity differs in 1 rows, first: base: 100 in the reference, 111 here"]


def test_accuracies_must_lie_in_the_widened_interval():
    assert compared(accuracy=[0.69, 0.41])[1:] == (0, 2) and compared(accuracy=[0.71, 0.39])[1:] == (2, 2)


@pytest.mark.parametrize("column", ["n", "accuracy", "perplexity"])
def test_what_is_not_a_number_never_agrees(column):
    said, outside, _ = compared(**{column: [np.nan, TABLE[column][1]]})
    assert said or outside


@pytest.fixture
def reference(tmp_path, monkeypatch, home):
    """A reference of one run in a folder of the test's own, and the same files as the run's."""
    monkeypatch.setattr(paths, "REFERENCE", tmp_path / "reference")
    for folder in (paths.REFERENCE / "toy", paths.figures("toy")):
        folder.mkdir(parents=True)
        for name, (keys, rules) in comparison.RULES.items():
            ends = {end: [value, value] for rule in rules.values() if isinstance(rule, tuple) for end, value in zip(rule, (0.3, 0.7))}
            content = {key: ["x", "y"] for key in keys} | {column: [1, 2] if rule == "exact" else [0.5, 0.5] for column, rule in rules.items()} | ends
            pd.DataFrame(content).to_csv(folder / f"table_{name}.csv", index=False)
    return paths.figures("toy")


def test_compare_says_ok_for_the_same_files(reference, capsys):
    assert command.main(["compare"]) == 0
    out = capsys.readouterr().out
    assert out.count("[OK] toy") == len(comparison.RULES) and "toy: identical to the reference, byte for byte" in out


def test_compare_tells_agreement_from_identity_and_from_difference(reference, capsys):
    main = pd.read_csv(reference / "table_main.csv")
    main.assign(accuracy=[0.55, 0.5]).to_csv(reference / "table_main.csv", index=False)
    assert command.main(["compare", "toy"]) == 0 and "agrees with the reference within tolerances" in capsys.readouterr().out
    main.assign(accuracy=[0.95, 0.5]).to_csv(reference / "table_main.csv", index=False)
    assert command.main(["compare", "toy"]) == 1
    out = capsys.readouterr().out
    assert "[DIFFERS] toy table_main.csv: 1 of 2 numbers lie outside" in out and "differs from the reference" in out


def test_compare_without_a_run_is_a_sentence(reference, capsys):
    for file in reference.iterdir():
        file.unlink()
    assert command.main(["compare", "toy"]) == 1
    assert "[MISSING] toy table_corpus.csv: run ./run_all.sh params/toy.yaml first" in capsys.readouterr().out


def test_compare_with_an_unknown_reference_is_a_sentence(reference, capsys):
    assert command.main(["compare", "mini_lama"]) == 2
    assert capsys.readouterr().err == "error: there is no reference for mini_lama; there is one for toy\n"


def test_keep_takes_everything_but_what_is_for_print(home, tmp_path, monkeypatch):
    """The page of the reference names every file of its manifests: a PDF that was not kept would be shown as missing."""
    monkeypatch.setattr(paths, "REFERENCE", tmp_path / "reference")
    for part in ("write", "overview"):
        monkeypatch.setattr(page, part, lambda folder: None)
    stage = stage_at(paths.figures("tiny"))
    figures.show(stage, "risk_coverage", pd.DataFrame(SMALL["risk_coverage"]))
    made = {name: manifest.entry(stage.figures / name) for name in stage.figure_files}
    for name in manifest.STAGES:
        manifest.write_json({"stage": name, "key": {}, "outputs": {}, "figures": made if name == "07_calibration" else {}, "drawing": "x", "seconds": 1}, paths.manifest("tiny", name))
    assert command.main(["keep", "tiny"]) == 0
    kept = {file.name for file in (paths.REFERENCE / "tiny").iterdir()}
    assert kept == {"fig_risk_coverage.csv", "fig_risk_coverage.png", "fig_risk_coverage.svg", "provenance.json", "seconds.json"}
    assert "pdf" not in (paths.REFERENCE / "tiny" / "provenance.json").read_text()


def test_keep_refuses_a_run_that_is_not_finished(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "REFERENCE", tmp_path / "reference")
    assert command.main(["keep", "tiny"]) == 2
    assert "tiny is not finished: 01_corpus is not done" in capsys.readouterr().err and not paths.REFERENCE.exists()


def test_the_readme_says_what_the_reference_says():
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert summary.readme(text, comparison.references()) == text, "run: python -m hippo_utils.reporting readme"


def test_what_the_data_are_worth_is_read_from_the_committed_studies():
    lines = summary.data()
    for study, _, without, _ in summary.DATA:
        spread, against = (pd.read_csv(paths.REFERENCE / study / f"table_{name}.csv") for name in ("spread", "settings"))
        held_out = spread.query("benchmark == 'knowledge' and group == 'held_out' and protocol == 'option_text' and shots == 0").set_index(["setting", "stages"])["mean"]
        first, *others = spread["setting"].unique()
        for name, mean in [*((setting, held_out[setting, "CP+SFT"]) for setting in (first, *others)), ("none", held_out[first, without])]:
            assert any(line.startswith(f"| {name} | {100 * mean:.0f} (") for line in lines)
        for setting in others:
            gain = against.query("setting == @setting and stages == 'CP+SFT' and benchmark == 'knowledge' and group == 'held_out'")["difference"].item()
            assert gain == pytest.approx(held_out[setting, "CP+SFT"] - held_out[first, "CP+SFT"], abs=1e-5)
            assert any(line.startswith(f"| {setting} | ") and f"| {100 * gain:+.1f} (" in line for line in lines)


def test_a_study_is_kept_as_its_own_tables_and_figures_and_never_compared(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "REFERENCE", tmp_path / "reference")
    assert command.main(["keep", "study_seeds"]) == 2
    assert "study_seeds is not finished" in capsys.readouterr().err and not paths.REFERENCE.exists()
    runs = {f"study_seeds-llama_seed{seed}": accuracy for seed, accuracy in enumerate((0.4, 0.5, 0.9))}
    for run, accuracy in runs.items():
        folder = paths.figures(run)
        folder.mkdir(parents=True)
        pd.DataFrame([{"stages": stages, "benchmark": "knowledge", "group": group, "shots": 0, "protocol": "option_text", "n": 9, "accuracy": accuracy, "ci_low": 0, "ci_high": 1}
                      for stages, _ in summary.ROWS for group in ("held_out", "seen", "control")]).to_csv(folder / "table_pooled.csv", index=False)
        pd.DataFrame([{"claim": "a claim", "n": 9, "value": accuracy, "low": 0, "high": 1, "holds": accuracy > 0.45}]).to_csv(folder / "table_claims.csv", index=False)
        pd.DataFrame([{"stages": "CP", "protocol": "option_text", "compared_with": "base", "benchmark": "knowledge", "group": "held_out", "n": 9, "difference": accuracy, "difference_low": 0, "difference_high": 1}]).to_csv(folder / "table_paired.csv", index=False)
        pd.DataFrame([{"kind": "all", "measure": "summed", "n": 9, "difference": accuracy, "difference_low": 0, "difference_high": 1}]).to_csv(folder / "table_preferences.csv", index=False)
    assert command.main(["study", "study_seeds", *runs]) == 0 and command.main(["keep", "study_seeds"]) == 0
    assert {"table_spread.csv", "table_steps.csv", "fig_study.png", "fig_study.csv"} <= {file.name for file in (paths.REFERENCE / "study_seeds").iterdir()}
    assert comparison.references() == []
    lines = "\n".join(summary.seeds())
    assert "| base | 60 (40 to 90) |" in lines and "2 of 3 runs: a claim" in lines and "all pairs: +0.60 (+0.40 to +0.90)" in lines
