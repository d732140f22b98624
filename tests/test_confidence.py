"""From stored predictions to what 07 shows: settings, tables and figures of invented models whose confidence is known."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hippo_utils.evaluation import calibration, confidence
from hippo_utils.reporting import paper

ANY = {"resamples": 100, "seed": 0}
SUBJECTS = ("cardiology", "neurology", "")


def model(stages: str = "CP", n: int = 300, benchmark: str = "medmcqa", temperature: float = 1.0, shift: float = 0.0, seed: int = 0, **columns) -> pd.DataFrame:
    """Joined predictions of a model that is calibrated at `temperature` 1 and over-confident above; `shift` of the answers are made wrong."""
    rng = np.random.default_rng([seed, n])
    logits = 1.5 * rng.normal(size=(n, 4))
    p = calibration.option_probabilities(logits)
    answer = (rng.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(max=3)
    prediction = logits.argmax(axis=1)
    answer = np.where(rng.random(n) < shift, (prediction + 1) % 4, answer)
    frame = pd.DataFrame({"stages": stages, "benchmark": benchmark, "item": [f"{benchmark}-{i}" for i in range(n)], "cluster": [f"{benchmark}-{i // 3}" for i in range(n)],
                          "subject": [SUBJECTS[i // 3 % 3] for i in range(n)], "group": "all", "protocol": "option_text", "shots": 5, "answer": answer,
                          "prediction": prediction, "correct": prediction == answer, "options": [list("abcd")] * n, "option_bytes": [[2, 4, 6, 8]] * n,
                          "log_likelihoods": (logits * temperature - 30).tolist()})
    return frame.assign(**columns)


def main(*frames: pd.DataFrame) -> pd.DataFrame:
    return confidence.main_setting(confidence.under_all_settings(pd.concat(frames, ignore_index=True)), shots=5)


# --- settings --------------------------------------------------------------------------------------------------------

def test_raw_is_the_softmax_and_per_byte_that_of_the_divided_log_likelihoods():
    joined = model(n=50)
    both = confidence.under_all_settings(joined)
    raw, per_byte = (both[both["scoring"] == scoring].set_index("item") for scoring in ("raw", "per_byte"))
    assert len(raw) == len(per_byte) == 50
    scores = np.array(joined["log_likelihoods"].iloc[7])
    for row, wanted in ((raw.iloc[7], scores), (per_byte.iloc[7], scores / [2, 4, 6, 8])):
        assert row["confidence"] == pytest.approx(np.exp(wanted.max()) / np.exp(wanted).sum())
        assert row["prediction"] == wanted.argmax() and row["correct"] == (wanted.argmax() == row["answer"])
        assert confidence.probabilities(row) == pytest.approx(np.exp(wanted) / np.exp(wanted).sum())
    assert (raw["prediction"] != per_byte["prediction"]).any(), "or the test shows nothing"


def test_whatever_protocols_are_stored_appear_and_those_that_wrote_their_answer_do_not():
    letters = model(n=20, protocol="letter").assign(option_bytes=[[1] * 4] * 20)
    written = model(n=20, protocol="rationale", prediction=-1).assign(log_likelihoods=[[]] * 20, option_bytes=[[]] * 20)
    found = confidence.under_all_settings(pd.concat([model(n=20), model(n=20, shots=0), model(n=20, protocol="option_text+permuted"), letters, written], ignore_index=True))
    assert set(found.groupby(confidence.SETTING).groups) == {
        ("option_text", 5, "raw"), ("option_text", 5, "per_byte"), ("option_text", 0, "raw"), ("option_text", 0, "per_byte"),
        ("option_text+permuted", 5, "raw"), ("option_text+permuted", 5, "per_byte"), ("letter", 5, "raw")}
    assert confidence.setting_name(dict(zip(confidence.SETTING, ("option_text+permuted", 0, "per_byte")))) == "option text + permuted, zero-shot, per byte"
    assert set(confidence.table(found, bins=10, **ANY).groupby(confidence.SETTING).groups) == set(found.groupby(confidence.SETTING).groups)


def test_log_likelihoods_in_another_order_than_the_options_are_refused():
    turned = model(n=20)
    turned["log_likelihoods"] = [scores[::-1] for scores in turned["log_likelihoods"]]
    with pytest.raises(ValueError, match=r"medmcqa-\d+ under option_text: the stored prediction \d is not the most likely of its options .* in the order of the item's options"):
        confidence.under_all_settings(turned)
    tied = model(n=5).assign(log_likelihoods=[[-1.0] * 4] * 5, prediction=3)
    assert len(confidence.under_all_settings(tied)) == 10, "any of several equal ones may have been chosen"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_log_likelihood_that_is_no_number_is_a_sentence(bad):
    joined = model(n=5)
    joined["log_likelihoods"] = [*joined["log_likelihoods"][:4], [-1.0, -2.0, -3.0, bad]]
    joined["prediction"] = [*joined["prediction"][:4], 3 if bad > 0 else 0]
    with pytest.raises(ValueError, match="row 4, option 3 .*expected finite numbers|not the most likely"):
        confidence.under_all_settings(joined)
    with pytest.raises(ValueError, match="row 4, option 3 .*expected finite numbers"):
        confidence.of_predictions(joined, shots=5)


def test_predictions_without_log_likelihoods_are_a_sentence():
    with pytest.raises(ValueError, match="none of the 5 predictions has log-likelihoods; have 05_evaluation score"):
        confidence.under_all_settings(model(n=5).assign(log_likelihoods=[[]] * 5))


def test_the_figure_takes_the_stages_that_are_there():
    stages = pd.Series(["base", "SFT", "SFT", "CP+SFT"])
    assert confidence.there(["CP", "CP+SFT"], stages) == ["CP+SFT"] and confidence.there(["CP"], stages) == ["base", "SFT", "CP+SFT"]


# --- the paper's figure ----------------------------------------------------------------------------------------------

def test_the_two_areas_add_up_to_one_also_when_the_model_is_sure():
    rng = np.random.default_rng(0)
    sure = pd.DataFrame({"benchmark": "medqa", "stages": "CP", "correct": rng.random(600) < 0.7, "confidence": rng.beta(8, 1, 600)})
    area = confidence.densities(sure, ["medqa"], ["CP"]).groupby("outcome")["density"].apply(lambda d: np.trapezoid(d, confidence.GRID))
    assert area.sum() == pytest.approx(1, abs=0.01) and area["correct"] == pytest.approx(sure["correct"].mean(), abs=0.01)


def test_means_and_their_difference_have_intervals():
    answered = main(model(n=900), model("CP+SFT", 900, seed=1))
    table = confidence.means(answered, ["medmcqa"], ["CP", "CP+SFT"], **ANY)
    assert table["outcome"].tolist() == ["correct", "incorrect", "difference"] * 2
    right, wrong, difference = (table.iloc[place] for place in range(3))
    cell = answered[answered["stages"] == "CP"]
    assert right["mean_confidence"] == pytest.approx(cell.loc[cell["correct"], "confidence"].mean()) and right["n"] == cell["correct"].sum()
    assert difference["mean_confidence"] == pytest.approx(right["mean_confidence"] - wrong["mean_confidence"]) and difference["n"] == 900
    assert 0 < difference["low"] < difference["mean_confidence"] < difference["high"], "a calibrated model is surer where it is right"
    assert ((table["low"] < table["mean_confidence"]) & (table["mean_confidence"] < table["high"])).all()


def test_where_all_is_right_there_is_no_mean_of_the_wrong():
    sure = main(model(n=30))
    sure["correct"] = True
    table = confidence.means(sure, ["medmcqa"], ["CP"], **ANY).set_index("outcome")
    assert np.isnan(table.loc["incorrect", "mean_confidence"]) and np.isnan(table.loc["difference", "low"]) and table.loc["incorrect", "n"] == 0
    assert len(confidence.densities(sure, ["medmcqa"], ["CP"])) == 202


# --- cell by cell ----------------------------------------------------------------------------------------------------

def test_the_table_has_a_row_per_cell_and_one_for_all_items():
    joined = pd.concat([model(n=150), model("SFT", 150), model(n=220, benchmark="medqa"), model("SFT", 220, "medqa")], ignore_index=True)
    everything = confidence.under_all_settings(joined)
    table = confidence.table(everything, bins=10, **ANY)
    assert len(table) == 2 * 2 * 3 and not table.duplicated(["benchmark", "stages", *confidence.SETTING]).any()
    part = joined[(joined["stages"] == "CP") & (joined["benchmark"] == "medqa")]
    alone = calibration.calibration_row(calibration.option_probabilities(list(part["log_likelihoods"])), list(part["answer"]), clusters=part["cluster"].to_numpy(), bins=10, **ANY)
    row = confidence.main_setting(table, shots=5).set_index(["benchmark", "stages"]).loc[("medqa", "CP")]
    assert {name: row[name] for name in alone} == alone
    assert set(table.loc[table["warning"] != "", "benchmark"]) == {"medmcqa"}, "150 items are under 200, 220 and 370 are not"
    assert table.loc[table["benchmark"] == "all", "n"].unique().tolist() == [370]


def test_the_band_of_the_reliability_diagram_is_as_wide_as_its_clusters_say():
    few = main(model(n=100))
    copies = pd.concat([few] * 9, ignore_index=True)
    bands = [confidence.reliability(frame, bins=5, **ANY) for frame in (few, copies)]
    for band in bands:
        assert ((band["low"] <= band["accuracy"]) & (band["accuracy"] <= band["high"])).all() and band["n"].sum() in (100, 900)
    middle = [band.loc[band["n"].idxmax()] for band in bands]
    width = [row["high"] - row["low"] for row in middle]
    assert middle[0]["accuracy"] == middle[1]["accuracy"] and width[1] > 0.7 * width[0], "copies of an item add no evidence"


def test_confidence_by_subject_finds_where_the_model_is_too_sure():
    joined = pd.concat([model(n=900), model("CP+SFT", 900)], ignore_index=True)
    wrong = (joined["subject"] == "neurology") & (joined["stages"] == "CP")
    joined.loc[wrong, "answer"] = (joined.loc[wrong, "prediction"] + 1) % 4
    joined["correct"] = joined["prediction"] == joined["answer"]
    table = confidence.by(main(joined), "subject", **ANY)
    assert table["subject"].tolist() == ["cardiology", "neurology"] * 2, "items without a subject are left out"
    rows = table.set_index(["stages", "subject"])
    assert rows.loc[("CP", "neurology"), "over_confidence"] == rows.loc[("CP", "neurology"), "mean_confidence"] and rows.loc[("CP", "neurology"), "over_confidence_low"] > 0.5
    assert rows.loc[("CP", "neurology"), "accuracy_high"] > 0, "none of 300 right is not known to be never right"
    for name in (("CP", "cardiology"), ("CP+SFT", "neurology")):
        assert rows.loc[name, "over_confidence_low"] < 0.03 < 0.12 > rows.loc[name, "over_confidence_high"] > -0.03, "calibrated"
    assert (table["n"] == 300).all() and (table["clusters"] == 100).all()


def test_risk_names_its_area():
    curve = confidence.risk(main(model(n=400), model("SFT", 400, shift=0.5)))
    areas = curve.groupby("stages", sort=False)["aurc"].first()
    assert areas["SFT"] > areas["CP"] + 0.2 and curve.groupby("stages")["coverage"].max().eq(1).all()


# --- repairs ---------------------------------------------------------------------------------------------------------

def test_a_temperature_of_each_benchmark_repairs_it_on_items_it_was_not_fitted_on():
    answered = main(model(n=900, temperature=3.0), model(n=900, benchmark="medqa", temperature=0.5, seed=1), model(n=12, benchmark="pubmedqa"))
    table = confidence.table(answered, bins=10, **ANY)
    repaired = confidence.recalibrated(answered, table, bins=10, **ANY).set_index("benchmark")
    assert list(repaired.index) == ["medmcqa", "medqa", "all"], "12 items in 4 clusters cannot be cross-fitted in 5 folds"
    assert repaired.loc["medmcqa", "temperature"] == pytest.approx(3, rel=0.15) and repaired.loc["medqa", "temperature"] == pytest.approx(0.5, rel=0.15)
    for name in ("medmcqa", "medqa"):
        row = repaired.loc[name]
        assert row["temperature_low"] <= row["temperature"] <= row["temperature_high"]
        assert row["ece_after"] < row["ece_before"] and row["ece_after_low"] <= row["ece_after"] <= row["ece_after_high"]
        assert row["nll_change"] == pytest.approx(row["nll_after"] - row["nll_before"]) and row["nll_change_high"] < 0
        before = table.set_index("benchmark").loc[name]
        assert row["ece_before"] == before["ece"] and row["brier_before_high"] == before["brier_high"]


def test_sets_keep_their_promise_and_are_summed_up_by_subject():
    answered = main(model(n=3000, temperature=2.0), model(n=3000, benchmark="medqa", temperature=0.5, seed=1), model(n=12, benchmark="pubmedqa"))
    sets = confidence.sets(answered, [0.9, 0.95], seed=0)
    assert len(sets) == 2 * 6000 and sets["size"].between(0, 4).all()
    table = confidence.conformal(sets, **ANY)
    assert table.groupby("by")["name"].agg(set).to_dict() == {"benchmark": {"medmcqa", "medqa"}, "subject": {"cardiology", "neurology"}, "all": {"all"}}
    for row in table.to_dict("records"):
        assert row["coverage"] == pytest.approx(row["promised"], abs=0.025) and row["coverage_low"] <= row["coverage"] <= row["coverage_high"]
        assert row["options"] == 4 and row["n"] == {"benchmark": 3000, "subject": 1998 + 6 * (row["name"] == "cardiology"), "all": 6000}[row["by"]]
    size = table[table["by"] == "all"].set_index("promised")["set_size"]
    assert 1 < size[0.9] < size[0.95] < 4


# --- what may be concluded -------------------------------------------------------------------------------------------

def cell_means(gap: dict[str, float], spread: float = 0.01, **level: float) -> pd.DataFrame:
    """Means of a figure with one stage: per benchmark its level where wrong, and `gap` more where right."""
    rows = []
    for benchmark, more in gap.items():
        wrong = level.get(benchmark, 0.5)
        rows += [(benchmark, "CP", outcome, 100, value, value - spread, value + spread) for outcome, value in (("correct", wrong + more), ("incorrect", wrong), ("difference", more))]
    return pd.DataFrame(rows, columns=["benchmark", "stages", "outcome", "n", "mean_confidence", "low", "high"])


def cells(*ece: float) -> pd.DataFrame:
    return pd.DataFrame({"benchmark": [f"b{n}" for n in range(len(ece))], "stages": "CP", "ece": ece, "ece_if_calibrated_high": 0.05})


@pytest.mark.parametrize("gaps, verdict", [((0.1, 0.1), "holds"), ((0.1, 0.005), "mixed"), ((0.005, 0.005), "undecided"), ((-0.1, 0.005), "does not hold"), ((0.1, -0.1), "mixed")])
def test_more_confident_when_right_is_judged_by_intervals(gaps, verdict):
    said = confidence.statements(cell_means(dict(zip(("medmcqa", "medqa"), gaps))), cells(0.1), paper.published("figure 3"))
    assert said["verdict"][0] == verdict and "9 of 9 cells" in said["paper"][0]


def test_the_contradiction_in_the_paper_is_counted_from_its_figure():
    published = paper.published("figure 3")
    said = confidence.statements(cell_means({"medmcqa": 0.1, "pubmedqa": 0.1}, medmcqa=0.7), cells(0.1), published)
    assert said["paper"][1] == "CONTRADICTED BY ITS OWN FIGURE: of 6 comparisons (stage x outcome), highest are pubmedqa in 5, medqa in 1, medmcqa in none"
    assert said["verdict"][1] == "holds", "a run may show what the paper's figure does not"
    turned = published[published["benchmark"] != "medqa"].replace({"benchmark": {"medmcqa": "pubmedqa", "pubmedqa": "medmcqa"}})
    said = confidence.statements(cell_means({"medmcqa": 0.1, "pubmedqa": 0.1}, pubmedqa=0.7), cells(0.1), turned)
    assert said["paper"][1] == "its figure agrees: of 6 comparisons (stage x outcome), highest are medmcqa in 6" and said["verdict"][1] == "does not hold"


@pytest.mark.parametrize("ece, verdict", [((0.04, 0.01), "holds"), ((0.04, 0.2), "mixed"), ((0.3, 0.2), "does not hold")])
def test_self_calibration_is_judged_by_what_a_calibrated_model_would_show(ece, verdict):
    said = confidence.statements(cell_means({"medmcqa": 0.1}), cells(*ece), paper.published("figure 3"))
    assert said["verdict"][2] == verdict and "without a number" in said["paper"][2]


def test_the_text_carries_the_numbers_of_the_tables():
    everything = confidence.under_all_settings(pd.concat([model(n=600, temperature=3.0), model("SFT", 600, shift=0.3)], ignore_index=True))
    answered = confidence.main_setting(everything, shots=5)
    answered["group"] = np.where(answered["subject"] == "neurology", "control", "seen")
    table = confidence.table(everything, bins=10, **ANY)
    repaired, covered = confidence.recalibrated(answered, table, bins=10, **ANY), confidence.conformal(confidence.sets(answered, [0.9], seed=0), **ANY)
    lines = confidence.conclusions(table, confidence.by(answered, "group", **ANY), repaired, covered, shots=5)
    text = "\n".join(lines)
    row = confidence.main_setting(table, shots=5).set_index(["benchmark", "stages"]).loc[("all", "CP")]
    assert f"CP: says {row['mean_confidence']:.0%} on average and is right in {row['accuracy']:.0%} (n = 600); ECE {row['ece']:.3f}" in text
    assert f"{row['auroc']:.2f}" in text and "separates right from wrong" in text
    assert "SFT: most over-confident on" in text and "the same weights under 2 settings" in text and "sets that promise 90%" in text
    assert "the calibration error grows" not in text
    worse = repaired.assign(nll_before=1.6, nll_after=1.3, ece_before=0.15, ece_after=0.24)
    assert "The likelihood gains and the calibration error grows" in "\n".join(confidence.conclusions(table, confidence.by(answered, "group", **ANY), worse, covered, shots=5))


# --- the notebooks ---------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "trl", "peft", "accelerate", "lm_eval"}:
            raise ImportError(f"{name} was asked for")

sys.meta_path.insert(0, Blocked())
namespace = {"display": print}  # as in a notebook
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), namespace)
        if "parameters" in cell["metadata"].get("tags", []):
            namespace["run"] = "tiny"
"""


@pytest.mark.parametrize("stage", ["06_ablations", "07_calibration"])
def test_06_and_07_start_and_end_where_torch_cannot_be_imported(stage, tiny):
    before = {file.name: file.read_bytes() for file in tiny.figures().iterdir()}
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(tiny.notebook(stage))], cwd=tiny.root, env=tiny.environment() | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = tiny.manifest(stage)["figures"]
    assert made and all((tiny.figures() / name).read_bytes() == before[name] for name in made), "and make what the headless run made"
