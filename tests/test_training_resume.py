"""A training that is killed and started again equals the uninterrupted one, step by step; what is damaged is not continued from."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from small import TRAINING, make_model
from test_training import DPO, INSTRUCTIONS, PAIRS, TEXTS

from hippo_utils.training import checkpoints, instruction, preference, pretraining, trainer

# Dropout, accumulation and several epochs: every source of randomness is at work, and every epoch has an order of its own.
HARD = {"epochs": 3, "batch": 4, "accumulation": 2, "schedule": "cosine", "warmup": 0.1, "checkpoint_minutes": 0.0,
        "lora": TRAINING.lora.model_copy(update={"dropout": 0.1})}
CP = TRAINING.model_copy(update=HARD | {"max_length": 32})
SFT = TRAINING.model_copy(update=HARD)
SCRATCH = CP.model_copy(update={"lora": None})
STEPS = {"CP": lambda model, tokenizer, **how: pretraining.train(model, tokenizer, TEXTS[:40], how.pop("training", CP), seed=5, **how),
         "scratch": lambda model, tokenizer, **how: pretraining.train(model, tokenizer, TEXTS[:40], how.pop("training", SCRATCH), seed=5, **how),
         "SFT": lambda model, tokenizer, **how: instruction.train(model, tokenizer, INSTRUCTIONS, how.pop("training", SFT), seed=5, **how),
         "DPO": lambda model, tokenizer, **how: preference.train(model, tokenizer, PAIRS, how.pop("training", DPO.model_copy(update=HARD)), seed=5, **how)}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    """Each training without interruption: (model, curve)."""
    return {name: step(make_model(tokenizer), tokenizer, folder=tmp_path_factory.mktemp(name))[:2] for name, step in STEPS.items()}


class Killed(Exception):
    pass


def kill_at(monkeypatch, step: int) -> None:
    """The next training ends without a word behind this step, as if it were killed."""
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise Killed

    monkeypatch.setattr(trainer, "progress", Kill)


def weights(model) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for name, weight in sorted(model.named_parameters()) if "lora" in name or not hasattr(model, "peft_config")])


def kill_and_continue(monkeypatch, capsys, tokenizer, name: str, folder: Path, steps: list[int], **how):
    for step in steps:
        with monkeypatch.context() as patched:
            kill_at(patched, step)
            with pytest.raises(Killed):
                STEPS[name](make_model(tokenizer), tokenizer, folder=folder, **how)
    torch.manual_seed(99)  # what the new process drew before must not matter
    capsys.readouterr()
    made = STEPS[name](make_model(tokenizer), tokenizer, folder=folder, **how)
    return *made[:2], capsys.readouterr().out


# Steps per epoch: CP 4 (a short last one), SFT 3, DPO 2. Killed inside an epoch, at its end, and twice.
@pytest.mark.parametrize("name, steps", [("CP", [2]), ("CP", [4]), ("CP", [5, 7]), ("scratch", [6]), ("SFT", [1]), ("SFT", [5]), ("SFT", [3, 4]), ("DPO", [1]), ("DPO", [2, 3])])
def test_killed_and_continued_equals_uninterrupted(tokenizer, whole, tmp_path, monkeypatch, capsys, name, steps):
    model, curve, said = kill_and_continue(monkeypatch, capsys, tokenizer, name, tmp_path, steps)
    expected_model, expected = whole[name]
    assert f"continues from checkpoint-{steps[-1]}" in said
    assert curve["step"].tolist() == expected["step"].tolist() == list(range(1, len(expected) + 1))
    assert curve["loss"].tolist() == pytest.approx(expected["loss"].tolist(), abs=1e-5)
    assert float((weights(model) - weights(expected_model)).abs().max()) < 1e-5
    other = [column for column in expected.columns if column.startswith(("rewards", "learning_rate", "grad_norm"))]
    assert curve[other].to_numpy(float) == pytest.approx(expected[other].to_numpy(float), abs=1e-4)


def test_a_kill_between_two_points_of_the_curve_costs_the_steps_since_the_last_point(tokenizer, tmp_path, monkeypatch, capsys):
    """The mean loss of a point is over all its steps: a checkpoint between two points would lose the first of them."""
    monkeypatch.setattr(trainer, "LOG_POINTS", 4)
    _, expected = STEPS["CP"](make_model(tokenizer), tokenizer, folder=tmp_path / "whole")
    _, curve, said = kill_and_continue(monkeypatch, capsys, tokenizer, "CP", tmp_path / "killed", [8])
    assert "continues from checkpoint-6" in said and curve["step"].tolist() == expected["step"].tolist() == [1, 3, 6, 9, 12]
    assert curve["loss"].tolist() == pytest.approx(expected["loss"].tolist(), abs=1e-5)


def test_a_process_that_is_really_killed_is_continued(tokenizer, whole, tmp_path, capsys):
    """SIGKILL: nothing of the other process is left but the folder."""
    script = "\n".join([
        "import os, signal, sys, pathlib, torch", "torch.set_num_threads(1)", f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
        "import test_training_resume as t", "from types import SimpleNamespace", "from transformers import AutoTokenizer",
        "t.kill_at(SimpleNamespace(setattr=setattr), 4)", "t.Killed.__init__ = lambda self: os.kill(os.getpid(), signal.SIGKILL)",
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer.name_or_path!r})",
        f"t.STEPS['SFT'](t.make_model(tokenizer), tokenizer, folder=pathlib.Path({str(tmp_path)!r}))"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL, done.stderr
    _, curve, _ = STEPS["SFT"](make_model(tokenizer), tokenizer, folder=tmp_path)
    assert "continues from checkpoint-4" in capsys.readouterr().out
    assert curve["loss"].tolist() == pytest.approx(whole["SFT"][1]["loss"].tolist(), abs=1e-5)


def test_a_finished_training_is_not_trained_again(tokenizer, whole, tmp_path, monkeypatch, capsys):
    """02 and 03 hold two trainings each: killed in the second, the first must not cost its hours again."""
    for name in ("scratch", "SFT"):
        model, curve, *more = STEPS[name](make_model(tokenizer), tokenizer, folder=tmp_path)
        kill_at(monkeypatch, 0)
        again, same, *others = STEPS[name](make_model(tokenizer), tokenizer, folder=tmp_path)
        monkeypatch.undo()
        assert "finished before" in capsys.readouterr().out
        assert torch.equal(weights(model), weights(again)) and same.equals(curve) and all(a.equals(b) for a, b in zip(more, others))


@pytest.mark.parametrize("change", ["training", "seed", "texts", "start"])
def test_another_training_does_not_continue_this_one(tokenizer, tmp_path, change):
    data = pd.DataFrame({"text": TEXTS})
    how = {"model": make_model(tokenizer), "data": data, "training": CP, "seed": 1}
    other = {"training": {"training": CP.model_copy(update={"learning_rate": 2e-3})}, "seed": {"seed": 2}, "texts": {"data": data.iloc[::-1]},
             "start": {"model": make_model(tokenizer, seed=1)}}[change]
    assert checkpoints.place(tmp_path, **how) == checkpoints.place(tmp_path, **how | {"model": make_model(tokenizer)})
    assert checkpoints.place(tmp_path, **how) != checkpoints.place(tmp_path, **how | other)
    elsewhere = CP.model_copy(update={"devices": 2, "checkpoint_minutes": 5})
    assert checkpoints.place(tmp_path, **how) == checkpoints.place(tmp_path, **how | {"training": elsewhere}), "the number of devices does not change what is learned"


@pytest.mark.parametrize("damage, words", [("short", "optimizer.pt has 10 of"), ("unsealed", "was not written to its end")])
def test_a_checkpoint_that_is_cut_short_is_named_and_the_one_before_is_taken(tokenizer, whole, tmp_path, monkeypatch, capsys, damage, words):
    with monkeypatch.context() as patched:
        kill_at(patched, 5)
        with pytest.raises(Killed):
            STEPS["SFT"](make_model(tokenizer), tokenizer, folder=tmp_path)
    last = next(tmp_path.glob("*/checkpoint-5"))
    (last / checkpoints.WHOLE).unlink() if damage == "unsealed" else os.truncate(last / "optimizer.pt", 10)
    _, curve, *_ = STEPS["SFT"](make_model(tokenizer), tokenizer, folder=tmp_path)
    said = capsys.readouterr().out
    assert "the checkpoint of step 5" in said and words in said and "continues from checkpoint-4" in said
    assert curve["loss"].tolist() == pytest.approx(whole["SFT"][1]["loss"].tolist(), abs=1e-5)


def test_a_result_that_is_cut_short_is_trained_again(tokenizer, tmp_path, capsys):
    short = CP.model_copy(update={"epochs": 1})
    _, curve = STEPS["CP"](make_model(tokenizer), tokenizer, folder=tmp_path, training=short)
    os.truncate(next(tmp_path.glob("*/result/adapter_model.safetensors")), 100)
    _, again = STEPS["CP"](make_model(tokenizer), tokenizer, folder=tmp_path, training=short)
    assert "is cut short (adapter_model.safetensors has 100 of" in capsys.readouterr().out
    assert again["loss"].tolist() == curve["loss"].tolist()


def test_checkpoints_come_by_the_clock_and_do_not_pile_up(tokenizer, tmp_path, monkeypatch):
    for minutes, expected in ((0.0, {"checkpoint-6", "checkpoint-7"}), (60.0, set())):
        with monkeypatch.context() as patched:
            kill_at(patched, 7)
            with pytest.raises(Killed):
                STEPS["CP"](make_model(tokenizer), tokenizer, folder=tmp_path / f"{minutes}", training=CP.model_copy(update={"checkpoint_minutes": minutes}))
        assert {folder.name for folder in (tmp_path / f"{minutes}").glob("*/checkpoint-*")} == expected


def test_a_new_run_keeps_the_checkpoints_of_a_killed_one(home):
    """manifest.begin empties the stage's folder, but not what a killed run continues from; and a manifest never names it."""
    from hippo_utils import manifest, params
    settings = params.load("tiny")
    stage = manifest.begin("01_corpus", settings)
    (stage.folder / "checkpoints" / "x").mkdir(parents=True)
    (stage.folder / "checkpoints" / "x" / "file").write_text("x")
    (stage.folder / "other").write_text("x")
    stage = manifest.begin("01_corpus", settings)
    assert (stage.folder / "checkpoints" / "x" / "file").exists() and not (stage.folder / "other").exists()
    stage.finish()
    assert not manifest.read("tiny", "01_corpus")["outputs"]
