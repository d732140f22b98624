"""Direct preference optimisation on judged pairs (paper, section 3.3; Rafailov et al., arXiv 2305.18290)."""

import math
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd

from hippo_utils.manifest import StageError
from hippo_utils.params import Dpo
from hippo_utils.training import launching, models
from hippo_utils.training.trainer import arguments, check, one_device, prepare, rows_at_once, run


def train(model, tokenizer, pairs: pd.DataFrame, training: Dpo, *, folder, seed: int):
    """DPO with LoRA; the reference is the same model with its adapters off, so no second copy is held.

    `pairs` has prompt, chosen, rejected. Returns the PeftModel and the curve (loss, rewards, margins). At the first step
    policy and reference are equal, so the sigmoid loss must be ln 2; anything else means that the reference is wrong.
    A call that was killed continues when it is repeated.
    """
    return launching.train(fit, model, tokenizer, pairs[["prompt", "chosen", "rejected"]].reset_index(drop=True), training, folder=folder, seed=seed)


def fit(model, tokenizer, pairs: pd.DataFrame, training: Dpo, folder, seed: int):
    """What `train` does, in this process: the DPOTrainer after training, and the curve."""
    import torch
    from datasets import Dataset, load_from_disk
    from trl import DPOConfig, DPOTrainer

    lengths = [[len(ids) + 1 for ids in tokenizer([p + a for p, a in zip(pairs["prompt"], pairs[answer])])["input_ids"]] for answer in ("chosen", "rejected")]
    fits = np.maximum(*lengths) <= training.max_length
    if not fits.all():  # a cut answer would be judged by its first half
        print(f"{(~fits).sum()} of {len(pairs)} pairs are longer than {training.max_length} tokens and dropped; raise preference.dpo.max_length to keep them")
        if not fits.any():
            raise StageError(f"no pair fits: the longest has {np.max(lengths)} tokens, preference.dpo.max_length is {training.max_length}; raise it")
    pairs = pairs[fits]
    prepare(model, training)
    rows = Dataset.from_dict({name: list(pairs[name]) for name in ("prompt", "chosen", "rejected")})
    # TRL computes the reference beforehand with a model that FSDP has not put onto its GPUs yet; of adapters it is then computed step by step.
    sharded = training.accelerate.startswith("fsdp") and training.devices * training.nodes > 1
    settings = one_device(DPOConfig(**arguments(training, folder, seed, len(rows)), max_length=training.max_length, beta=training.beta,
                                    loss_type=[training.loss], precompute_ref_log_probs=not (sharded and training.lora)))
    if settings.world_size > 1:  # TRL hands the reference's log-probabilities on in a file beside the data's own, which must be one for all processes
        if settings.process_index == 0:
            shutil.rmtree(Path(folder) / "pairs", ignore_errors=True)
            rows.save_to_disk(Path(folder) / "pairs")
        torch.distributed.barrier()
        rows = load_from_disk(Path(folder) / "pairs")
    torch.manual_seed(seed)
    started = time.time()
    trainer = DPOTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer,
                         peft_config=models.lora_config(training.lora) if training.lora else None)
    if training.loss == "sigmoid":
        trainer.add_callback(starts_at_ln_2(training.beta, 1e-2 if trainer.model.dtype == torch.float32 else 0.2))
    began = run(trainer, training)
    tokens = sum(len(ids) for name in ("chosen", "rejected") for ids in tokenizer(list(pairs[name]))["input_ids"])
    return trainer, check(trainer, started, round(training.epochs * tokens), began)


def starts_at_ln_2(beta: float, rounding: float):
    """A callback that stops a training whose first loss says that the reference is not the policy; `rounding` (nats) is that of an answer's sum."""
    from transformers import TrainerCallback

    class StartsAtLn2(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if state.global_step == 1 and "loss" in (logs or {}) and abs(float(logs["loss"]) - math.log(2)) > beta * rounding + 1e-4:  # logs are rounded too
                raise StageError(f"DPO must start at ln 2 = 0.6931, it started at {float(logs['loss']):.4f}: the reference is not the policy; "
                                 "report it with the versions of trl, peft and transformers")

    return StartsAtLn2()


def log_likelihoods(model, tokenizer, prompts: list[str], answers: list[str], end: str | None = None, batch: int = 32) -> pd.DataFrame:
    """Summed log-probability (nats) and number of tokens of each answer behind its prompt; `end` (the end mark) counts too."""
    import torch
    end = tokenizer.eos_token if end is None else end
    starts = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    ids = tokenizer([p + a + end for p, a in zip(prompts, answers)])["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    batch = rows_at_once(model, max(map(len, ids), default=1), batch)
    sums, counts = np.zeros(len(ids)), np.zeros(len(ids), dtype=int)
    for at in range(0, len(order), batch):
        part = order[at:at + batch]
        width = max(len(ids[i]) for i in part)
        padded = torch.tensor([ids[i] + [tokenizer.pad_token_id] * (width - len(ids[i])) for i in part], device=model.device)
        mask = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in part], device=model.device)
        with torch.no_grad():
            tokens = model(padded, attention_mask=mask, use_cache=False).logits[:, :-1].float().log_softmax(-1).gather(-1, padded[:, 1:, None])[..., 0]
        for row, i in enumerate(part):
            scored = tokens[row, starts[i] - 1:len(ids[i]) - 1]
            sums[i], counts[i] = scored.sum().item(), len(scored)
    return pd.DataFrame({"log_likelihood": sums, "tokens": counts})


def preference_accuracy(model, tokenizer, pairs: pd.DataFrame) -> pd.DataFrame:
    """For each pair whether the policy finds the chosen answer more likely than the rejected one: 1, 0, or 0.5 for a tie.

    Columns: id, kind, summed (log p of the whole answer), normalised (per token), and both margins in nats.
    """
    chosen = log_likelihoods(model, tokenizer, list(pairs["prompt"]), list(pairs["chosen"]))
    rejected = log_likelihoods(model, tokenizer, list(pairs["prompt"]), list(pairs["rejected"]))
    margin = chosen["log_likelihood"] - rejected["log_likelihood"]
    per_token = chosen["log_likelihood"] / chosen["tokens"] - rejected["log_likelihood"] / rejected["tokens"]
    return pd.DataFrame({"id": list(pairs["id"]), "kind": list(pairs["kind"]), "summed": np.sign(margin) / 2 + 0.5,
                         "normalised": np.sign(per_token) / 2 + 0.5, "margin": margin, "margin_per_token": per_token})


def drift(policy, reference, tokenizer, prompts: list[str], *, seed: int, tokens: int = 48, batch: int = 32) -> pd.DataFrame:
    """How far the policy has moved from the reference, on one sampled answer per prompt: one row per prompt.

    tokens_before, tokens_after: length of the reference's and of the policy's own answer (at most `tokens`, end mark included).
    kl: sum over the tokens of the policy's answer of KL(policy || reference) in nats, each exact over the vocabulary.
    """
    import torch
    rows = []
    for at in range(0, len(prompts), batch):
        before, _ = _sampled(reference, tokenizer, prompts[at:at + batch], seed + at, tokens)
        after, ids = _sampled(policy, tokenizer, prompts[at:at + batch], seed + at, tokens)
        with torch.no_grad():
            ours, theirs = (model(**ids).logits[:, -after.shape[1] - 1:-1].float().log_softmax(-1) for model in (policy, reference))
        kl = ((ours.exp() * (ours - theirs)).sum(-1) * after).sum(-1)
        rows.append(pd.DataFrame({"prompt": prompts[at:at + batch], "tokens_before": before.sum(-1).tolist(), "tokens_after": after.sum(-1).tolist(), "kl": kl.tolist()}))
    return pd.concat(rows, ignore_index=True)


def _sampled(model, tokenizer, prompts: list[str], seed: int, tokens: int):
    """Sampled answers at temperature 1: a mask (prompts, answer tokens) of what belongs to them, and prompt with answer as model inputs."""
    import torch
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    given = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
    tokenizer.padding_side = side
    given = {name: given[name] for name in ("input_ids", "attention_mask")}
    torch.manual_seed(seed)
    with torch.no_grad():
        out = model.generate(**given, max_new_tokens=tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=tokenizer.pad_token_id)
    answer = out[:, given["input_ids"].shape[1]:]
    ended = (answer == tokenizer.eos_token_id).int()
    mask = (ended.cumsum(-1) - ended == 0).int()  # up to the first end mark, itself included
    return mask, {"input_ids": out, "attention_mask": torch.cat([given["attention_mask"], mask], -1)}
