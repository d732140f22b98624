"""Supervised fine-tuning on instructions with TRL, the loss taken on the completion only (paper, section 3.2)."""

import time

import numpy as np
import pandas as pd

from hippo_utils.manifest import StageError
from hippo_utils.params import Training
from hippo_utils.records import item_prompt
from hippo_utils.training import launching, models
from hippo_utils.training.preference import log_likelihoods
from hippo_utils.training.trainer import apart, arguments, check, encoded, one_device, packed_batch, prepare, run

SLICE = 10_000  # rows tokenized at a time, so that the tokens of 696K instructions are counted and not held


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
    end, counts = tokenizer.eos_token, []
    for start in range(0, len(instructions), SLICE):
        part = instructions[start:start + SLICE]
        prompts = tokenizer(list(part["prompt"]))["input_ids"]
        whole = tokenizer([p + c + end for p, c in zip(part["prompt"], part["completion"])])["input_ids"]
        counts += [(len(w), min(len(w), max_length) - min(len(p), max_length), max(0, len(w) - max_length)) for p, w in zip(prompts, whole)]
    return pd.DataFrame(counts, columns=["tokens", "trainable", "cut"], index=instructions.index)


def masked_example(trainer, tokenizer, row: int = 0) -> pd.DataFrame:
    """One training example token by token (id, token, in the loss): the answer and the end mark count, nothing else."""
    batch = trainer.data_collator([trainer.train_dataset[row]])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    if "seq_lengths" in trainer.train_dataset.column_names:  # of a packed row the first
        ids, labels = (values[:trainer.train_dataset[row]["seq_lengths"][0]] for values in (ids, labels))
    return pd.DataFrame({"id": ids, "token": [tokenizer.decode([i]) for i in ids], "in the loss": [label != -100 for label in labels]})


def check_mask(trainer, tokenizer, example: pd.DataFrame, kept: pd.DataFrame, counts: pd.DataFrame, training: Training) -> None:
    """The loss covers exactly the answers: one example read back as text, and the number of tokens over all rows."""
    learned = tokenizer.decode(example["id"][example["in the loss"]].tolist()).strip()  # some tokenizers decode a first space away
    if training.packing:
        whole = [(completion + tokenizer.eos_token).strip() for completion in kept["completion"][counts["cut"] == 0]]
        assert learned in whole or counts["cut"].any(), f"the loss must cover exactly an answer, it covers {learned!r}"
    else:
        expected = (kept["completion"].iloc[0] + tokenizer.eos_token).strip()
        fits = learned == expected if counts["cut"].iloc[0] == 0 else expected.startswith(learned.rstrip("\ufffd"))  # a cut may go through a Chinese character
        assert fits, f"the loss must cover exactly the answer {expected!r}, it covers {learned!r}"
    labels = trainer.train_dataset.data.column("labels").combine_chunks().flatten().to_numpy()
    inside, expected = int((labels != -100).sum()), int(counts["trainable"].sum())
    if inside != expected:
        raise StageError(f"{inside:,} tokens are in the loss, the answers have {expected:,}: this tokenizer joins the end of a prompt with the beginning of an "
                         "answer; let prompts end where a token ends (a completion may begin with a space)")


def packed(instructions: pd.DataFrame, tokenizer, max_length: int):
    """Several examples in a row of at most `max_length` tokens (best fit decreasing), none cut in two: input_ids, labels, seq_lengths."""
    from datasets import Dataset
    from trl import pack_dataset
    starts = [len(ids) for ids in encoded(instructions["prompt"], tokenizer)]
    whole = [ids[:max_length] for ids in encoded(instructions["prompt"] + instructions["completion"] + tokenizer.eos_token, tokenizer)]
    labels = [np.where(np.arange(len(ids)) < start, -100, ids) for start, ids in zip(starts, whole)]
    return pack_dataset(Dataset.from_dict({"input_ids": whole, "labels": labels}), max_length)


def train(model, tokenizer, instructions: pd.DataFrame, training: Training, *, folder, seed: int):
    """Fine-tune with LoRA on prompt -> completion rows.

    Rows without a single token to learn from are dropped and counted. Returns the PeftModel, the loss curve, and one example
    with its mask (DataFrame: token, in the loss). A call that was killed continues when it is repeated.
    """
    return launching.train(fit, model, tokenizer, instructions[["prompt", "completion"]].reset_index(drop=True), training, folder=folder, seed=seed)


def fit(model, tokenizer, instructions: pd.DataFrame, training: Training, folder, seed: int):
    """What `train` does, in this process: the SFTTrainer after training, the loss curve, and the example."""
    import torch
    from datasets import Dataset
    from transformers.trainer_pt_utils import LengthGroupedSampler
    from trl import SFTConfig, SFTTrainer

    class ByLength(SFTTrainer):
        """Rows of similar length share a step, unless the parameters say random. The Trainer's own sampler groups what one process takes: the order would depend on their number."""
        def _get_train_sampler(self, dataset=None):
            if training.packing or training.order == "random":
                return super()._get_train_sampler(dataset)
            return LengthGroupedSampler(training.batch * training.accumulation, self.train_dataset)

        def compute_loss(self, model, inputs, *others, **more):
            """Without a GPU the model's own loss, the same number: there TRL scores prompts and padding too, and all of them again for entropy and accuracy."""
            how = super().compute_loss if torch.cuda.is_available() else super(SFTTrainer, self).compute_loss
            return how(model, inputs, *others, **more)

    counts = tokens_of(instructions, tokenizer, training.max_length)
    kept = instructions[counts["trainable"] > 0]
    print(f"{len(instructions) - len(kept)} rows without a token to learn from dropped, {int((counts['cut'] > 0).sum())} rows cut at "
          f"{training.max_length} tokens; {counts['trainable'].sum():,} of {counts['tokens'].sum():,} tokens are trained on")
    if kept.empty:
        raise StageError("no instruction has a token to learn from within max_length; raise instruction.sft.max_length")
    prepare(model, training)
    rows, collator = Dataset.from_dict({"prompt": list(kept["prompt"]), "completion": list(kept["completion"])}), None
    if training.packing:
        rows = packed(kept, tokenizer, training.max_length)
        collator = packed_batch(tokenizer.pad_token_id, flat=model.config._attn_implementation == "flash_attention_2")
        print(f"{len(kept)} examples in {len(rows)} rows of {training.max_length} tokens; a batch holds about {len(kept) / len(rows):.1f} times as many examples")
    settings = one_device(SFTConfig(**arguments(training, folder, seed, len(rows)), max_length=training.max_length, completion_only_loss=True, packing=False))
    torch.manual_seed(seed)
    started = time.time()
    trainer = ByLength(model=model, args=settings, train_dataset=rows, processing_class=tokenizer, data_collator=collator,
                       peft_config=models.lora_config(training.lora, model, tokenizer) if training.lora else None)
    example = masked_example(trainer, tokenizer)
    check_mask(trainer, tokenizer, example, kept, counts[counts["trainable"] > 0], training)
    began = run(trainer, training)
    log = check(trainer, started, round(training.epochs * counts["tokens"].sum()), began)
    return trainer, log, example


def set_aside(mixture: pd.DataFrame, items: pd.DataFrame, rows: int, seed: int, language: str = "en") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rows to train on, validation rows with prompt and completion): text that measures the training and is no part of it.

    `rows` prompts of the mixture are drawn and taken out, copies included. With 0 the right answers to the exams' development items
    take their place; StageError when one of those is trained on, as it is where a benchmark's training split is in the mixture.
    """
    if rows == 0:
        asked = items[items["split"] == "development"]
        form = "{}。" if language == "zh" else " {}"
        validation = pd.DataFrame({"prompt": [item_prompt(*row, language) for row in zip(asked["question"], asked["options"], asked["context"])],
                                   "completion": [form.format(options[answer]) for options, answer in zip(asked["options"], asked["answer"])]})
        apart(mixture["prompt"], validation["prompt"])
        return mixture, validation
    prompts = mixture["prompt"].drop_duplicates().sort_values()
    if rows > len(prompts) // 2:
        raise StageError(f"instruction.validation asks for {rows} of {len(prompts)} prompts; leave more to train on")
    aside = mixture["prompt"].isin(prompts.iloc[np.random.default_rng(seed).permutation(len(prompts))[:rows]])
    return mixture[~aside].reset_index(drop=True), mixture[aside].drop_duplicates("prompt")[["prompt", "completion"]].reset_index(drop=True)


def validation_loss(model, tokenizer, validation: pd.DataFrame) -> tuple[float, int]:
    """(mean negative log-likelihood per token in nats, number of tokens) of the completions of rows that are not trained on."""
    scored = log_likelihoods(model, tokenizer, list(validation["prompt"]), list(validation["completion"]))
    return -float(scored["log_likelihood"].sum() / scored["tokens"].sum()), int(scored["tokens"].sum())
