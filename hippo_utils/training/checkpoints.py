"""What lets a killed run continue: checkpoints while a training runs, and its result once it is finished.

A training has a folder of its own, named by a hash over everything that decides its result (`place`): a run that was killed
finds the same folder again, a run with another setting, text, start or version does not. A checkpoint counts only with its list of files,
which is written last; so does the result. Continued training equals the uninterrupted one step by step (a test shows it):
weights, optimiser, schedule, every source of randomness and the order of the rows are restored.
"""

import hashlib
import importlib.metadata
import json
import re
import shutil
import time
from pathlib import Path

import pandas as pd

from hippo_utils.manifest import write_json
from hippo_utils.params import Training

WHOLE = "whole.json"        # names every file of a checkpoint or result with its size; written last
ROW_ORDER = "row_order.bin"  # the random state from which the epoch's order of rows was drawn
ELSEWHERE = {"devices", "nodes", "checkpoint_minutes"}  # settings that do not change what is learned
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")


def place(folder: Path, model, data: pd.DataFrame, training: Training, seed: int) -> Path:
    """The folder of one training below `folder`."""
    parts = [training.model_dump_json(exclude=ELSEWHERE), seed, fingerprint(model), pd.util.hash_pandas_object(data, index=False).to_numpy().tobytes(),
             [importlib.metadata.version(name) for name in LIBRARIES], [file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))]]
    return Path(folder) / hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def fingerprint(model) -> str:
    """A hash over the beginning of every weight: which model a training starts from."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + weight.detach().reshape(-1)[:256].float().cpu().numpy().tobytes())
    return digest.hexdigest()


# --- whole or not --------------------------------------------------------------------------------------------------

def seal(folder: Path) -> None:
    """Write down which files a finished folder holds."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    write_json({str(file.relative_to(folder)): file.stat().st_size for file in files}, folder / WHOLE)


def flaw(folder: Path) -> str | None:
    """What is wrong with a checkpoint or result, in words; None when it is whole."""
    try:
        sizes = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "was not written to its end"
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if found != size:
            return f"is cut short ({name} has {found:,} of {size:,} bytes)"
    return None


def latest(place: Path) -> Path | None:
    """The newest whole checkpoint; a damaged one is named and taken away."""
    found = {int(folder.name.split("-")[1]): folder for folder in place.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", folder.name)}
    for step in sorted(found, reverse=True):
        if (wrong := flaw(found[step])) is None:
            return found[step]
        print(f"the checkpoint of step {step} {wrong}; it is not used")
        shutil.rmtree(found[step])
    return None


# --- while a training runs -------------------------------------------------------------------------------------------

def saver(trainer, minutes: float):
    """A callback that saves a checkpoint at the first logged step `minutes` after the last one, and keeps the order of the rows.

    Only at logged steps, because sums since the last logged one are not part of a checkpoint.
    """
    import torch
    from accelerate.utils import broadcast_object_list, synchronize_rng_states
    from transformers import TrainerCallback

    class Saver(TrainerCallback):
        continued: Path | None = None

        def on_train_begin(self, args, state, control, **kwargs):
            self.saved = time.monotonic()

        def on_epoch_begin(self, args, state, control, **kwargs):
            if self.continued:  # the Trainer draws the order of a continued epoch from a fresh state, which is right in the first epoch only
                torch.set_rng_state(torch.frombuffer(bytearray((self.continued / ROW_ORDER).read_bytes()), dtype=torch.uint8))
                self.continued = None
            if args.world_size > 1:  # processes that disagree on the order would skip rows and repeat others
                synchronize_rng_states(["torch"])
            self.row_order = torch.get_rng_state()

        def on_step_end(self, args, state, control, **kwargs):
            if control.should_log and state.global_step < state.max_steps:
                due = [time.monotonic() - self.saved >= 60 * minutes]
                control.should_save = (broadcast_object_list(due) if args.world_size > 1 else due)[0]

        def on_save(self, args, state, control, **kwargs):
            trainer.accelerator.wait_for_everyone()
            if state.is_world_process_zero:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                ended = float(state.epoch).is_integer()  # then the order still to come matters
                (folder / ROW_ORDER).write_bytes(bytes((torch.get_rng_state() if ended else self.row_order).tolist()))  # bytes, no pickle
                seal(folder)
            self.saved = time.monotonic()

    return Saver()


# --- when it is finished -----------------------------------------------------------------------------------------------

def finish(trainer, place: Path, frames: list[pd.DataFrame]) -> None:
    """Keep what a training made, model and tables, so that a run that is killed later does not train it again."""
    trainer.save_model(str(place / "result"))  # gathers the parts when the model is shared out
    if trainer.is_world_process_zero():
        for number, frame in enumerate(frames):
            frame.to_parquet(place / "result" / f"{number}.parquet")
        seal(place / "result")
        for folder in place.glob("checkpoint-*"):
            shutil.rmtree(folder)
    trainer.accelerator.wait_for_everyone()


def finished(place: Path, model):
    """(trained model, tables ...) of a training that was finished before, put onto the model it started from; None when it was not."""
    from hippo_utils.training import models
    result = place / "result"
    if not result.exists():
        return None
    if wrong := flaw(result):
        print(f"a result in {place.name} {wrong}; it is not used")
        shutil.rmtree(result)
        return None
    frames = [pd.read_parquet(file) for file in sorted(result.glob("*.parquet"))]
    return models.trained(model, result).eval(), *frames
