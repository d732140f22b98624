"""What the three training steps share: the arguments of Transformers' Trainer, packing, the loss curve, and loud failures."""

import math
import time
from typing import Iterable

import numpy as np
import pandas as pd

from hippo_utils.manifest import StageError
from hippo_utils.params import Training

LOG_POINTS = 25  # points of a loss curve


def precision(asked: str) -> tuple[str, str]:
    """The precision to train in and the reason: bfloat16 where the GPU has it, float16 on older GPUs, float32 on the CPU."""
    import torch
    if asked != "auto":
        return asked, "asked for by the parameters"
    if not torch.cuda.is_available():
        return "float32", "no GPU"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16", f"{torch.cuda.get_device_name()} computes in bfloat16"
    return "float16", f"{torch.cuda.get_device_name()} has no bfloat16"


def arguments(training: Training, folder, seed: int, examples: int) -> dict:
    """Keyword arguments for TrainingArguments, SFTConfig and DPOConfig alike."""
    import torch
    kind, _ = precision(training.precision)
    steps = steps_of(training, examples)
    schedule, more = training.schedule, {}
    if schedule == "warmup_stable_decay":
        warm = round(training.warmup * steps)
        schedule, more = "warmup_stable_decay", {"num_decay_steps": max(1, (steps - warm) // 3), "num_stable_steps": steps - warm - max(1, (steps - warm) // 3)}
    return dict(
        output_dir=str(folder), num_train_epochs=training.epochs, learning_rate=training.learning_rate,
        lr_scheduler_type=schedule, lr_scheduler_kwargs=more, warmup_steps=training.warmup, weight_decay=training.weight_decay,
        per_device_train_batch_size=training.batch, gradient_accumulation_steps=training.accumulation,
        bf16=kind == "bfloat16", fp16=kind == "float16", use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=False, dataloader_num_workers=0, dataloader_pin_memory=False, seed=seed, data_seed=seed,
        logging_steps=max(1, steps // LOG_POINTS), logging_first_step=True, logging_nan_inf_filter=False,
        save_strategy="no", report_to="none", disable_tqdm=True)


def progress():
    """A callback that prints a line about ten times in a training, in place of the Trainer's dictionaries."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.started = time.time()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "loss" in logs and (state.global_step == 1 or state.global_step % max(1, state.max_steps // 8) < args.logging_steps):
                print(f"  step {state.global_step} of {state.max_steps}: loss {float(logs['loss']):.3f}, {time.time() - self.started:.0f} s", flush=True)

    return Progress()


def run(trainer) -> None:
    """Train, with plain progress lines."""
    from transformers import PrinterCallback
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(progress())
    trainer.train()


def steps_of(training: Training, examples: int) -> int:
    """Optimiser steps that `examples` sequences make, as the Trainer counts them."""
    per_epoch = math.ceil(math.ceil(examples / training.batch) / training.accumulation)
    return max(1, math.ceil(training.epochs * per_epoch))


def pack(texts: Iterable[str], tokenizer, length: int) -> np.ndarray:
    """Texts, each followed by the end mark, as rows of exactly `length` tokens: int array (rows, length).

    The rest that fills no row is dropped (fewer than `length` tokens). Attention is *not* cut at the borders of documents:
    a documented choice, as in GPT-style pre-training, because the CPU has no kernel for it.
    """
    end = tokenizer.eos_token_id
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    flat = np.fromiter((token for text in ids for token in (*text, end)), dtype=np.int64)
    rows = len(flat) // length
    if not rows:
        raise StageError(f"the texts hold {len(flat)} tokens, which does not fill one sequence of {length}; lower max_length or add texts")
    return flat[:rows * length].reshape(rows, length)


def check(trainer, started: float, tokens: int) -> pd.DataFrame:
    """The loss curve of a finished training; StageError when it learned from nothing or broke.

    Columns: step, loss, learning_rate, and what else the trainer logged.
    """
    log = pd.DataFrame([entry for entry in trainer.state.log_history if "loss" in entry])
    if log.empty or not np.isfinite(log["loss"].astype(float)).all():
        raise StageError("the training loss is not a finite number; lower learning_rate, or train in float32")
    if tokens <= 0 or (log["loss"] == 0).all():
        raise StageError("the loss is 0 throughout: every token was masked out, nothing was learned; check the data")
    seconds = time.time() - started
    print(f"{trainer.state.global_step} steps, {tokens:,} tokens in {seconds:.0f} s ({tokens / seconds:,.0f} tokens/s), "
          f"loss {log['loss'].iloc[0]:.3f} -> {log['loss'].iloc[-1]:.3f}", flush=True)
    return log
