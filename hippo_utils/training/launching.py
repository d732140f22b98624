"""Where a training runs: one process on one device in the notebook itself, more of them under `accelerate launch`.

The subprocess trains with the same function as the notebook would; its log streams into the notebook. By hand it is

    accelerate launch --config_file params/accelerate/ddp.yaml --num_processes 2 -m hippo_utils.training FOLDER

where FOLDER, prepared by the notebook, holds the model to start from, the tokenizer, the texts and the parameters. On several nodes
(a job of a cluster's queue) srun starts that command once per node.
"""

import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Callable

import pandas as pd

from hippo_utils import paths
from hippo_utils.manifest import StageError, write_json
from hippo_utils.params import Dpo, Training
from hippo_utils.training import checkpoints, models

PORT = 29500
PRCTL = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None  # looked up here: little may be done between fork and exec
PR_SET_PDEATHSIG = 1


def train(fit: Callable, model, tokenizer, data: pd.DataFrame, training: Training, *, folder: Path, seed: int):
    """Run one training step, here or in several processes, and continue it if it was killed.

    `fit(model, tokenizer, data, training, folder, seed)` returns the trainer and its tables; the result is the trained model
    followed by the tables. A training that was finished before is not repeated.
    """
    models.quiet()
    place = checkpoints.place(Path(folder), model, data, training, seed)
    if done := checkpoints.finished(place, model):
        print("this training was finished before; its result is taken")
        return done
    place.mkdir(parents=True, exist_ok=True)
    if training.devices * training.nodes == 1:
        trainer, *tables = fit(model, tokenizer, data, training, place, seed)
        checkpoints.finish(trainer, place, tables)
        trained = models.plain(trainer.model).eval()
        del trainer
        models.release()  # the optimiser's state
        return trained, *tables
    refuse_fsdp_without_gpus(training)
    words = command(place, training)
    prepare(place, fit, model, tokenizer, data, training, seed)
    device = model.device
    start = model.to("cpu")
    models.release()  # the devices belong to the processes now
    stream(words, place)
    trained, *tables = checkpoints.finished(place, start) or [None]
    if trained is None:
        raise StageError(f"accelerate launch ended without a result in {paths.shown(place)}; read its log above")
    shutil.rmtree(place / "start")
    return trained.to(device), *tables


# --- several processes -----------------------------------------------------------------------------------------------

def prepare(place: Path, fit: Callable, model, tokenizer, data: pd.DataFrame, training: Training, seed: int) -> None:
    """Write down everything that the processes need."""
    model.save_pretrained(place / "start")
    tokenizer.save_pretrained(place / "start")
    data.to_parquet(place / "texts.parquet")
    write_json({"fit": fit.__module__, "training": training.model_dump(), "seed": seed}, place / "job.json")


def refuse_fsdp_without_gpus(training: Training) -> None:
    """accelerate takes FSDP on GPUs only; on CPU processes it says nothing and gives each of them the whole model."""
    import torch
    config = (paths.PARAMS / "accelerate" / f"{training.accelerate}.yaml").read_text(encoding="utf-8")
    if "distributed_type: FSDP" in config and not torch.cuda.is_available():
        raise StageError(f"{training.accelerate} shares a model out over GPUs, and this machine has none; take accelerate: ddp")


def command(place: Path, training: Training) -> list[str]:
    """The command that trains what lies in `place`; on several nodes it runs once on each."""
    config = paths.PARAMS / "accelerate" / f"{training.accelerate}.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", str(training.devices * training.nodes)]
    module = ["-m", "hippo_utils.training", str(place)]
    if training.nodes == 1:
        return [*launch, "--main_process_port", "0", *module]
    if "SLURM_JOB_NODELIST" not in os.environ:
        raise StageError(f"{training.nodes} nodes: start this run as a job of the cluster, or set nodes to 1")
    try:
        asked = subprocess.run(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], capture_output=True, text=True)
    except OSError as error:
        raise StageError(f"{training.nodes} nodes: scontrol, which names them, cannot be started ({error.strerror}); "
                         "load Slurm's commands in cluster.setup, or set nodes to 1") from None
    if asked.returncode or not asked.stdout.split():
        why = " ".join(asked.stderr.split()) or "no reason given"
        raise StageError(f"{training.nodes} nodes: scontrol names none for {os.environ['SLURM_JOB_NODELIST']} ({why}); submit the job again, or set nodes to 1")
    first = asked.stdout.split()[0]
    port = PORT + int(os.environ.get("SLURM_JOB_ID", 0)) % 1000  # two jobs may share a node
    several = ["--num_machines", str(training.nodes), "--main_process_ip", first, "--main_process_port", str(port)]
    each = " ".join(map(shlex.quote, [*launch, *several])) + " --machine_rank $SLURM_NODEID " + " ".join(map(shlex.quote, module))
    return ["srun", f"--nodes={training.nodes}", f"--ntasks={training.nodes}", "--ntasks-per-node=1", "bash", "-c", each]


def stream(words: list[str], place: Path) -> None:
    """Run a command, its output line by line into the notebook and into the training's folder; StageError with its last words if it fails."""
    print("$ " + " ".join(map(shlex.quote, words)), flush=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")])), "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment, cwd=paths.ROOT,
                             preexec_fn=_ends_with_its_parent if sys.platform == "linux" else None)
    said = []
    try:
        with open(place / "log.txt", "a", encoding="utf-8") as log:
            for line in child.stdout:
                log.write(line)
                said = [*said[-200:], line.rstrip()]
                print("  " + line.rstrip(), flush=True)
    finally:  # interrupted: no process stays behind on a device
        if child.poll() is None:
            child.terminate()
        code = child.wait()
    if code:
        last = [line for line in said if re.match(r"(\[rank\d+\]: ?)?[\w.]*(Error|Exception)\b", line)] or [line for line in said if line.strip()][-1:] or ["no output"]
        raise StageError(f"the training processes ended with code {code}: {last[0].partition('StageError: ')[2] or last[0]}; the whole log is {paths.shown(place / 'log.txt')}")


def _ends_with_its_parent() -> None:
    """Linux: ask for SIGTERM when the notebook's kernel is killed, which has no time to end its processes; they would stay on the devices."""
    PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)


def work(place: Path) -> None:
    """What each of the processes does: load what was prepared, train, and keep the result."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    if int(os.environ.get("RANK", 0)):
        sys.stdout = open(os.devnull, "w")  # the first process speaks for all
    job = json.loads((place / "job.json").read_text(encoding="utf-8"))
    training = (Dpo if "beta" in job["training"] else Training).model_validate(job["training"])
    models.quiet()
    if training.lora and training.lora.bits:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))  # quantised weights are loaded onto their device
    model = AutoModelForCausalLM.from_pretrained(place / "start", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(place / "start")
    trainer, *tables = import_module(job["fit"]).fit(model, tokenizer, pd.read_parquet(place / "texts.parquet"), training, place, job["seed"])
    checkpoints.finish(trainer, place, tables)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
