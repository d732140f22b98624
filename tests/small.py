"""What several test files need: a tokenizer and random models of a few thousand weights, a small world and its exams."""

from functools import cache
from pathlib import Path

import pandas as pd

from hippo_utils.corpus import sources
from hippo_utils.corpus import tokenizer as byte_pairs
from hippo_utils.params import Architecture, Lora, Training, load

TINY = load("tiny")
LORA = Lora(rank=4, alpha=8, targets="all-linear")
TRAINING = Training(epochs=1, learning_rate=1e-2, schedule="constant", warmup=0.0, batch=8, max_length=64, precision="float32", lora=LORA)
SHAPE = dict(layers=2, width=32, feed_forward=48, heads=4, key_value_heads=2, context=512)


@cache
def world():
    """The mini world of params/tiny.yaml."""
    return sources.world(TINY.corpus, 0)


@cache
def items() -> pd.DataFrame:
    """All six exams of the small world."""
    return sources.build_items(TINY.corpus, world(), 0)


def make_tokenizer(folder: Path):
    """A tokenizer as 01 trains it, as Transformers loads it."""
    from transformers import AutoTokenizer
    texts = [f"Question: {q}\nAnswer: {o[0]}." for q, o in zip(items()["question"], items()["options"])]
    return AutoTokenizer.from_pretrained(byte_pairs.train(texts, 420, folder))


def make_model(tokenizer, seed: int = 0, family: str = "llama", **changes):
    """A base with random weights, larger than usual so that every part of it shows in the logits."""
    import torch

    from hippo_utils.training import models
    shape = SHAPE | ({"sliding_window": 16} if family == "mistral" else {}) | changes
    model = models.build(Architecture(family=family, **shape), len(tokenizer), tokenizer.eos_token_id, seed).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.dim() > 1 else 1)
    return model
