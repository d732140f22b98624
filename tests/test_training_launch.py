"""Several processes: the same losses as one at the same effective batch, an adapter that loads, and failures in words."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from small import TRAINING, make_model
from test_training import DPO, INSTRUCTIONS, PAIRS, TEXTS, largest, logits

from hippo_utils import params, paths
from hippo_utils.manifest import StageError
from hippo_utils.training import instruction, launching, models, preference, pretraining, trainer

# Rows come out as whole batches: a short last one is filled up with rows from the beginning when several processes share it.
EFFECTIVE = {"batch": 4, "accumulation": 2, "epochs": 2, "schedule": "cosine"}
CP = TRAINING.model_copy(update=EFFECTIVE | {"max_length": 32})
SFT = TRAINING.model_copy(update=EFFECTIVE)


pytestmark = pytest.mark.usefixtures("one_thread")


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


def whole_batches(tokenizer) -> list[str]:
    """As many texts as fill whole batches."""
    return next(TEXTS[:number] for number in range(32, 0, -1) if len(trainer.pack(TEXTS[:number], tokenizer, CP.max_length)) % (CP.batch * CP.accumulation) == 0)


STEPS = {"CP": lambda model, tokenizer, how, folder: pretraining.train(model, tokenizer, whole_batches(tokenizer), CP.model_copy(update=how), folder=folder, seed=3),
         "SFT": lambda model, tokenizer, how, folder: instruction.train(model, tokenizer, INSTRUCTIONS, SFT.model_copy(update=how), folder=folder, seed=3),
         "DPO": lambda model, tokenizer, how, folder: preference.train(model, tokenizer, PAIRS, DPO.model_copy(update=EFFECTIVE | how), folder=folder, seed=3)}


@pytest.fixture
def worker(monkeypatch):
    """The processes run tests/worker.py instead of hippo_utils.training."""
    real = launching.command
    monkeypatch.setattr(launching, "command", lambda *arguments: [word if word != "hippo_utils.training" else "worker" for word in real(*arguments)])
    monkeypatch.setattr(launching, "refuse_fsdp_without_gpus", lambda training: None)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]]))
    return monkeypatch


def compare(tokenizer, tmp_path, capsys, step: str, how: dict, several: dict):
    """Train once in the notebook's process and once in several; both results must be the same within rounding."""
    one, expected, *_ = STEPS[step](make_model(tokenizer), tokenizer, how, tmp_path / "one")
    capsys.readouterr()
    made, curve, *_ = STEPS[step](make_model(tokenizer), tokenizer, how | several, tmp_path / "several")
    said = capsys.readouterr().out
    assert re.search(r"^\$ .*accelerate.commands.launch --config_file \S+params/accelerate/\w+.yaml --num_processes 2 .* -m (worker|hippo_utils.training) ", said, re.M)
    assert len(re.findall(r"^    step 1 of", said, re.M)) == 1, "one process speaks"
    assert curve["step"].tolist() == expected["step"].tolist()
    assert curve["loss"].tolist() == pytest.approx(expected["loss"].tolist(), abs=1e-4)
    assert expected["loss"].iloc[-1] < expected["loss"].iloc[0]
    assert float((weights(made) - weights(one)).abs().max()) < 1e-3
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    models.save(made, tmp_path / "made")
    loaded = models.apply(make_model(tokenizer), tmp_path / "made")
    assert largest(logits(loaded, ids), logits(one, ids)) < 1e-3 < largest(logits(loaded, ids), logits(make_model(tokenizer), ids))


@pytest.mark.parametrize("step", ["SFT", pytest.param("CP", marks=pytest.mark.slow), pytest.param("DPO", marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_learns(tokenizer, tmp_path, capsys, step):
    """gloo on the CPU. The gradients are summed in another order, so the last digits differ: 1e-4 in the loss, 1e-3 in the weights."""
    compare(tokenizer, tmp_path, capsys, step, {}, {"devices": 2})


@pytest.mark.slow
@pytest.mark.parametrize("step, how", [("CP", {}), ("CP", {"lora": None}), ("SFT", {}), ("DPO", {})])
def test_two_processes_that_share_one_model_learn_what_one_learns(tokenizer, tmp_path, capsys, worker, step, how):
    """FSDP2 over gloo; how accelerate is brought to it without a GPU, tests/worker.py says."""
    worker.setenv("HIPPO_TEST_FSDP", "1")
    compare(tokenizer, tmp_path, capsys, step, how, {"devices": 2, "accelerate": "fsdp2"})


def test_a_model_is_shared_out_over_gpus_only(tokenizer, tmp_path):
    """accelerate itself says nothing and gives every process the whole model."""
    with pytest.raises(StageError, match="fsdp2 shares a model out over GPUs, and this machine has none; take accelerate: ddp"):
        STEPS["CP"](make_model(tokenizer), tokenizer, {"devices": 2, "accelerate": "fsdp2"}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("sharing, fsdp", [("ddp", ""), ("fsdp2", "1")])
def test_several_processes_that_were_killed_continue(tokenizer, tmp_path, capsys, worker, sharing, fsdp):
    how = {"devices": 2, "accelerate": sharing, "checkpoint_minutes": 0.0}
    worker.setenv("HIPPO_TEST_FSDP", fsdp)
    _, expected, _ = STEPS["SFT"](make_model(tokenizer), tokenizer, how, tmp_path / "whole")
    worker.setenv("HIPPO_TEST_KILL", "4")
    with pytest.raises(StageError, match="the training processes ended with code"):
        STEPS["SFT"](make_model(tokenizer), tokenizer, how, tmp_path / "killed")
    worker.delenv("HIPPO_TEST_KILL")
    capsys.readouterr()
    _, curve, _ = STEPS["SFT"](make_model(tokenizer), tokenizer, how, tmp_path / "killed")
    assert "continues from checkpoint-4" in capsys.readouterr().out
    assert curve["step"].tolist() == expected["step"].tolist()
    assert curve["loss"].tolist() == pytest.approx(expected["loss"].tolist(), abs=1e-5)


@pytest.mark.slow
def test_two_nodes_start_with_srun(tokenizer, tmp_path, capsys, monkeypatch):
    """Stand-ins for Slurm's commands: two nodes that are both this machine."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, body in {"scontrol": "[ \"$*\" = 'show hostnames here[1-2]' ] && printf 'localhost\\nlocalhost\\n'",
                       "srun": "[ \"$1 $2 $3\" = '--nodes=2 --ntasks=2 --ntasks-per-node=1' ] || exit 9; shift 3\nSLURM_NODEID=1 \"$@\" & SLURM_NODEID=0 \"$@\"; wait"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tools), os.environ["PATH"]]))
    monkeypatch.setenv("SLURM_JOB_NODELIST", "here[1-2]")
    one, expected, _ = STEPS["SFT"](make_model(tokenizer), tokenizer, {}, tmp_path / "one")
    several, curve, _ = STEPS["SFT"](make_model(tokenizer), tokenizer, {"nodes": 2}, tmp_path / "several")
    assert "$ srun --nodes=2" in capsys.readouterr().out
    assert curve["loss"].tolist() == pytest.approx(expected["loss"].tolist(), abs=1e-4)


def test_every_accelerate_file_is_read_by_accelerate():
    from accelerate.commands.config.config_args import load_config_from_file
    files = sorted((paths.PARAMS / "accelerate").glob("*.yaml"))
    found = {file.stem: load_config_from_file(str(file)) for file in files}
    assert {name: str(config.distributed_type).split(".")[-1] for name, config in found.items()} == {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}
    assert found["fsdp2"].fsdp_config["fsdp_version"] == 2 and found["fsdp2"].fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT", "an adapter must be saved whole"
    assert all(config.mixed_precision == "no" for config in found.values()), "the parameters say the precision, in one place"


# --- the command, the effective batch, and what goes wrong ----------------------------------------------------------------

def test_several_nodes_without_a_cluster_are_refused(tokenizer, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(StageError, match="2 nodes: start this run as a job of the cluster, or set nodes to 1"):
        STEPS["SFT"](make_model(tokenizer), tokenizer, {"nodes": 2}, tmp_path)


@pytest.mark.parametrize("scontrol, said", [
    (None, r"scontrol, which names them, cannot be started \(No such file or directory\); load Slurm's commands in cluster.setup"),
    ("echo 'slurm_load_node error: Unable to contact slurm controller' >&2; exit 1", r"scontrol names none for node\[1-2\] \(slurm_load_node error: Unable to contact slurm controller\)"),
    ("exit 0", r"scontrol names none for node\[1-2\] \(no reason given\)")])
def test_nodes_that_cannot_be_named_are_a_sentence(tmp_path, monkeypatch, scontrol, said):
    if scontrol:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{scontrol}\n")
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    with pytest.raises(StageError, match=f"^2 nodes: {said}"):
        launching.command(tmp_path / "a training", SFT.model_copy(update={"nodes": 2}))


@pytest.mark.parametrize("arguments, said", [([], "the following arguments are required: folder"), (["."], r"\. holds no training that a notebook prepared: no job\.json")])
def test_the_command_of_a_process_without_its_folder_says_how_it_is_used(tmp_path, arguments, said):
    done = subprocess.run([sys.executable, "-m", "hippo_utils.training", *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and re.search(said, done.stderr) and "Traceback" not in done.stderr


@pytest.mark.parametrize("batch, accumulation", [(8, 2), (4, 4), (16, 1), (2, 8), (3, 4), (5, 6)])
def test_the_effective_batch_is_the_same_on_any_number_of_devices(batch, accumulation):
    for processes in range(1, batch * accumulation + 1):
        how = TRAINING.model_dump() | {"batch": batch, "accumulation": accumulation, "devices": processes, "lora": TRAINING.lora}
        if batch * accumulation % processes:
            with pytest.raises(ValueError, match="cannot be shared equally"):
                params.Training.model_validate(how)
            continue
        each, passes = trainer.shares(params.Training.model_validate(how))
        assert each * passes * processes == batch * accumulation and each <= batch, "a device never holds more at once than was asked for"


@pytest.mark.parametrize("printed, words", [
    ("[rank0]: Traceback (most recent call last):\n[rank0]:   File x\n[rank0]: hippo_utils.manifest.StageError: the texts hold 3 tokens; add texts", "the texts hold 3 tokens; add texts"),
    ("Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\nE1121 elastic: failed", "CUDA out of memory"), ("strange words", "strange words"), ("", "working")])
def test_what_a_process_said_last_reaches_the_notebook(tmp_path, capsys, printed, words):
    with pytest.raises(StageError, match=rf"ended with code 3: .*{words}.*; the whole log is .*log.txt") as raised:
        launching.stream([sys.executable, "-c", f"import sys; print('working'); print({printed!r}); sys.exit(3)"], tmp_path)
    assert "\n" not in str(raised.value)
    assert "  working" in capsys.readouterr().out and "working" in (tmp_path / "log.txt").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_processes_end_when_the_kernel_that_started_them_is_killed(tmp_path):
    """They would stay on the devices, and the next try would find no memory."""
    script = f"from pathlib import Path; from hippo_utils.training import launching; launching.stream([{sys.executable!r}, '-c', {SLEEPER!r}], Path({str(tmp_path)!r}))"
    kernel = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(next(int(line) for line in kernel.stdout if line.strip().isdigit()))
    kernel.kill()
    child.wait(10)


SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def test_output_streams_while_the_processes_work(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("builtins.print", lambda *words, **more: shown.append((time.monotonic(), " ".join(words))))
    launching.stream([sys.executable, "-c", "import time\nfor n in range(2): print(n); time.sleep(1.5)"], tmp_path)
    at = {line.strip(): when for when, line in shown}
    assert at["1"] - at["0"] > 0.4
