"""Causal language modelling on packed text: a mini run's base from scratch, and continued pre-training with LoRA (paper, section 3.1)."""

import time

import numpy as np
import pandas as pd

from hippo_utils.params import Training
from hippo_utils.training import launching, models
from hippo_utils.training.trainer import arguments, check, one_device, pack, packed_batch, prepare, rows_at_once, run, text_lengths


def train(model, tokenizer, texts: list[str], training: Training, *, folder, seed: int):
    """Next-token training of `model` on packed `texts`; with training.lora only the adapters learn.

    Returns the trained model (a PeftModel under LoRA) and the loss curve as a DataFrame. `folder` holds checkpoints: a call
    that was killed continues when it is repeated.
    """
    return launching.train(fit, model, tokenizer, pd.DataFrame({"text": list(texts)}), training, folder=folder, seed=seed)


def fit(model, tokenizer, texts: pd.DataFrame, training: Training, folder, seed: int):
    """What `train` does, in this process: the Trainer after training, and the loss curve."""
    import torch
    from transformers import Trainer, TrainingArguments

    rows = pack(texts["text"], tokenizer, training.max_length)
    examples = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in rows]
    prepare(model, training)
    collator = None
    if training.packing == "documents":
        examples = [example | {"seq_lengths": text_lengths(row, tokenizer.eos_token_id)} for example, row in zip(examples, rows)]
        collator = packed_batch(tokenizer.pad_token_id, flat=model.config._attn_implementation == "flash_attention_2")
    if training.lora:
        torch.manual_seed(seed)  # the adapters' first weights are random too
        model = models.add_lora(model, training.lora)
    started = time.time()
    settings = one_device(TrainingArguments(**arguments(training, folder, seed, len(rows)), remove_unused_columns=False))
    trainer = Trainer(model=model, args=settings, train_dataset=examples, data_collator=collator)
    began = run(trainer, training)
    return trainer, check(trainer, started, round(training.epochs * rows.size), began)


def perplexity(model, tokenizer, texts: list[str], length: int, batch: int = 32) -> dict[str, float]:
    """Perplexity = exp(mean negative log-likelihood per token) on packed texts, with the number of tokens it rests on."""
    import torch
    rows = torch.from_numpy(pack(texts, tokenizer, min(length, _fitting(texts, tokenizer, length))))
    total, tokens = 0.0, 0
    with torch.no_grad():
        for part in rows.split(rows_at_once(model, rows.shape[1], batch)):
            part = part.to(model.device)
            total -= model(part, use_cache=False).logits[:, :-1].float().log_softmax(-1).gather(-1, part[:, 1:, None]).sum().item()
            tokens += part[:, 1:].numel()
    return {"perplexity": float(np.exp(total / tokens)), "nll_per_token": total / tokens, "tokens": tokens}


def _fitting(texts: list[str], tokenizer, length: int) -> int:
    """A row length at which even a few texts fill a row."""
    return max(2, min(length, sum(len(ids) + 1 for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"])))


def perplexity_table(named_models: dict[str, object], tokenizer, held_out: pd.DataFrame, length: int) -> pd.DataFrame:
    """Perplexity of several models on held-out documents, one row per model and source.

    Columns: stages, source, perplexity, nll_per_token, tokens.
    """
    rows = [{"stages": name, "source": source} | perplexity(model, tokenizer, list(part["text"]), length)
            for name, model in named_models.items() for source, part in held_out.groupby("source", sort=True)]
    return pd.DataFrame(rows)
