"""Causal language modelling on packed text: a mini run's base from scratch, and continued pre-training with LoRA (paper, section 3.1)."""

import time

import numpy as np
import pandas as pd

from hippo_utils.params import Training
from hippo_utils.training import models
from hippo_utils.training.trainer import arguments, check, pack, run


def train(model, tokenizer, texts: list[str], training: Training, *, folder, seed: int):
    """Next-token training of `model` on packed `texts`; with training.lora only the adapters learn.

    Returns the trained model (a PeftModel under LoRA) and the loss curve as a DataFrame.
    """
    import torch
    from transformers import Trainer, TrainingArguments

    models.quiet()
    rows = pack(texts, tokenizer, training.max_length)
    examples = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in rows]
    if training.lora:
        torch.manual_seed(seed)  # the adapters' first weights are random too
        model = models.add_lora(model, training.lora)
    started = time.time()
    trainer = Trainer(model=model, args=TrainingArguments(**arguments(training, folder, seed, len(rows))), train_dataset=examples)
    run(trainer)
    log = check(trainer, started, round(training.epochs * rows.size))
    return models.plain(model).eval(), log


def perplexity(model, tokenizer, texts: list[str], length: int, batch: int = 32) -> dict[str, float]:
    """Perplexity = exp(mean negative log-likelihood per token) on packed texts, with the number of tokens it rests on."""
    import torch
    rows = torch.from_numpy(pack(texts, tokenizer, min(length, _fitting(texts, tokenizer, length))))
    total, tokens = 0.0, 0
    with torch.no_grad():
        for part in rows.split(batch):
            part = part.to(model.device)
            log_probabilities = model(part).logits[:, :-1].float().log_softmax(-1)
            total -= log_probabilities.gather(-1, part[:, 1:, None]).sum().item()
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
