"""Free answers (Hypnos: AneQA, AneRC, safety prompts): written once, greedily, stored, and scored by others later."""

import pandas as pd

from hippo_utils.evaluation.responses import Recorded
from hippo_utils.manifest import StageError
from hippo_utils.records import item_prompt

NEXT_QUESTION = "\n问："  # where a model that does not stop begins to ask by itself
COLUMNS = ["run", "seed", "stages", "question", "benchmark", "answer", "tokens_cut"]


def ask(lm: Recorded, questions: pd.DataFrame, *, run: str, seed: int, stages: str, tokens: int, chat: bool = False) -> pd.DataFrame:
    """Answer records of one model to question records (columns id, benchmark, prompt), at most `tokens` long, greedily.

    run, seed and stages are for the record. chat: in the tokenizer's own chat template, where it has one; what others trained for
    that would otherwise be asked in a form that it does not know. What the model answered before it was stopped is not asked again.
    StageError when a prompt does not fit into the model's context.
    """
    from lm_eval.api.instance import Instance
    how = {"until": [NEXT_QUESTION], "max_gen_toks": tokens, "do_sample": False}
    shown = list(questions["prompt"])
    if chat and lm.tokenizer.chat_template:
        shown = [lm.apply_chat_template([{"role": "user", "content": without_frame(prompt)}]) for prompt in shown]
    asked = [Instance("generate_until", {}, (prompt, how), number) for number, prompt in enumerate(shown)]
    try:
        replies = lm.generate_until(asked)
    except ValueError as error:
        raise StageError(f"{stages}, {', '.join(questions['benchmark'].unique())}: {error}") from None
    rows = [(run, seed, stages, name, benchmark, reply.strip(), lm.tokens_cut("generate_until", one.args))
            for name, benchmark, reply, one in zip(questions["id"], questions["benchmark"], replies, asked)]
    return pd.DataFrame(rows, columns=COLUMNS)


def choose(questions: pd.DataFrame, benchmarks: list[str], limit: int | None) -> pd.DataFrame:
    """The first `limit` questions of each benchmark (all when None), in the order of 01; StageError for a benchmark without any."""
    parts = [questions[questions["benchmark"] == name].head(limit or len(questions)) for name in benchmarks]
    if missing := [name for name, part in zip(benchmarks, parts) if part.empty]:
        raise StageError(f"{missing[0]} has no questions; 01_corpus must build it (corpus.benchmarks), or evaluation.open_ended.benchmarks leaves it out")
    return pd.concat(parts, ignore_index=True)


def prompts(rows: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """Rows with `id` and `prompt` in words (safety prompts) as questions to `ask`, in the prompt of the exams."""
    return pd.DataFrame({"id": rows["id"], "benchmark": benchmark, "prompt": [item_prompt(text, [], language="zh") for text in rows["prompt"]]})


def without_frame(prompt: str) -> str:
    """What a question asks, without 问：and 答："""
    return prompt.strip().removeprefix("问：").removesuffix("答：").strip()
