"""Several processes: the same losses as one at the same effective batch, an adapter that loads, and failures in words."""

import os
import re
import socket
from pathlib import Path

import pytest
import torch
from small import TRAINING, make_model, make_tokenizer
from test_training import DPO, INSTRUCTIONS, PAIRS, TEXTS, largest, logits

from hippo_utils import params
from hippo_utils.manifest import StageError
from hippo_utils.training import instruction, launching, models, preference, pretraining, trainer

EFFECTIVE = {"batch": 4, "accumulation": 2, "epochs": 2, "schedule": "cosine"}
CP = TRAINING.model_copy(update=EFFECTIVE | {"max_length": 32})
SFT = TRAINING.model_copy(update=EFFECTIVE)
SHORT = {"epochs": 1}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "t")


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def refused():
    """As in conftest.py, but torch's launcher may look up the name of the machine it runs on."""
    log = Path(os.environ["HIPPO_TEST_REFUSED"])
    log.write_text("")
    yield log
    asked = [line for line in log.read_text().splitlines() if f" {socket.gethostname()}, " not in line]
    assert not asked, f"the network was asked for: {asked}"


def weights(model) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for name, weight in sorted(model.named_parameters())])


STEPS = {"CP": lambda model, tokenizer, how, folder: pretraining.train(model, tokenizer, TEXTS[:36], CP.model_copy(update=how), folder=folder, seed=3),
         "SFT": lambda model, tokenizer, how, folder: instruction.train(model, tokenizer, INSTRUCTIONS, SFT.model_copy(update=how), folder=folder, seed=3),
         "DPO": lambda model, tokenizer, how, folder: preference.train(model, tokenizer, PAIRS, DPO.model_copy(update=EFFECTIVE | how), folder=folder, seed=3)}


@pytest.mark.parametrize("step, how", [("SFT", {"devices": 2}), pytest.param("CP", {"devices": 2}, marks=pytest.mark.slow), pytest.param("DPO", {"devices": 2}, marks=pytest.mark.slow),
                                       pytest.param("CP", {"devices": 2, "accelerate": "fsdp2"}, marks=pytest.mark.slow),
                                       pytest.param("SFT", {"devices": 2, "accelerate": "fsdp2"}, marks=pytest.mark.slow),
                                       pytest.param("CP", {"devices": 2, "accelerate": "fsdp2", "lora": None}, marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_learns(tokenizer, tmp_path, capsys, step, how):
    """gloo on the CPU. The gradients are summed in another order, so the last digits differ: 1e-4 in the loss, 1e-3 in the weights."""
    together = {key: value for key, value in how.items() if key == "lora"}
    one, expected, *_ = STEPS[step](make_model(tokenizer), tokenizer, together, tmp_path / "one")
    capsys.readouterr()
    several, curve, *_ = STEPS[step](make_model(tokenizer), tokenizer, how, tmp_path / "several")
    said = capsys.readouterr().out
    assert re.search(r"^\$ .*accelerate.commands.launch --config_file \S+params/accelerate/\w+.yaml --num_processes 2 .*-m hippo_utils.training ", said, re.M)
    assert len(re.findall(r"^    step 1 of", said, re.M)) == 1, "one process speaks"
    assert curve["step"].tolist() == expected["step"].tolist()
    assert curve["loss"].tolist() == pytest.approx(expected["loss"].tolist(), abs=1e-4)
    assert expected["loss"].iloc[-1] < expected["loss"].iloc[0]
    assert float((weights(several) - weights(one)).abs().max()) < 1e-3
    if "lora" not in how:
        ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
        models.save(several, tmp_path / "adapter")
        loaded = models.apply(make_model(tokenizer), tmp_path / "adapter")
        assert largest(logits(loaded, ids), logits(one, ids)) < 1e-3 < largest(logits(loaded, ids), logits(make_model(tokenizer), ids))
