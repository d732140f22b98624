"""Models and how a stage's model is put together: a base, and the adapters of the stages before merged into it in order.

    base = build(architecture, tokenizer, seed)          # a mini run's base, before training
    model, tokenizer = load(stage, "CP+SFT")             # the model of a row of the paper's ablation
"""

import json
from pathlib import Path

from hippo_utils.manifest import Stage, StageError
from hippo_utils.params import Architecture, Lora, Pretraining

# Which adapters make the model of each row, in the order in which they are merged (paper, section 3: the stages build on each other).
LINEAGE: dict[str, tuple[tuple[str, str], ...]] = {
    "base": (),
    "CP": (("02_pretraining", "CP"),),
    "SFT": (("03_instruction", "SFT"),),
    "CP+SFT": (("02_pretraining", "CP"), ("03_instruction", "CP+SFT")),
    "CP+SFT+DPO": (("02_pretraining", "CP"), ("03_instruction", "CP+SFT"), ("04_preference", "CP+SFT+DPO")),
}
BASE_FILE = "base.json"  # names a base that was loaded and not copied


def quiet() -> None:
    """Keep the libraries' progress bars and advice out of the notebooks, and TRL from reporting its use; warnings of substance stay."""
    import warnings

    import datasets
    import transformers
    from huggingface_hub import constants
    from transformers.utils import logging
    constants.HF_HUB_DISABLE_TELEMETRY = True  # the environment variable is only read when huggingface_hub is imported
    warnings.filterwarnings("ignore", message=".*is deprecated and will be removed.*", category=FutureWarning)  # the libraries among themselves
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    logging.disable_progress_bar()


def build(architecture: Architecture, vocabulary: int, end: int, seed: int):
    """A LLaMA or Mistral model with random weights (float32), its token embeddings tied to its output layer.

    `vocabulary` is the number of token ids, `end` the id that ends a text (it also pads).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    shape = dict(vocab_size=vocabulary, hidden_size=architecture.width, intermediate_size=architecture.feed_forward,
                 num_hidden_layers=architecture.layers, num_attention_heads=architecture.heads,
                 num_key_value_heads=architecture.key_value_heads, max_position_embeddings=architecture.context,
                 tie_word_embeddings=True, bos_token_id=end, eos_token_id=end, pad_token_id=end)
    torch.manual_seed(seed)
    if architecture.family == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    return MistralForCausalLM(MistralConfig(**shape, sliding_window=architecture.sliding_window))


def save_base(stage: Stage, model, tokenizer) -> Path:
    """Keep a base that was trained here: weights as safetensors, tokenizer beside them."""
    folder = stage.folder / "base"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def name_base(stage: Stage, pretraining: Pretraining) -> None:
    """Keep the name and revision of a base that was loaded."""
    (stage.folder / BASE_FILE).write_text(json.dumps({"base": pretraining.base, "revision": pretraining.revision}) + "\n", encoding="utf-8")


def load_pretrained(name: str, revision: str | None = None, precision: str = "float32"):
    """A base model and its tokenizer from a local folder or the hub; StageError says what is missing and what to do."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=getattr(torch, precision))
    except (OSError, ValueError) as error:
        raise StageError(f"the base model {name} cannot be loaded ({str(error).splitlines()[0]}); give pretraining.base a folder "
                         "that holds a model with its tokenizer, or a hub id on a machine that reaches the hub") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def device():
    """The device models compute on: the first GPU, else the CPU."""
    import torch
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(stage: Stage, stages: str, precision: str = "float32"):
    """The model of one row of the ablation (`base`, `CP`, ...) with its adapters merged, and the tokenizer."""
    def place(of: str, name: str) -> Path:
        return stage.folder / name if of == stage.name else stage.input(of, name)

    own = stage.name == "02_pretraining"
    if (stage.folder / BASE_FILE).is_file() if own else stage.has("02_pretraining", BASE_FILE):
        named = json.loads(place("02_pretraining", BASE_FILE).read_text(encoding="utf-8"))
        model, tokenizer = load_pretrained(named["base"], named["revision"], precision)
    else:
        model, tokenizer = load_pretrained(str(place("02_pretraining", "base")), precision=precision)
    for of, name in LINEAGE[stages]:
        model = apply(model, place(of, name))
    return model.to(device()).eval(), tokenizer


def available(stage: Stage, stages: str) -> bool:
    """Whether the earlier stages made everything that this row is put together from."""
    return all(stage.has(of, name) for of, name in LINEAGE[stages])


def apply(model, folder: Path):
    """Put what one training step made onto a model: merge its LoRA adapter, or take its weights if it trained all of them."""
    if (folder / "adapter_config.json").is_file():
        from peft import PeftModel
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)
    return type(model).from_pretrained(str(folder), dtype=model.dtype)


def add_lora(model, lora: Lora):
    """`model` with trainable low-rank adapters on the named linear layers (Hu et al., arXiv 2106.09685); all else frozen."""
    from peft import get_peft_model
    return get_peft_model(model, lora_config(lora))


def lora_config(lora: Lora):
    from peft import LoraConfig
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets, task_type="CAUSAL_LM")


def merge_error(model, token_ids: list[list[int]]) -> float:
    """Largest change of any logit when the adapter is merged into the weights (float32): 0 up to rounding, or merging is broken."""
    import copy

    import torch
    ids = torch.tensor(token_ids, device=model.device)
    with torch.no_grad():
        apart = plain(model).eval()(ids).logits
        merged = copy.deepcopy(model).merge_and_unload()(ids).logits
    return float((apart - merged).abs().max())


def plain(model):
    """`model` without the forward methods that trainers put on it (TRL its fused loss, accelerate its mixed precision).

    They hold on to the model they were made for: a copy of it would go on computing with the original's weights.
    """
    for module in model.modules():
        module.__dict__.pop("forward", None)
    return model


def parameters(model) -> dict[str, int]:
    """How many parameters a model has, and how many of them are trained."""
    return {"parameters": sum(p.numel() for p in model.parameters()),
            "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad)}


def answer(model, tokenizer, prompts: list[str], tokens: int = 48) -> list[str]:
    """Greedy continuations of a few prompts, up to the end mark: something to look at."""
    import torch
    if not prompts:
        return []
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
    batch.pop("token_type_ids", None)
    tokenizer.padding_side = side
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return [text.strip() for text in tokenizer.batch_decode(out[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)]
