"""Does the preflight foresee peak memory? Foreseen against measured, for models of 100M parameters and more, on the CPU.

    python benchmarks/preflight.py [--cases CP SFT] [--shapes 110M]

Each case trains two steps with the project's own functions in a process of its own. Measured twice: the largest sum of all tensor
storages alive (what a GPU's allocator would count), and the rise of the process's resident memory (what the system saw). Foreseen is the
preflight's sum without its reserve. The model has random weights; every sequence is as long as it may be.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

# name: (step, loss, settings)
CASES = {
    "all weights": ("pretraining", "plain", dict(lora=None, batch=2)),
    "all weights, 2 passes a step": ("pretraining", "plain", dict(lora=None, batch=2, accumulation=2)),
    "CP": ("pretraining", "plain", dict(batch=4)),
    "CP, activations twice": ("pretraining", "plain", dict(batch=4, activation_checkpointing=True)),
    "CP, all linear maps": ("pretraining", "plain", dict(batch=4, targets="all-linear")),
    "CP, bfloat16": ("pretraining", "plain", dict(batch=4, precision="bfloat16")),
    "SFT": ("instruction", "tiled", dict(batch=4)),
    "SFT, all linear maps, bfloat16": ("instruction", "tiled", dict(batch=4, targets="all-linear", precision="bfloat16")),
    "DPO": ("preference", "pairs", dict(batch=2)),
}
SHAPES = {"110M": dict(layers=12, width=768, feed_forward=2048, heads=12, key_value_heads=12), "134M, grouped": dict(layers=16, width=768, feed_forward=2304, heads=12, key_value_heads=4)}
VOCABULARY, LENGTH = 32000, 256


def tracker():
    """A dispatch mode that adds up the bytes of all tensor storages alive: .now and .peak."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Storages(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.now = self.peak = 0
            self.alive = {}

        def add(self, tensor) -> None:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.free, storage._cdata)

        def free(self, key: int) -> None:
            self.now -= self.alive.pop(key)

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    self.add(tensor)
            return made

    return Storages()


def training_of(step: str, changes: dict):
    from hippo_utils.params import Dpo, Lora, Training
    changes = dict(changes)
    lora = Lora(rank=8, alpha=16, targets=changes.pop("targets", ["gate_proj", "up_proj", "down_proj"]))
    settings = dict(epochs=1, learning_rate=1e-4, schedule="constant", warmup=0.0, max_length=LENGTH, precision="float32", lora=lora) | changes
    return Dpo(**settings, beta=0.1, loss="sigmoid") if step == "preference" else Training(**settings)


def case(step: str, loss: str, changes: dict, shape: dict, vocabulary: int = VOCABULARY) -> dict[str, float]:
    """Train two steps and return bytes: foreseen by part, tensors, resident."""
    import resource
    from importlib import import_module

    import pandas as pd
    import torch

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from small import make_tokenizer

    from hippo_utils.params import Architecture
    from hippo_utils.training import memory, models
    room = import_module(f"hippo_utils.training.{step}")
    training = training_of(step, changes)
    context = max(LENGTH, training.max_length)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder))
        import_module("trl")  # what the libraries take is not the model's
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model = models.build(Architecture(family="llama", context=context, **shape), vocabulary, tokenizer.eos_token_id, 0)
        if training.precision == "bfloat16" and training.lora:
            model.to(torch.bfloat16)
        rows = 2 * training.batch * training.accumulation
        word = next(w for w in (" the", " a", "x") if len(tokenizer(w)["input_ids"]) == 1)
        with tracker() as storages:
            for weight in model.parameters():
                storages.add(weight)
            if step == "pretraining":
                data = [word * (training.max_length - 1)] * rows
            elif step == "instruction":
                data = pd.DataFrame({"id": range(rows), "prompt": word * 8, "completion": word * (training.max_length - 9)})
            else:
                data = pd.DataFrame({"id": range(rows), "prompt": word * 8, "chosen": word * (training.max_length - 9), "rejected": word * (training.max_length - 9)})
            room.train(model, tokenizer, data, training, folder=Path(folder) / "checkpoints", seed=0)
        resident = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    form = memory.Shape(vocabulary, shape["width"], shape["feed_forward"], shape["layers"], shape["heads"], shape["key_value_heads"], context,
                           shape["width"] // shape["heads"], tied=True)
    parts = memory.peak(form, training, memory.Device("CPU", 64, 0.02, gpus=0), loss)
    parts.pop("reserve")
    return {"parameters": form.parameters()} | parts | {"foreseen": sum(parts.values()), "tensors": storages.peak, "resident": resident}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, shape = options.one
        sys.stdout, out = sys.stderr, sys.stdout
        print(json.dumps(case(*CASES[name], SHAPES[shape])), file=out)
        return
    mib = 2**20
    print(f"{'shape':<15}{'case':<32}" + "".join(f"{word:>12}" for word in ("weights", "gradients", "optimiser", "activations", "logits", "foreseen", "tensors", "error", "resident", "error")))
    for shape in options.shapes:
        for name in options.cases:
            done = subprocess.run([sys.executable, __file__, "--one", name, shape], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "TOKENIZERS_PARALLELISM": "false"})
            if done.returncode:
                print(f"{shape:<15}{name:<32}{(done.stderr.strip().splitlines() or ['failed'])[-1]}", flush=True)
                continue
            r = json.loads(done.stdout.splitlines()[-1])
            numbers = [f"{r[part] / mib:.0f}" for part in ("weights", "gradients", "optimiser", "activations", "logits", "foreseen", "tensors")]
            numbers += [f"{r['foreseen'] / r['tensors'] - 1:+.1%}", f"{r['resident'] / mib:.0f}", f"{r['foreseen'] / r['resident'] - 1:+.1%}"]
            print(f"{shape:<15}{name:<32}" + "".join(f"{number:>12}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
