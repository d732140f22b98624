"""Shared-context scoring gives HFLM's numbers: both families, grouped queries, sliding windows, any shape of request."""

import copy
import os
import random

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
                          PreTrainedTokenizerFast)

from hippo_utils.evaluation import shared_context
from hippo_utils.evaluation.shared_context import (Row, SharedContextLM, batches, group_by_prefix, lay_out, split_row,
                                                   visible)

WORDS = ("aspirin beta blocks cough dose edema fever gout heart iron joint kidney liver mild nerve organ pulse renal "
         "serum toxin ulcer vein warm xray yes zinc").split()
LIMIT = 512


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE that puts <s> in front, as LLaMA's and Mistral's tokenizers do."""
    rng = random.Random(0)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator([sentence(rng, 40) for _ in range(50)], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def make_model(name: str):
    """Random models with sharp attention (large initial weights), so that a wrong mask or position shows."""
    shape = dict(vocab_size=330, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                 max_position_embeddings=LIMIT, initializer_range=0.3, bos_token_id=0, eos_token_id=1)
    torch.manual_seed(1)
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(num_key_value_heads=4, **shape)).eval()
    if name == "llama_gqa":
        return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, tie_word_embeddings=True, **shape)).eval()
    if name == "llama_eager":
        return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, attn_implementation="eager", **shape)).eval()
    window = {"mistral": None, "mistral_window": 24, "mistral_wide": 4096}[name]
    return MistralForCausalLM(MistralConfig(num_key_value_heads=1, sliding_window=window, **shape)).eval()


MODELS = ["llama", "llama_gqa", "llama_eager", "mistral", "mistral_window", "mistral_wide"]


@pytest.fixture(scope="module")
def pairs(tokenizer):
    """name -> (HFLM, SharedContextLM) on one model."""
    made = {}

    def get(name):
        if name not in made:
            model = make_model(name)
            made[name] = (HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8),
                          SharedContextLM(pretrained=model, tokenizer=tokenizer))
        return made[name]

    return get


def sentence(rng: random.Random, most: int, least: int = 1) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


def request(context: str, continuation: str) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0)


def exam(seed: int, items: int = 12, prefix: str = "", most: int = 20) -> list[Instance]:
    """Items with 2 to 6 options of 1 to about 30 tokens, contexts of all lengths."""
    rng = random.Random(seed)
    requests = []
    for _ in range(items):
        context = prefix + "Question: " + sentence(rng, most) + "\nAnswer:"
        requests += [request(context, " " + sentence(rng, rng.choice([1, 1, 4, 12]))) for _ in range(rng.randint(2, 6))]
    return requests


def assert_same(hflm: HFLM, shared: SharedContextLM, requests: list[Instance]) -> list[tuple[float, bool]]:
    want = hflm.loglikelihood(requests, disable_tqdm=True)
    got = shared.loglikelihood(requests, disable_tqdm=True)
    assert len(got) == len(requests)
    assert max(abs(a[0] - b[0]) for a, b in zip(want, got)) < 1e-4
    assert [a[1] for a in want] == [b[1] for b in got]
    assert all(type(number) is float and type(greedy) is bool for number, greedy in got)
    return got


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_zero_shot_is_hflm(pairs, name, seed):
    assert_same(*pairs(name), exam(seed))


@pytest.mark.parametrize("name", MODELS)
def test_shared_examples_are_hflm(pairs, name):
    examples = "".join(f"Question: {sentence(random.Random(i), 15)}\nAnswer: iron\n\n" for i in range(3))
    requests = exam(2, prefix=examples)
    groups = group_by_prefix(pairs(name)[1]._rows(encoded(pairs(name)[1], requests)))
    assert max(len(prefix) for prefix, _ in groups) > 24  # the examples are shared, and longer than the window
    assert_same(*pairs(name), requests)


@pytest.mark.parametrize("name", ["llama_gqa", "mistral_window"])
def test_several_prefixes_in_one_call(pairs, name):
    """lm-eval hands over all tasks at once: two sets of examples, and items without any, in a shuffled order."""
    examples = [sentence(random.Random(i), 40, 40) + "\n" for i in (5, 6)]
    requests = exam(3, 15, examples[0]) + exam(4, 15, examples[1]) + exam(5, 6)
    random.Random(0).shuffle(requests)
    groups = group_by_prefix(pairs(name)[1]._rows(encoded(pairs(name)[1], requests)))
    assert len([prefix for prefix, _ in groups if len(prefix) > 40]) == 2
    assert_same(*pairs(name), requests)


def encoded(lm: HFLM, requests: list[Instance]) -> list:
    return [(r.args, *lm._encode_pair(*r.args)) for r in requests]


@pytest.mark.parametrize("name", ["llama_gqa", "mistral_window"])
def test_odd_requests(pairs, name):
    long = "Question: " + sentence(random.Random(3), 90, 90) + "\nAnswer:"
    requests = [request("", " fever"), request("", "gout and iron"), request("", "<s>zinc"),     # empty context
                request(long, " iron"), request(long, " iron"), request(long, " " + sentence(random.Random(4), 60, 60)),
                request("Answer: ", "iron"), request("Answer:", " iron"), request("Answer:  ", "iron"),  # spaces are moved
                request("Answer: ser", "um toxin"),                                               # merges over the seam
                request("a", "b"), request("a", "c"), request("ab", "c"),                          # one context begins another
                request(long + " iron", " zinc"), request(long + " iron zinc", " y")]
    got = assert_same(*pairs(name), requests)
    assert got[3] == pytest.approx(got[4], abs=1e-6)
    assert pairs(name)[1].loglikelihood([], disable_tqdm=True) == []
    assert_same(*pairs(name), requests[:1])
    for lm in pairs(name):  # nothing left to score once "ser" + "um" has become one token: HFLM refuses, so do we
        with pytest.raises(AssertionError):
            lm.loglikelihood([request("Answer: ser", "um")], disable_tqdm=True)


@pytest.mark.parametrize("name", ["llama_gqa", "mistral_window"])
def test_single_token_continuations(pairs, name, tokenizer):
    """Letters: no option column at all, the last context token predicts everything."""
    requests = [request(f"Question: {sentence(random.Random(i), 20)}\nAnswer:", letter) for i in range(10) for letter in "ABCDE"]
    assert all(len(option) == 1 for _, _, option in encoded(pairs(name)[1], requests))
    got = assert_same(*pairs(name), requests)
    assert not any(greedy for _, greedy in got)


def test_is_greedy_is_found(pairs):
    hflm, shared = pairs("llama_gqa")
    requests = []
    for i in range(8):
        context = f"Question: {sentence(random.Random(i), 20)}\nAnswer:"
        ids = torch.tensor([hflm.tok_encode(context)])
        requests += [(("c", "o"), ids[0].tolist(), hflm.model.generate(ids, max_new_tokens=n, do_sample=False, pad_token_id=1)
                      [0, ids.shape[1]:].tolist()) for n in (1, 3)]
        requests.append((("c", "o"), ids[0].tolist(), [5, 6, 7]))
    got = [greedy for _, greedy in shared._loglikelihood_tokens(requests, disable_tqdm=True)]
    assert got == [True, True, False] * 8
    assert got == [greedy for _, greedy in hflm._loglikelihood_tokens(requests, disable_tqdm=True)]


@pytest.mark.parametrize("name", ["llama_gqa", "mistral_window"])
def test_direct_computation_in_double_precision(pairs, name):
    hflm, shared = pairs(name)
    model = copy.deepcopy(hflm.model).double()
    requests = exam(7, prefix=sentence(random.Random(9), 60, 60) + "\n")
    for (_, context, option), (number, greedy) in zip(encoded(hflm, requests), shared.loglikelihood(requests, disable_tqdm=True)):
        with torch.no_grad():
            logits = model(torch.tensor([context + option])).logits[0, len(context) - 1:-1]
        assert number == pytest.approx(logits.log_softmax(-1)[range(len(option)), option].sum().item(), abs=1e-4)
        assert greedy == (logits.argmax(-1).tolist() == option)


def test_window_matters(pairs):
    """The window's tests have power: the same weights without a window give other numbers."""
    _, shared = pairs("mistral_window")
    requests = exam(0)
    narrow = shared.loglikelihood(requests, disable_tqdm=True)
    shared.window = None
    try:
        wide = shared.loglikelihood(requests, disable_tqdm=True)
    finally:
        shared.window = 24
    assert max(abs(a[0] - b[0]) for a, b in zip(narrow, wide)) > 0.1


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 700])
def test_batches_change_nothing(pairs, tokens_per_batch):
    """Down to one item a batch, and to rows that hold one option each."""
    hflm, shared = pairs("mistral_window")
    small = SharedContextLM(pretrained=shared.model, tokenizer=shared.tokenizer, tokens_per_batch=tokens_per_batch)
    assert_same(hflm, small, exam(8, 8, prefix=sentence(random.Random(1), 50, 50) + "\n"))


def test_many_options_of_one_context(pairs):
    rng = random.Random(0)
    requests = [request("Answer:", " " + sentence(rng, 8)) for _ in range(200)]
    assert len(pairs("llama_gqa")[1]._rows(encoded(pairs("llama_gqa")[1], requests))) > 1
    assert_same(*pairs("llama_gqa"), requests)


def test_order_and_repetition(pairs):
    _, shared = pairs("llama_gqa")
    requests = exam(11)
    got = shared.loglikelihood(requests, disable_tqdm=True)
    assert shared.loglikelihood(requests, disable_tqdm=True) == got  # bit for bit
    order = list(range(len(requests)))
    random.Random(0).shuffle(order)
    again = shared.loglikelihood([requests[i] for i in order], disable_tqdm=True)
    assert [number for number, _ in again] == pytest.approx([got[i][0] for i in order], abs=1e-4)


def test_too_long_is_an_error_or_counted(pairs, tokenizer):
    hflm, shared = pairs("llama_gqa")
    context = sentence(random.Random(0), 400, 400)
    requests = [request(context, " iron"), request(context, " " + sentence(random.Random(1), 10, 10)), request("short", " zinc")]
    with pytest.raises(ValueError, match="2 of 3 prompts exceed the model's context of 512 tokens, by up to"):
        shared.loglikelihood(requests, disable_tqdm=True)
    assert shared.tokens_cut == {}
    cutting = SharedContextLM(pretrained=shared.model, tokenizer=tokenizer, allow_truncation=True)
    assert_same(hflm, cutting, requests)
    lengths = [len(c) + len(o) for _, c, o in encoded(hflm, requests)]
    assert cutting.tokens_cut == {r.args: n - (LIMIT + 1) for r, n in zip(requests[:2], lengths)}


def test_longest_prompt_that_fits(pairs):
    hflm, shared = pairs("llama_gqa")
    ids = random.Random(0).choices(range(2, 330), k=LIMIT + 1)
    fits = [(("c", "o"), ids[:-4], ids[-4:])]
    assert shared._loglikelihood_tokens(fits, disable_tqdm=True)[0][0] == pytest.approx(
        hflm._loglikelihood_tokens(fits, disable_tqdm=True)[0][0], abs=1e-4)
    with pytest.raises(ValueError, match="by up to 1:"):
        shared._loglikelihood_tokens([(("c", "o"), [2] + ids[:-4], ids[-4:])], disable_tqdm=True)


def test_adapter(tokenizer):
    torch.manual_seed(0)
    model = get_peft_model(make_model("mistral_window"), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    hflm, shared = (cls(pretrained=model, tokenizer=tokenizer, batch_size=8) for cls in (HFLM, SharedContextLM))
    requests = exam(12, prefix=sentence(random.Random(1), 60, 60) + "\n")
    got = assert_same(hflm, shared, requests)
    with model.disable_adapter():
        assert abs(shared.loglikelihood(requests, disable_tqdm=True)[0][0] - got[0][0]) > 1e-2


def test_half_precision(tokenizer):
    """bfloat16 carries 8 bits: the numbers agree to the precision of the sums, which is all that can be asked."""
    model = make_model("llama_gqa").bfloat16()
    hflm, shared = (cls(pretrained=model, tokenizer=tokenizer, batch_size=8) for cls in (HFLM, SharedContextLM))
    requests = exam(13)
    want, got = (lm.loglikelihood(requests, disable_tqdm=True) for lm in (hflm, shared))
    assert max(abs(a[0] - b[0]) / (1 + abs(a[0])) for a, b in zip(want, got)) < 0.1


def test_texts_are_encoded_once_for_all_models_and_never_by_another_tokenizer(pairs, tokenizer, monkeypatch):
    """The stages of a run are asked the same questions; a tokenizer with other rules splits them anew."""
    shared_context.encoded_texts.cache_clear()
    encoded = []
    with monkeypatch.context() as patched:
        patched.setattr(HFLM, "tok_encode", lambda self, text, *args, original=HFLM.tok_encode, **how: encoded.append(text) or original(self, text, *args, **how))
        for name in ("llama", "mistral"):
            pairs(name)[1].loglikelihood(exam(7), disable_tqdm=True)
    assert len(encoded) == len(set(encoded)) > 0
    for name in ("llama", "mistral"):
        assert_same(*pairs(name), exam(7))
    model, lower = pairs("llama")[1].model, copy.deepcopy(tokenizer)
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    for how in ({"tokenizer": lower}, {"tokenizer": tokenizer, "add_bos_token": False}):
        assert_same(HFLM(pretrained=model, **how), SharedContextLM(pretrained=model, **how), exam(7))


def test_no_more_texts_are_remembered_than_said(pairs, monkeypatch):
    shared_context.encoded_texts.cache_clear()
    monkeypatch.setattr(shared_context, "TEXTS_KEPT", 5)
    assert_same(*pairs("llama"), exam(9))
    assert len(shared_context.encoded_texts(*pairs("llama")[1]._splits_texts_by())) <= 5


def test_the_rest_stays_hflm(pairs):
    hflm, shared = pairs("mistral_window")
    text = [Instance("loglikelihood_rolling", {}, (sentence(random.Random(i), 60),), 0) for i in range(3)]
    assert shared.loglikelihood_rolling(text, disable_tqdm=True) == pytest.approx(hflm.loglikelihood_rolling(text, disable_tqdm=True))
    prompts = [Instance("generate_until", {}, ("Question: fever", {"until": ["\n"], "max_gen_toks": 5}), 0)]
    assert shared.generate_until(prompts, disable_tqdm=True) == hflm.generate_until(prompts, disable_tqdm=True)
    assert "tok_encode" not in vars(shared)  # the memory of `loglikelihood` is gone


def test_what_it_refuses(tokenizer):
    other = GPT2LMHeadModel(GPT2Config(vocab_size=330, n_embd=8, n_layer=1, n_head=1, n_positions=32))
    with pytest.raises(ValueError, match="not 'gpt2': use HFLM"):
        SharedContextLM(pretrained=other, tokenizer=tokenizer)
    model = make_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="sdpa or eager"):
        SharedContextLM(pretrained=model, tokenizer=tokenizer)
    virtual = get_peft_model(make_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="prompt-learning"):
        SharedContextLM(pretrained=virtual, tokenizer=tokenizer)


def test_layout_and_mask_by_hand():
    rows = [Row([11, 12], [[21, 22, 23], [31], [41, 42]], [0, 1, 2]), Row([13], [[51, 52]], [3])]
    tokens, positions, segments = lay_out(rows, start=5)
    assert tokens.tolist() == [[11, 12, 21, 22, 41], [0, 13, 51, 0, 0]]
    assert positions.tolist() == [[5, 6, 7, 8, 7], [0, 5, 6, 0, 0]]
    assert segments.tolist() == [[0, 0, 1, 1, 3], [-1, 0, 1, -1, -1]]
    see = visible(positions, segments, start=5, window=None)
    assert see.shape == (2, 1, 5, 10)
    assert see[0, 0, :, :5].all()                                              # the prefix is seen by all
    assert see[0, 0, :, 5:].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert see[1, 0, 1:3].int().tolist() == [[1] * 5 + [0, 1, 0, 0, 0], [1] * 5 + [0, 1, 1, 0, 0]]
    see = visible(positions, segments, start=5, window=3)
    assert see.shape == (2, 1, 5, 7)                                           # of the prefix, positions 3 and 4 are kept
    assert see[0, 0, 0].int().tolist() == [1, 1, 1, 0, 0, 0, 0]                # position 5 sees 3, 4, 5
    assert see[0, 0, 3].int().tolist() == [0, 0, 0, 1, 1, 1, 0]                # position 8 sees 6, 7, 8
    assert see[0, 0, 4].int().tolist() == [0, 0, 1, 1, 0, 0, 1]                # position 7 sees 5, 6, 7
    assert see.any(dim=-1).all()


def test_prefixes_by_hand(monkeypatch):
    monkeypatch.setattr(shared_context, "PREFIX_COST", 4)
    rows = [Row(list(context), [[1]], [i]) for i, context in enumerate(sorted([
        (1, 9, 9), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 7), (1, 2, 3, 4, 8), (5, 6), (6, 6, 6, 6, 1), (6, 6, 6, 6, 2), (6, 6, 6, 6)]))]
    groups = group_by_prefix(rows)
    assert [(prefix, [row.context for row in group]) for prefix, group in groups] == [
        ([1, 2, 3, 4], [[5, 6], [5, 7], [8]]), ([6, 6, 6], [[6], [6, 1], [6, 2]]), ([], [[1, 9, 9], [5, 6]])]
    assert group_by_prefix([]) == []
    # A chain, where every context begins the next one: as deep as a tree can be.
    chain = group_by_prefix([Row([1] * n, [[1]], [n]) for n in range(1, 2000)])
    assert sum(len(group) for _, group in chain) == 1999 and all(row.context for _, group in chain for row in group)


def test_batches_keep_the_bound():
    rng = random.Random(0)
    rows = [Row([1] * rng.randint(1, 90), [[1] * rng.randint(1, 9) for _ in range(4)], list(range(4 * i, 4 * i + 4)))
            for i in range(200)]
    made = batches(rows, 30, 1000)
    assert sorted(row.requests for batch in made for row in batch) == sorted(row.requests for row in rows)
    run = 0
    for batch in made:
        width = sum(max(side) for side in zip(*(row.width() for row in batch)))
        assert len(batch) * (30 + width) <= 1000
        run += len(batch) * width
    assert run < 1.2 * sum(sum(row.width()) for row in rows)  # padding is bounded
    assert len(batches(rows[:3], 30, 1)) == 3
    parts = split_row(Row([1], [[1] * 300] * 5, list(range(5))), 8192)
    assert [part.requests for part in parts] == [[0], [1], [2], [3], [4]] and all(part.context == [1] for part in parts)
