"""A vocabulary extended with Chinese (Hypnos on LLaMA): new tokens, their embeddings started from the pieces they replace.

A LLaMA tokenizer spells a Chinese character with up to three byte tokens. New tokens make texts shorter; what they mean must
then be learned, so their embeddings are trained along (Cui et al., arXiv 2304.08177). How many and which: ours, not the paper's.
"""

import re
from collections import Counter
from typing import Iterable

import pandas as pd

from hippo_utils.chinese import HAN, normalise

LONGEST = 4  # characters of a new token


def candidates(texts: Iterable[str], tokenizer, count: int, least: int = 5) -> list[str]:
    """Up to `count` new tokens: runs of one to four Chinese characters, by how many tokens they save in these texts.

    Greedy from the largest saving (occurrences x pieces less one); a run that mostly occurs inside a longer one already
    taken saves nothing more and is left out. `least`: occurrences that a run must have.
    """
    counts = Counter(run[at:at + length] for text in texts for run in re.findall(f"[{HAN}]+", normalise(text))
                     for length in range(1, LONGEST + 1) for at in range(len(run) - length + 1))
    often = [run for run, times in counts.items() if times >= least]
    pieces = dict(zip(often, (len(ids) for ids in tokenizer(often, add_special_tokens=False)["input_ids"]))) if often else {}
    chosen: list[str] = []
    inside: Counter = Counter()  # run -> its occurrences inside longer ones that were taken
    for run in sorted(often, key=lambda run: (-counts[run] * (pieces[run] - 1), run)):
        if len(chosen) < count and pieces[run] > 1 and inside[run] < counts[run] / 2:
            chosen.append(run)
            inside.update({part: counts[run] for length in range(1, len(run)) for part in {run[at:at + length] for at in range(len(run) - length + 1)}})
    return chosen


def extend(model, tokenizer, new: list[str]) -> int:
    """Add tokens to tokenizer and model, in place; returns how many were new.

    The row of a new token, in the input embeddings and in the output layer, is the mean of the rows of the tokens that
    spelled it. All other rows, and so the ids and the logits of what was there, stay as they were.
    """
    import torch
    new = [token for token in dict.fromkeys(new) if token not in tokenizer.get_vocab()]
    if not new:
        return 0
    spelled = tokenizer(new, add_special_tokens=False)["input_ids"]
    first = len(tokenizer)
    tokenizer.add_tokens(new)
    model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().weight.shape[0]), mean_resizing=False)
    tables = {id(layer.weight): layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())}  # one if tied
    with torch.no_grad():
        for weight in tables.values():
            for number, ids in enumerate(spelled):
                weight[first + number] = weight[ids].mean(dim=0)
    return len(new)


def tokens_per_character(named: dict[str, object], texts: list[str]) -> pd.DataFrame:
    """How short each tokenizer makes these texts: tokenizer, entries, characters, tokens, tokens_per_character."""
    characters = sum(len(text) for text in texts)
    rows = []
    for name, tokenizer in named.items():
        tokens = sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
        rows.append({"tokenizer": name, "entries": len(tokenizer), "characters": characters, "tokens": tokens, "tokens_per_character": tokens / characters})
    return pd.DataFrame(rows)
