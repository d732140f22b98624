"""A language model of a few thousand weights that replies to the judges' instructions with a verdict: what a real server can serve in a test.

It is trained for seconds to write the JSON; which letter it names depends on the question, and means nothing.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from hippo_utils.corpus import tokenizer as byte_pairs
from hippo_utils.judging import prompts
from hippo_utils.params import Architecture
from hippo_utils.training import models

CHAT = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}Verdict: "


def train(folder: Path, candidates: pd.DataFrame, steps: int = 100) -> str:
    """Make such a model for these questions in `folder`; returns the folder as a name that a server takes."""
    import torch
    from transformers import AutoTokenizer

    texts, verdicts = [], []
    for row in candidates.itertuples():
        said = prompts.messages("clinician-1", "best", row.prompt, row.answers)
        texts.append("\n\n".join(message["content"] for message in said) + "\n\nVerdict: ")
        verdicts.append(f'{{"best": "{"ABC"[hashlib.sha256(row.prompt.encode()).digest()[0] % 3]}"}}')
    tokenizer = AutoTokenizer.from_pretrained(byte_pairs.train([a + b for a, b in zip(texts, verdicts)], 1500, folder))
    tokenizer.chat_template = CHAT
    prompt_ids = tokenizer(texts)["input_ids"]
    reply_ids = [ids + [tokenizer.eos_token_id] for ids in tokenizer(verdicts, add_special_tokens=False)["input_ids"]]
    shape = Architecture(family="llama", layers=2, width=64, feed_forward=96, heads=4, key_value_heads=2, context=2048)
    torch.manual_seed(0)
    model = models.build(shape, len(tokenizer), tokenizer.eos_token_id, 0)
    optimiser, rng = torch.optim.AdamW(model.parameters(), lr=3e-3), np.random.default_rng(0)
    for _ in range(steps):
        row = int(rng.integers(len(texts)))
        ids = torch.tensor([prompt_ids[row] + reply_ids[row]])
        labels = torch.tensor([[-100] * len(prompt_ids[row]) + reply_ids[row]])
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.generation_config.max_length = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
