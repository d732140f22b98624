"""A vocabulary extended with Chinese: shorter texts, embeddings from the pieces, and nothing else changed."""

import copy

import pytest

from small import make_model, make_tokenizer

from hippo_utils import params
from hippo_utils.miniworld.anesthesia import documents
from hippo_utils.miniworld.anesthesia import world as w
from hippo_utils.params import ParamsError
from hippo_utils.training import vocabulary

TEXTS = [row["text"] for row in documents.anesthesia(w.load_world(0, 60), 120, 0)]


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    """A tokenizer that knows English only: three bytes to a Chinese character."""
    return make_tokenizer(tmp_path_factory.mktemp("english"))


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_extending(english, family):
    import torch
    tokenizer, model = copy.deepcopy(english), make_model(english, family=family)
    new = vocabulary.candidates(TEXTS, tokenizer, 100)
    assert len(new) == 100 and all(1 <= len(token) <= 4 for token in new)
    before = model(**tokenizer("What is warfarin?", return_tensors="pt")).logits
    old = model.get_input_embeddings().weight.detach().clone()
    assert vocabulary.extend(model, tokenizer, new) == 100 and vocabulary.extend(model, tokenizer, new) == 0
    after = model(**tokenizer("What is warfarin?", return_tensors="pt")).logits
    assert torch.allclose(before, after[..., :before.shape[-1]], atol=1e-5)
    rows = model.get_input_embeddings().weight
    assert torch.equal(rows[:len(old)], old) and len(rows) == len(tokenizer)
    for token in (new[0], new[-1]):
        assert torch.allclose(rows[tokenizer.convert_tokens_to_ids(token)], old[english(token)["input_ids"]].mean(dim=0))
        assert torch.equal(model.get_output_embeddings().weight[tokenizer.convert_tokens_to_ids(token)], rows[tokenizer.convert_tokens_to_ids(token)])
    table = vocabulary.tokens_per_character({"before": english, "after": tokenizer}, TEXTS).set_index("tokenizer")["tokens_per_character"]
    assert table["before"] > 2 and table["after"] < 0.75 * table["before"]
    for text in TEXTS[:10]:  # nothing is mangled on the way
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_what_is_known_or_rare_is_no_new_token(english):
    new = vocabulary.candidates(["丙泊酚。"] * 10 + ["依托咪酯。"], english, 50)
    assert new == ["丙泊酚"]  # its parts occur inside it only; the other is too rare
    assert vocabulary.candidates(["words only"], english, 5) == []


def test_only_the_new_tokens_and_the_adapters_learn(english, tmp_path):
    """lora.new_tokens: after training, saving, loading and merging, the rows of the added tokens have moved and no other row has."""
    import pandas as pd
    import torch
    from small import LORA, TRAINING

    from hippo_utils.manifest import StageError
    from hippo_utils.training import instruction, models
    tokenizer, model = copy.deepcopy(english), make_model(english)
    how = TRAINING.model_copy(update={"order": "random", "lora": LORA.model_copy(update={"new_tokens": True})})
    with pytest.raises(StageError, match="output layer too"):
        models.lora_config(how.lora, model, tokenizer)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    first = len(tokenizer)
    vocabulary.extend(model, tokenizer, vocabulary.candidates(TEXTS, tokenizer, 20))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    rows = pd.DataFrame({"prompt": ["问：什么？\n答："] * 32, "completion": [text[:20] for text in TEXTS[:32]]})  # cut at 64 tokens, inside a character
    trained, _, _ = instruction.train(model, tokenizer, rows, how, folder=tmp_path / "checkpoints", seed=0)
    models.save(trained, tmp_path / "adapter")
    base, _ = models.load_pretrained(str(tmp_path / "base"))
    old, head = (layer.weight.detach().clone() for layer in (base.get_input_embeddings(), base.get_output_embeddings()))
    merged = models.apply(base, tmp_path / "adapter")
    moved = (merged.get_input_embeddings().weight - old).abs().amax(dim=1)
    assert (moved[:first] == 0).all() and (moved[first:] > 0).any() and torch.equal(merged.get_output_embeddings().weight, head)
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.allclose(merged.eval()(ids).logits, models.plain(trained)(ids).logits, atol=1e-4)


def test_new_embeddings_that_nobody_would_train_are_refused():
    with pytest.raises(ParamsError, match="leave untrained; set lora.new_tokens to true") as error:
        params.load("hypnos", ["pretraining.new_tokens=8000"])
    assert "\n" not in str(error.value)
    assert params.load("hypnos", ["pretraining.new_tokens=8000", "instruction.sft.lora.new_tokens=true"]).pretraining.new_tokens == 8000
    assert params.load("hypnos", ["pretraining.new_tokens=8000", "instruction.sft.lora=null"]).instruction.sft.lora is None
