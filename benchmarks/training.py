"""What does the project's path to training cost, and what does packing gain?

    python benchmarks/training.py [--quick] [--threads 1]

cp      continued pre-training through `pretraining.train` (tokenising, packing, Transformers' Trainer, checkpoints' bookkeeping, the result kept) against a
        bare PyTorch loop that does the same arithmetic on the same rows: same model, batch, optimiser, clipping and schedule. At least 0.9 is wanted.
sft     trainable tokens per second of SFT, examples packed (attention inside each) against padded (rows of similar length together), same examples.

Both ways in turn on one machine in one run, after a warm-up; ratios are of medians. Each is printed as it is found, the table at the end.
"""

import argparse
import contextlib
import io
import random
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from hippo_utils.params import Architecture, Lora, Training
from hippo_utils.training import instruction, models, pretraining, trainer

MODELS = {"mini": Architecture(family="llama", layers=4, width=128, feed_forward=384, heads=4, key_value_heads=4, context=640),
          "small": Architecture(family="mistral", layers=8, width=384, feed_forward=1024, heads=6, key_value_heads=2, context=1024, sliding_window=256)}
STEPS = {"mini": 200, "small": 30}  # of a real training there are thousands: what it costs once must not be most of what is measured
TRAINING = Training(epochs=1, learning_rate=1e-3, schedule="cosine", warmup=0.03, batch=4, max_length=256, precision="float32")
LORA = Lora(rank=16, alpha=32, targets="all-linear")


def words(count: int, rng: random.Random) -> str:
    return " ".join(rng.choice(("metformin", "aspirin", "patient", "fever", "treats", "is given", "with", "rest", "dose", "liver", "and", "the")) for _ in range(count))


def make_tokenizer(folder: Path):
    from transformers import AutoTokenizer

    from hippo_utils.corpus import tokenizer
    return AutoTokenizer.from_pretrained(tokenizer.train([words(500, random.Random(seed)) for seed in range(10)], 400, folder))


def bare(model, tokenizer, texts: list[str], training: Training) -> None:
    """The loop that one would write by hand."""
    from transformers import get_cosine_schedule_with_warmup
    rows = torch.from_numpy(trainer.pack(texts, tokenizer, training.max_length))
    if training.lora:
        model = models.add_lora(model, training.lora)
    model.train()
    steps = trainer.steps_of(training, len(rows))
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimiser, round(training.warmup * steps), steps)
    for batch in rows[torch.randperm(len(rows))].split(training.batch):
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()


def timed(ways: dict, repeats: int) -> dict[str, float]:
    """Median seconds of each way, taken in turn after one warm-up each."""
    seconds = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            make, work = way
            made = make()
            started = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                work(made)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def cp(tokenizer, folder: Path, most: int, repeats: int) -> pd.DataFrame:
    rng, rows = random.Random(0), []
    for size, shape in MODELS.items():
        for lora in (None, LORA):
            training = TRAINING.model_copy(update={"lora": lora})
            texts = [words(60, rng) for _ in range(4000)]
            packed = trainer.pack(texts, tokenizer, training.max_length)
            texts = texts[:round(len(texts) * min(most, STEPS[size]) * training.batch / len(packed))]
            tokens = trainer.pack(texts, tokenizer, training.max_length).size
            taken = iter(range(10**6))
            seconds = timed({"project": (lambda: models.build(shape, len(tokenizer), 0, 0), lambda model: pretraining.train(
                                 model, tokenizer, texts, training, folder=folder / f"{size}{next(taken)}", seed=0)),
                             "bare": (lambda: models.build(shape, len(tokenizer), 0, 0), lambda model: bare(model, tokenizer, texts, training))}, repeats)
            rows.append({"model": size, "trained": "LoRA" if lora else "all weights", "project tokens/s": tokens / seconds["project"],
                         "bare tokens/s": tokens / seconds["bare"], "ratio": seconds["bare"] / seconds["project"]})
            print(f"  {rows[-1]['model']}, {rows[-1]['trained']}: {rows[-1]['ratio']:.3f}", flush=True)  # the whole takes twenty minutes
    return pd.DataFrame(rows)


def sft(tokenizer, folder: Path, examples: int, repeats: int) -> pd.DataFrame:
    rng, rows = random.Random(1), []
    for spread, shortest, longest in (("short", 10, 40), ("mixed", 10, 150)):
        data = pd.DataFrame({"prompt": [words(rng.randint(shortest, longest), rng) + "\nAnswer:" for _ in range(examples)],
                             "completion": [" " + words(rng.randint(2, max(3, longest // 3)), rng) for _ in range(examples)]})
        trainable = int(instruction.tokens_of(data, tokenizer, 512)["trainable"].sum())
        per_row = examples / len(instruction.packed(data, tokenizer, 512))
        batch = 16
        ways, taken = {}, iter(range(10**6))
        for packing in (None, "documents"):  # as many examples a step either way
            training = TRAINING.model_copy(update={"lora": LORA, "max_length": 512, "packing": packing, "batch": batch if packing is None else max(1, round(batch / per_row))})
            ways[packing or "padded"] = (lambda: models.build(MODELS["mini"], len(tokenizer), 0, 0), lambda model, training=training: instruction.train(
                model, tokenizer, data, training, folder=folder / f"{spread}{next(taken)}", seed=0))
        seconds = timed(ways, repeats)
        rows.append({"examples": spread, "examples per packed row": per_row, "padded trainable tokens/s": trainable / seconds["padded"],
                     "packed trainable tokens/s": trainable / seconds["documents"], "gain": seconds["padded"] / seconds["documents"]})
        print(f"  {spread}: {rows[-1]['gain']:.3f}", flush=True)
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> dict[str, pd.DataFrame]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, one repeat: to see that it works, not to measure")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["cp", "sft"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder) / "tokenizer")
        if options.only != "sft":
            found["cp"] = cp(tokenizer, Path(folder), 4 if options.quick else 200, 1 if options.quick else 3)
        if options.only != "cp":
            found["sft"] = sft(tokenizer, Path(folder), 48 if options.quick else 600, 1 if options.quick else 3)
    for name, table in found.items():
        print(f"\n{name}\n{table.round(3).to_string(index=False)}")
    return found


if __name__ == "__main__":
    main()
