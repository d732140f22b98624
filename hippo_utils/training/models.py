"""Models and how a stage's model is put together: a base, and the adapters of the stages before merged into it in order.

    base = build(architecture, tokenizer, seed)          # a mini run's base, before training
    model, tokenizer = load(stage, "CP+SFT")             # the model of a row of the paper's ablation
"""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np

from hippo_utils.manifest import Stage, StageError
from hippo_utils.params import Architecture, Lora, Pretraining, Training

# Which adapters make the model of each row, in the order in which they are merged (paper, section 3: the stages build on each other).
LINEAGE: dict[str, tuple[tuple[str, str], ...]] = {
    "base": (),
    "CP": (("02_pretraining", "CP"),),
    "SFT": (("03_instruction", "SFT"),),
    "CP+SFT": (("02_pretraining", "CP"), ("03_instruction", "CP+SFT")),
    "CP+SFT+DPO": (("02_pretraining", "CP"), ("03_instruction", "CP+SFT"), ("04_preference", "CP+SFT+DPO")),
    # Hypnos: general medicine first, then anesthesiology (abstract); the others are what that is held against.
    **{name: (("03_instruction", name),) for name in ("general", "specific", "mixed")},
    **{name: (("03_instruction", "general"), ("03_instruction", name)) for name in ("general+specific", "general+unfiltered", "general+same", "general+random")},
}
BASE_FILE = "base.json"        # names a base that was loaded and not copied
MARK_FILE = "trained_on.json"  # beside an adapter: the base that it belongs to


def quiet() -> None:
    """Keep the libraries' progress bars and advice out of the notebooks, and TRL from reporting its use; warnings of substance stay."""
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


def save_base(stage: Stage, model, tokenizer, name: str = "base") -> Path:
    """Keep a model that was trained here from scratch (the base, a generator): weights as safetensors, tokenizer beside them."""
    folder = stage.folder / name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def name_base(stage: Stage, pretraining: Pretraining) -> None:
    """Keep the name and revision of a base that was loaded."""
    (stage.folder / BASE_FILE).write_text(json.dumps({"base": pretraining.base, "revision": pretraining.revision}) + "\n", encoding="utf-8")


def load_pretrained(name: str, revision: str | None = None, precision: str = "float32", bits: int | None = None):
    """A base model and its tokenizer from a local folder or the hub; StageError says what is missing and what to do."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    release()
    try:
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=getattr(torch, precision), **_quantised(precision, bits))
    except (OSError, ValueError, SafetensorError) as error:
        raise StageError(f"the base model {name} cannot be loaded ({str(error).splitlines()[0]}); give pretraining.base a folder "
                         "that holds a model with its tokenizer, or a hub id on a machine that reaches the hub") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"the base model {name} brings no tokenizer ({str(error).splitlines()[0]}); put its tokenizer files into the same folder") from None
    if tokenizer.eos_token_id is None or len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise StageError(f"the tokenizer of {name} does not fit its model: {len(tokenizer)} tokens for {model.get_input_embeddings().weight.shape[0]} embeddings, "
                         f"end mark {tokenizer.eos_token}; put the files of the right tokenizer into its folder")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _quantised(precision: str, bits: int | None) -> dict:
    """Arguments that load weights in 4-bit NF4 with double quantisation (QLoRA, Dettmers et al., arXiv 2305.14314, section 3)."""
    import importlib.util

    import torch
    from transformers import BitsAndBytesConfig
    if bits is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise StageError("4-bit weights need bitsandbytes, which is not installed; pip install -e '.[gpu]' -c constraints.txt, or leave lora.bits out")
    return {"device_map": {"": device()}, "quantization_config": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=getattr(torch, precision))}


def device():
    """The device models compute on: the first GPU, else the CPU."""
    import torch
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def release() -> None:
    """Give the GPU back what nothing uses any more: models and trainers refer to each other, so Python alone frees them late."""
    import gc

    import torch
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def load(stage: Stage, stages: str, precision: str = "float32", training: Training | None = None):
    """The model of one row of the ablation (`base`, `CP`, ...) with its adapters merged, and the tokenizer.

    For a `training` the weights come in what it trains on: float32 where all of them learn, 4 bit for QLoRA, else the
    precision it computes in. Merging is done in float32 whatever comes after.
    """
    from hippo_utils.training import trainer
    if training:
        precision = trainer.precision(training.precision)[0] if training.lora else "float32"
    bits = training.lora.bits if training and training.lora else None
    if not LINEAGE[stages]:
        model, tokenizer = load_pretrained(*base_of(stage), precision, bits)
    else:
        model, tokenizer = merged(stage, stages)
        model = cast(model, precision)
        if bits:  # weights are quantised while they are read from a file
            with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
                model, tokenizer = load_pretrained(folder, None, precision, bits)
    return (model if bits else model.to(device())).eval(), tokenizer


def base_of(stage: Stage) -> tuple[str, str | None]:
    """(name or folder, revision) of a run's base: the one that was loaded, or the one that 02 made."""
    own = stage.name == "02_pretraining"
    if (stage.folder / BASE_FILE).is_file() if own else stage.has("02_pretraining", BASE_FILE):
        named = json.loads(_place(stage, "02_pretraining", BASE_FILE).read_text(encoding="utf-8"))
        return named["base"], named["revision"]
    return str(_place(stage, "02_pretraining", "base")), None


def merged(stage: Stage, stages: str):
    """The model of one row of the ablation on the CPU in float32, where adapters are merged, and the tokenizer."""
    model, tokenizer = load_pretrained(*base_of(stage))
    for of, made in LINEAGE[stages]:
        model = apply(model, _place(stage, of, made))
    return model, tokenizer


def _place(stage: Stage, of: str, name: str) -> Path:
    return stage.folder / name if of == stage.name else stage.input(of, name)


def cast(model, precision: str):
    """The weights in another precision. Buffers stay: rotary frequencies in 16 bit would move every position."""
    import torch
    for weight in model.parameters():
        weight.data = weight.data.to(getattr(torch, precision))
    model.config.dtype = getattr(torch, precision)
    return model


def available(stage: Stage, stages: str) -> bool:
    """Whether the earlier stages made everything that this row is put together from."""
    return all(stage.has(of, name) for of, name in LINEAGE[stages])


def apply(model, folder: Path):
    """Put what one training step made onto a model: merge its LoRA adapter, or take its weights if it trained all of them."""
    model = trained(model, folder)
    return model.merge_and_unload(safe_merge=True) if hasattr(model, "merge_and_unload") else model


def trained(model, folder: Path):
    """`model` as one training step left it: with its LoRA adapter beside the weights, or with the weights it trained.

    Raises StageError when the adapter was trained on another base, or when files are damaged.
    """
    import torch
    from safetensors import SafetensorError
    try:
        if not (folder / "adapter_config.json").is_file():
            return type(model).from_pretrained(str(folder), dtype=model.dtype).to(model.device)
        mark = json.loads((folder / MARK_FILE).read_text(encoding="utf-8")) if (folder / MARK_FILE).is_file() else {}
        if not _fits(mark, model):
            raise StageError(f"the adapter {folder} was trained on another base than {model.name_or_path or 'this one'}; train it again, or give the base it belongs to")
        from peft import PeftModel
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")  # PEFT would go on with random weights in their place
            return PeftModel.from_pretrained(model, str(folder))
    except RuntimeError as error:
        if isinstance(error, (StageError, torch.OutOfMemoryError)):
            raise
        raise StageError(f"the adapter {folder} does not fit {model.name_or_path or 'this base'} ({' '.join(str(error).split())[:120]}); "
                         "it was trained on a model of another shape") from None
    except (OSError, ValueError, UserWarning, SafetensorError) as error:
        raise StageError(f"{folder} cannot be loaded ({str(error).splitlines()[0]}); delete it and run the stage that makes it again") from None


def save(model, folder: Path) -> None:
    """Keep what a training step made (safetensors): the adapter with a mark of its base, or all weights."""
    model.save_pretrained(folder)
    if hasattr(model, "peft_config"):
        (folder / MARK_FILE).write_text(json.dumps({"base": model.name_or_path} | base_mark(model)) + "\n", encoding="utf-8")


def base_mark(model) -> dict:
    """Numbers that tell bases apart, from all over the token embeddings and from a few norms: LoRA and 4-bit weights leave both as they were.

    shape: of the embeddings. numbers: 64 rows by 16 columns of them, and about 16 of each norm taken.
    """
    import torch
    layer = model.get_input_embeddings()
    layer = getattr(layer, "token_adapter", layer)  # lora.new_tokens: the rows as they were before they learned
    table = getattr(layer, "base_layer", layer).weight.detach()
    norms = [weight.detach() for name, weight in model.named_parameters() if "norm" in name and weight.dim() == 1]
    rows, columns = (torch.linspace(0, size - 1, most).long().to(table.device) for size, most in zip(table.shape, (64, 16)))
    parts = [table[rows][:, columns], *(weight[:: max(1, len(weight) // 16)] for weight in norms[:: max(1, len(norms) // 4)])]
    return {"shape": list(table.shape), "numbers": [float(f"{number:.5g}") for part in parts for number in part.float().reshape(-1).tolist()]}


def _fits(mark: dict, model) -> bool:
    """Whether a mark is that of this model, in whatever precision either was loaded (bfloat16 keeps 8 bits, float16 no number below 2^-24); no mark fits all."""
    if "numbers" not in mark:
        return True
    here = base_mark(model)
    return (mark["shape"], len(mark["numbers"])) == (here["shape"], len(here["numbers"])) and np.allclose(mark["numbers"], here["numbers"], rtol=2**-7, atol=2**-24)


def add_lora(model, lora: Lora):
    """`model` with trainable low-rank adapters on the named linear layers (Hu et al., arXiv 2106.09685); all else frozen."""
    from peft import get_peft_model
    return get_peft_model(model, lora_config(lora))


def lora_config(lora: Lora, model=None, tokenizer=None):
    """PEFT's configuration; with lora.new_tokens the embeddings of the tokens that were added to this tokenizer learn too.

    Their rows of the output layer stay the mean of their pieces: TRL's loss reads that layer's own weights, past any adapter.
    """
    from peft import LoraConfig
    tokens = None
    if lora.new_tokens:
        if model.config.tie_word_embeddings:
            raise StageError(f"lora.new_tokens: the embeddings of {model.name_or_path or 'this base'} are its output layer too, which TRL does not train "
                             "through an adapter; leave new_tokens out, or train all weights (lora: null)")
        tokens = {"embed_tokens": sorted(set(tokenizer.get_added_vocab().values()) - set(tokenizer.all_special_ids))}
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets, task_type="CAUSAL_LM",
                      trainable_token_indices=tokens)


def merge_error(model, token_ids: list[list[int]]) -> float:
    """Largest change of any logit when the adapter is merged into the weights (float32): 0 up to rounding, or merging is broken.

    Computed on the CPU: a GPU that just holds the model has no room for its copy in float32. 0 too where all weights were trained.
    """
    import copy

    import torch
    if not hasattr(model, "merge_and_unload"):
        return 0.0
    home, ids = model.device, torch.tensor(token_ids)
    whole = copy.deepcopy(plain(model).to("cpu"))
    model.to(home)
    if getattr(model, "is_loaded_in_4bit", False):  # what QLoRA learned is merged into weights that are no longer quantised
        from peft import PeftModel
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            whole = PeftModel.from_pretrained(whole.unload().dequantize(), folder)
    whole = cast(whole, "float32").eval()
    with torch.no_grad():
        apart = whole(ids).logits
        merged = whole.merge_and_unload()(ids).logits
    return float((apart - merged).abs().max())


def plain(model):
    """`model` without the forward methods that trainers put on it (TRL its fused loss, accelerate its mixed precision).

    They hold on to the model they were made for: a copy of it would go on computing with the original's weights.
    """
    for module in model.modules():
        module.__dict__.pop("forward", None)
    return model


class Before:
    """A model as it was before its adapters were trained: they are switched off while it computes, so no second copy is held."""

    def __init__(self, model):
        self.model, self.device = model, model.device

    def __call__(self, **given):
        with self.model.disable_adapter():
            return self.model(**given)

    def generate(self, **given):
        with self.model.disable_adapter():
            return self.model.generate(**given)


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
