"""The lock of the data sets is part of what 01 was made from: other files behind the same params file make it due."""

import json
import os

import pytest
from miniatures.make import mirror

from hippo_utils import manifest, params
from hippo_utils.corpus import hub


@pytest.fixture
def settings(home, tmp_path, monkeypatch):
    """A paper run over a mirror, with its 01 finished."""
    monkeypatch.setattr(manifest, "_limit_threads", lambda threads: None)
    settings = params.load("hippo_llama", [f"corpus.data_root={mirror(tmp_path / 'mirror')}"])
    hub.fetch(settings.corpus, say=lambda words: None)
    manifest.begin("01_corpus", settings).finish()
    return settings


def test_another_revision_or_file_makes_01_due_and_the_same_lock_does_not(settings):
    assert manifest.reasons(settings, "01_corpus") == []
    hub.fetch(settings.corpus, say=lambda words: None)
    assert manifest.reasons(settings, "01_corpus") == [], "fetched again, nothing changed"
    file = hub.mirror(settings.corpus) / "lock.json"
    lock = json.loads(file.read_text())
    lock["zhengyun21/PMC-Patients"]["revision"] = "0" * 40
    file.write_text(json.dumps(lock))
    assert manifest.reasons(settings, "01_corpus") == ["its data sets or their lock changed"]
    file.unlink()
    assert manifest.reasons(settings, "01_corpus") == ["its data sets or their lock changed"]


def test_without_a_lock_a_file_that_is_replaced_makes_01_due(settings):
    (hub.mirror(settings.corpus) / "lock.json").unlink()
    manifest.begin("01_corpus", settings).finish()
    assert manifest.reasons(settings, "01_corpus") == []
    file = hub.mirror(settings.corpus) / "epfl-llm/guidelines/open_guidelines.jsonl"
    file.write_text(file.read_text() + "\n")
    assert manifest.reasons(settings, "01_corpus") == ["its data sets or their lock changed"]


def test_two_mirrors_make_two_plans_and_later_stages_follow(settings):
    before = {stage: manifest.plan_key(settings, stage) for stage in manifest.STAGES}
    (hub.mirror(settings.corpus) / "lock.json").write_text("{}")
    assert not [stage for stage in manifest.STAGES if manifest.plan_key(settings, stage) == before[stage]], "so that nothing is shared between them"


def test_a_mini_run_asks_for_no_lock(home):
    assert "data" not in manifest.plan(params.load("mini_llama"), "01_corpus")


def test_changed_private_cases_make_01_due(home):
    (home / "cases").mkdir(parents=True)
    (home / "cases" / "one.jsonl").write_text('{"case": "x", "reference": "y"}\n')
    settings = params.load("mini_hypnos", ["corpus.private_cases=cases", "corpus.benchmarks=[anecq, aneqa, anerc, private_cases]"])
    before = manifest.plan(settings, "01_corpus")
    os.utime(home / "cases" / "one.jsonl", (1, 1))
    assert manifest.plan(settings, "01_corpus") == before, "touched, not changed"
    (home / "cases" / "two.jsonl").write_text('{"case": "z", "reference": "y"}\n')
    assert {name for name, value in manifest.plan(settings, "01_corpus").items() if value != before[name]} == {"cases"}


def test_another_base_in_the_same_local_folder_makes_02_due(home, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    settings = params.load("hippo_llama", [f"pretraining.base={tmp_path}"])
    before = {stage: manifest.plan(settings, stage) for stage in manifest.STAGES}
    (tmp_path / "model.safetensors").write_text("other weights")
    assert [stage for stage in manifest.STAGES if manifest.plan(settings, stage) != before[stage]] == ["02_pretraining"]
    assert "base" not in manifest.plan(params.load("hippo_llama"), "02_pretraining"), "on the hub the revision says which base it is"
