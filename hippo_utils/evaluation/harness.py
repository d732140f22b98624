"""Every stage on every benchmark through lm-eval, offline, with the model in memory. Predictions are stored, then scored.

Protocols: `option_text` is the paper's; `step_by_step` puts its "CoT" instruction before the same prompt; `rationale` lets
the model write its steps and parses the answer. The tasks are YAML files in tasks/.
"""

import contextlib
import functools
import io
import logging
import re
import tempfile
from pathlib import Path
from typing import Iterator

import numpy as np
import pandas as pd

from hippo_utils.manifest import StageError
from hippo_utils.records import STAGES

TASKS = Path(__file__).parent / "tasks"
ANSWER = re.compile(r"Answer:\s*(.+)")
LETTER = re.compile(r"\(([a-j])\)|([a-j])(?:[.:)]|$)")  # "(b) ..." or "b", but not the article in "a beta blocker"
NO_ANSWER = -1  # the prediction of a reply in which no option can be found; it counts as wrong


def few_shot_examples(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The pool of few-shot examples: development items in a seeded order, where there are groups only the seen ones."""
    pool = items[(items["split"] == "development") & items["group"].isin(["seen", "all"])].sort_values("id")
    return pool.sample(frac=1, random_state=seed)


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
    examples = few_shot_examples(items, seed)
    test = items[items["split"] == "test"]
    with tempfile.TemporaryDirectory() as folder:
        asked = []
        for benchmark in benchmarks:
            parts = {"test": test[test["benchmark"] == benchmark].head(limit) if limit else test[test["benchmark"] == benchmark],
                     "fewshot": examples[examples["benchmark"] == benchmark]}
            if parts["test"].empty:
                raise StageError(f"{benchmark} has no test items; 01_corpus must build it (corpus.benchmarks)")
            files = {name: f"{folder}/{benchmark}_{name}.jsonl" for name in parts}
            for name, part in parts.items():
                part.to_json(files[name], orient="records", lines=True, force_ascii=False)
            asked.append({"task": f"hippo_{benchmark}_{protocol}", "dataset_kwargs": {"data_files": files, "cache_dir": f"{folder}/cache"}})
        manager = TaskManager(include_path=str(TASKS), include_defaults=False)
        with contextlib.redirect_stderr(io.StringIO()):
            loaded = manager.load([{"group": "hippo", "task": asked}])["tasks"]  # as a group, so that names are looked up in TASKS
        yield list(loaded.values())


def language_model(model, tokenizer, batch_tokens: int):
    """The in-memory model as lm-eval sees it; options of an item, and fixed few-shot examples, share their computation."""
    from hippo_utils.evaluation.shared_context import SharedContextLM
    return SharedContextLM(pretrained=model, tokenizer=tokenizer, batch_size=16, tokens_per_batch=batch_tokens, device=str(model.device))


def answers(model, tokenizer, tasks: list, *, run: str, seed: int, stages: str, shots: int, protocol: str = "option_text",
            batch_tokens: int, rationale_tokens: int = 64) -> pd.DataFrame:
    """Prediction records of one model on loaded `tasks` (see above) under one protocol; run, seed and stages are for the record.

    Raises StageError when a prompt does not fit into the model's context.
    """
    import lm_eval

    wrapped = language_model(model, tokenizer, batch_tokens)
    for task in tasks:
        task.set_config("num_fewshot", shots)
        if protocol == "rationale":
            task.set_config("generation_kwargs", {"max_gen_toks": rationale_tokens}, update=True)
    try:
        # evaluate and not simple_evaluate, which reads 14,000 task files and asks the machine for its inventory at every call
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars that cannot be switched off; errors are exceptions
            result = lm_eval.evaluate(wrapped, {task.config.task: task for task in tasks}, bootstrap_iters=0, log_samples=True)
    except ValueError as error:
        raise StageError(f"{stages}, {shots}-shot, {protocol}: {error}") from None
    rows = []
    for name, samples in sorted(result["samples"].items()):
        for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
            rows.append({"run": run, "seed": seed, "stages": stages, "item": sample["doc"]["id"], "benchmark": sample["doc"]["benchmark"],
                         "protocol": protocol, "shots": shots, "prompt_hash": sample["prompt_hash"]} | _answer(sample, protocol, wrapped))
    return pd.DataFrame(rows)


def _answer(sample: dict, protocol: str, wrapped) -> dict:
    """What the model said to one item, in the columns of a prediction record."""
    options, right = sample["doc"]["options"], sample["doc"]["answer"]
    if protocol == "rationale":
        text = sample["filtered_resps"][0]
        chosen = parse_answer(text, options)
        return {"log_likelihoods": [], "option_bytes": [], "generated_text": text, "tokens_cut": 0, "prediction": chosen, "correct": chosen == right}
    scores = [float(score) for score, _ in sample["filtered_resps"]]
    if np.isnan(scores).any():
        raise StageError(f"{sample['doc']['id']}: the model's log-likelihoods are not numbers ({scores}); its weights are broken, or its precision is too low")
    chosen = int(np.argmax(scores))
    cut = max(wrapped.tokens_cut.get(tuple(arguments), 0) for arguments in _arguments(sample))
    return {"log_likelihoods": scores, "option_bytes": [len(option.encode()) for option in options], "generated_text": None,
            "tokens_cut": cut, "prediction": chosen, "correct": chosen == right}


def _arguments(sample: dict) -> list:
    found = sample["arguments"]
    return [tuple(entry.values()) if isinstance(entry, dict) else tuple(entry) for entry in (found.values() if isinstance(found, dict) else found)]


def parse_answer(text: str, options: list[str]) -> int:
    """The option named behind the last "Answer:" of a reply, as text or as letter; NO_ANSWER when there is none."""
    found = ANSWER.findall(text)
    if not found:
        return NO_ANSWER
    said = _bare(found[-1])
    plain = [_bare(option) for option in options]
    if said in plain:
        return plain.index(said)
    letter = LETTER.match(said)
    number = "abcdefghij".index(letter[1] or letter[2]) if letter else NO_ANSWER
    return number if number < len(options) else NO_ANSWER


def _bare(text: str) -> str:
    return text.strip().strip(".").lower()


def order(predictions: pd.DataFrame) -> pd.DataFrame:
    """Predictions in one fixed order: by stage as in the paper, protocol, shots, benchmark, item."""
    rank = predictions["stages"].map({name: number for number, name in enumerate(STAGES)})
    return predictions.assign(rank=rank).sort_values(["rank", "protocol", "shots", "benchmark", "item"]).drop(columns="rank").reset_index(drop=True)
