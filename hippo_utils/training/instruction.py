"""Supervised fine-tuning on instructions with TRL, the loss taken on the completion only (paper, section 3.2)."""

import time

import numpy as np
import pandas as pd

from hippo_utils.manifest import StageError
from hippo_utils.params import Training
from hippo_utils.training import models
from hippo_utils.training.trainer import arguments, check, run


def mix(instructions: pd.DataFrame, mixture: dict[str, float], seed: int) -> pd.DataFrame:
    """A weighted, seeded mixture: weight 1 takes each row of a source once, 0.5 a random half, 2 each row twice.

    Which rows are taken depends on the seed, the source and the row's id, not on the order of the rows.
    """
    parts = []
    for source, weight in sorted(mixture.items()):
        rows = instructions[instructions["source"] == source].sort_values("id")
        if rows.empty:
            raise StageError(f"instruction.mixture asks for {source}, of which 01_corpus built no rows")
        whole, rest = divmod(weight, 1)
        draw = np.random.default_rng([seed, *source.encode()]).permutation(len(rows))[:round(rest * len(rows))]
        parts += [rows.assign(id=rows["id"] + (f"#{copy}" if copy else "")) for copy in range(int(whole))]
        parts += [rows.iloc[np.sort(draw)].assign(id=lambda part: part["id"] + (f"#{int(whole)}" if whole else ""))]
    mixed = pd.concat(parts, ignore_index=True)
    return mixed.iloc[np.random.default_rng(seed).permutation(len(mixed))].reset_index(drop=True)


def tokens_of(instructions: pd.DataFrame, tokenizer, max_length: int) -> pd.DataFrame:
    """Tokens of each instruction: `tokens` in all, `trainable` (the completion and the end mark, as far as they fit), `cut`."""
    end = tokenizer.eos_token
    prompts = tokenizer(list(instructions["prompt"]))["input_ids"]
    whole = tokenizer([p + c + end for p, c in zip(instructions["prompt"], instructions["completion"])])["input_ids"]
    counts = [(len(w), min(len(w), max_length) - min(len(p), max_length), max(0, len(w) - max_length)) for p, w in zip(prompts, whole)]
    return pd.DataFrame(counts, columns=["tokens", "trainable", "cut"], index=instructions.index)


def masked_example(trainer, tokenizer, row: int = 0) -> pd.DataFrame:
    """One training example token by token (id, token, in the loss): the answer and the end mark count, nothing else."""
    batch = trainer.data_collator([trainer.train_dataset[row]])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    return pd.DataFrame({"id": ids, "token": [tokenizer.decode([i]) for i in ids], "in the loss": [label != -100 for label in labels]})


def train(model, tokenizer, instructions: pd.DataFrame, training: Training, *, folder, seed: int):
    """Fine-tune with LoRA on prompt -> completion rows.

    Rows without a single token to learn from are dropped and counted. Returns the PeftModel, the loss curve, and one example
    with its mask (DataFrame: token, in the loss).
    """
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    models.quiet()
    counts = tokens_of(instructions, tokenizer, training.max_length)
    kept = instructions[counts["trainable"] > 0]
    print(f"{len(instructions) - len(kept)} rows without a token to learn from dropped, {int((counts['cut'] > 0).sum())} rows cut at "
          f"{training.max_length} tokens; {counts['trainable'].sum():,} of {counts['tokens'].sum():,} tokens are trained on")
    if kept.empty:
        raise StageError("no instruction has a token to learn from within max_length; raise instruction.sft.max_length")
    rows = Dataset.from_dict({"prompt": list(kept["prompt"]), "completion": list(kept["completion"])})
    settings = SFTConfig(**arguments(training, folder, seed, len(rows)), max_length=training.max_length,
                         completion_only_loss=True, packing=False, train_sampling_strategy="group_by_length")
    torch.manual_seed(seed)
    started = time.time()
    trainer = SFTTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer,
                         peft_config=models.lora_config(training.lora) if training.lora else None)
    example = masked_example(trainer, tokenizer)
    learned = tokenizer.decode(example["id"][example["in the loss"]].tolist()).strip()  # some tokenizers decode a first space away
    expected = (kept["completion"].iloc[0] + tokenizer.eos_token).strip()
    whole = counts["cut"][kept.index[0]] == 0
    assert learned == expected if whole else expected.startswith(learned), f"the loss must cover exactly the answer {expected!r}, it covers {learned!r}"
    run(trainer)
    log = check(trainer, started, round(training.epochs * counts["tokens"].sum()))
    return models.plain(trainer.model).eval(), log, example
