"""Does a run fit, and how long does it take? Asked before anything starts, without torch, without a network, in a second.

    ./run_all.sh params/hippo_llama.yaml --preflight                     on this device
    ./run_all.sh params/hippo_llama.yaml --preflight --device t4         on a named one

Sizes come from the shape of the model (the params file, a config.json that lies here, or a table of well-known bases), rows and
tokens from 01's own account once 01 is done; what they take of a device, memory.py says.
"""

import argparse
import csv
import importlib.util
import json
import math
import os
import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hippo_utils import manifest, paths
from hippo_utils.params import Endpoint, Params, ParamsError, Training, as_mapping, load_runs, merge, params_file, read_yaml, resolve
from hippo_utils.training import trainer
from hippo_utils.training.memory import (BASES, DEVICES, GIB, RESERVE, UTILISATION, DamagedBase, Device, Shape, config_file, host_memory, named, of_architecture,
                                         peak, precision, read_shape, stored_bytes, this_device, trainable)


# --- a run's steps -----------------------------------------------------------------------------------------------------

ASSUMED = 150  # tokens of a row of which nothing is known (ours)
TOPICS = 134   # entities of the Chinese mini world, all of them


def shape_of(settings: Params) -> tuple[Shape, str]:
    """The shape of a run's base and where it is known from; ParamsError when neither a config.json nor the table tells."""
    model = settings.pretraining
    if a := model.architecture:
        vocabulary = settings.corpus.vocabulary  # what is asked for; a small corpus may give fewer
        if tokenizer := _tokenizer_file(settings):
            content = json.loads(tokenizer.read_text(encoding="utf-8"))
            vocabulary = len({*content["model"]["vocab"], *(added["content"] for added in content["added_tokens"])})
        return of_architecture(a, vocabulary), "the params file"
    file, new = config_file(model.base, model.revision), model.new_tokens or 0
    if file or model.base in BASES:
        shape, known_from = (read_shape(file, model.base), paths.shown(file)) if file else (BASES[model.base], "the table of well-known bases; its weights are not here yet")
        return replace(shape, vocabulary=shape.vocabulary + new, new_tokens=new), known_from
    raise ParamsError(f"the base {model.base} is no folder with a config.json, not in the hub's cache on this machine and not in the table "
                      "of well-known bases, so its memory cannot be foreseen; download it first, or give pretraining.base a folder")


@dataclass(frozen=True)
class Step:
    """One training of a run, foreseen."""
    stage: str
    name: str               # base, CP, SFT, CP+SFT, CP+SFT+DPO
    where: str              # its section of the params file
    training: Training
    loss: str               # how the loss is computed (`memory`)
    rows: int               # sequences of one epoch
    tokens: int             # of all epochs, padding not counted
    exact: bool             # counted by 01, not foreseen
    shape: Shape

    @property
    def steps(self) -> int:
        return trainer.steps_of(self.training, self.rows)

    def flops(self) -> float:
        """Arithmetic of the whole training: 2 per weight and token forward, as much for the gradient of activations, again for that
        of learning weights, plus attention (12 x layers x width x length with its backward pass, as in PaLM's appendix B)."""
        t, s = self.training, self.shape
        forward = 2 * s.multiplied()
        attention = 4 * s.layers * s.heads * s.head_width * min(t.max_length, self.tokens / max(1, t.epochs * self.rows))
        passes = (3 if t.lora is None else 2) + t.activation_checkpointing
        reference = (forward + attention) / t.epochs if self.loss == "pairs" else 0
        return self.tokens * (passes * forward + (3 + t.activation_checkpointing) * attention + 6 * (trainable(s, t) if t.lora else 0) + reference)

    def hours(self, device: Device) -> float:
        rate = device.float32 if device.float32 and precision(self.training, device) == "float32" else device.teraflops
        speed = rate * (UTILISATION * self.training.devices * self.training.nodes if device.gpus else 1)
        return self.flops() / (speed * 1e12) / 3600

    def disk(self) -> int:
        """Bytes it leaves behind and needs on the way: the result, and two checkpoints with the optimiser's state."""
        return 4 * trainable(self.shape, self.training) + 2 * 12 * trainable(self.shape, self.training)

    def passing(self) -> int:
        """Bytes that lie on the disk for a while: the start of several processes, and a merged base that is read again in 4 bit."""
        t, bits = self.training, self.training.lora and self.training.lora.bits
        return round(((t.devices * t.nodes > 1) * (0.6 if bits else 2 if t.lora else 4) + (2 if bits else 0)) * self.shape.parameters())


def account(settings: Params) -> dict[str, dict[str, tuple[int, int]]] | None:
    """Rows and tokens (one end mark per text included) that 01 counted, by kind and source; None before 01 is done."""
    file = paths.figures(settings.run) / "table_corpus.csv"
    if not file.is_file() or manifest.reasons(settings, "01_corpus"):
        return None
    counted: dict[str, dict[str, tuple[int, int]]] = {}
    for row in csv.DictReader(open(file, encoding="utf-8")):
        rows, tokens = counted.setdefault(row["kind"], {}).get(row["source"], (0, 0))
        counted[row["kind"]][row["source"]] = (rows + int(row["rows"]), tokens + int(row["tokens"]))
    return counted


def foreseen(settings: Params) -> dict[str, dict[str, tuple[int, int]]]:
    """The same from the params file alone: rows asked for, or all that the catalogue of sources says there are; tokens as it says, or ASSUMED."""
    catalogue = {}
    if settings.corpus.world is None:
        from hippo_utils.corpus import hub
        catalogue = hub.catalogue()

    def of(source: str, rows: int | None) -> tuple[int, int]:
        holds = catalogue[source].holds if source in catalogue else {}
        there = holds.get("rows") or 0
        rows = rows or there
        return rows, round(rows * (holds["tokens"] / there if there and holds.get("tokens") else ASSUMED))

    c = settings.corpus
    kinds = {"continued pre-training": c.documents, "general (base)": {"general": c.general} if c.general else {}, "instructions": c.instructions,
             "answers to judge": c.candidates}
    return {kind: {source: of(source, rows) for source, rows in sources.items()} for kind, sources in kinds.items()}


def plan(settings: Params) -> list[Step]:
    """Every training of a run in order, with its rows, tokens and shape."""
    shape, _ = shape_of(settings)
    counted = account(settings)
    counts = counted or foreseen(settings)
    found = []

    def add(stage: str, name: str, where: str, training: Training, loss: str, rows: int, tokens: int, exact: bool, of: Shape = shape) -> None:
        found.append(Step(stage, name, where, training, loss, rows, tokens, exact, of))

    def packed(kind: str, training: Training) -> tuple[int, int]:
        rows = sum(tokens for _, tokens in counts.get(kind, {}).values()) // training.max_length
        return rows, round(training.epochs * rows * training.max_length)

    p = settings.pretraining
    if p.scratch:
        add("02_pretraining", "base", "pretraining.scratch", p.scratch, "plain", *packed("general (base)", p.scratch), exact=counted is not None)
    if p.cp:
        add("02_pretraining", "CP", "pretraining.cp", p.cp, "plain", *packed("continued pre-training", p.cp), exact=counted is not None)
    for name, writer in p.generators.items():
        tokens = round(writer.training.epochs * writer.rows * writer.training.max_length / 2)
        add("02_pretraining", name, f"pretraining.generators.{name}.training", writer.training, "tiled", writer.rows, tokens, False,
            of_architecture(writer.architecture, shape.vocabulary))
    if settings.preference is None:
        return found + _two_stages(settings, counts, shape)
    sft = settings.instruction.sft
    rows, tokens = _mixed(settings.instruction.mixture, counts)
    if aside := min(settings.instruction.validation, rows):  # prompts kept out of training; how many rows share one is not known here
        rows, tokens = rows - aside, round(tokens * (rows - aside) / rows)
    if sft.packing:  # as if every row were filled to its end
        rows = math.ceil(tokens / sft.max_length)
    for name in ("SFT", "CP+SFT"):
        add("03_instruction", name, "instruction.sft", sft, "tiled", rows, round(sft.epochs * tokens),
            exact=counted is not None and not aside and not sft.packing and all(weight % 1 == 0 for weight in settings.instruction.mixture.values()))
    dpo = settings.preference.dpo
    pairs, tokens, exact = _pairs(settings, counts)
    add("04_preference", "CP+SFT+DPO", "preference.dpo", dpo, "pairs", pairs, round(dpo.epochs * tokens), exact)
    return found


def _mixed(mixture: dict[str, float], counts: dict) -> tuple[int, int]:
    """Rows and tokens of one epoch of a mixture of instruction sources."""
    rows = tokens = 0
    for source, weight in mixture.items():
        of, length = counts["instructions"].get(source, (0, 0))
        whole, rest = divmod(weight, 1)
        taken = int(whole) * of + round(rest * of)
        rows, tokens = rows + taken, tokens + round(length * taken / max(1, of))
    return rows, tokens


def _two_stages(settings: Params, counts: dict, shape: Shape) -> list[Step]:
    """The trainings of Hypnos in 03. How many rows will be generated and kept is not known: at most as many as are drawn, of which a share is kept."""
    i, steps = settings.instruction, []
    general, own = _mixed(i.general, counts), _mixed(i.mixture, counts)
    topics = settings.corpus.entities or TOPICS
    drawn = i.selfinstruct.draws * topics * max(2, len(settings.pretraining.generators)) if i.selfinstruct else 0
    for name in i.stages:
        written = 0 if name == "general" else drawn if name.endswith("unfiltered") else round(i.crossfilter.keep * drawn)
        parts = [general] if name == "general" else [general, own] if name == "mixed" else [own]
        rows = sum(part[0] for part in parts) + written
        tokens = sum(part[1] for part in parts) + (written * i.selfinstruct.tokens if written else 0)
        where = "instruction.general_sft" if name == "general" and i.general_sft else "instruction.sft"
        training = i.general_sft or i.sft if name == "general" else i.sft
        rows = math.ceil(tokens / training.max_length) if training.packing else rows
        steps.append(Step("03_instruction", name, where, training, "tiled", rows, round(training.epochs * tokens), False, shape))
    return steps


def _pairs(settings: Params, counts: dict) -> tuple[int, int, bool]:
    """Pairs to train on, and their tokens: as judged, once 04 is done; before, as if every question taught and had a best answer."""
    file = paths.stage_folder(settings.run, "04_preference") / "preferences.parquet"
    tokenizer = _tokenizer_file(settings)
    if tokenizer and file.is_file() and not manifest.reasons(settings, "04_preference"):
        import pyarrow.parquet as pq
        from tokenizers import Tokenizer
        rows = [row for row in pq.read_table(file, columns=["split", "prompt", "chosen", "rejected"]).to_pylist() if row["split"] == "train"]
        texts = [row["prompt"] + row[answer] for row in rows for answer in ("chosen", "rejected")]
        return len(rows), sum(len(encoding.ids) + 1 for encoding in Tokenizer.from_file(str(tokenizer)).encode_batch(texts)), True
    questions, tokens = (sum(part) for part in zip(*counts["answers to judge"].values()))
    return 2 * questions, 2 * tokens, False  # three answers to a question: the best against the other two


def _tokenizer_file(settings: Params) -> Path | None:
    config = None if settings.pretraining.architecture else config_file(settings.pretraining.base, settings.pretraining.revision)
    file = (config.parent if config else paths.stage_folder(settings.run, "01_corpus") / "tokenizer") / "tokenizer.json"
    return file if file.is_file() else None


# --- verdict -----------------------------------------------------------------------------------------------------------

def _of_training(step: Step, device: Device, here: bool) -> list[tuple[bool, str]]:
    """What one training needs of a device, and of this machine if it is to run here."""
    t, where, found = step.training, step.where, []
    if here and 0 < device.gpus < t.devices:
        found.append((False, f"devices: {where}.devices is {t.devices}, this machine has {device.gpus}"))
    if t.nodes > 1 and here and not os.environ.get("SLURM_JOB_NODELIST"):
        found.append((False, f"nodes: {where}.nodes is {t.nodes}; start this run as a job of the cluster (--slurm), or set it to 1"))
    if t.devices * t.nodes > 1 and t.accelerate.startswith("fsdp") and not device.gpus:
        found.append((False, f"devices: {where}.accelerate is {t.accelerate}, which shares a model out over GPUs, and {device.name} is none; take ddp"))
    if t.lora and t.lora.bits and (not device.gpus or here and not importlib.util.find_spec("bitsandbytes")):
        found.append((False, f"4 bit: {where}.lora.bits needs {'bitsandbytes, which is not installed' if device.gpus else 'a GPU'}"))
    if t.attention == "flash_attention_2":
        if not device.gpus or not device.bfloat16 or precision(t, device) == "float32":
            found.append((False, f"attention: {where}.attention is flash_attention_2, which needs 16 bit on a GPU that has bfloat16; auto takes what there is"))
        elif here and not importlib.util.find_spec("flash_attn"):
            found.append((False, f"attention: {where}.attention is flash_attention_2, and flash-attn is not installed; auto takes what there is"))
    need = sum(peak(step.shape, t, device, step.loss).values()) / GIB
    found.append((need <= device.memory, f"memory: {step.name} needs {need:.1f} GiB of {device.memory:.1f} GiB on {device.name}"))
    if t.precision == "bfloat16" and not device.bfloat16:
        found.append((False, f"precision: {where}.precision is bfloat16, which {device.name} does not compute; auto takes float16 there"))
    if t.max_length > step.shape.context:
        found.append((False, f"context: {where}.max_length is {t.max_length}, the base was made for {step.shape.context} tokens"))
    return found


def requirements(settings: Params, steps: list[Step], device: Device, stages: tuple[str, ...] = manifest.STAGES) -> list[tuple[bool, str]]:
    """What must hold for these stages of a run, whose trainings are `steps`, on a device: (whether it does, in words)."""
    here = device.name not in DEVICES  # this machine
    found = [check for step in steps for check in _of_training(step, device, here)]
    looking, name = max((looking_memory(step.shape, step.training, device) / GIB, step.name) for step in steps)
    found.append((looking <= device.memory, f"memory: looking at {name} in its notebook (perplexity, answers) needs about {looking:.1f} GiB of {device.memory:.1f} GiB on {device.name}"))
    if (judge := judge_memory(settings, device) / GIB) and "04_preference" in {step.stage for step in steps}:
        found.append((judge <= device.memory, f"memory: the judge of 04 needs about {judge:.1f} GiB of {device.memory:.1f} GiB on {device.name}"))
    if settings.evaluation.precision == "bfloat16" and not device.bfloat16:
        found.append((False, f"precision: evaluation.precision is bfloat16, which {device.name} does not compute; take float16"))
    scoring = scoring_memory(settings, steps[0].shape) / GIB
    found.append((scoring <= device.memory, f"memory: scoring (05) needs about {scoring:.1f} GiB of {device.memory:.1f} GiB on {device.name}"))
    if device.gpus and here:
        host, merging = host_memory() / GIB, merging_memory(steps) / GIB
        if merging:
            found.append((merging <= host, f"host memory: merging adapters in float32 takes {merging:.1f} GiB of {host:.1f} GiB"))
        processes, step = max(((step.training.devices, step) for step in steps), key=lambda pair: pair[0])
        reading = (processes + 1) * (2.2 if step.training.lora else 4.4) * step.shape.parameters() / GIB  # each process reads the weights, the notebook keeps its own
        if processes > 1:
            found.append((reading <= host, f"host memory: {processes} processes that read the weights of {step.name} take {reading:.1f} GiB of {host:.1f} GiB"))
    if here:
        for stage, endpoint in endpoints(settings):
            if stage in stages and not os.environ.get(endpoint.key_variable, "").strip():
                found.append((False, f"key: {stage[:2]} needs {endpoint.key_variable} in the environment, to ask {endpoint.model}"))
    need, free = disk(settings, steps) / GIB, free_disk() / GIB
    found.append((need <= free, f"disk: {need:.1f} GiB, {free:.1f} GiB free at {paths.shown(paths.home())}"))
    return found


def merging_memory(steps: list[Step]) -> int:
    """Bytes of the host in which adapters are merged into a base in float32, one copy and a little; 0 where there are none."""
    return round(4.4 * max((step.shape.parameters() for step in steps if step.training.lora), default=0))


def endpoints(settings: Params) -> list[tuple[str, Endpoint]]:
    """(stage, endpoint that it asks)."""
    grown, judged, free = settings.instruction.selfinstruct, settings.preference, settings.evaluation.open_ended
    return [*(("03_instruction", endpoint) for endpoint in (grown.endpoints.values() if grown else ())),
            *([("04_preference", judged.endpoint)] if judged and judged.judge == "endpoint" else []),
            *([("05_evaluation", free.endpoint)] if free and free.judge == "endpoint" else [])]


def looking_memory(shape: Shape, training: Training, device: Device) -> int:
    """Bytes that the notebook takes before and after a training, roughly: the weights, and a batch of trainer.rows_at_once with its logits."""
    kind = precision(training, device)
    number, length = 4 if kind == "float32" else 2, min(training.max_length, shape.context)
    tokens = min(32 * length, max(length, trainer.LOGITS // shape.vocabulary))
    held = stored_bytes(training, kind) * shape.parameters() + 4 * (trainable(shape, training) if training.lora else 0)
    batch = tokens * (shape.vocabulary * (8 if number == 4 else 10) + number * (3 * shape.feed_forward + 8 * shape.width))  # logits also as float32 and as logarithms
    return round(held + batch + RESERVE["gpu" if device.gpus else "cpu"] * GIB)


def judge_memory(settings: Params, device: Device) -> int:
    """Bytes of a judge that is a model on this device, with a prompt of 2,048 tokens, roughly; 0 where there is none, or nothing is known of it."""
    if not settings.preference or settings.preference.judge != "local":
        return 0
    judge = settings.preference.local
    file = config_file(judge.model, judge.revision)
    try:
        shape = read_shape(file, judge.model) if file else BASES[judge.model.removesuffix("-Instruct")]
    except (ParamsError, KeyError):
        return 0
    number = 4 if judge.precision == "float32" or (judge.precision == "auto" and not (device.gpus and device.bfloat16)) else 2
    return round(number * (shape.parameters() + 2048 * (shape.vocabulary + 3 * shape.feed_forward + 8 * shape.width)) + RESERVE["gpu" if device.gpus else "cpu"] * GIB)


def scoring_memory(settings: Params, shape: Shape, tokens: int | None = None) -> int:
    """Bytes that 05 takes, roughly: the weights in its precision, and what one layer holds of a batch of so many tokens."""
    number = 4 if settings.evaluation.precision == "float32" else 2
    return round(number * (shape.parameters() + (tokens or settings.evaluation.batch_tokens) * (3 * shape.feed_forward + 8 * shape.width)) + 1.0 * GIB)


def disk(settings: Params, steps: list[Step]) -> int:
    """Bytes that a run writes: a base that is not here yet, what each training leaves behind, and the texts (about 8 bytes a token)."""
    base = settings.pretraining.base
    download = 2 * steps[0].shape.parameters() if base and not config_file(base, settings.pretraining.revision) else 0
    texts = sum(8 * step.tokens / step.training.epochs for step in steps)
    return round(download + texts + sum(step.disk() for step in steps) + max(step.passing() for step in steps))


def free_disk() -> int:
    folder = paths.home()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def fitting(settings: Params, steps: list[Step], device: Device) -> dict[str, Any] | None:
    """Changes by section and key that make every training fit a device, at the same effective batch; None when none of these do.

    Tried in the order of their price: smaller batches, activations computed twice, the frozen weights in 4 bits.
    """
    changes: dict[str, Any] = {}
    for step in steps:
        for training in _gentler(step.training, device):
            if max(sum(peak(step.shape, training, device, step.loss).values()), looking_memory(step.shape, training, device)) <= device.memory * GIB:
                break
        else:
            return None
        before = step.training.model_dump()
        changed = {name: value for name, value in training.model_dump().items() if value != before[name]}
        if "lora" in changed:
            changed["lora"] = {"bits": 4}
        if changed:
            changes[step.where] = changed
    tokens = settings.evaluation.batch_tokens
    while scoring_memory(settings, steps[0].shape, tokens) > device.memory * GIB:
        if tokens < 1024:
            return None
        tokens //= 2
    if tokens != settings.evaluation.batch_tokens:
        changes["evaluation.batch_tokens"] = tokens
    if settings.evaluation.precision == "bfloat16" and not device.bfloat16:
        changes["evaluation.precision"] = "float16"
    return changes


def _gentler(training: Training, device: Device):
    """A training as it is, as far as the device computes it, and its variations that take less memory."""
    if training.precision == "bfloat16" and not device.bfloat16:
        training = training.model_copy(update={"precision": "auto"})
    shared_out = training.devices * training.nodes > 1 and training.accelerate.startswith("fsdp")  # which 4 bit does not go with
    for quantised in (False, True) if training.lora and device.gpus and not shared_out else (False,):
        lora = training.lora.model_copy(update={"bits": 4}) if quantised else training.lora
        for twice in sorted({training.activation_checkpointing, True}):
            batch, accumulation = training.batch, training.accumulation
            while True:
                yield training.model_copy(update={"batch": batch, "accumulation": accumulation, "activation_checkpointing": twice, "lora": lora})
                if batch % 2:
                    break
                batch, accumulation = batch // 2, accumulation * 2


def report(settings: Params, device: Device, given: str | None = None, asked: list[str] = ()) -> bool:
    """Print what a run takes on a device, requirement by requirement; whether it fits. `given` and `asked`: its params file and --set."""
    shape, known_from = shape_of(settings)
    steps = plan(settings)
    print(f"{settings.run} on {device.name} ({device.memory:.1f} GiB); base of {shape.parameters():,} parameters, known from {known_from}")
    rows = [["step", "trainable", "sequences", "tokens", "steps", "batch", "weights", "gradients", "optimiser", "activations", "logits", "reserve", "PFLOP", "hours"]]
    for step in steps:
        about = "" if step.exact else "~"
        parts = peak(step.shape, step.training, device, step.loss)
        each, passes = trainer.shares(step.training)
        processes = step.training.devices * step.training.nodes
        batch = f"{each} x {passes}" + (f" x {processes}" if processes > 1 else "")
        rows.append([step.name, f"{trainable(step.shape, step.training):,}", f"{about}{step.rows:,}", f"{about}{step.tokens:,}", f"{about}{step.steps:,}", batch,
                     *(f"{size / GIB:.2f}" for size in parts.values()), f"{about}{step.flops() / 1e15:,.3g}", f"{about}{step.hours(device):.1f}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))))
    print("  batch: sequences per device and pass x passes per step (x devices); memory in GiB on one device; hours without loading, evaluation and saving" + ("" if all(s.exact for s in steps) else
          "; ~ is foreseen from the params file (DPO: at most), exact numbers come when 01_corpus is done")
          + "; instructions whose answer max_length cuts off whole are still counted")
    checks = requirements(settings, steps, device)
    for holds, words in checks:
        print(f"  {'[OK]  ' if holds else '[FAIL]'} {words}")
    if device.name in DEVICES and (merging := merging_memory(steps)):
        print(f"  not checked: the host's memory, of which merging adapters in float32 takes {merging / GIB:.1f} GiB")
    if fits := all(holds for holds, _ in checks):
        return fits
    changes = fitting(settings, steps, device)
    if changes:
        changed = resolve(merge(settings.model_dump(), nested(changes)), settings.run)
        left = [words for holds, words in requirements(changed, plan(changed), device) if not holds]
        content, to_do = as_params_file(settings, changes, device, given, asked)
        print(f"  These parameters {'make the trainings fit' if left else 'fit'}, at the same effective batch ({to_do}):")
        print(content)
        if left:
            print("  and this is left, which no batch, checkpointing or 4-bit setting mends:" + "".join(f"\n    {words}" for words in left))
    elif changes is None:
        wider = [d for d in DEVICES.values() if all(holds for holds, _ in requirements(settings, steps, d))]
        print("  No batch, checkpointing or 4-bit setting fits. " + (f"It fits on {', '.join(d.name for d in wider)} as it is." if wider else "No single device in the table holds it as it is."))
    return fits


def nested(changes: dict[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    content: dict[str, Any] = {}
    for where, value in changes.items():
        for part in reversed(where.split(".")):
            value = {part: value}
        content = merge(content, value)
    return content


def as_params_file(settings: Params, changes: dict[str, Any], device: Device, given: str | None = None, asked: list[str] = ()) -> tuple[str, str]:
    """The lines that make `changes`, with what --set asked for, to a run's own file; and what to do with them."""
    import yaml
    file, content = params_file(given or settings.run), {}
    for words in asked:
        content = merge(content, as_mapping(words))
    content = merge(content, nested(changes))
    own = read_yaml(file) if file.is_file() else {}  # a run of a notebook's own cell has none
    if "variants" not in own and file.parent == paths.PARAMS:
        suffix = device.name.split()[-1].lower().replace("-", "_") if device.gpus else "cpu"
        content, to_do = {"extends": file.stem, "run": None} | content | {"run": f"{settings.run}_{suffix}"}, "save them as a file in params/"
    else:
        content = {"variants": {settings.run.removeprefix(f"{own['run']}-"): content}} if "variants" in own else content
        to_do = f"put them into {paths.shown(file)}"
    return "\n".join("    " + line for line in yaml.safe_dump(content, sort_keys=False).splitlines()), to_do


def check(settings: Params, device: Device, stages: tuple[str, ...], given: str | None = None, asked: list[str] = ()) -> None:
    """One line about a run or stage that is about to start; StageError when it does not fit this device. `given` and `asked`: as in `report`."""
    try:
        shape_of(settings)
    except DamagedBase as error:
        raise manifest.StageError(str(error)) from None
    except ParamsError as error:  # a base of another kind may well train; only nothing is known of it here
        print(f"preflight of {settings.run}: not checked; {error}")
        return
    steps = [step for step in plan(settings) if step.stage in stages]
    if not steps:  # a stage that this paper does not have
        return
    checks = requirements(settings, steps, device, stages)
    if failed := [words for holds, words in checks if not holds]:
        command = ["./run_all.sh", given or settings.run, "--preflight", *(["--device", device.name] if device.name in DEVICES else [])]
        command += [word for words in asked for word in ("--set", words)]
        raise manifest.StageError(f"{settings.run} does not fit: {'; '.join(failed)}; {shlex.join(command)} says what would fit")
    most, name = max((sum(peak(step.shape, step.training, device, step.loss).values()) / GIB, step.name) for step in steps)
    hours = sum(step.hours(device) for step in steps)
    print(f"preflight of {settings.run}: [OK] at most {most:.1f} of {device.memory:.1f} GiB ({name}), {checks[-1][1]}"
          + (f", about {hours:.1f} hours of training" if hours >= 1 else ""))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./run_all.sh --preflight", description=__doc__.splitlines()[0])
    parser.add_argument("params", nargs="+")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--device", help="a named device in place of this one")
    parser.add_argument("--check", nargs="+", metavar="STAGE", help="one line, for stages that are about to start")
    options = parser.parse_args(arguments)
    try:
        fits = []
        for file, settings in [(file, settings) for file in options.params for settings in load_runs(file, options.set)]:
            device = named(options.device) if options.device else this_device(settings.threads)
            if options.check:
                check(settings, device, tuple(options.check), file, options.set)
            else:
                fits.append(report(settings, device, file, options.set))
        return 0 if all(fits) else 1
    except (ParamsError, manifest.StageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
