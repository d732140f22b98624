"""Studies: several runs in one file, and their numbers side by side."""

import json

import pandas as pd
import pytest
import yaml

from hippo_utils import manifest, paths, records
from hippo_utils.params import ParamsError, load, load_runs
from hippo_utils.reporting import studies


@pytest.mark.parametrize("file", [file.stem for file in paths.study_files()])
def test_every_study_file_loads(file):
    runs = load_runs(file)
    assert len(runs) > 1 and len({settings.run for settings in runs}) == len(runs)
    assert all(settings.run.startswith(f"{file}-") for settings in runs)


def test_a_variant_is_its_base_with_its_own_values():
    runs = {settings.run: settings for settings in load_runs("study_seeds")}
    for family in ("llama", "mistral"):
        for seed in range(3):
            expected = load(f"mini_{family}", [f"seed={seed}", f"run=study_seeds-{family}_seed{seed}"])
            assert runs[f"study_seeds-{family}_seed{seed}"].hash() == expected.hash()


def test_a_study_is_not_one_run_and_one_run_is_not_a_study():
    with pytest.raises(ParamsError, match="a study of several runs"):
        load("study_seeds")
    assert [settings.run for settings in load_runs("mini_llama")] == ["mini_llama"]


@pytest.mark.parametrize("variants, words", [
    ("variants: [1, 2]", "variants: expected"), ("variants: {a: 3}", "variants: expected"),
    ("variants: {a: {extends: mini_llama, sead: 1}}", "variants.a: sead: unknown key; did you mean seed"),
    ("variants: {a: {extends: mini_lama}}", "no such file; did you mean params/mini_llama.yaml"),
    ("variants: {../a: {extends: mini_llama}}", "expected a plain name"),
])
def test_a_mistake_in_a_variant_is_one_sentence(tmp_path, variants, words):
    (tmp_path / "study_x.yaml").write_text(f"run: study_x\n{variants}\n")
    with pytest.raises(ParamsError, match=words) as error:
        load_runs(tmp_path / "study_x.yaml")
    assert "\n" not in str(error.value)


def test_replicates_are_runs_that_differ_by_a_seed():
    assert studies.setting_of("study_seeds-llama_seed0", "study_seeds") == "llama"
    assert studies.setting_of("study_seeds-mistral_seed12", "study_seeds") == "mistral"
    assert studies.setting_of("study_corpora-all", "study_corpora") == "all"


def test_the_spread_is_over_the_replicates_of_one_setting(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HIPPO_HOME", str(tmp_path))
    runs = ["s-a_seed0", "s-a_seed1", "s-b_seed0"]
    for run, accuracy in zip(runs, (0.4, 0.6, 0.9)):
        folder = paths.figures(run)
        folder.mkdir(parents=True)
        pd.DataFrame([{"run": run, "stages": "SFT", "benchmark": "knowledge", "group": "held_out", "shots": 0, "protocol": "option_text",
                       "n": 10, "accuracy": accuracy, "ci_low": accuracy - 0.1, "ci_high": accuracy + 0.1}]).to_csv(folder / "table_pooled.csv", index=False)
        pd.DataFrame([{"claim": "it learns", "n": 10, "value": accuracy, "low": 0, "high": 1, "holds": accuracy > 0.5}]).to_csv(folder / "table_claims.csv", index=False)
        pd.DataFrame([{"stages": "SFT", "protocol": "option_text", "compared_with": "base", "benchmark": "knowledge", "group": "held_out",
                       "n": 10, "difference": accuracy - 0.5, "difference_low": accuracy - 0.7, "difference_high": accuracy}]).to_csv(folder / "table_paired.csv", index=False)
        pd.DataFrame([{"kind": "all", "measure": "summed", "n": 10, "difference": accuracy, "difference_low": 0, "difference_high": 1}]).to_csv(folder / "table_preferences.csv", index=False)
    studies.report("s", runs)
    spread = pd.read_csv(paths.figures("s") / "table_spread.csv").set_index("setting")
    assert spread.loc["a", "runs"] == 2 and spread.loc["a", "mean"] == 0.5 and spread.loc["a", "sd"] == pytest.approx(0.141421)
    assert (spread.loc["a", "min"], spread.loc["a", "max"], spread.loc["b", "runs"]) == (0.4, 0.6, 1)
    assert spread.loc["b", ["n", "low", "high"]].tolist() == [10, 0.8, 1.0], "of a single run its interval"
    assert spread.loc["a", ["n", "low", "high"]].tolist() == [10, 0.4, 0.6], "of replicates the smallest and the largest"
    steps = pd.read_csv(paths.figures("s") / "table_steps.csv").set_index("setting")
    assert steps.loc["a", "mean"] == 0 and (steps.loc["a", "min"], steps.loc["a", "max"]) == (-0.1, 0.1), "a step that differs between seeds by more than its interval is no finding"
    assert "2 of 3 runs: it learns" in capsys.readouterr().out
    assert steps.loc["b", ["low", "high"]].tolist() == [0.2, 0.9] and (pd.read_csv(paths.figures("s") / "table_preferences.csv")["n"] == 10).all()
    bars = pd.read_csv(paths.figures("s") / "fig_study.csv").set_index("setting")
    assert (bars.loc["a", "low"], bars.loc["a", "high"]) == (0.4, 0.6), "of replicates the smallest and the largest"
    assert (bars.loc["b", "low"], bars.loc["b", "high"]) == (0.8, 1.0), "of a single run its interval"
    assert (paths.figures("s") / "fig_study.png").stat().st_size > 5000

    assert not manifest.study_due("s", runs)
    assert manifest.main(["why", str(paths.figures("s") / "table_spread.csv")]) == 0 and manifest.main(["verify", str(paths.figures("s"))]) == 0
    (paths.figures("s") / "table_spread.csv").write_text("better numbers")
    assert manifest.study_due("s", runs) and manifest.main(["why", str(paths.figures("s") / "table_spread.csv")]) == 1
    assert "CHANGED OR MISSING" in capsys.readouterr().out and manifest.main(["verify", str(paths.figures("s"))]) == 1
    (paths.figures("s") / "table_other.csv").write_text("x")
    assert manifest.main(["why", str(paths.figures("s") / "table_other.csv")]) == 2 and "must not be believed" in capsys.readouterr().err
    studies.report("s", runs)
    assert not manifest.study_due("s", runs) and not (paths.figures("s") / "table_other.csv").exists()
    assert manifest.study_due("s", runs[:2]), "a study of other runs"


@pytest.mark.parametrize("study, shared", [("study_corpora", []), ("study_instructions", ["01_corpus", "02_pretraining"]), ("study_instructions_7b", ["01_corpus", "02_pretraining"])])
def test_the_variants_of_an_ablation_differ_in_the_data_alone_and_share_what_is_equal(study, shared):
    """A key that differs without need would train the base of every variant anew."""
    runs = load_runs(study)
    stages = [stage for stage in manifest.STAGES if len({manifest.plan_key(settings, stage) for settings in runs}) == 1]
    assert stages == shared
    for settings in runs:
        plain = settings.model_copy(update={"run": "", "corpus": settings.corpus.model_copy(update={"mixture": {}}),
                                            "instruction": settings.instruction.model_copy(update={"mixture": {}})})
        assert plain == runs[0].model_copy(update={"run": "", "corpus": plain.corpus, "instruction": plain.instruction})


def test_each_corpus_and_each_family_of_instructions_is_left_alone_once():
    alone = {settings.run.rpartition("-")[2]: {name for name in settings.corpus.documents if settings.corpus.mixture.get(name, 1)} for settings in load_runs("study_corpora_7b")}
    assert alone == {"all": {"guidelines", "pmc_patients", "pubmedqa_contexts"}, "guidelines": {"guidelines"}, "patients": {"pmc_patients"}, "abstracts": {"pubmedqa_contexts"}}
    mixtures = {settings.run.rpartition("-")[2]: {name for name, weight in settings.instruction.mixture.items() if weight} for settings in load_runs("study_instructions_7b")}
    assert mixtures["medqa"] == {"medqa_train"} and mixtures["evaluation"] == {"medmcqa_train", "medqa_train", "pubmedqa_train"}
    assert mixtures["general"] | mixtures["evaluation"] == mixtures["both"] and len(mixtures["both"]) == 12


def test_settings_are_compared_item_by_item_if_they_sat_the_same_exam(home, monkeypatch):
    monkeypatch.setattr(manifest, "_limit_threads", lambda threads: None)
    exam = [{"id": f"i{n}", "benchmark": "medmcqa", "split": "test", "group": "held_out", "subject": "", "cluster": f"i{n}", "fact_ids": [], "question": f"q{n}", "context": "",
             "options": ["a", "b"], "answer": 0, "steps": 1} for n in range(40)]
    right = {"s-first": lambda n: n < 20, "s-better": lambda n: n < 36, "s-equal": lambda n: n < 20}
    for run, knows in right.items():
        settings = load("mini_llama", [f"run={run}", "ablations.resamples=200"])
        for name, kind, file, rows in (("01_corpus", "item", "items", exam), ("05_evaluation", "prediction", "predictions", [
                {"run": run, "seed": 0, "stages": "SFT", "item": f"i{n}", "benchmark": "medmcqa", "protocol": "option_text", "shots": 0, "prompt_hash": "", "log_likelihoods": [0.0, 0.0], "option_bytes": [1, 1],
                 "generated_text": None, "tokens_cut": 0, "prediction": int(not knows(n)), "correct": knows(n)} for n in range(40)])):
            (folder := paths.stage_folder(run, name)).mkdir(parents=True)
            records.write(kind, rows, folder / f"{file}.parquet")
        for name in ("01_corpus", "06_ablations"):
            outputs = {"items.parquet": {"sha256": "x"}} if name == "01_corpus" else {}
            manifest.write_json({"stage": name, "seed": 0, "key": {}, "outputs": outputs, "figures": {}, "drawing": "x", "parameters": settings.model_dump()}, paths.manifest(run, name))
    table = studies.against_first("s", list(right)).query("benchmark == 'knowledge' and group == 'held_out'").set_index("setting")
    assert table.index.tolist() == ["better", "equal"] and set(table["compared_with"]) == {"first"} and set(table["n"]) == {40}
    assert table.loc["better", "difference"] == pytest.approx(0.4) and table.loc["better", "difference_low"] > 0.2 and table.loc["better", "p_mcnemar"] == pytest.approx(2 * 0.5**16)
    assert table.loc["better", "p_holm"] == pytest.approx(2 * table.loc["better", "p_mcnemar"]) and table.loc["equal", ["difference", "p_holm"]].tolist() == [0, 1]
    other = json.loads(paths.manifest("s-equal", "01_corpus").read_text())
    other["outputs"]["items.parquet"]["sha256"] = "another exam"
    paths.manifest("s-equal", "01_corpus").write_text(json.dumps(other))
    assert studies.against_first("s", list(right)).empty and studies.against_first("s", ["s-first", "s-first"]).empty


@pytest.mark.slow
@pytest.mark.parametrize("study, variants, shared", [("study_corpora", ["all", "guidelines"], []), ("study_instructions", ["both", "medqa"], ["01_corpus", "02_pretraining"])])
def test_an_ablation_of_the_data_runs_through_and_has_its_table_and_figure(tiny, study, variants, shared):
    """Two variants of the committed file, on the tiny run."""
    file = tiny.root / "params" / f"{study}.yaml"
    content = yaml.safe_load(file.read_text())
    content |= {"extends": "tiny", "variants": {name: content["variants"][name] for name in variants}}
    file.write_text(yaml.safe_dump(content))
    printed = tiny(study)
    runs = [f"{study}-{name}" for name in variants]
    assert [stage for stage in manifest.STAGES if tiny.manifest(stage, runs[1]).get("shared_from")] == shared and "2 runs side by side" in printed
    spread = pd.read_csv(tiny.figures(study) / "table_spread.csv")
    assert set(spread["setting"]) == set(variants) and set(spread["stages"]) >= {"base", "CP", "SFT", "CP+SFT", "CP+SFT+DPO"}
    assert (spread["runs"] == 1).all() and (spread["n"] > 0).all() and spread["mean"].between(spread["low"], spread["high"]).all()
    against = pd.read_csv(tiny.figures(study) / "table_settings.csv")
    assert set(against["setting"]) == {variants[1]} and set(against["compared_with"]) == {variants[0]} and {"base", "CP+SFT"} <= set(against["stages"])
    assert against["difference"].between(against["difference_low"], against["difference_high"]).all() and (against[against["stages"] == "base"]["difference"] == 0).all()
    assert (tiny.figures(study) / "fig_study.png").stat().st_size > 5000 and "Not for clinical use" in (tiny.figures(study) / "table_spread.md").read_text()
    read = [set(pd.read_csv(tiny.figures(run) / ("table_corpus.csv" if study == "study_corpora" else "table_instructions.csv"))["source"]) for run in runs]
    assert read[1] < read[0], "the variants did read different data"
    assert "nothing was executed" in tiny(study)
