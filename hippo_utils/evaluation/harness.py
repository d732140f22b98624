"""Models on benchmarks through lm-eval, offline, in memory. Responses are stored as they come, predictions before they are scored.

A protocol is a name, and variations of it behind plus signs. The names are the YAML files in tasks/:
    option_text         the paper's: the log-likelihood of each option's text
    step_by_step        the same behind an instruction to think in steps: what the paper calls CoT
    letter              the log-likelihood of each option's letter
    generate            the model writes its answer, and extraction.py reads it
    rationale           the model writes its steps first
    self_consistency    it does so several times, and the replies vote
The variations:
    +permuted           the options of every item in another order
    +chat               the prompt in a chat template: the tokenizer's own, or a plain one where it has none
    +paper_examples     few-shot examples drawn anew for every item, and from the test set where a benchmark has no training split
"""

import contextlib
import functools
import io
import json
import logging
import tempfile
from pathlib import Path
from typing import Iterator

import numpy as np
import pandas as pd

from hippo_utils.evaluation import extraction
from hippo_utils.evaluation.extraction import NO_ANSWER  # noqa: F401  (the prediction of a reply that names no option)
from hippo_utils.evaluation.responses import Recorded
from hippo_utils.manifest import StageError
from hippo_utils.params import derive_seed
from hippo_utils.records import STAGES

TASKS = Path(__file__).parent / "tasks"
VARIATIONS = ("permuted", "chat", "paper_examples")
WRITTEN = ("generate", "rationale", "self_consistency")  # protocols under which the model writes
TRAINING_SPLIT = ("medmcqa", "medqa")  # the others have none: the paper drew their examples from the test set
# For tokenizers without a template of their own (ours): what the user says, and the assistant's turn.
CHAT_TEMPLATE = ("{% for message in messages %}### {{ message['role'] | capitalize }}:\n{{ message['content'] }}\n\n{% endfor %}"
                 "{% if add_generation_prompt %}### Assistant:\n{% endif %}")


def split_protocol(protocol: str) -> tuple[str, list[str]]:
    """The name of a protocol and its variations; ValueError for one that there is not."""
    name, *variations = protocol.split("+")
    unknown = [variation for variation in variations if variation not in VARIATIONS]
    if unknown or not (TASKS / f"_{name}.yaml").is_file():
        names = ", ".join(sorted(file.stem[1:] for file in TASKS.glob("_*.yaml")))
        raise ValueError(f"{protocol}: no such protocol; expected one of {names}, with any of {', '.join('+' + v for v in VARIATIONS)} behind it")
    return name, variations


def few_shot_examples(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The pool of few-shot examples: development items in a seeded order, where there are groups only the seen ones.

    A benchmark without development items borrows those of MedQA if it is a USMLE step (they have the same form); else its own
    test items are shown, and `answers` drops the predictions of those that were.
    """
    items = items[items["group"].isin(["seen", "all"])].sort_values("id")
    pool = items[items["split"] == "development"]
    lent = [pool]
    for benchmark in sorted(set(items["benchmark"]) - set(pool["benchmark"])):
        medqa = pool[pool["benchmark"] == "medqa"].assign(benchmark=benchmark)
        lent.append(medqa if benchmark.startswith("usmle") and len(medqa) else items[items["benchmark"] == benchmark])
    return pd.concat(lent).sample(frac=1, random_state=seed)


def permuted(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The items with every option in another place than before; `order[i]` is the old place of option i."""
    rows = []
    for row in items.to_dict("records"):
        rng, n = np.random.default_rng(derive_seed(seed, row["id"])), len(row["options"])
        order = np.arange(n)
        while n > 1 and (order == np.arange(n)).any():
            order = rng.permutation(n)
        rows.append(row | {"options": [row["options"][place] for place in order], "answer": int(np.flatnonzero(order == row["answer"])[0]), "order": order.tolist()})
    return pd.DataFrame(rows)


@contextlib.contextmanager
def tasks(items: pd.DataFrame, benchmarks: list[str], protocol: str, seed: int, limit: int | None = None) -> Iterator[list]:
    """lm-eval task objects for the test items of each benchmark, their data in a folder that goes away again."""
    import datasets
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import env

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it reports every loading, even of a local file, to a server
    datasets.disable_progress_bars()
    if not hasattr(env.from_string, "cache_info"):  # lm-eval compiles the same template anew for every item: half of the time
        env.from_string = functools.lru_cache(env.from_string)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    name, variations = split_protocol(protocol)
    examples = few_shot_examples(items, seed)
    test = items[items["split"] == "test"]
    with tempfile.TemporaryDirectory() as folder:
        asked = []
        for benchmark in benchmarks:
            chosen = test[test["benchmark"] == benchmark]
            if chosen.empty:
                raise StageError(f"{benchmark} has no test items; 01_corpus must build it (corpus.benchmarks)")
            parts = {"test": chosen.head(limit) if limit else chosen, "fewshot": examples[examples["benchmark"] == benchmark]}
            if "permuted" in variations:
                parts = {part: permuted(rows, seed) if len(rows) else rows for part, rows in parts.items()}
            files = {part: f"{folder}/{benchmark}_{part}.jsonl" for part in parts}
            for part, rows in parts.items():
                rows.to_json(files[part], orient="records", lines=True, force_ascii=False)
            config = {"task": f"hippo_{benchmark}_{name}", "dataset_kwargs": {"data_files": files, "cache_dir": f"{folder}/cache"}}
            if "paper_examples" in variations:  # lm-eval leaves out the item itself where examples come from the test split
                config |= {"fewshot_config": {"sampler": "default"}, "fewshot_split": "fewshot" if benchmark in TRAINING_SPLIT else "test"}
            asked.append(config)
        manager = TaskManager(include_path=str(TASKS), include_defaults=False)
        with contextlib.redirect_stderr(io.StringIO()):
            loaded = manager.load([{"group": "hippo", "task": asked}])["tasks"]  # as a group, so that names are looked up in TASKS
        yield list(loaded.values())


def language_model(model, tokenizer, *, batch_tokens: int, backend: str = "auto", responses: Path | None = None, allow_truncation: bool = False) -> Recorded:
    """A model as lm-eval sees it, its responses kept in the file `responses` (see responses.py).

    backend `auto`: options of an item, and fixed few-shot examples, share their computation where the architecture allows it
    (LLaMA, Mistral), else lm-eval's HFLM. `hflm`: always that one. `vllm`: lm-eval's vLLM, which needs a GPU.
    """
    if backend == "vllm":
        try:
            from lm_eval.models.vllm_causallms import VLLM
        except ModuleNotFoundError:
            raise StageError("evaluation.backend is vllm, which is not installed; pip install vllm on a machine with a GPU, or set it to auto") from None
        with tempfile.TemporaryDirectory() as folder:  # vLLM reads weights from a folder
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            return Recorded(VLLM(pretrained=folder, dtype=str(model.dtype).removeprefix("torch.")), responses, allow_truncation)
    from hippo_utils.evaluation.shared_context import ARCHITECTURES, HFLM, SharedContextLM
    if backend == "auto" and model.config.model_type in ARCHITECTURES:
        lm = SharedContextLM(pretrained=model, tokenizer=tokenizer, batch_size=16, tokens_per_batch=batch_tokens, allow_truncation=allow_truncation, device=str(model.device))
    else:
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, device=str(model.device))
    return Recorded(lm, responses, allow_truncation)


def answers(lm: Recorded, tasks: list, *, run: str, seed: int, stages: str, shots: int, protocol: str = "option_text",
            new_tokens: int = 64, samples: int = 1, temperature: float = 0.7, sampling_seed: int = 0) -> pd.DataFrame:
    """Prediction records of one model on loaded `tasks` (see above) under one protocol; run, seed and stages are for the record.

    new_tokens: how many a model may write. samples, temperature: of self-consistency. sampling_seed: decides what is drawn, replies
    and the paper's few-shot examples. Raises StageError when a prompt does not fit into the model's context.
    """
    import lm_eval
    import torch

    name, variations = split_protocol(protocol)
    for task in tasks:
        if shots > (there := len(task.fewshot_docs() or [])):
            raise StageError(f"{task.config.task}: {shots} examples are to be shown and {there} are there; 01_corpus makes them, as development items of the benchmark")
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(sampling_seed)
        if name in WRITTEN:
            task.set_config("generation_kwargs", {"max_gen_toks": new_tokens}, update=True)
        if name == "self_consistency":
            task.set_config("generation_kwargs", {"temperature": temperature}, update=True)
            task.set_config("repeats", samples)
            torch.manual_seed(sampling_seed)
    chat = "chat" in variations
    own_template = lm.tokenizer.chat_template
    try:
        if chat and not own_template:
            lm.tokenizer.chat_template = CHAT_TEMPLATE
        # evaluate and not simple_evaluate, which reads 14,000 task files and asks the machine for its inventory at every call
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars that cannot be switched off; errors are exceptions
            result = lm_eval.evaluate(lm, {task.config.task: task for task in tasks}, bootstrap_iters=0, log_samples=True, apply_chat_template=chat)
    except ValueError as error:
        raise StageError(f"{stages}, {shots}-shot, {protocol}: {error}") from None
    finally:
        lm.tokenizer.chat_template = own_template
    fixed = "paper_examples" not in variations
    shown = {example["id"] for task in tasks for example in list(task.fewshot_docs())[:shots]} if shots and fixed else set()
    rows = []
    for task, found in sorted(result["samples"].items()):
        for sample in sorted(found, key=lambda sample: sample["doc_id"]):
            if sample["doc"]["id"] in shown:
                continue
            rows.append({"run": run, "seed": seed, "stages": stages, "item": sample["doc"]["id"], "benchmark": sample["doc"]["benchmark"],
                         "protocol": protocol, "shots": shots, "prompt_hash": sample["prompt_hash"]} | _answer(sample, name, lm))
    return pd.DataFrame(rows)


def _answer(sample: dict, name: str, lm: Recorded) -> dict:
    """What the model said to one item, in the columns of a prediction record; options in the item's own order."""
    options, right = sample["doc"]["options"], sample["doc"]["answer"]
    order = sample["doc"].get("order") or list(range(len(options)))
    arguments = _arguments(sample)
    cut = max(lm.tokens_cut("generate_until" if name in WRITTEN else "loglikelihood", asked) for asked in arguments)
    if name in WRITTEN:
        replies = sample["resps"][0]
        read = [extraction.parse_answer(reply, options, direct=name == "generate") for reply in replies]
        chosen = extraction.vote(read)
        text = json.dumps(replies, ensure_ascii=False) if name == "self_consistency" else replies[0]
        return {"log_likelihoods": [], "option_bytes": [], "generated_text": text, "tokens_cut": cut,
                "prediction": order[chosen] if chosen != NO_ANSWER else NO_ANSWER, "correct": chosen == right}
    scores = [float(score) for score, _ in sample["filtered_resps"]]
    if np.isnan(scores).any():
        raise StageError(f"{sample['doc']['id']}: the model's log-likelihoods are not numbers ({scores}); its weights are broken, or its precision is too low")
    chosen = int(np.argmax(scores))
    said = [option.encode() for option in options] if name != "letter" else [b"A"] * len(options)
    back = np.argsort(order)  # from the shown order to the item's
    return {"log_likelihoods": [scores[place] for place in back], "option_bytes": [len(said[place]) for place in back], "generated_text": None,
            "tokens_cut": cut, "prediction": order[chosen], "correct": chosen == right}


def _arguments(sample: dict) -> list:
    found = sample["arguments"]
    return [tuple(entry.values()) if isinstance(entry, dict) else tuple(entry) for entry in (found.values() if isinstance(found, dict) else found)]


def order(predictions: pd.DataFrame) -> pd.DataFrame:
    """Predictions in one fixed order: by stage as in the paper, protocol, shots, benchmark, item."""
    rank = predictions["stages"].map({name: number for number, name in enumerate(STAGES)})
    return predictions.assign(rank=rank).sort_values(["rank", "stages", "protocol", "shots", "benchmark", "item"]).drop(columns="rank").reset_index(drop=True)
