"""The real benchmarks in miniature (invented items in the hub's formats), read and evaluated offline by the paper run's parameters."""

import pandas as pd
import pytest
import torch
from miniatures.make import base_model, mirror

from hippo_utils import params, records
from hippo_utils.corpus import sources
from hippo_utils.evaluation import harness, quarantine, scoring
from hippo_utils.reporting import claims
from hippo_utils.training import models

BENCHMARKS = list(params.load("tiny").corpus.benchmarks)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    return params.load("hippo_llama", [f"corpus.data_root={mirror(folder / 'mirror')}", f"pretraining.base={base_model(folder / 'Llama-2-7b-hf')}", "threads=1"])


@pytest.fixture(scope="module")
def items(settings) -> pd.DataFrame:
    read = sources.build_items(settings.corpus, None, settings.seed)
    sound, bad = quarantine.quarantine(read)
    assert len(sound) > 100 and quarantine.counts(read, bad)["items"].sum() == (read["split"] == "test").sum()
    return sound


@pytest.fixture(scope="module")
def lm(settings):
    torch.set_num_threads(1)
    model, tokenizer = models.load_pretrained(settings.pretraining.base)
    return harness.language_model(model.eval(), tokenizer, batch_tokens=settings.evaluation.batch_tokens)


def answered(lm, items, protocol: str, shots: int, benchmarks=BENCHMARKS, limit: int | None = None) -> pd.DataFrame:
    with harness.tasks(items, benchmarks, protocol, 0, limit) as tasks:
        return harness.answers(lm, tasks, run="r", seed=0, stages="base", shots=shots, protocol=protocol, new_tokens=4)


@pytest.fixture(scope="module")
def zero_shot(lm, items):
    return answered(lm, items, "option_text", 0)


def test_every_item_of_the_six_benchmarks_is_answered(zero_shot, items, tmp_path):
    test = items[items["split"] == "test"].set_index("id")
    assert set(zero_shot["item"]) == set(test.index) and set(zero_shot["benchmark"]) == set(BENCHMARKS)
    assert zero_shot["log_likelihoods"].map(len).tolist() == test.loc[zero_shot["item"], "options"].map(len).tolist()
    assert records.write("prediction", zero_shot, tmp_path / "p.parquet") == len(test)
    table = scoring.accuracies(scoring.join(zero_shot, items))
    assert set(table["group"]) == {"all"} and table["n"].sum() == len(test)


def test_few_shot_runs_leak_free_and_as_the_paper_drew_it(lm, items, zero_shot):
    """USMLE and PubMedQA have no training split: leak-free, MedQA's examples, and PubMedQA items that are then not scored."""
    few = items[(items["split"] == "development") | (items.groupby(["benchmark", "split"]).cumcount() < 7)]
    fixed, paper = answered(lm, few, "option_text", 5), answered(lm, few, "option_text+paper_examples", 5)
    test = few[few["split"] == "test"].set_index("id")["benchmark"]
    assert set(paper["item"]) == set(test.index) and test.drop(fixed["item"]).tolist() == ["pubmedqa"] * 5
    assert set(fixed["prompt_hash"]).isdisjoint(paper["prompt_hash"])


@pytest.mark.parametrize("protocol", ["letter", "letter+permuted", "option_text+chat", "step_by_step", "generate", "rationale"])
def test_every_protocol_runs_on_every_benchmark(lm, items, protocol):
    made = answered(lm, items, protocol, 0, limit=2)
    assert made.groupby("benchmark").size().to_dict() == dict.fromkeys(BENCHMARKS, 2)


def test_a_miniature_reproduces_nothing_because_it_has_other_items(settings, zero_shot, items):
    assert settings.scale == "paper"
    found = claims.measured(scoring.join(zero_shot, items), claims.base_name(settings.pretraining.base), seed=0, resamples=100)
    table = claims.ledger(found, settings.scale)
    ours = table[(table["table"] == "stages") & (table["stages"] == "base") & (table["model"] == "LLaMA-2 7b")]
    assert len(ours) == 7 and (ours["status"] == "not comparable").all() and ours["reason"].str.fullmatch(r"measured on \d+ items, published on \d+").all()
    assert "reproduced" not in set(table["status"])


def test_another_model_is_a_baseline_with_rows_of_its_own(lm, items, zero_shot, tmp_path):
    model, tokenizer = models.load_pretrained(str(base_model(tmp_path / "other", "mistral", seed=1)))
    other = harness.language_model(model.eval(), tokenizer, batch_tokens=4096)
    with harness.tasks(items, BENCHMARKS, "option_text", 0) as tasks:
        made = harness.order(harness.answers(other, tasks, run="r", seed=0, stages="Meditron 7b", shots=0))
    assert records.write("prediction", made, tmp_path / "baselines.parquet") == len(zero_shot)
    rows = scoring.accuracies(scoring.join(made, items))
    assert set(rows["stages"]) == {"Meditron 7b"} and rows["benchmark"].tolist() == sorted(BENCHMARKS)
    found = claims.measured(scoring.join(zero_shot, items), None, baselines=scoring.join(made, items), seed=0, resamples=100)
    table = claims.ledger(found, "paper")
    assert table[table["run_value"].notna() & (table["table"] == "main")]["model"].unique().tolist() == ["Meditron 7b"]
