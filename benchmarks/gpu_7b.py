"""Does a 7B model go through CP, SFT and DPO on this GPU, how fast, and in how much memory, against what the preflight foresees?

    python benchmarks/gpu_7b.py                          LLaMA-2-7B's shape, the settings of params/hippo_llama.yaml, random weights
    python benchmarks/gpu_7b.py --base mistralai/Mistral-7B-v0.1 --bits 4
    python benchmarks/gpu_7b.py --base tiny              a few thousand weights: the same path on a CPU (what the tests run)

Needs no download: weights are random, texts are invented words of the full length. A step's time is (time of --steps steps - time of one)
/ their difference, so that neither loading nor the first step's warm-up counts. Peak memory is the allocator's on a GPU, and on a
CPU what is resident after the training, libraries included, as the preflight counts it. MFU is the arithmetic the method needs (activations computed twice count once) over the data sheet's rate.
Prints a Markdown table.
"""

import argparse
import gc
import random
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from hippo_utils import params
from hippo_utils.training import instruction, memory, models, preference, preflight, pretraining, trainer

TINY = memory.shape_like(512, 64, 128, 2, 4, 4, 512)


def make_tokenizer(folder: Path):
    """A byte-pair tokenizer of 500 entries on invented words: what it does not know of the model's vocabulary is never asked for."""
    from transformers import AutoTokenizer

    from hippo_utils.corpus import tokenizer
    return AutoTokenizer.from_pretrained(tokenizer.train([text(400, seed) for seed in range(20)], 500, folder))


def text(words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(words))


def make_model(shape: memory.Shape, kind: str, bits: int | None, tokenizer):
    """A model of this shape with random weights, as a training gets it: on its device, in its precision or in 4 bit."""
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.feed_forward, num_hidden_layers=shape.layers,
                         num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads, max_position_embeddings=shape.context,
                         tie_word_embeddings=shape.tied, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None)
    torch.set_default_dtype(getattr(torch, kind))  # in float32 first, a 7B model would take twice the memory that is measured
    with torch.device("cpu") if bits else models.device():  # in 4 bit it is read again from its file
        model = models.cast(LlamaForCausalLM(config), kind)
    torch.set_default_dtype(torch.float32)
    if bits is None:
        return model.eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        return models.load_pretrained(folder, None, kind, bits)[0].eval()


def data(name: str, tokenizer, rows: int, length: int) -> pd.DataFrame:
    """`rows` full rows of `length` tokens for one training step."""
    def exactly(tokens: int, seed: int) -> str:
        return tokenizer.decode(tokenizer(text(tokens, seed))["input_ids"][:tokens])

    if name == "CP":
        return pd.DataFrame({"text": [exactly(length + 8, seed) for seed in range(rows)]})
    prompts = [f"{exactly(length // 4, seed)}\n" for seed in range(rows)]
    if name == "SFT":
        return pd.DataFrame({"prompt": prompts, "completion": [exactly(length, seed + 1) for seed in range(rows)]})
    short = int(0.7 * length)  # pairs that are too long would be dropped, and decoded words may be cut into other tokens again
    return pd.DataFrame({"prompt": prompts, "chosen": [exactly(short, seed + 1) for seed in range(rows)], "rejected": [exactly(short, seed + 2) for seed in range(rows)]})


def resident() -> int:
    import psutil
    return psutil.Process().memory_info().rss


def measure(name: str, training: params.Training, shape: memory.Shape, device: memory.Device, steps: int) -> dict:
    """Train 1 and then `steps` steps from the same start; one row of the table."""
    fit = {"CP": pretraining.fit, "SFT": instruction.fit, "DPO": preference.fit}[name]
    kind = trainer.precision(training.precision)[0]
    rows = training.batch * training.accumulation
    models.quiet()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder) / "tokenizer")
        model = make_model(shape, kind if training.lora else "float32", training.lora.bits if training.lora else None, tokenizer)
        if device.gpus:
            torch.cuda.reset_peak_memory_stats()
        seconds, done, peak = {}, {}, 0
        for number in (1, 1, steps):  # the first is a warm-up
            texts = data(name, tokenizer, rows * number, training.max_length)
            started = time.perf_counter()
            made, curve, *_ = fit(model, tokenizer, texts, training, Path(folder) / f"{number}", 0)
            seconds[number], done[number] = time.perf_counter() - started, made.state.global_step
            peak = max(peak, torch.cuda.max_memory_allocated() if device.gpus else resident())
            model = models.plain(made.model.unload() if training.lora else made.model)
            del made
            gc.collect()
    tokens = sum(len(ids) for column in texts for ids in tokenizer(list(texts[column]))["input_ids"]) / steps if name != "CP" else rows * training.max_length
    tokens = min(tokens, rows * training.max_length * (2 if name == "DPO" else 1))
    per_step = (seconds[steps] - seconds[1]) / (done[steps] - done[1])
    loss = {"CP": "plain", "SFT": "tiled", "DPO": "pairs"}[name]
    once = training.model_copy(update={"activation_checkpointing": False})
    flops = preflight.Step("", name, "", once, loss, rows, round(tokens), True, shape).flops()
    foreseen = sum(memory.peak(shape, training, device, loss).values())
    return {"step": name, "weights": f"{training.lora.bits} bit" if training.lora and training.lora.bits else kind, "batch": f"{training.batch} x {training.accumulation}",
            "length": training.max_length, "tokens/s": tokens / per_step, "MFU": flops / per_step / (device.teraflops * 1e12),
            "peak GiB": peak / 2**30, "preflight GiB": foreseen / 2**30, "loss": f"{curve['loss'].iloc[0]:.2f} -> {curve['loss'].iloc[-1]:.2f}"}


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="meta-llama/Llama-2-7b-hf", help=f"a shape: tiny, {', '.join(memory.BASES)}")
    parser.add_argument("--params", default="hippo_llama")
    parser.add_argument("--device", help="a name of the preflight's table, for the data sheet's rate (default: what is here)")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--bits", type=int, choices=[4])
    parser.add_argument("--length", type=int)
    parser.add_argument("--only", nargs="+", choices=["CP", "SFT", "DPO"], default=["CP", "SFT", "DPO"])
    options = parser.parse_args(arguments)
    settings = params.load(options.params)
    shape = TINY if options.base == "tiny" else memory.BASES[options.base]
    device = memory.named(options.device) if options.device else memory.this_device(torch.get_num_threads())
    rows = []
    for name, training in (("CP", settings.pretraining.cp), ("SFT", settings.instruction.sft), ("DPO", settings.preference.dpo)):
        if name in options.only:
            lora = training.lora and training.lora.model_copy(update={"bits": options.bits})
            training = training.model_copy(update={"epochs": 1.0, "lora": lora, "devices": 1, "nodes": 1, "max_length": options.length or training.max_length})
            rows.append(measure(name, training, shape, device, options.steps))
    table = pd.DataFrame(rows)
    print(f"\n{options.base}, {shape.parameters() / 1e9:.2f}B random weights, {device.name}; torch {torch.__version__}\n")
    print("| " + " | ".join(table) + " |\n|" + " --- |" * len(table.columns))
    for row in table.itertuples(index=False):
        print("| " + " | ".join(f"{cell:,.3g}" if isinstance(cell, float) and cell < 1000 else f"{cell:,.0f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    return table


if __name__ == "__main__":
    main()
