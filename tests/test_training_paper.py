"""The paper's params files, overridden to miniatures: the same notebooks, settings and code as at 7B go from 01 to 07."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from judge_server import serving
from miniatures.make import base_model, mirror

from hippo_utils import manifest, params, paths
from hippo_utils.corpus import licences
from hippo_utils.training import models

SMALL = ["threads=1", "evaluation.limit=8", "evaluation.precision=float32", "evaluation.allow_truncation=true", "evaluation.rationale_tokens=4",
         "evaluation.prompting.limit=2", "evaluation.prompting.samples=2", "evaluation.sensitivity.limit=2", "ablations.resamples=100",
         "calibration.resamples=100", "instruction.sft.epochs=1", "instruction.validation=20", "preference.repeated=2", "preference.injected=1"]
FAMILIES = {"hippo_llama": "llama", "hippo_mistral": "mistral"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_paper_run_goes_from_01_to_07_on_miniatures(name, home, tmp_path):
    with serving() as judge:
        settings = SMALL + [f"corpus.data_root={mirror(tmp_path / 'mirror')}", f"pretraining.base={base_model(tmp_path / 'base', FAMILIES[name])}",
                            f"preference.endpoint.base_url={judge.url}", "preference.endpoint.key_variable=JUDGE_KEY"]
        done = subprocess.run([sys.executable, "-m", "hippo_utils.run", name, *(word for setting in settings for word in ("--set", setting))],
                              capture_output=True, text=True, cwd=paths.ROOT, env=os.environ | {"JUDGE_KEY": "k", "HIPPO_HOME": str(home)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert all(manifest.read(name, stage) for stage in manifest.STAGES)
    asked = params.load(name, settings)
    main = pd.read_csv(paths.figures(name) / "table_main.csv")
    assert set(asked.evaluation.stages) <= set(main["stages"])
    for stage, adapter, lora in (("02_pretraining", "CP", asked.pretraining.cp.lora), ("03_instruction", "CP+SFT", asked.instruction.sft.lora),
                                 ("04_preference", "CP+SFT+DPO", asked.preference.dpo.lora)):
        from peft import PeftConfig
        made = PeftConfig.from_pretrained(paths.stage_folder(name, stage) / adapter)
        assert (made.r, made.lora_alpha, set(made.target_modules)) == (lora.rank, lora.alpha, {"gate_proj", "up_proj", "down_proj"}), "the paper's adapters"
        assert (paths.stage_folder(name, stage) / adapter / models.MARK_FILE).is_file()
        assert "activations are computed twice" in (paths.stage_folder(name, stage) / "log.txt").read_text()
    assert licences.leaks(name).empty, "no table and no executed notebook quotes text that may not be redistributed"
    assert not any("checkpoints" in file for stage in manifest.STAGES for file in manifest.read(name, stage)["outputs"])


def test_the_colab_run_is_the_paper_run_made_smaller():
    """Nothing of the method differs but sizes, and nothing that a T4 cannot do is asked for."""
    small, paper = params.load("colab_t4"), params.load("hippo_llama")
    assert small.scale == "small", "its numbers are never set against the paper's"
    for ours, theirs in ((small.pretraining.cp, paper.pretraining.cp), (small.instruction.sft, paper.instruction.sft), (small.preference.dpo, paper.preference.dpo)):
        assert (ours.lora, ours.learning_rate, ours.schedule) == (theirs.lora, theirs.learning_rate, theirs.schedule)
        assert ours.batch * ours.accumulation == theirs.batch * theirs.accumulation
        assert ours.precision == "auto" and ours.devices == ours.nodes == 1
    assert small.evaluation.precision == "float16" and small.evaluation.stages == paper.evaluation.stages
    assert small.preference.judge != "endpoint", "a free GPU comes without a key"
