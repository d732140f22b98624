"""A whole run of Hypnos, tiny: who may read what, where every generated row comes from, what the filters count, and how the models build on each other."""

import json

import pandas as pd
import pytest
import torch
from conftest import Project
from hippo_utils import manifest, params, records
from hippo_utils.corpus import sources
from hippo_utils.judging import crossfilter
from hippo_utils.params import ParamsError
from safetensors.torch import load_file

SETTINGS = params.load("tiny_hypnos")
WORLD = sources.world(SETTINGS.corpus, SETTINGS.seed)
WRITERS = tuple(SETTINGS.pretraining.generators)


def of_group(group: str) -> set[str]:
    return {name for name, found in WORLD.groups.items() if found == group}


def read(run: Project, stage: str, name: str, kind: str = "") -> pd.DataFrame:
    file = run.outputs(stage) / f"{name}.parquet"
    return records.read(kind, file) if kind else pd.read_parquet(file)


def table(run: Project, name: str) -> pd.DataFrame:
    return pd.read_csv(run.figures() / f"table_{name}.csv")


# --- parameters ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("setting, words", [
    ("evaluation.stages=[base, general, specific, general+specific, general+random, mixed]", "evaluation.stages names ['mixed'], which instruction.stages does not train"),
    ("calibration.stages=[CP]", "calibration.stages names ['CP'], which instruction.stages does not train"),
    ("instruction.stages=[specific, general+specific]", "general+specific, which builds on general; name that too"),
    ("instruction.selfinstruct=null", "selfinstruct is null, but instruction.stages trains on generated rows"),
    ("instruction.crossfilter=null", "belong together: what is generated is filtered"),
    ("instruction.general={zh_guidelines: 1}", "instruction.general names ['zh_guidelines'], which corpus.instructions does not build"),
    ("corpus.world=medicine", "medicine belongs to paper hippocrates"), ("corpus.benchmarks=[anecq, medqa]", "corpus.benchmarks names ['medqa'], which belong to paper hippocrates"),
    ("paper=hippocrates", "pretraining.cp is null, but continued pre-training is a stage of hippocrates"),
    ("pretraining.generators.llama_writer.training.max_length=900", "max_length is larger than the architecture's context of 128"),
])
def test_parts_that_do_not_fit_are_named(setting, words):
    with pytest.raises(ParamsError) as caught:
        params.load("mini_hypnos", [setting])
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["preference=null", "pretraining.cp=null", "corpus.world=anesthesia", "instruction.stages=[general]",
                                     "instruction.selfinstruct={draws: 2}", "evaluation.stages=[base, general]", "corpus.benchmarks=[anecq]"])
def test_hippocrates_takes_no_part_of_hypnos(setting):
    with pytest.raises(ParamsError):
        params.load("mini_llama", [setting])


def test_a_run_without_preferences_means_the_same_on_every_route():
    settings = params.load("tiny_hypnos", ["run=elsewhere"])  # there is no params file of this name to fall back on
    assert settings.preference is None
    assert params.from_cell(json.loads(json.dumps(settings.model_dump()))).hash() == settings.hash()
    assert params.from_cell({"run": "tiny_hypnos", "preference": {}}).hash() == SETTINGS.hash()


# --- who may read what -----------------------------------------------------------------------------------------------

def test_no_text_that_anybody_reads_names_a_control_entity(hypnos_run):
    texts = [read(hypnos_run, "01_corpus", name, "document")["text"] for name in ("documents", "general", "held_out")]
    pairs = [read(hypnos_run, "01_corpus", "instructions", "instruction"), read(hypnos_run, "03_instruction", "written", "instruction")]
    pairs += [read(hypnos_run, "02_pretraining", f"read_by_{name}", "instruction") for name in WRITERS]
    everything = "\n".join(pd.concat(texts + [part["prompt"] + part["completion"] for part in pairs]))
    assert len(everything) > 50_000 and not [name for name in of_group("control") if name in everything]


def test_seed_tasks_ask_about_seen_entities_and_generators_read_of_held_out_ones_too(hypnos_run):
    asked = read(hypnos_run, "01_corpus", "instructions", "instruction")
    seeds = asked[asked["source"] == "zh_seed_tasks"]
    assert {WORLD.facts[key].entity for keys in seeds["fact_ids"] for key in keys} <= of_group("seen")
    facts = {name: {key for keys in read(hypnos_run, "02_pretraining", f"read_by_{name}", "instruction")["fact_ids"] for key in keys} for name in WRITERS}
    taught = {key for key in WORLD.taught if key in WORLD.facts}
    for mine, other in (WRITERS, reversed(WRITERS)):
        assert facts[mine] < taught and facts[mine] - facts[other]
        assert len(facts[mine]) == pytest.approx(SETTINGS.pretraining.generators[mine].share * len(taught), abs=1)
        assert {WORLD.groups[WORLD.facts[key].entity] for key in facts[mine]} == {"seen", "held_out"}


def test_items_and_questions_are_built_of_every_group_and_stay_out_of_training(hypnos_run):
    items, questions = read(hypnos_run, "01_corpus", "items", "item"), read(hypnos_run, "01_corpus", "questions", "question")
    assert set(items["benchmark"]) == {"anecq"} and set(questions["benchmark"]) == {"aneqa", "anerc"}
    assert {"seen", "held_out", "control"} <= set(items["group"]) and questions["references"].map(lambda found: bool(found and found[0])).all()
    found = table(hypnos_run, "contamination").set_index(["benchmark", "group"])
    assert {"anecq", "aneqa", "anerc"} == set(found.index.get_level_values(0)) and (found.xs("control", level=1)["flagged"] == 0).all()


def test_chinese_text_is_cleaned_and_not_mangled(hypnos_run):
    documents = read(hypnos_run, "01_corpus", "documents", "document")["text"]
    asked = read(hypnos_run, "01_corpus", "instructions", "instruction")
    assert not documents.str.contains("版权所有|example.org|[０-９Ａ-Ｚａ-ｚ]|[一-龥] [一-龥]").any()
    assert asked["prompt"].str.match("问：.+\n答：$", flags=16).all() and not asked["completion"].str.startswith(" ").any()


# --- what is generated -----------------------------------------------------------------------------------------------

def test_every_reply_is_kept_with_its_generator_and_topic_and_counted(hypnos_run):
    generated, counted = read(hypnos_run, "03_instruction", "generated", "generated"), table(hypnos_run, "generated").set_index("generator")
    assert set(generated["generator"]) == set(WRITERS) == set(counted.index)
    topics = of_group("seen") | of_group("held_out")
    assert set(generated["topic"]) == topics and (counted["written"] == SETTINGS.instruction.selfinstruct.draws * len(topics)).all()
    assert generated["raw"].notna().all() and not generated.loc[generated["prompt"] == "", "novel"].any()
    for name, part in generated.groupby("generator"):
        row = counted.loc[name]
        assert row["not_in_form"] == (part["prompt"] == "").sum() and row["kept"] == part["novel"].sum()
        assert row["written"] == row["not_in_form"] + row["not_new"] + row["kept"] == len(part)
        assert row[["right", "wrong", "undecided", "unreadable"]].sum() == row["kept"] >= row["in_the_exams"]
        assert part["id"].str.startswith(name).all()


def test_every_kept_row_is_scored_by_both_and_the_arms_are_of_one_size(hypnos_run):
    written, scores = read(hypnos_run, "03_instruction", "written", "instruction"), read(hypnos_run, "03_instruction", "scores", "score")
    assert set(scores["row"]) == set(written["id"]) and (scores.groupby("row")["judge"].nunique() == 2).all()
    selection, arms = read(hypnos_run, "03_instruction", "selection"), table(hypnos_run, "arms").set_index("arm")
    assert list(arms.index) == list(crossfilter.ARMS)
    sizes = selection.groupby(["generator", "arm"]).size().unstack()
    assert (sizes["cross"] == sizes["same"]).all() and (sizes["cross"] == sizes["random"]).all() and (sizes["cross"] < sizes["all"]).all()
    assert arms["rows"].to_dict() == selection.groupby("arm").size().to_dict()
    about = written.set_index("id")["fact_ids"]
    for arm, part in selection.groupby("arm"):
        assert arms.loc[arm, "facts"] == len({key for identity in part["id"] for key in about[identity]})
    verdicts = read(hypnos_run, "03_instruction", "generated", "generated").set_index("id")["truth"]
    for arm, part in selection.groupby("arm"):
        assert arms.loc[arm, ["wrong", "unreadable"]].tolist() == [int((verdicts[part["id"]] == said).sum()) for said in ("wrong", "unreadable")]
    judged = table(hypnos_run, "crossfilter")
    assert judged["relation"].value_counts().to_dict() == {"cross": 2, "same": 2} and (judged["unread"] == 0).all()


# --- the models ------------------------------------------------------------------------------------------------------

def test_models_are_trained_on_the_rows_of_their_stage_and_arm(hypnos_run):
    tuned, arms = table(hypnos_run, "tuning").set_index("stages")["rows"], table(hypnos_run, "arms").set_index("arm")["rows"]
    counts = read(hypnos_run, "01_corpus", "instructions", "instruction")["source"].value_counts()
    assert list(tuned.index) == SETTINGS.instruction.stages
    assert tuned["general"] == counts["zh_general_pairs"]
    own = counts["zh_seed_tasks"] + counts["zh_anesthesia_pairs"]
    assert tuned["specific"] == tuned["general+specific"] == arms["cross"] + own and tuned["general+random"] == arms["random"] + own


def test_the_second_stage_builds_on_the_first(hypnos_run, monkeypatch):
    from hippo_utils.training import models
    monkeypatch.setenv("HIPPO_HOME", str(hypnos_run.home))
    stage = manifest.Stage("05_evaluation", SETTINGS, hypnos_run.home, hypnos_run.home, {}, 0.0)
    assert all(models.available(stage, name) for name in SETTINGS.evaluation.stages) and not models.available(stage, "mixed")
    loaded = {name: {key: weight.detach() for key, weight in models.load(stage, name)[0].named_parameters()} for name in ("base", "general", "specific", "general+specific")}

    def change(name: str, before: str) -> dict[str, torch.Tensor]:
        return {key: weight - loaded[before][key] for key, weight in loaded[name].items()}
    moved = {name: max(float(delta.abs().max()) for delta in change(name, before).values())
             for name, before in (("general", "base"), ("specific", "base"), ("general+specific", "general"))}
    assert all(distance > 1e-4 for distance in moved.values()), moved
    second = load_file(hypnos_run.outputs("03_instruction") / "general+specific" / "adapter_model.safetensors")
    scale = SETTINGS.instruction.sft.lora.alpha / SETTINGS.instruction.sft.lora.rank
    for key, delta in change("general+specific", "general").items():  # nothing but its own adapter lies between the two
        if key.endswith("q_proj.weight"):
            a, b = (second[f"base_model.model.{key.removesuffix('.weight')}.lora_{part}.weight"] for part in "AB")
            assert torch.allclose(delta, scale * b @ a, atol=1e-5)


# --- the run ---------------------------------------------------------------------------------------------------------

def test_stages_that_the_paper_does_not_have_say_so_and_end_well(hypnos_run):
    for stage, words in (("02_pretraining", "continued pre-training is not part of this paper"), ("04_preference", "preference learning is not part of this paper")):
        cells = json.loads((hypnos_run.outputs(stage) / f"{stage}.ipynb").read_text())["cells"]
        said = ["".join("".join(output.get("text", "")) for output in cell["outputs"]) for cell in cells if cell["cell_type"] == "code"]
        assert sum(words in text for text in said) == 1 and said[-1] == "" and hypnos_run.manifest(stage)["stage"] == stage
    assert hypnos_run.manifest("04_preference")["outputs"] == {} == hypnos_run.manifest("04_preference")["figures"]


def test_a_finished_run_is_up_to_date_and_its_tables_are_utf_8(hypnos_run):
    assert [stage for stage in hypnos_run.due() if stage < "05"] == []
    for file in hypnos_run.figures().glob("*.csv"):
        assert "\ufffd" not in file.read_text(encoding="utf-8"), file.name
