"""How a training computes (precision, attention, packing, 4 bit), and what is refused before hours are spent."""

import copy
import functools
import importlib.util
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from small import LORA, TRAINING, make_model
from test_training import DPO, INSTRUCTIONS, TEXTS, Stage, largest, logits

from hippo_utils import params
from hippo_utils.manifest import StageError
from hippo_utils.training import instruction, models, preference, pretraining, trainer

PACKED = TRAINING.model_copy(update={"packing": "documents"})
WIDE = {"width": 64, "feed_forward": 128, "key_value_heads": 4}
QLORA = TRAINING.model_copy(update={"lora": LORA.model_copy(update={"bits": 4})})


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ids(tokenizer):
    return torch.tensor([tokenizer(TEXTS[0])["input_ids"][:12]])


@pytest.fixture
def run(tokenizer, tmp_path):
    """A base (as wide as 4-bit blocks need it) and a CP adapter in the folders of a run, as 03 finds them."""
    at = {name: Stage(name, tmp_path) for name in ("02_pretraining", "03_instruction")}
    for stage in at.values():
        stage.folder.mkdir()
    models.save_base(at["02_pretraining"], make_model(tokenizer, **WIDE), tokenizer)
    made, _ = pretraining.train(models.load(at["03_instruction"], "base")[0], tokenizer, TEXTS, TRAINING, folder=tmp_path / "c", seed=1)
    models.save(made, at["02_pretraining"].folder / "CP")
    return at["03_instruction"]


def gpu(monkeypatch, *, capability=(8, 0), bfloat16=True, flash=True):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16 or including_emulation)
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: flash)


# --- chosen once from the device, with the reason -----------------------------------------------------------------------

def test_a_t4_trains_in_float16_with_sdpa_although_it_emulates_bfloat16(tokenizer, monkeypatch):
    model = make_model(tokenizer)
    gpu(monkeypatch, capability=(7, 5), bfloat16=False)
    assert trainer.precision("auto") == ("float16", "Test GPU has no bfloat16")
    assert trainer.attention("auto", "float16", model) == ("sdpa", "FlashAttention needs 16 bit and a GPU of compute capability 8.0")


@pytest.mark.parametrize("flash, kind, expected", [(True, "bfloat16", "flash_attention_2"), (False, "bfloat16", "sdpa"), (True, "float32", "sdpa")])
def test_an_a100_uses_flash_attention_where_it_is_installed(tokenizer, monkeypatch, flash, kind, expected):
    model = make_model(tokenizer)
    gpu(monkeypatch, flash=flash)
    assert trainer.precision("auto")[0] == "bfloat16" and trainer.attention("auto", kind, model)[0] == expected
    assert trainer.attention("eager", kind, model) == ("eager", "asked for by the parameters")


def test_a_training_says_how_it_computes_and_why(tokenizer, tmp_path, capsys):
    how = PACKED.model_copy(update={"attention": "eager", "activation_checkpointing": True})
    model, _ = pretraining.train(make_model(tokenizer), tokenizer, TEXTS, how, folder=tmp_path, seed=0)
    said = capsys.readouterr().out.splitlines()[0]
    for words in ("LoRA in float32", "eager (asked for by the parameters)", "attention stays inside each text", "Liger kernels off", "computed twice"):
        assert words in said
    assert model.config._attn_implementation == "eager"


def test_computing_activations_twice_changes_no_loss(tokenizer, tmp_path):
    for step, data in ((pretraining, TEXTS), (instruction, INSTRUCTIONS)):
        curves = [step.train(make_model(tokenizer), tokenizer, data, TRAINING.model_copy(update={"activation_checkpointing": twice}), folder=tmp_path, seed=0)[1]
                  for twice in (False, True)]
        assert curves[1]["loss"].tolist() == pytest.approx(curves[0]["loss"].tolist(), abs=1e-6)


def test_attention_by_sdpa_and_eager_gives_the_same_losses(tokenizer, tmp_path):
    curves = [pretraining.train(make_model(tokenizer, family="mistral"), tokenizer, TEXTS, TRAINING.model_copy(update={"attention": kernel}), folder=tmp_path, seed=0)[1]
              for kernel in ("sdpa", "eager")]
    assert curves[1]["loss"].tolist() == pytest.approx(curves[0]["loss"].tolist(), abs=1e-4)


# --- weights in the precision of the training -----------------------------------------------------------------------------

def test_merging_is_done_in_float32_and_the_weights_are_cast_behind_it(run, ids):
    exact, _ = models.load(run, "CP")
    low, _ = models.load(run, "CP", training=TRAINING.model_copy(update={"precision": "bfloat16"}))
    assert low.dtype == low.config.dtype == torch.bfloat16
    for name, weight in exact.named_parameters():
        assert torch.equal(weight.to(torch.bfloat16), dict(low.named_parameters())[name]), f"{name} was merged in low precision"


def test_rotary_frequencies_stay_exact_when_weights_are_cast(tokenizer):
    """`model.to(torch.bfloat16)` rounds them too, and every position moves a little."""
    model = make_model(tokenizer)
    before = model.model.rotary_emb.inv_freq.clone()
    assert torch.equal(models.cast(model, "bfloat16").model.rotary_emb.inv_freq, before)


def test_all_weights_are_trained_in_float32_whatever_the_precision(run):
    low = TRAINING.model_copy(update={"precision": "bfloat16"})
    assert models.load(run, "base", training=low)[0].dtype == torch.bfloat16
    assert models.load(run, "base", training=low.model_copy(update={"lora": None}))[0].dtype == torch.float32


@pytest.mark.parametrize("step", ["CP", "SFT", "DPO"])
def test_adapters_are_trained_in_float32_beside_weights_in_bfloat16(run, tokenizer, tmp_path, step):
    low = {"precision": "bfloat16"}
    model, tokenizer = models.load(run, "base", training=TRAINING.model_copy(update=low))
    pairs = pd.DataFrame({"prompt": ["Q:"] * 8, "chosen": [" yes"] * 8, "rejected": [" no"] * 8})
    made, log, *_ = {"CP": lambda: pretraining.train(model, tokenizer, TEXTS, TRAINING.model_copy(update=low), folder=tmp_path, seed=0),
                     "SFT": lambda: instruction.train(model, tokenizer, INSTRUCTIONS, TRAINING.model_copy(update=low), folder=tmp_path, seed=0),
                     "DPO": lambda: preference.train(model, tokenizer, pairs, DPO.model_copy(update=low), folder=tmp_path, seed=0)}[step]()
    assert {weight.dtype for name, weight in made.named_parameters() if "lora" in name} == {torch.float32}
    assert {weight.dtype for name, weight in made.named_parameters() if "lora" not in name} == {torch.bfloat16}
    assert 0 < models.merge_error(made, [[1, 2, 3, 4]]) < 1e-4, "merging is checked in float32"


@pytest.mark.parametrize("start", ["base", "CP"])
def test_qlora_trains_adapters_on_4_bit_weights(run, tmp_path, start, ids, capsys):
    pytest.importorskip("bitsandbytes")
    model, tokenizer = models.load(run, start, training=QLORA)
    exact, _ = models.load(run, start)
    assert model.is_loaded_in_4bit and 0 < largest(logits(model, ids), logits(exact, ids)) < 2
    made, log, _ = instruction.train(model, tokenizer, INSTRUCTIONS, QLORA, folder=tmp_path, seed=0)
    assert "LoRA on 4-bit weights (QLoRA)" in capsys.readouterr().out
    assert {weight.dtype for name, weight in made.named_parameters() if "lora" in name} == {torch.float32}, "TRL makes them bfloat16"
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    assert 0 < models.merge_error(made, ids.tolist()) < 1e-4
    models.save(made, tmp_path / "adapter")
    merged = models.apply(exact, tmp_path / "adapter")  # as 05 does it: onto weights that are not quantised
    assert largest(logits(merged, ids), logits(models.load(run, start)[0], ids)) > 0.01
    with pytest.raises(StageError, match="another base"):
        models.apply(make_model(tokenizer, seed=8, **WIDE), tmp_path / "adapter")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="what a machine without bitsandbytes says")
def test_4_bit_without_bitsandbytes_is_a_sentence(run):
    with pytest.raises(StageError, match="4-bit weights need bitsandbytes, which is not installed"):
        models.load(run, "base", training=QLORA)


# --- packing with attention inside each text --------------------------------------------------------------------------

@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_text_in_a_packed_row_gets_the_logits_it_has_alone(tokenizer, family, kernel):
    """Not only the mask: positions begin anew as well. Two rows, padded to the longer one."""
    model = make_model(tokenizer, family=family)
    model.set_attn_implementation(kernel)
    texts = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in (TEXTS[0], "Q:", TEXTS[1], "Aspirin?", "Q: rest")]
    examples = [{"input_ids": sum(part, []), "labels": sum(part, []), "seq_lengths": [len(text) for text in part]} for part in (texts[:3], texts[3:])]
    batch = trainer.packed_batch(tokenizer.pad_token_id, flat=False)(examples)
    with torch.no_grad():
        found = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits  # as in training
    for row, part in enumerate((texts[:3], texts[3:])):
        begin = 0
        for text in part:
            assert largest(found[row, begin:begin + len(text)], logits(model, torch.tensor([text]))[0]) < 1e-4
            assert batch["labels"][row, begin] == -100, "the first token of a text has nothing before it"
            begin += len(text)
        assert (batch["labels"][row, begin:] == -100).all()


def test_a_flat_batch_is_one_row_with_every_text_in_it(tokenizer):
    examples = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "seq_lengths": [2, 1]}, {"input_ids": [4, 5], "labels": [4, 5], "seq_lengths": [2]}]
    batch = trainer.packed_batch(0, flat=True)(examples)
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[1, 2, 3, 4, 5]], "labels": [[-100, 2, -100, -100, 5]], "position_ids": [[0, 1, 0, 0, 1]]}


@pytest.mark.parametrize("row, lengths", [([5, 6, 0, 7, 0], [3, 2]), ([0, 0, 4], [1, 1, 1]), ([4, 5], [2])])
def test_the_texts_of_a_packed_row_end_at_end_marks(row, lengths):
    assert trainer.text_lengths(np.array(row), end=0) == lengths


def test_packed_instructions_lose_no_token_and_no_answer(tokenizer):
    rows = instruction.packed(INSTRUCTIONS, tokenizer, 64)
    counts = instruction.tokens_of(INSTRUCTIONS, tokenizer, 64)
    assert max(len(row) for row in rows["input_ids"]) <= 64 and len(rows) < len(INSTRUCTIONS) / 2
    assert sum(map(len, rows["input_ids"])) == counts["tokens"].sum()
    assert sum(label != -100 for row in rows["labels"] for label in row) == counts["trainable"].sum()
    texts = [tokenizer.decode(row["input_ids"][begin:begin + length]) for row in rows for begin, length in
             zip(np.cumsum([0, *row["seq_lengths"]]), row["seq_lengths"])]
    assert sorted(texts) == sorted(p + c + tokenizer.eos_token for p, c in zip(INSTRUCTIONS["prompt"], INSTRUCTIONS["completion"]))


@pytest.mark.parametrize("kernel", ["auto", "eager"])
def test_packed_sft_has_the_loss_of_the_same_examples_padded(tokenizer, tmp_path, kernel):
    """One step over all examples at a learning rate of nothing: packed or padded, it is the same mean over the same tokens."""
    once = {"batch": 24, "learning_rate": 1e-12, "attention": kernel}
    padded, packed = (instruction.train(make_model(tokenizer), tokenizer, INSTRUCTIONS, TRAINING.model_copy(update=once | {"packing": packing}), folder=tmp_path, seed=0)
                      for packing in (None, "documents"))
    assert len(padded[1]) == len(packed[1]) == 1
    assert packed[1]["loss"][0] == pytest.approx(padded[1]["loss"][0], abs=1e-5)
    shown = "".join(packed[2]["token"][packed[2]["in the loss"]])
    assert shown in {completion + tokenizer.eos_token for completion in INSTRUCTIONS["completion"]}


def test_cp_inside_documents_has_the_loss_of_each_text_alone(tokenizer, tmp_path):
    """One step over all rows at a learning rate of nothing, through the Trainer: the mean over the texts' tokens, each behind its own text only."""
    rows = trainer.pack(TEXTS, tokenizer, 64)
    once = PACKED.model_copy(update={"batch": len(rows), "learning_rate": 1e-12})
    _, log = pretraining.train(make_model(tokenizer), tokenizer, TEXTS, once, folder=tmp_path, seed=0)
    model, losses = make_model(tokenizer), []
    for row in rows:
        for text in np.split(row, np.cumsum(trainer.text_lengths(row, tokenizer.eos_token_id))[:-1]):
            scores = logits(model, torch.tensor(text)[None])[0].log_softmax(-1)
            losses += [-float(scores[place - 1, text[place]]) for place in range(1, len(text))]
    assert log["loss"].tolist() == [pytest.approx(np.mean(losses), abs=1e-4)]


def test_cp_inside_documents_learns_and_differs_from_cp_across(tokenizer, tmp_path, capsys):
    curves = {packing: pretraining.train(make_model(tokenizer), tokenizer, TEXTS, TRAINING.model_copy(update={"packing": packing}), folder=tmp_path, seed=0)[1]
              for packing in ("across", "documents", None)}
    assert curves["across"]["loss"].tolist() == curves[None]["loss"].tolist() != curves["documents"]["loss"].tolist()
    said = capsys.readouterr().out
    assert "attention crosses the borders" in said and "SDPA's fastest kernels take none" in said


@pytest.mark.parametrize("setting, words", [("instruction.sft.packing=across", "learned in sight of other questions"), ("preference.dpo.packing=documents", "in rows of their own"),
                                            ("pretraining.cp.devices=3", "effective batch of 16 sequences .* cannot be shared equally by 3 processes"),
                                            ("instruction.sft.accelerate=ddq", None), ("pretraining.cp.lora.bits=8", "bits"),
                                            ("pretraining.cp.lora.targets=[]", "adapts no layer; expected all-linear or the names of linear layers"),
                                            ("preference.dpo.warmup=1", r"warmup: expected the share of the steps .* below 1 \(0.03 is 3 %\), got 1"),
                                            (["instruction.sft.lora.bits=4", "instruction.sft.accelerate=fsdp2", "instruction.sft.devices=2"],
                                             "fsdp2 does not share out the 4-bit weights of lora.bits; take accelerate: ddp")])
def test_settings_that_cannot_be_meant_are_refused(setting, words):
    if words is None:  # the file is looked for only when it is used
        assert params.load("hippo_llama", [setting]).instruction.sft.devices == 1
        setting, words = [setting, "instruction.sft.devices=2"], "ddq is no file in params/accelerate/; there are ddp, fsdp2"
    with pytest.raises(params.ParamsError, match=words):
        params.load("hippo_llama", [setting] if isinstance(setting, str) else setting)


# --- silent failures, and bad input ---------------------------------------------------------------------------------------

def test_a_loss_that_breaks_stops_at_that_step(tokenizer, tmp_path, monkeypatch):
    """The Trainer itself would put the mean of the losses before in its place and go on for hours."""
    wild = TRAINING.model_copy(update={"epochs": 8, "learning_rate": 1e30, "batch": 2})
    with pytest.raises(StageError, match=r"training loss is (nan|inf) at step [2-9]\b"):
        pretraining.train(make_model(tokenizer), tokenizer, TEXTS, wild, folder=tmp_path, seed=0)


def test_a_tokenizer_that_joins_prompt_and_answer_is_refused(tokenizer, tmp_path):
    """The prompt ends with a space that the answer's first token takes along: nobody would see that the mask is off by one."""
    joined = INSTRUCTIONS.assign(prompt=[prompt + " me" for prompt in INSTRUCTIONS["prompt"]], completion=["tformin"] * len(INSTRUCTIONS))
    separate = [len(tokenizer(p)["input_ids"]) + len(tokenizer(c)["input_ids"]) - len(tokenizer(p + c)["input_ids"]) for p, c in zip(joined["prompt"], joined["completion"])]
    assert any(separate), "the example must join tokens, or it tests nothing"
    with pytest.raises((StageError, AssertionError), match="joins the end of a prompt|must cover exactly the answer"):
        instruction.train(make_model(tokenizer), tokenizer, joined, TRAINING, folder=tmp_path, seed=0)


def test_validation_text_that_is_trained_on_is_refused():
    trainer.apart(["a", "b"], ["c"])
    with pytest.raises(StageError, match="validation row 1 and 0 more are also trained on"):
        trainer.apart(["a", "b"], ["c", "b"])


ITEMS = pd.DataFrame({"split": ["development", "test", "development"], "question": ["What helps?", "Tested?", "What else?"],
                      "options": [["aspirin", "rest"]] * 3, "answer": [1, 0, 0], "context": ["", "", "Rest is best."]})


def test_the_validation_loss_is_that_of_the_right_answers_to_development_items(tokenizer):
    model = make_model(tokenizer)
    left, validation = instruction.set_aside(INSTRUCTIONS, ITEMS, 0, seed=1)
    assert left is INSTRUCTIONS and validation["completion"].tolist() == [" rest", " aspirin"]
    assert validation["prompt"].tolist() == ["Question: What helps?\n(A) aspirin (B) rest\nAnswer:", "Abstract: Rest is best.\nQuestion: What else?\nAnswer:"]
    whole, inside = [], 0
    for prompt, answer in zip(validation["prompt"], validation["completion"]):
        row = tokenizer(prompt + answer + tokenizer.eos_token)["input_ids"]
        scores = logits(model, torch.tensor([row]))[0].log_softmax(-1)
        begin = len(tokenizer(prompt)["input_ids"])
        whole += [-float(scores[place - 1, row[place]]) for place in range(begin, len(row))]
        inside += len(row) - begin
    assert instruction.validation_loss(model, tokenizer, validation) == (pytest.approx(np.mean(whole), abs=1e-4), inside)
    with pytest.raises(StageError, match="validation row 1 and 0 more are also trained on"):
        instruction.set_aside(validation.iloc[1:], ITEMS, 0, seed=1)


def test_rows_set_aside_are_not_trained_on_even_as_copies():
    twice = pd.concat([INSTRUCTIONS, INSTRUCTIONS.assign(id=INSTRUCTIONS["id"] + "#1")]).sample(frac=1, random_state=1)
    left, validation = instruction.set_aside(twice, ITEMS, 5, seed=1)
    assert len(validation) == 5 and len(left) == 2 * (len(INSTRUCTIONS) - 5) and not set(left["prompt"]) & set(validation["prompt"])
    assert set(validation["prompt"]) == set(instruction.set_aside(INSTRUCTIONS, ITEMS, 5, seed=1)[1]["prompt"]), "the draw depends on the seed, not on the order"
    with pytest.raises(StageError, match="asks for 13 of 24 prompts; leave more to train on"):
        instruction.set_aside(INSTRUCTIONS, ITEMS, 13, seed=1)


def test_a_base_without_a_tokenizer_is_a_sentence(tokenizer, tmp_path):
    make_model(tokenizer).save_pretrained(tmp_path / "base")
    with pytest.raises(StageError, match="brings no tokenizer .*; put its tokenizer files into the same folder"):
        models.load_pretrained(str(tmp_path / "base"))


def test_a_tokenizer_of_another_model_is_refused(tokenizer, tmp_path):
    model = make_model(tokenizer)
    model.resize_token_embeddings(300)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(StageError, match="does not fit its model: 420 tokens for 300 embeddings"):
        models.load_pretrained(str(tmp_path))


def test_a_base_whose_weights_are_cut_short_is_a_sentence(tokenizer, tmp_path):
    make_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    os.truncate(tmp_path / "model.safetensors", 5000)
    with pytest.raises(StageError, match="cannot be loaded"):
        models.load_pretrained(str(tmp_path))


@pytest.mark.parametrize("change, words", [(WIDE | {"seed": 7}, "was trained on another base than"), ({"width": 32}, "was trained on another base than")])
def test_an_adapter_of_another_base_is_refused(run, tokenizer, change, words):
    """Of the same shape it would load without a word and spoil every answer."""
    folder = run.root / "02_pretraining" / "CP"
    with pytest.raises(StageError, match=words):
        models.apply(make_model(tokenizer, **change), folder)
    if "seed" not in change:  # adapters of others carry no mark
        (folder / models.MARK_FILE).unlink()
        with pytest.raises(StageError, match="does not fit|cannot be loaded"):
            models.apply(make_model(tokenizer, **change), folder)


@pytest.mark.parametrize("part", ["embeddings", "norms"])
def test_a_base_that_is_another_one_beyond_its_first_embedding_is_told_apart(run, tokenizer, part):
    other = make_model(tokenizer, **WIDE)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if weight.dim() > 1 and part == "embeddings":
                weight[1:] += 0.01
            if "norm" in name and part == "norms":
                weight += 0.02
    with pytest.raises(StageError, match="was trained on another base than"):
        models.apply(other, run.root / "02_pretraining" / "CP")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_an_adapter_that_was_trained_in_16_bit_belongs_to_the_same_base_in_float32(run, tokenizer, precision):
    """05 merges in float32 what a T4 trained in float16; numbers too small for float16 are nothing in it."""
    base, _ = models.load(run, "base")
    with torch.no_grad():
        base.get_input_embeddings().weight[::3] *= 1e-7
    low = models.add_lora(models.cast(copy.deepcopy(base), precision), LORA)
    models.save(low, run.folder / "low")
    assert models.trained(base, run.folder / "low").peft_config


def test_an_adapter_that_is_cut_short_or_incomplete_is_refused(run, tokenizer):
    from safetensors.torch import load_file, save_file
    folder = run.root / "02_pretraining" / "CP"
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file)
    with pytest.raises(StageError, match="cannot be loaded .*missing adapter keys"):
        models.apply(make_model(tokenizer, **WIDE), folder)
    os.truncate(file, 2000)
    with pytest.raises(StageError, match="cannot be loaded"):
        models.apply(make_model(tokenizer, **WIDE), folder)


def test_memory_that_runs_out_is_no_fault_of_the_adapter(run, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr("peft.PeftModel.from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        models.load(run, "CP")


@pytest.mark.parametrize("step", ["CP", "SFT"])
def test_further_gpus_in_sight_change_no_training(tokenizer, tmp_path, monkeypatch, step):
    """The Trainer would put nn.DataParallel around the model, with a batch for each of them; TRL would refuse."""
    from transformers import TrainingArguments

    def train(folder):
        if step == "CP":
            return pretraining.train(make_model(tokenizer), tokenizer, TEXTS, TRAINING, folder=tmp_path / folder, seed=0)[1]
        return instruction.train(make_model(tokenizer), tokenizer, INSTRUCTIONS, TRAINING, folder=tmp_path / folder, seed=0)[1]

    def two(settings):
        device, settings._n_gpu = found(settings), 2
        return device

    alone, found, seen = train("one"), TrainingArguments._setup_devices.func, functools.cached_property(two)
    seen.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", seen)
    pd.testing.assert_frame_equal(train("two"), alone)


def test_an_adapter_keeps_the_mark_of_its_base_through_merging(run, ids):
    """The adapter of a later stage is trained on a merged model, and is merged behind the earlier ones again."""
    merged, tokenizer = models.load(run, "CP")
    made, *_ = instruction.train(merged, tokenizer, INSTRUCTIONS, TRAINING, folder=run.root / "c", seed=0)
    models.save(made, run.folder / "CP+SFT")
    assert json.loads((run.folder / "CP+SFT" / models.MARK_FILE).read_text())["numbers"] == json.loads((run.root / "02_pretraining/CP" / models.MARK_FILE).read_text())["numbers"]
    assert largest(logits(models.load(run, "CP+SFT")[0], ids), logits(made, ids)) < 1e-4
    shutil.rmtree(run.root / "c")
