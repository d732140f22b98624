"""What the three training steps share: the arguments of Transformers' Trainer, packing, the loss curve, and loud failures."""

import math
import time
from pathlib import Path
from typing import Iterable

import numpy as np
import pandas as pd

from hippo_utils.manifest import StageError
from hippo_utils.params import Training
from hippo_utils.training import checkpoints

LOG_POINTS = 25  # points of a loss curve
LOG_STEPS = 30   # and no more steps than this between two of them: checkpoints are written at logged steps
LOGITS = 2**28   # most logits of a batch that is only looked at (ours): 1 GiB in float32


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


def attention(asked: str, kind: str, model) -> tuple[str, str]:
    """How attention is computed and the reason: FlashAttention where it is installed and fits, else PyTorch's SDPA, else eager."""
    import torch
    from transformers.utils import is_flash_attn_2_available
    if asked != "auto":
        return asked, "asked for by the parameters"
    if not torch.cuda.is_available():
        without = "FlashAttention needs a GPU"
    elif kind == "float32" or torch.cuda.get_device_capability() < (8, 0):
        without = "FlashAttention needs 16 bit and a GPU of compute capability 8.0"
    elif not is_flash_attn_2_available():
        without = "flash-attn is not installed"
    else:
        return "flash_attention_2", "flash-attn is installed"
    return ("sdpa", without) if model._supports_sdpa else ("eager", f"{without}, {type(model).__name__} has no SDPA")


def liger(training: Training) -> tuple[bool, str]:
    """Whether Liger's kernels are used, and the reason."""
    import importlib.util

    import torch
    if not training.liger:
        return False, "switched off by the parameters"
    if not torch.cuda.is_available():
        return False, "no GPU"
    there = importlib.util.find_spec("liger_kernel") is not None
    return there, f"liger-kernel is {'' if there else 'not '}installed"


def prepare(model, training: Training) -> None:
    """Settle how this training computes, and print it with the reasons."""
    kind, why = precision(training.precision)
    kernel, because = attention(training.attention, kind, model)
    if model.config._attn_implementation != kernel:
        model.set_attn_implementation(kernel)
    weights = "all weights" if not training.lora else "LoRA" if not training.lora.bits else f"LoRA on {training.lora.bits}-bit weights (QLoRA)"
    on, reason = liger(training)
    inside = {"documents": "attention stays inside each text" + (", by a mask: SDPA's fastest kernels take none" if kernel == "sdpa" else ""),
              "across": "attention crosses the borders of texts", None: ""}[training.packing]
    print(f"{weights} in {kind} ({why}); attention: {kernel} ({because}){'; ' + inside if inside else ''}; Liger kernels {'on' if on else 'off'} ({reason})"
          f"{'; activations are computed twice' if training.activation_checkpointing else ''}", flush=True)


def shares(training: Training) -> tuple[int, int]:
    """(sequences per process and pass, passes per step) that keep the effective batch whatever the number of processes."""
    processes = training.devices * training.nodes
    each = training.batch * training.accumulation // processes  # params.Training has checked that this is whole
    batch = next(size for size in range(min(training.batch, each), 0, -1) if each % size == 0)
    return batch, each // batch


def arguments(training: Training, folder, seed: int, examples: int) -> dict:
    """Keyword arguments for TrainingArguments, SFTConfig and DPOConfig alike."""
    import torch
    kind, _ = precision(training.precision)
    steps = steps_of(training, examples)
    batch, accumulation = shares(training)
    schedule, more = training.schedule, {}
    if schedule == "warmup_stable_decay":
        warm = round(training.warmup * steps)
        schedule, more = "warmup_stable_decay", {"num_decay_steps": max(1, (steps - warm) // 3), "num_stable_steps": steps - warm - max(1, (steps - warm) // 3)}
    return dict(
        output_dir=str(folder), num_train_epochs=training.epochs, learning_rate=training.learning_rate,
        lr_scheduler_type=schedule, lr_scheduler_kwargs=more, warmup_steps=training.warmup, weight_decay=training.weight_decay,
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        bf16=kind == "bfloat16", fp16=kind == "float16", use_cpu=not torch.cuda.is_available(), use_liger_kernel=liger(training)[0],
        activation_checkpointing=training.activation_checkpointing, dataloader_num_workers=0, dataloader_pin_memory=False, seed=seed, data_seed=seed,
        logging_steps=max(1, min(steps // LOG_POINTS, LOG_STEPS)), logging_first_step=True, logging_nan_inf_filter=False,
        save_strategy="no", save_total_limit=2, report_to="none", disable_tqdm=True)


def one_device(settings):
    """The Trainer's settings for one device in this process: for each further GPU in sight it would multiply the batch (nn.DataParallel), or TRL refuse."""
    settings._n_gpu = min(1, settings.n_gpu)
    return settings


def progress():
    """A callback that prints a line about ten times in a training, in place of the Trainer's dictionaries."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.started = time.time()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and not math.isfinite(float(logs.get("loss", 0))):  # at once, and not after the hours that are left
                raise StageError(f"the training loss is {logs['loss']} at step {state.global_step}; lower learning_rate, or train in float32")
            if logs and "loss" in logs and (state.global_step == 1 or state.global_step % max(1, state.max_steps // 8) < args.logging_steps):
                print(f"  step {state.global_step} of {state.max_steps}: loss {float(logs['loss']):.3f}, {time.time() - self.started:.0f} s", flush=True)

    return Progress()


def run(trainer, training: Training) -> int:
    """Train, with plain progress lines, from the last checkpoint in the trainer's folder if there is one; returns the step it began after."""
    from transformers import PrinterCallback
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(progress())
    saver = checkpoints.saver(trainer, training.checkpoint_minutes)
    trainer.add_callback(saver)
    for weight in trainer.model.parameters():
        if weight.requires_grad:  # TRL makes QLoRA's adapters bfloat16, which a float16 GPU cannot train; they are small
            weight.data = weight.data.float()
    with trainer.accelerator.main_process_first():
        saver.continued = checkpoints.latest(Path(trainer.args.output_dir))
    if saver.continued:
        print(f"  continues from {saver.continued.name}", flush=True)
    began = int(saver.continued.name.split("-")[1]) if saver.continued else 0
    trainer.train(resume_from_checkpoint=str(saver.continued) if saver.continued else None)
    return began


def steps_of(training: Training, examples: int) -> int:
    """Optimiser steps that `examples` sequences make, as the Trainer counts them."""
    per_epoch = math.ceil(examples / (training.batch * training.accumulation))
    return max(1, math.ceil(training.epochs * per_epoch))


def encoded(texts: Iterable[str], tokenizer, **how) -> list[np.ndarray]:
    """The token ids of each text, encoded a thousand texts at a time: as Python's lists, a large corpus would take a hundred bytes per token."""
    texts = list(texts)
    return [np.array(ids, dtype=np.int64) for at in range(0, len(texts), 1000) for ids in tokenizer(texts[at:at + 1000], **how)["input_ids"]]


def pack(texts: Iterable[str], tokenizer, length: int) -> np.ndarray:
    """Texts, each followed by the end mark, as rows of exactly `length` tokens: int array (rows, length).

    The rest that fills no row is dropped (fewer than `length` tokens). Whether attention crosses the borders of documents is
    the parameter `packing`: by default it does, as in GPT-style pre-training; see `packed_batch`.
    """
    end = np.array([tokenizer.eos_token_id])
    flat = np.concatenate([np.empty(0, dtype=np.int64), *(part for ids in encoded(texts, tokenizer, add_special_tokens=False) for part in (ids, end))])
    rows = len(flat) // length
    if not rows:
        raise StageError(f"the texts hold {len(flat)} tokens, which does not fill one sequence of {length}; lower max_length or add texts")
    return flat[:rows * length].reshape(rows, length)


def rows_at_once(model, width: int, most: int) -> int:
    """How many rows of `width` tokens go through a model in one batch that is only looked at: `most`, or fewer where there would be more than LOGITS."""
    return max(1, min(most, LOGITS // (width * model.config.vocab_size)))


def text_lengths(row: np.ndarray, end: int) -> list[int]:
    """The lengths of the texts, or parts of texts, that a packed row holds; each but the last ends with the end mark."""
    borders = np.flatnonzero(row[:-1] == end) + 1
    return np.diff([0, *borders, len(row)]).tolist()


def packed_batch(pad: int, flat: bool):
    """A collator for rows that hold several texts: `position_ids` begin anew in each, and the model keeps attention inside it.

    Examples have input_ids, labels and seq_lengths. `flat` makes one long row of the batch, as FlashAttention needs it; the
    masks of SDPA and eager attention take (rows, longest). The first token of a text has nothing before it and is not learned.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def collate(examples: list[dict]) -> dict:
        columns = {"input_ids": [torch.as_tensor(e["input_ids"]) for e in examples], "labels": [torch.as_tensor(e["labels"]).clone() for e in examples],
                   "position_ids": [torch.cat([torch.arange(length) for length in e["seq_lengths"]]) for e in examples]}
        for labels, positions in zip(columns["labels"], columns["position_ids"]):
            labels[positions == 0] = -100
        if flat:
            return {name: torch.cat(rows)[None] for name, rows in columns.items()}
        filler = {"input_ids": pad, "labels": -100, "position_ids": 0}
        return {name: pad_sequence(rows, batch_first=True, padding_value=filler[name]) for name, rows in columns.items()}

    return collate


def apart(training_texts: Iterable[str], validation_texts: Iterable[str]) -> None:
    """StageError when a text that measures the training is among those trained on: its loss would say nothing."""
    trained = set(training_texts)
    if shared := [number for number, text in enumerate(validation_texts) if text in trained]:
        raise StageError(f"validation row {shared[0]} and {len(shared) - 1} more are also trained on; take them out of the training texts")


def check(trainer, started: float, tokens: int, began: int = 0) -> pd.DataFrame:
    """The loss curve of a finished training of `tokens` tokens; StageError when it learned from nothing or broke.

    Columns: step, loss, learning_rate, and what else the trainer logged.
    """
    log = pd.DataFrame([entry for entry in trainer.state.log_history if "loss" in entry])
    if log.empty or not np.isfinite(log["loss"].astype(float)).all():
        raise StageError("the training loss is not a finite number; lower learning_rate, or train in float32")
    if tokens <= 0 or (log["loss"] == 0).all():
        raise StageError("the loss is 0 throughout: every token was masked out, nothing was learned; check the data")
    log = log.drop(columns="num_tokens", errors="ignore")  # TRL counts from 0 again in a continued training
    seconds = time.time() - started
    tokens = round(tokens * (1 - began / trainer.state.global_step))  # of a continued training, those of now
    print(f"{trainer.state.global_step} steps, {tokens:,} tokens in {seconds:.0f} s ({tokens / seconds:,.0f} tokens/s), "
          f"loss {log['loss'].iloc[0]:.3f} -> {log['loss'].iloc[-1]:.3f}", flush=True)
    return log
