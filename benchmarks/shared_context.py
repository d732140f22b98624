"""How much faster is shared-context scoring than lm-eval's HFLM, and how near the most that sharing can give?

    python benchmarks/shared_context.py [--quick] [--sizes mini small] [--threads 2] [--family mistral] [--device cuda]

Whole scoring (tokenisation included) of four-option items behind fixed few-shot examples, random models of three sizes,
both scorers in turn on the same requests after a warm-up; the ratio is that of the medians. The ceiling is a ratio of
token counts: tokens that HFLM processes over tokens that must be processed (every beginning of a prompt once, and the
options). A ratio above it is possible: HFLM also takes the logits of every prompt token, the scorer only those it needs.
Two more cases: `long` is four short options behind 600 tokens, `single` has one option per item, so
that next to nothing can be shared.
"""

import argparse
import logging
import os
import random
import statistics
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from hippo_utils.evaluation.shared_context import SharedContextLM, common_length

# name: (width, layers, heads, key-value heads, width of the feed-forward layer, items scored)
SIZES = {"mini": (128, 4, 4, 2, 512, 48), "small": (384, 6, 6, 2, 1024, 16), "medium": (768, 12, 12, 4, 2048, 6)}
VOCABULARY = 1000
CASES = {"0 shots": (0, 100, 4), "1 shot": (1, 100, 4), "3 shots": (3, 100, 4), "5 shots": (5, 100, 4),
         "0 shots, long": (0, 600, 4), "0 shots, single": (0, 100, 1)}  # shots, about so many tokens a question, options


def make_tokenizer(words: list[str], rng: random.Random) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator([" ".join(rng.choices(words, k=300)) for _ in range(100)],
                            trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], show_progress=False,
                                                initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def make_model(family: str, width: int, layers: int, heads: int, kv_heads: int, inner: int):
    shape = dict(vocab_size=VOCABULARY, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
                 num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=4096)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape)).eval()
    return MistralForCausalLM(MistralConfig(sliding_window=256, **shape)).eval()


def make_requests(tokenizer, words, rng, items: int, shots: int, tokens: int, options: int) -> list[Instance]:
    def text(length: int) -> str:  # about `length` tokens
        return " ".join(rng.choices(words, k=max(1, round(length * words_per_token))))

    sample = rng.choices(words, k=1000)
    words_per_token = len(sample) / len(tokenizer.encode(" ".join(sample)))
    examples = "".join(f"Question: {text(tokens)}\nAnswer: {text(8)}\n\n" for _ in range(shots))
    requests = []
    for _ in range(items):
        context = f"{examples}Question: {text(rng.uniform(0.7, 1.3) * tokens)}\nAnswer:"
        requests += [Instance("loglikelihood", {}, (context, " " + text(rng.uniform(4, 12))), 0) for _ in range(options)]
    return requests


def token_counts(lm: HFLM, requests: list[Instance]) -> tuple[int, int]:
    """Tokens that HFLM processes (padding apart), and tokens that must be processed."""
    pairs = [lm._encode_pair(*r.args) for r in requests]
    options = sum(len(option) - 1 for _, option in pairs)
    contexts = sorted({tuple(context) for context, _ in pairs})
    once = sum(map(len, contexts)) - sum(common_length(a, b) for a, b in zip(contexts, contexts[1:]))
    return sum(len(context) for context, _ in pairs) + options, once + options


def seconds(lm: HFLM, requests: list[Instance]) -> tuple[float, list]:
    start = time.perf_counter()
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    return time.perf_counter() - start, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a third of the items, two repeats, without the largest size")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--family", choices=["llama", "mistral"], default="llama", help="mistral: sliding window of 256")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=16, help="HFLM's")
    parser.add_argument("--tokens-per-batch", type=int, default=8192, help="ours")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    words = ["".join(rng.choices("abcdefghiklmnoprstuv", k=rng.randint(2, 8))) for _ in range(600)]
    tokenizer = make_tokenizer(words, rng)
    repeats = 2 if args.quick else args.repeats

    print(f"{args.family}, {args.device}, {args.threads} thread(s), {repeats} repeats, float32\n")
    print("| model | case | requests | HFLM, s | shared, s | ratio | ceiling | of the ceiling | max abs. difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in args.sizes:
        if args.quick and size == "medium":
            continue
        *shape, items = SIZES[size]
        model = make_model(args.family, *shape).to(args.device)
        hflm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=args.batch_size)
        shared = SharedContextLM(pretrained=model, tokenizer=tokenizer, tokens_per_batch=args.tokens_per_batch)
        name = f"{size}, {model.num_parameters() / 1e6:.1f}M"
        for case, (shots, tokens, options) in CASES.items():
            requests = make_requests(tokenizer, words, rng, items // 3 if args.quick else items, shots, tokens, options)
            times = {hflm: [], shared: []}
            for lm in times:
                lm.loglikelihood(requests[:4], disable_tqdm=True)
            for _ in range(repeats):
                answers = {}
                for lm in times:
                    duration, answers[lm] = seconds(lm, requests)
                    times[lm].append(duration)
            slow, fast = (statistics.median(times[lm]) for lm in (hflm, shared))
            difference = max(abs(a[0] - b[0]) for a, b in zip(answers[hflm], answers[shared]))
            all_tokens, needed = token_counts(hflm, requests)
            ceiling = all_tokens / needed
            print(f"| {name} | {case} | {len(requests)} | {slow:.2f} | {fast:.2f} | {slow / fast:.1f} | {ceiling:.1f} | "
                  f"{slow / fast / ceiling:.2f} | {difference:.0e} |", flush=True)


if __name__ == "__main__":
    main()
