"""What a model and its training take of a device: the shapes of well-known bases, devices by name, and peak memory, without torch.

Peak memory is what is alive when the backward pass of a full batch begins; `benchmarks/preflight.py` holds it against measured allocations.
"""

import importlib.util
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hippo_utils import paths
from hippo_utils.params import Architecture, ParamsError, Training
from hippo_utils.training import trainer

GIB = 2**30


# --- devices and bases -----------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Device:
    """Memory as CUDA reports it (GiB), dense 16-bit and float32 matrix throughput by its data sheet (TFLOP/s), and whether it has bfloat16."""
    name: str
    memory: float
    teraflops: float
    float32: float | None = None  # without TF32, as PyTorch computes unless told otherwise; None: not known, or the CPU, which has one rate
    bfloat16: bool = True
    gpus: int = 1  # 0: the CPU


DEVICES = {device.name: device for device in (
    Device("t4", 14.7, 65, 8.1, bfloat16=False), Device("v100-16", 15.8, 125, 15.7, bfloat16=False), Device("v100-32", 31.7, 125, 15.7, bfloat16=False),
    Device("rtx-3090", 23.6, 71, 35.6), Device("rtx-4090", 23.5, 165, 82.6), Device("a10g", 22.1, 70, 35), Device("l4", 22.0, 121, 30.3), Device("l40s", 44.5, 362, 91.6),
    Device("a100-40", 39.4, 312, 19.5), Device("a100-80", 79.2, 312, 19.5), Device("h100-80", 79.2, 989, 67), Device("h200", 139.8, 989, 67))}
UTILISATION = 0.35          # share of the data sheet's throughput that LoRA training of a 7B model gets (ours; see benchmarks/)
CPU_TERAFLOPS = 0.025       # per thread in float32 (ours: what the mini runs get)
RESERVE = {"gpu": 1.0, "cpu": 0.7}  # GiB: CUDA context and workspaces; Python with torch and transformers loaded
FRAGMENTS = 1.05            # a GPU's allocator cannot use every gap


@dataclass(frozen=True)
class Shape:
    """A decoder of LLaMA's kind: grouped attention, SwiGLU feed-forward layers, RMSNorm."""
    vocabulary: int
    width: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    context: int
    head_width: int
    tied: bool = False       # the output layer is the token embedding
    new_tokens: int = 0      # how many of the vocabulary were added to the base's own
    query_bias: bool = False  # Qwen2

    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear maps of one layer, (inputs, outputs)."""
        q, kv, h, f = self.heads * self.head_width, self.key_value_heads * self.head_width, self.width, self.feed_forward
        return {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h), "gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h)}

    def layer(self) -> int:
        """Parameters of one layer."""
        maps = self.linears()
        bias = sum(maps[name][1] for name in ("q_proj", "k_proj", "v_proj")) if self.query_bias else 0
        return sum(i * o for i, o in maps.values()) + bias + 2 * self.width

    def parameters(self) -> int:
        return self.vocabulary * self.width * (1 if self.tied else 2) + self.layers * self.layer() + self.width

    def multiplied(self) -> int:
        """Weights that every token is multiplied by: all linear maps and the output layer, not the embedding table."""
        return self.layers * sum(i * o for i, o in self.linears().values()) + self.vocabulary * self.width


def shape_like(vocabulary, width, feed_forward, layers, heads, key_value_heads, context, **more) -> Shape:
    return Shape(vocabulary, width, feed_forward, layers, heads, key_value_heads, context, **{"head_width": width // heads} | more)


BASES = {  # from their config.json on the hub
    "meta-llama/Llama-2-7b-hf": shape_like(32000, 4096, 11008, 32, 32, 32, 4096),
    "meta-llama/Llama-2-13b-hf": shape_like(32000, 5120, 13824, 40, 40, 40, 4096),
    "mistralai/Mistral-7B-v0.1": shape_like(32000, 4096, 14336, 32, 32, 8, 32768),
    "meta-llama/Meta-Llama-3-8B": shape_like(128256, 4096, 14336, 32, 32, 8, 8192),
    "meta-llama/Llama-3.2-1B": shape_like(128256, 2048, 8192, 16, 32, 8, 131072, tied=True),
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": shape_like(32000, 2048, 5632, 22, 32, 4, 2048),
    "HuggingFaceTB/SmolLM2-135M": shape_like(49152, 576, 1536, 30, 9, 3, 8192, tied=True),
    "HuggingFaceTB/SmolLM2-360M": shape_like(49152, 960, 2560, 32, 15, 5, 8192, tied=True),
    "HuggingFaceTB/SmolLM2-1.7B": shape_like(49152, 2048, 8192, 24, 32, 32, 8192, tied=True),
    "Qwen/Qwen2.5-0.5B": shape_like(151936, 896, 4864, 24, 14, 2, 32768, tied=True, query_bias=True),
    "Qwen/Qwen2.5-1.5B": shape_like(151936, 1536, 8960, 28, 12, 2, 131072, tied=True, query_bias=True),
    "Qwen/Qwen2.5-7B": shape_like(152064, 3584, 18944, 28, 28, 4, 131072, query_bias=True),
}


class DamagedBase(ParamsError):
    """A file of a base that is there and cannot be read: no training would start from it."""


def _read_json(file: Path, name: str) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise DamagedBase(f"{paths.shown(file)} of {name} is damaged (no JSON object is in it); fetch the model again")
    return content


def read_shape(file: Path, name: str) -> Shape:
    try:
        return from_config(_read_json(file, name), name)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        what = f"it has no {error.args[0]}" if isinstance(error, KeyError) else "its sizes are no numbers"
        raise DamagedBase(f"{paths.shown(file)} of {name} is damaged ({what}); fetch the model again") from None


def of_architecture(a: Architecture, vocabulary: int) -> Shape:
    return shape_like(vocabulary, a.width, a.feed_forward, a.layers, a.heads, a.key_value_heads, a.context, tied=True)


def config_file(base: str, revision: str | None = None) -> Path | None:
    """The config.json of a base that lies on this machine: in a folder, or in the cache of the hub."""
    if (Path(base) / "config.json").is_file():
        return Path(base) / "config.json"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    try:
        found = try_to_load_from_cache(base, "config.json", revision=revision)
    except HFValidationError:  # a folder that does not exist
        return None
    return Path(found) if isinstance(found, str) else None


def lacks(model: str, revision: str | None = None) -> str | None:
    """What a model that lies in a folder or in the hub's cache lacks to be loaded without a network, in words; None when it is whole."""
    if not (config := config_file(model, revision)):
        return "no config.json"
    there = {file.name for file in config.parent.iterdir() if file.is_file()}  # a link of the cache to a file that is not there counts as none
    index = next((config.parent / name for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json") if name in there), None)
    if index:
        try:
            wanted = set(_read_json(index, model)["weight_map"].values())
        except (DamagedBase, KeyError, AttributeError):
            return f"no readable {index.name}"
        if absent := sorted(wanted - there):
            return f"no {absent[0]}"
    elif not {"model.safetensors", "pytorch_model.bin"} & there:
        return "no weights"
    return None if {"tokenizer.json", "tokenizer.model", "vocab.json"} & there else "no tokenizer"


def from_config(config: dict, name: str) -> Shape:
    """A shape from the contents of a config.json; ParamsError for an architecture that this module does not know."""
    if (kind := config.get("model_type")) not in ("llama", "mistral", "qwen2"):
        raise ParamsError(f"the base {name} is of type {kind}; memory is foreseen for llama, mistral and qwen2 only")
    heads = config["num_attention_heads"]
    return shape_like(config["vocab_size"], config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"], heads,
                  config.get("num_key_value_heads") or heads, config["max_position_embeddings"], tied=bool(config.get("tie_word_embeddings")),
                  query_bias=kind == "qwen2", **({"head_width": config["head_dim"]} if config.get("head_dim") else {}))


def named(device: str) -> Device:
    """A device of the table; ParamsError with the names there are."""
    if device not in DEVICES:
        raise ParamsError(f"{device} is not in the preflight's table of devices; there are {', '.join(DEVICES)}")
    return DEVICES[device]


def this_device(threads: int) -> Device:
    """The first GPU by nvidia-smi (torch is not asked: importing it takes seconds), else the CPU with the memory that we may use.

    A GPU that this PyTorch was not built for counts as none, and the name says so.
    """
    try:
        asked = subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20)
        rows = [[part.strip() for part in line.split(",")] for line in asked.stdout.splitlines() if line.count(",") == 2] if asked.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        rows = []
    if not rows or _built_for_the_cpu():
        unused = f" ({rows[0][0]} is not used: the PyTorch that is installed was built without CUDA)" if rows else ""
        return Device(f"this CPU{unused}", host_memory() / GIB, CPU_TERAFLOPS * threads, bfloat16=True, gpus=0)
    name, mebibytes, capability = rows[0]
    if not mebibytes.isdigit():  # [N/A]: a GPU that shares the machine's memory
        mebibytes = str(host_memory() / 2**20)
    words = {d.name.removeprefix("rtx-").split("-")[0]: d for d in DEVICES.values()}
    like = words.get(max((word for word in words if word in name.lower()), key=len, default=None))  # an L40S is no L4
    return Device(name, float(mebibytes) / 1024, like.teraflops if like else 100, like.float32 if like else None, bfloat16=int(capability.partition(".")[0]) >= 8 if capability[:1].isdigit() else True, gpus=len(rows))


def _built_for_the_cpu() -> bool:
    """Whether the PyTorch that is installed uses no GPU, by the file that its build writes."""
    found = importlib.util.find_spec("torch")
    file = Path(found.origin).parent / "version.py" if found and found.origin else None
    text = file.read_text(encoding="utf-8") if file and file.is_file() else ""
    return bool(re.search(r"^cuda\b.*= None$", text, re.M)) and not re.search(r"^hip\b.*= '", text, re.M)


def host_memory() -> int:
    """Bytes that this process and its children may use: the machine's, or the limit of the container or job."""
    import psutil
    limits = [psutil.virtual_memory().total]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # none, or "max"
            pass
    return min(limits)


# --- what a training step takes --------------------------------------------------------------------------------------

def precision(training: Training, device: Device) -> str:
    """What `auto` will choose on this device: the rule of trainer.precision."""
    if training.precision != "auto":
        return training.precision
    return "float32" if not device.gpus else "bfloat16" if device.bfloat16 else "float16"


def trained(shape: Shape, training: Training) -> list[str]:
    """The linear maps of a layer that learn; ParamsError for a LoRA target that the base does not have."""
    maps = shape.linears()
    if training.lora is None or training.lora.targets == "all-linear":
        return list(maps)
    if unknown := sorted(set(training.lora.targets) - set(maps)):
        raise ParamsError(f"lora.targets names {', '.join(unknown)}; a layer of this base has {', '.join(maps)}")
    return list(training.lora.targets)


def trainable(shape: Shape, training: Training) -> int:
    """Parameters that learn: all, or rank x (inputs + outputs) of each adapted linear map and, where asked for, the rows of new tokens."""
    if training.lora is None:
        return shape.parameters()
    return training.lora.new_tokens * shape.new_tokens * shape.width + shape.layers * sum(training.lora.rank * sum(shape.linears()[name]) for name in trained(shape, training))


def kept_per_token(shape: Shape, training: Training, number: int, stored: int) -> int:
    """Bytes that one layer keeps of one token for its backward pass.

    `number` is the size of a number in the arithmetic, `stored` in the weights; where they differ, autocast converts.
    """
    maps, learn, h, f = shape.linears(), trained(shape, training), shape.width, shape.feed_forward
    full = training.lora is None
    autocast = full and number < stored
    kept = 2 * h * 4                                      # RMSNorm computes in float32 and keeps what it was given,
    kept += 2 * h * (4 if autocast else number) * full    # and its result, if its weight learns
    if full:  # inputs of the linear maps; autocast gives each map a copy of its own
        kept += number * h * (5 if autocast else 2)
    elif number == 4:
        kept += number * h * (bool({"q_proj", "k_proj", "v_proj"} & set(learn)) + bool({"gate_proj", "up_proj"} & set(learn)))
    else:     # PEFT converts the input of each adapter by itself
        kept += number * sum(maps[name][0] for name in learn if name != "down_proj")
    q, kv = maps["q_proj"][1], maps["k_proj"][1]
    kept += number * (2 * q + 2 * kv)                     # queries, keys, values, and what attention made of them
    if training.attention == "eager":
        kept += shape.heads * training.max_length * (4 + number * (number < 4))
    kept += number * f * (3 + ("down_proj" in learn))     # gate, its SiLU, up; their product is the input of down_proj
    return kept


def peak(shape: Shape, training: Training, device: Device, loss: str) -> dict[str, int]:
    """Peak bytes on one device by part, for a full batch of full-length sequences.

    `loss` is "plain" (all logits at once) or "tiled" (TRL's, a tile at a time; without a GPU SFT takes the plain one, see instruction.fit);
    "pairs" is tiled with chosen and rejected in one batch.
    The reference of DPO is the policy itself before training, its log-probabilities computed beforehand: it costs no weights.
    """
    kind = precision(training, device)
    number = 4 if kind == "float32" else 2
    processes, sharded = training.devices * training.nodes, training.accelerate.startswith("fsdp")
    batch, accumulation = trainer.shares(training)
    learning, everything = trainable(shape, training), shape.parameters()
    frozen = everything if training.lora else 0
    stored = stored_bytes(training, kind)
    rows, length = batch * (2 if loss == "pairs" else 1), min(training.max_length, shape.context)
    tokens = rows * length
    layer = tokens * kept_per_token(shape, training, number, stored)
    if loss == "plain" or (loss == "tiled" and not device.gpus):
        logits = tokens * shape.vocabulary * 12            # log-probabilities, their gradient and the logits' gradient, float32
    else:
        positions, columns = min(tokens, 4096), 32768      # of TRL's tile; without Triton, seven like it in float32 beside it
        logits = positions * (columns * number + (0 if device.gpus else 29 * min(shape.vocabulary, columns))) + tokens * shape.width * 8
        logits += 0 if training.lora else 4 * shape.vocabulary * shape.width
    backward = tokens * number * (3 * shape.feed_forward + 2 * shape.width)  # what one layer's backward pass holds for a moment
    if training.activation_checkpointing:
        activations = tokens * (4 if stored == 4 else 2) * shape.width * (shape.layers + 1)
        backward += layer                                  # computed again
    else:
        activations = layer * shape.layers + 2 * tokens * shape.width * 4
    activations += max(0, backward - logits)               # the loss is gone when the layers' turn comes
    gradients = 4 * learning
    if accumulation == 1 and processes == 1:               # they grow while activations go
        gradients = max(0, gradients - activations - logits)
    weights = {4: 4.0, 2: 2.0, 0.5: 0.53}[stored] * frozen + 4 * learning
    if stored == 0.5:                                       # embeddings and the output layer stay in 16 bit
        weights += (2 - 0.53) * shape.vocabulary * shape.width * (1 if shape.tied else 2)
    if not training.lora and number == 2:
        weights += 2 * everything                           # autocast's copies, kept for the backward pass
    parts = {"weights": weights, "gradients": gradients, "optimiser": 8 * learning, "activations": activations, "logits": logits}
    if processes > 1 and sharded:
        parts |= {name: parts[name] / processes for name in ("weights", "gradients", "optimiser")}
        parts["weights"] += 2 * stored * shape.layer()     # the layer at work and the next one, gathered
    elif processes > 1:
        parts["gradients"] *= 2                             # DDP's buckets
    total = sum(parts.values())
    parts["reserve"] = RESERVE["gpu" if device.gpus else "cpu"] * GIB + (total * (FRAGMENTS - 1) if device.gpus else 0)
    return {name: round(size) for name, size in parts.items()}


def stored_bytes(training: Training, kind: str) -> float:
    """Bytes of one weight as it lies in memory: float32 where all learn, 4 bit for QLoRA, else as the arithmetic (models.load)."""
    if training.lora is None or kind == "float32":
        return 4
    return 0.5 if training.lora.bits else 2
