"""What the corpus holds, in numbers: rows, words, tokens and licences per source, and what each step took away."""

from pathlib import Path

import pandas as pd

from hippo_utils.corpus import tokenizer


def account(texts: pd.DataFrame, folder: Path, kind: str) -> pd.DataFrame:
    """One row per source of texts (columns source, licence, text): kind, source, licence, rows, words, tokens, tokens per word."""
    rows = []
    for (source, licence), part in texts.groupby(["source", "licence"], sort=False):
        words, tokens = int(part["text"].str.split().str.len().sum()), tokenizer.count(part["text"], folder)
        rows.append({"kind": kind, "source": source, "licence": licence, "rows": len(part), "words": words, "tokens": tokens,
                     "tokens_per_word": round(tokens / words, 2)})
    return pd.DataFrame(rows)


def as_text(instructions: pd.DataFrame) -> pd.DataFrame:
    """Instructions as plain texts (prompt and completion in one), for counting and auditing."""
    return instructions.assign(text=instructions["prompt"] + instructions["completion"])[["id", "source", "licence", "text", "fact_ids"]]


def candidates_as_text(candidates: pd.DataFrame) -> pd.DataFrame:
    """Questions with all their answers as plain texts."""
    return candidates.assign(text=[" ".join([prompt, *answers]) for prompt, answers in zip(candidates["prompt"], candidates["answers"])]
                             )[["id", "source", "licence", "text", "fact_ids"]]


def split_held_out(documents: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set a seeded share of each source's documents aside for perplexity, at least one of each: (training, held out)."""
    held = documents.groupby("source", group_keys=False).sample(frac=share, random_state=seed)
    few = documents[~documents["source"].isin(held["source"])]
    held = pd.concat([held, few.groupby("source", group_keys=False).sample(1, random_state=seed)])
    return documents.drop(held.index).reset_index(drop=True), held.sort_index().reset_index(drop=True)
