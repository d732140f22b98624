"""The training room: no token is lost or added, the loss sits where it should, merging is exact, and a wrong reference is loud."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from small import LORA, TRAINING, make_model

from hippo_utils.manifest import StageError
from hippo_utils.params import Dpo, load
from hippo_utils.training import instruction, models, preference, pretraining, trainer


pytestmark = pytest.mark.usefixtures("one_thread")


TEXTS = [f"Metformin is given to patient {number} with diabetes." for number in range(60)]
INSTRUCTIONS = pd.DataFrame({"id": [f"i{n:02d}" for n in range(24)], "source": "flash", "licence": "l", "fact_ids": [[] for _ in range(24)],
                             "prompt": [f"Question: what treats case {n}?\nAnswer:" for n in range(24)],
                             "completion": [" metformin" if n % 2 else " aspirin and rest" for n in range(24)]})
PAIRS = pd.DataFrame({"id": [f"p{n}" for n in range(16)], "kind": ["fact", "style"] * 8, "prompt": [f"Patient: what helps {n}?\nDoctor:" for n in range(16)],
                      "chosen": [" Metformin helps. See your doctor."] * 16, "rejected": [" Nothing helps."] * 16})
DPO = Dpo(**TRAINING.model_dump() | {"lora": LORA, "beta": 0.1, "loss": "sigmoid", "learning_rate": 5e-3, "warmup": 0.1})


@pytest.fixture(scope="module")
def ids(tokenizer):
    return torch.tensor([tokenizer(TEXTS[0])["input_ids"][:12]])


def logits(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(ids).logits


def largest(one, other) -> float:
    return float((one - other).abs().max())


@pytest.fixture(scope="module")
def stages(tokenizer, tmp_path_factory):
    """CP, SFT, CP+SFT and DPO trained for a few steps in the folders of real stages; loading goes through models.load."""
    root = tmp_path_factory.mktemp("run")
    stage = Stage("04_preference", root)
    at = {name: Stage(name, root) for name in ("02_pretraining", "03_instruction", "04_preference")}
    base = make_model(tokenizer)
    models.save_base(at["02_pretraining"], base, tokenizer)
    made = {"CP": pretraining.train(models.load(stage, "base")[0], tokenizer, TEXTS * 3, TRAINING, folder=root / "c", seed=1)[0]}
    made["CP"].save_pretrained(at["02_pretraining"].folder / "CP")
    for start, name in (("base", "SFT"), ("CP", "CP+SFT")):
        made[name] = instruction.train(models.load(stage, start)[0], tokenizer, INSTRUCTIONS, TRAINING, folder=root / "c", seed=2)[0]
        made[name].save_pretrained(at["03_instruction"].folder / name)
    made["CP+SFT+DPO"], curve = preference.train(models.load(stage, "CP+SFT")[0], tokenizer, PAIRS, DPO, folder=root / "c", seed=3)
    made["CP+SFT+DPO"].save_pretrained(stage.folder / "CP+SFT+DPO")
    return SimpleNamespace(stage=stage, at=at, made=made, curve=curve)


class Stage:
    """What models.load asks of a manifest.Stage: folders of one run, without the manifests."""

    def __init__(self, name, root):
        self.name, self.root, self.folder = name, root, root / name

    def input(self, stage, name):
        return self.root / stage / name

    def has(self, stage, name):
        return (self.root / stage / name).exists()


# --- packing ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("length", [2, 7, 16, 64])
def test_packing_keeps_every_token_in_order_with_an_end_mark_behind_each_text(tokenizer, length):
    rows = trainer.pack(TEXTS, tokenizer, length)
    stream = [token for text in TEXTS for token in (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)]
    assert rows.shape == (len(stream) // length, length), "only a remainder shorter than a row may be dropped"
    assert rows.ravel().tolist() == stream[:rows.size]
    if rows.size == len(stream):
        assert (rows == tokenizer.eos_token_id).sum() == len(TEXTS)


def test_texts_that_are_encoded_in_parts_are_the_same_rows(tokenizer):
    texts = [f"{text} {number}" for number, text in enumerate(TEXTS * 36)]
    stream = [token for ids in tokenizer(texts)["input_ids"] for token in (*ids, tokenizer.eos_token_id)]
    rows = trainer.pack(texts, tokenizer, 64)
    assert rows.dtype == np.int64 and rows.reshape(-1).tolist() == stream[:rows.size] and len(stream) - rows.size < 64


def test_packing_loses_nothing_when_the_last_row_is_exactly_full(tokenizer):
    tokens = len(tokenizer(TEXTS[0])["input_ids"]) + 1
    assert trainer.pack(TEXTS[:1], tokenizer, tokens)[0, -1] == tokenizer.eos_token_id


def test_too_little_text_is_a_sentence(tokenizer):
    with pytest.raises(StageError, match=r"hold \d+ tokens, which does not fill one sequence of 4096; lower max_length"):
        trainer.pack(TEXTS[:1], tokenizer, 4096)


# --- the mixture -----------------------------------------------------------------------------------------------------

def sources(*names: str) -> pd.DataFrame:
    return pd.DataFrame([{"id": f"{name}-{n:03d}", "source": name, "prompt": "p", "completion": " c"} for name in names for n in range(40)])


def test_weights_are_copies_and_a_random_part():
    mixed = instruction.mix(sources("a", "b", "c", "unused"), {"a": 0.5, "b": 1, "c": 2.5}, seed=1)
    assert mixed["source"].value_counts().to_dict() == {"a": 20, "b": 40, "c": 100}
    assert mixed["id"].is_unique
    times = mixed["id"].str.split("#").str[0].value_counts()
    assert (times[times.index.str.startswith("b")] == 1).all()
    of_c = times[times.index.str.startswith("c")]
    assert set(of_c) == {2, 3} and (of_c == 3).sum() == 20


def test_the_mixture_depends_on_the_seed_and_not_on_the_order_of_rows_or_of_other_sources():
    rows, weights = sources("a", "b"), {"a": 0.5, "b": 1}
    one = instruction.mix(rows, weights, seed=1)
    assert one.equals(instruction.mix(rows.sample(frac=1, random_state=9), weights, seed=1))
    assert one.equals(instruction.mix(rows, {"b": 1, "a": 0.5}, seed=1))
    assert set(one["id"]) != set(instruction.mix(rows, weights, seed=2)["id"])
    assert set(one["id"][one["source"] == "a"]) == set(instruction.mix(rows, {"a": 0.5}, seed=1)["id"]), "one source must not change another's draw"
    with pytest.raises(StageError, match="asks for nowhere, of which 01_corpus built no rows"):
        instruction.mix(rows, {"nowhere": 1}, seed=1)


# --- instruction tuning ----------------------------------------------------------------------------------------------

def test_the_loss_covers_exactly_the_answer_and_the_end_mark(tokenizer, tmp_path, monkeypatch):
    """Two real steps of SFTTrainer: the labels of every batch it makes, not of one example; and the loss is TRL's, by whichever way it is computed."""
    from trl import SFTTrainer
    seen = []
    step = SFTTrainer.training_step

    def watch(self, model, inputs, tokens):
        seen.extend(zip(inputs["input_ids"].tolist(), inputs["labels"].tolist()))
        with torch.no_grad():
            ours, theirs = self.compute_loss(model, dict(inputs), num_items_in_batch=tokens), SFTTrainer.compute_loss(self, model, dict(inputs), num_items_in_batch=tokens)
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
        return step(self, model, inputs, tokens)

    monkeypatch.setattr(SFTTrainer, "training_step", watch)
    _, log, example = instruction.train(make_model(tokenizer), tokenizer, INSTRUCTIONS.head(16), TRAINING, folder=tmp_path, seed=0)
    assert len(log) == 2 and len(seen) == 16
    expected = {prompt + completion for prompt, completion in zip(INSTRUCTIONS["prompt"].head(16), INSTRUCTIONS["completion"])}
    for row, labels in seen:
        learned = [i for i, label in enumerate(labels) if label != -100]
        assert learned == list(range(learned[0], learned[-1] + 1)) and [row[i] for i in learned] == [labels[i] for i in learned]
        prompt, completion = tokenizer.decode(row[:learned[0]]), tokenizer.decode([row[i] for i in learned])
        assert prompt.endswith("Answer:") and completion.endswith(tokenizer.eos_token)
        expected.remove(prompt + completion.removesuffix(tokenizer.eos_token))
    assert not expected
    assert "".join(example["token"][example["in the loss"]]) == INSTRUCTIONS["completion"][0] + tokenizer.eos_token


def test_rows_without_a_token_to_learn_from_are_dropped_and_counted(tokenizer, tmp_path, capsys):
    long = INSTRUCTIONS.copy()
    long.loc[[3, 9], "prompt"] = "word " * 80 + "\nAnswer:"
    long.loc[5, "completion"] = " and" * 80
    counts = instruction.tokens_of(long, tokenizer, TRAINING.max_length)
    assert (counts["trainable"] == 0).sum() == 2 and (counts["cut"] > 0).sum() == 3
    _, log, _ = instruction.train(make_model(tokenizer), tokenizer, long, TRAINING, folder=tmp_path, seed=0)
    assert "2 rows without a token to learn from dropped, 3 rows cut at 64 tokens" in capsys.readouterr().out
    assert (log["loss"] > 0).all()
    with pytest.raises(StageError, match="no instruction has a token to learn from.*raise instruction.sft.max_length"):
        instruction.train(make_model(tokenizer), tokenizer, long.loc[[3, 9]], TRAINING, folder=tmp_path, seed=0)


def test_tokens_are_counted_with_the_end_mark(tokenizer):
    counts = instruction.tokens_of(INSTRUCTIONS.head(1), tokenizer, 64).iloc[0]
    answer = len(tokenizer(INSTRUCTIONS["completion"][0])["input_ids"]) + 1
    assert counts.to_dict() == {"tokens": len(tokenizer(INSTRUCTIONS["prompt"][0])["input_ids"]) + answer, "trainable": answer, "cut": 0}


def test_many_instructions_are_counted_slice_by_slice(tokenizer, monkeypatch):
    whole, sizes = instruction.tokens_of(INSTRUCTIONS, tokenizer, 64), []
    monkeypatch.setattr(instruction, "SLICE", 3)

    def watched(texts):
        sizes.append(len(texts))
        return tokenizer(texts)
    watched.eos_token = tokenizer.eos_token
    assert instruction.tokens_of(INSTRUCTIONS, watched, 64).equals(whole) and max(sizes) == 3, "the tokens of 696K rows are not held at once"


# --- the loss curve --------------------------------------------------------------------------------------------------

def history(*losses: float):
    return SimpleNamespace(state=SimpleNamespace(log_history=[{"loss": loss, "step": n + 1} for n, loss in enumerate(losses)], global_step=len(losses)))


@pytest.mark.parametrize("losses, tokens, words", [((2.0, math.nan), 9, "not a finite number"), ((math.inf,), 9, "not a finite number"), ((), 9, "not a finite"),
                                                   ((0.0, 0.0), 9, "0 throughout"), ((1.0,), 0, "nothing was learned")])
def test_a_training_that_broke_or_learned_nothing_stops_the_run(losses, tokens, words):
    with pytest.raises(StageError, match=words):
        trainer.check(history(*losses), 0.0, tokens)


def test_a_sound_curve_is_returned(capsys):
    assert trainer.check(history(2.0, 0.0, 1.0), 0.0, 9)["step"].tolist() == [1, 2, 3]
    assert "loss 2.000 -> 1.000" in capsys.readouterr().out


@pytest.mark.parametrize("epochs, batch, accumulation, examples", [(1, 4, 1, 8), (1, 4, 1, 9), (2, 4, 3, 31), (0.5, 2, 2, 17), (1.5, 8, 4, 20), (0.01, 4, 1, 4)])
def test_steps_of_counts_as_the_trainer_does(tokenizer, tmp_path, epochs, batch, accumulation, examples):
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Stop(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.steps, control.should_training_stop, control.should_epoch_stop = state.max_steps, True, True

        def on_step_begin(self, args, state, control, **kwargs):
            control.should_training_stop = True

    training = TRAINING.model_copy(update={"epochs": epochs, "batch": batch, "accumulation": accumulation})
    row = torch.zeros(4, dtype=torch.long)
    stop = Stop()
    model = make_model(tokenizer, layers=1, width=4, heads=1, key_value_heads=1, feed_forward=4)
    Trainer(model=model, args=TrainingArguments(**trainer.arguments(training, tmp_path, 0, examples)), callbacks=[stop],
            train_dataset=[{"input_ids": row, "labels": row}] * examples).train()
    assert trainer.steps_of(training, examples) == stop.steps


# --- the base --------------------------------------------------------------------------------------------------------

def test_a_scratch_base_has_the_shape_that_was_asked_for(tokenizer):
    llama, mistral = make_model(tokenizer), make_model(tokenizer, family="mistral")
    assert type(llama).__name__ == "LlamaForCausalLM" and type(mistral).__name__ == "MistralForCausalLM"
    for model in (llama, mistral):
        attention = model.model.layers[0].self_attn
        assert attention.q_proj.weight.shape == (32, 32) and attention.k_proj.weight.shape == (16, 32), "two key-value heads serve four heads"
        assert model.lm_head.weight is model.model.embed_tokens.weight, "embeddings are tied"
        assert model.config.vocab_size == len(tokenizer) and model.config.eos_token_id == tokenizer.eos_token_id
        assert model.dtype == torch.float32 and model.config.max_position_embeddings == 512
    assert mistral.config.sliding_window == 16


def test_a_sliding_window_hides_what_lies_before_it(tokenizer):
    """With two layers and a window of 16, a token 40 places back cannot reach the last logits; without a window it does."""
    one = torch.arange(1, 61)[None]
    other = one.clone()
    other[0, 5] = 200
    seen = {window: largest(logits(make_model(tokenizer, family="mistral", sliding_window=window), one)[:, -1],
                            logits(make_model(tokenizer, family="mistral", sliding_window=window), other)[:, -1]) for window in (16, None)}
    assert seen[16] == 0 < seen[None]


def test_a_seed_decides_weights_and_curve(tokenizer, tmp_path):
    full = TRAINING.model_copy(update={"lora": None, "max_length": 32})
    curves, weights = {}, {}
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        torch.manual_seed(len(name))  # what happened before must not matter
        model = make_model(tokenizer, seed=seed)
        model, log = pretraining.train(model, tokenizer, TEXTS, full, folder=tmp_path, seed=seed)
        curves[name], weights[name] = log["loss"].tolist(), model.lm_head.weight.detach().clone()
    assert curves["one"] == curves["same"] != curves["other"]
    assert torch.equal(weights["one"], weights["same"]) and not torch.equal(weights["one"], weights["other"])
    assert curves["one"][-1] < curves["one"][0], "a training that does not learn proves nothing"


def test_first_adapters_and_the_order_of_rows_follow_the_seed(tokenizer, tmp_path):
    curves = []
    for number, seed in enumerate((1, 1, 2)):
        model = make_model(tokenizer)
        torch.manual_seed(number)  # what happened before must not matter
        curves.append(pretraining.train(model, tokenizer, TEXTS, TRAINING, folder=tmp_path, seed=seed)[1]["loss"].tolist())
    assert curves[0] == curves[1] != curves[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU does")
def test_precision_auto_is_float32_without_a_gpu(tmp_path):
    assert trainer.precision("auto") == ("float32", "no GPU")
    assert trainer.precision("bfloat16")[0] == "bfloat16"
    made = trainer.arguments(TRAINING.model_copy(update={"precision": "auto"}), tmp_path, 0, 8)
    assert (made["bf16"], made["fp16"], made["use_cpu"]) == (False, False, True)


def test_warmup_stable_decay_fills_the_whole_training(tmp_path):
    training = TRAINING.model_copy(update={"schedule": "warmup_stable_decay", "warmup": 0.1})
    parts = trainer.arguments(training, tmp_path, 0, 800)["lr_scheduler_kwargs"]
    assert 10 + parts["num_stable_steps"] + parts["num_decay_steps"] == trainer.steps_of(training, 800) == 100


# --- adapters --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["CP", "SFT", "CP+SFT", "CP+SFT+DPO"])
def test_merging_changes_no_logit_although_the_adapter_does(stages, ids, name):
    model = stages.made[name]
    on = logits(model, ids)
    with model.disable_adapter():
        off = logits(model, ids)
    assert largest(on, off) > 0.01, "an adapter that does nothing merges without error, too"
    assert 0 < models.merge_error(model, ids.tolist()) < 1e-4, "exactly 0 means that the two were not computed apart"
    assert torch.equal(logits(model, ids), on), "looking must not change the model"


def test_merge_error_is_0_where_nothing_is_merged(tokenizer, ids):
    assert models.merge_error(make_model(tokenizer), ids.tolist()) == 0


@pytest.mark.parametrize("name", ["CP", "SFT", "CP+SFT+DPO"])
def test_merge_error_sees_a_merge_that_is_wrong(stages, ids, name, monkeypatch):
    """TRL leaves a forward of its own on the model; a copy ran the original's weights and the error was 0 whatever the merge did."""
    from peft.tuners.lora import Linear
    right = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, adapter: 2 * right(self, adapter))
    assert models.merge_error(stages.made[name], ids.tolist()) > 0.01


def test_what_training_returns_computes_by_its_own_class(stages):
    for name, model in stages.made.items():
        assert not [part for part, module in model.named_modules() if "forward" in module.__dict__], f"{name} keeps a trainer's forward"


def test_training_in_lower_precision_returns_a_model_that_computes_in_its_own(tokenizer, ids, tmp_path):
    """accelerate wraps the forward of what it trained in autocast: perplexity, answers and merging would then differ from 05's."""
    low = TRAINING.model_copy(update={"precision": "bfloat16"})
    model, _ = pretraining.train(make_model(tokenizer), tokenizer, TEXTS, low, folder=tmp_path, seed=0)
    assert not [part for part, module in model.named_modules() if "forward" in module.__dict__]
    assert 0 < models.merge_error(model, ids.tolist()) < 1e-4


@pytest.mark.parametrize("name, adapters", [("base", []), ("CP", ["02_pretraining/CP"]), ("SFT", ["03_instruction/SFT"]),
                                            ("CP+SFT", ["02_pretraining/CP", "03_instruction/CP+SFT"]),
                                            ("CP+SFT+DPO", ["02_pretraining/CP", "03_instruction/CP+SFT", "04_preference/CP+SFT+DPO"])])
def test_each_row_of_the_ablation_is_its_adapters_applied_in_order(stages, ids, name, adapters):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    by_hand = AutoModelForCausalLM.from_pretrained(stages.stage.root / "02_pretraining" / "base", dtype=torch.float32)
    for adapter in adapters:
        by_hand = PeftModel.from_pretrained(by_hand, stages.stage.root / adapter).merge_and_unload()
    loaded, tokenizer = models.load(stages.stage, name)
    assert largest(logits(loaded, ids), logits(by_hand, ids)) < 1e-5
    assert tokenizer.eos_token_id == loaded.config.eos_token_id
    if name in stages.made:
        assert largest(logits(loaded, ids), logits(stages.made[name], ids)) < 1e-4, "what is loaded must be what was trained"
    assert models.available(stages.stage, name)


def test_the_rows_of_the_ablation_differ(stages, ids):
    found = {name: logits(models.load(stages.stage, name)[0], ids) for name in models.LINEAGE if models.available(stages.stage, name)}
    names = list(found)
    assert names == ["base", "CP", "SFT", "CP+SFT", "CP+SFT+DPO"]
    assert min(largest(found[a], found[b]) for i, a in enumerate(names) for b in names[:i]) > 0.01


def test_a_row_without_its_adapter_is_not_available(stages, tmp_path):
    assert models.available(Stage("05_evaluation", tmp_path), "base") and not models.available(Stage("05_evaluation", tmp_path), "CP+SFT")


def test_full_weights_are_taken_where_no_adapter_was_trained(tokenizer, ids, tmp_path):
    other = make_model(tokenizer, seed=7)
    other.save_pretrained(tmp_path / "CP")
    assert torch.equal(logits(models.apply(make_model(tokenizer), tmp_path / "CP"), ids), logits(other, ids))


def test_a_base_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(StageError, match="cannot be loaded.*give pretraining.base a folder"):
        models.load_pretrained(str(tmp_path / "nothing"))


# --- preference learning ---------------------------------------------------------------------------------------------

def test_dpo_starts_at_ln_2_and_learns(stages):
    losses = stages.curve["loss"].tolist()
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_dpo_with_a_wrong_reference_stops_at_its_first_step(tokenizer, tmp_path, monkeypatch, capsys, warmup):
    """Adapters that do not begin as nothing make a policy that is not its reference."""
    from peft import LoraConfig
    wrong = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    monkeypatch.setattr(models, "lora_config", lambda lora: wrong)
    for beta in (0.1, 0.01):
        with pytest.raises(StageError, match="DPO must start at ln 2 = 0.6931, it started at .*: the reference is not the policy"):
            preference.train(make_model(tokenizer), tokenizer, PAIRS, DPO.model_copy(update={"warmup": warmup, "beta": beta}), folder=tmp_path, seed=0)
    assert not re.search(r"step [2-9]|tokens/s", capsys.readouterr().out), "and not after all of them"


def test_a_reference_is_computed_beforehand_unless_its_weights_are_shared_out(tokenizer, tmp_path, monkeypatch):
    """TRL would compute it on GPUs with a model that FSDP has not put there yet."""
    def made(model, args, **_):
        raise InterruptedError(args.precompute_ref_log_probs)

    import trl
    monkeypatch.setattr(trl, "DPOTrainer", made)
    for how, expected in (({}, True), ({"accelerate": "fsdp2"}, True), ({"devices": 2}, True), ({"devices": 2, "accelerate": "fsdp2"}, False)):
        with pytest.raises(InterruptedError, match=str(expected)):
            preference.fit(make_model(tokenizer), tokenizer, PAIRS, DPO.model_copy(update=how | {"batch": 2, "accumulation": 2}), tmp_path, 0)


def test_the_reference_is_the_model_with_its_adapters_off(stages, ids):
    policy = stages.made["CP+SFT+DPO"]
    assert set(policy.peft_config) == {"default"}, "a second adapter would be a second reference"
    before, _ = models.load(stages.stage, "CP+SFT")
    reference = models.Before(policy)
    with torch.no_grad():
        assert largest(reference(input_ids=ids).logits, logits(before, ids)) < 1e-6
    prompts = [PAIRS["prompt"][0]]
    _, tokenizer = models.load(stages.stage, "base")
    said = [models.answer(model, tokenizer, prompts) for model in (reference, before, policy)]
    assert said[0] == said[1] != said[2], "and switched on again afterwards"


def test_dpo_cuts_no_answer(tokenizer, tmp_path, capsys):
    longer = PAIRS.assign(chosen=[answer + " Rest well." * 8 * (n == 3) for n, answer in enumerate(PAIRS["chosen"])])
    _, log = preference.train(make_model(tokenizer), tokenizer, longer, DPO, folder=tmp_path, seed=0)
    assert "1 of 16 pairs are longer than 64 tokens and dropped" in capsys.readouterr().out and log["step"].iloc[-1] == 2
    with pytest.raises(StageError, match="no pair fits: the longest has 45 tokens, preference.dpo.max_length is 20; raise it"):
        preference.train(make_model(tokenizer), tokenizer, PAIRS, DPO.model_copy(update={"max_length": 20}), folder=tmp_path, seed=0)


def direct(model, tokenizer, prompt: str, answer: str) -> tuple[float, int]:
    """Log-likelihood of one answer, token by token, without padding or batches."""
    total, context = 0.0, tokenizer(prompt)["input_ids"]
    tokens = tokenizer(answer)["input_ids"] + [tokenizer.eos_token_id]
    for token in tokens:
        total += float(logits(model, torch.tensor([context]))[0, -1].log_softmax(-1)[token])
        context = [*context, token]
    return total, len(tokens)


def test_log_likelihoods_are_those_of_a_direct_computation_whatever_the_batch(tokenizer):
    model = make_model(tokenizer, family="mistral")
    prompts = ["Question: a?\nAnswer:", "Q:", "A far longer prompt about metformin and diabetes:", "Q:"]
    answers = [" aspirin", " a much longer answer than that", " x", " aspirin"]
    found = preference.log_likelihoods(model, tokenizer, prompts, answers)
    expected = [direct(model, tokenizer, *pair) for pair in zip(prompts, answers)]
    assert found["log_likelihood"].tolist() == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert found["tokens"].tolist() == [count for _, count in expected]
    for batch in (1, 3):
        again = preference.log_likelihoods(model, tokenizer, prompts, answers, batch=batch)
        assert again["log_likelihood"].tolist() == pytest.approx(found["log_likelihood"].tolist(), abs=1e-4)
    bare = preference.log_likelihoods(model, tokenizer, prompts, answers, end="")
    assert (bare["tokens"] == found["tokens"] - 1).all() and (bare["log_likelihood"] > found["log_likelihood"]).all()


def test_preference_accuracy_counts_ties_half_and_keeps_summed_and_normalised_apart(monkeypatch):
    chosen = pd.DataFrame({"log_likelihood": [-4.0, -4.0, -8.0, -6.0], "tokens": [2, 2, 8, 3]})
    rejected = pd.DataFrame({"log_likelihood": [-5.0, -4.0, -4.0, -6.0], "tokens": [2, 2, 2, 6]})
    monkeypatch.setattr(preference, "log_likelihoods", lambda model, tokenizer, prompts, answers: chosen if answers[0] == "c" else rejected)
    found = preference.preference_accuracy(None, None, pd.DataFrame({"id": list("1234"), "kind": "fact", "prompt": "p", "chosen": "c", "rejected": "r"}))
    assert found["summed"].tolist() == [1.0, 0.5, 0.0, 0.5]
    assert found["normalised"].tolist() == [1.0, 0.5, 1.0, 0.0]
    assert found["margin"].tolist() == [1.0, 0.0, -4.0, 0.0]


def test_dpo_moves_the_likelihoods_it_is_judged_by(stages, tokenizer):
    before = preference.preference_accuracy(models.load(stages.stage, "CP+SFT")[0], tokenizer, PAIRS)
    after = preference.preference_accuracy(stages.made["CP+SFT+DPO"], tokenizer, PAIRS)
    assert after["id"].tolist() == PAIRS["id"].tolist() and after["margin"].mean() > before["margin"].mean()


# --- looking at a model ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("length", [16, 64, 100_000])
def test_perplexity_of_a_uniform_model_is_the_size_of_the_vocabulary(tokenizer, length):
    model = make_model(tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    found = pretraining.perplexity(model, tokenizer, TEXTS, length, batch=3)
    assert found["perplexity"] == pytest.approx(len(tokenizer), rel=1e-4)
    rows = trainer.pack(TEXTS, tokenizer, length) if length < 1000 else np.zeros((1, sum(len(tokenizer(text)["input_ids"]) + 1 for text in TEXTS)))
    assert found["tokens"] == rows.size - len(rows), "the first token of a row has nothing before it"


def test_what_is_only_looked_at_goes_through_in_batches_that_fit(tokenizer, monkeypatch):
    """Logits in float32 take most of the memory: of long texts, or with a large vocabulary, fewer go through at once."""
    model, seen = make_model(tokenizer), []
    whole = pretraining.perplexity(model, tokenizer, TEXTS, 16), preference.log_likelihoods(model, tokenizer, TEXTS, TEXTS)
    monkeypatch.setattr(trainer, "LOGITS", 3 * 16 * model.config.vocab_size)
    model.register_forward_pre_hook(lambda module, given, named: seen.append(((given or [named["input_ids"]])[0].shape, named["use_cache"])), with_kwargs=True)
    assert pretraining.perplexity(model, tokenizer, TEXTS, 16) == pytest.approx(whole[0], rel=1e-5)
    assert seen[0] == ((3, 16), False)
    again = preference.log_likelihoods(model, tokenizer, TEXTS, TEXTS)
    assert again["log_likelihood"].tolist() == pytest.approx(whole[1]["log_likelihood"].tolist(), abs=1e-3)
    assert all(rows * width <= 48 or rows == 1 for (rows, width), _ in seen) and not any(cached for _, cached in seen)


def test_perplexity_is_exp_of_the_loss_and_reported_per_source(tokenizer):
    model = make_model(tokenizer)
    rows = torch.tensor(trainer.pack(TEXTS, tokenizer, 32))
    with torch.no_grad():
        loss = float(model(rows, labels=rows).loss)
    assert pretraining.perplexity(model, tokenizer, TEXTS, 32, batch=4)["nll_per_token"] == pytest.approx(loss, abs=1e-4)
    table = pretraining.perplexity_table({"base": model}, tokenizer, pd.DataFrame({"source": ["b", "a"] * 30, "text": TEXTS}), 32)
    assert table[["stages", "source"]].values.tolist() == [["base", "a"], ["base", "b"]]


def test_greedy_answers_do_not_depend_on_their_neighbours(tokenizer):
    model = make_model(tokenizer)
    prompts = ["Q:", "A far longer prompt about metformin and diabetes:"]
    assert models.answer(model, tokenizer, prompts, 8) == [models.answer(model, tokenizer, [prompt], 8)[0] for prompt in prompts]
    assert tokenizer.padding_side == "right" and models.answer(model, tokenizer, []) == []


def test_the_paper_runs_adapters_sit_on_the_fully_connected_layers(tokenizer):
    model = models.add_lora(make_model(tokenizer), load("hippo_llama").pretraining.cp.lora)
    trained = {name.split(".")[-4] for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"gate_proj", "up_proj", "down_proj"}
    assert 0 < models.parameters(model)["trainable"] < models.parameters(model)["parameters"]
