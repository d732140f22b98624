"""The records that stages hand to each other: one schema per kind, stored as Parquet.

Every source (the hub, a local folder, the mini world) is turned into these at the door, and every
later stage reads nothing else. `write` refuses rows that do not fit; `read` refuses files that do not.
"""

from pathlib import Path
from typing import Iterable

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

STAGES = ("base", "CP", "SFT", "CP+SFT", "CP+SFT+DPO",  # Hippocrates, then Hypnos
          "general", "specific", "general+specific", "general+unfiltered", "general+same", "general+random", "mixed")
BENCHMARKS = ("medmcqa", "medqa", "pubmedqa", "usmle_step1", "usmle_step2", "usmle_step3", "anecq", "aneqa", "anerc")
GROUPS = ("seen", "held_out", "control", "all")

_text, _texts = pa.string(), pa.list_(pa.string())

SCHEMAS: dict[str, pa.Schema] = {
    # A text for continued pre-training. `fact_ids` names the mini-world facts it states (empty elsewhere).
    "document": pa.schema({"id": _text, "source": _text, "licence": _text, "text": _text, "fact_ids": _texts}),
    # Loss is taken on `completion` only. The prompt ends where the completion begins, spaces included.
    "instruction": pa.schema({"id": _text, "source": _text, "licence": _text, "prompt": _text, "completion": _text,
                              "fact_ids": _texts}),
    # A question with candidate answers, before anybody judged them; `authors[i]` wrote `answers[i]`.
    "candidates": pa.schema({"id": _text, "source": _text, "licence": _text, "split": _text, "kind": _text,
                             "prompt": _text, "authors": _texts, "answers": _texts, "fact_ids": _texts}),
    # One asking of a judge about one row of candidates: the answers were shown in `order` (indices into the row's answers);
    # every reply as it came; outcome = verdict, tie, or why there is neither; `ranked` = answers from the best on.
    "judgement": pa.schema({"id": _text, "candidates": _text, "judge": _text, "order": pa.list_(pa.int64()), "repeat": pa.int64(),
                            "outcome": _text, "ranked": pa.list_(pa.int64()), "notes": _text, "replies": _texts,
                            "tokens_in": pa.int64(), "tokens_out": pa.int64()}),
    # What a judge said of one row of candidates: best = index of the best answer, None when it could not tell.
    "verdict": pa.schema({"id": _text, "judge": _text, "best": pa.int64(), "scores": pa.list_(pa.float64()),
                          "reason": _text}),
    # A pair for DPO. `judged_by` says how it was judged, `kind` what separates the two (fact or style).
    "preference": pa.schema({"id": _text, "source": _text, "split": _text, "kind": _text, "prompt": _text,
                             "chosen": _text, "rejected": _text, "judged_by": _text, "fact_ids": _texts}),
    # A benchmark question. `answer` is the index of the right option; `split` development or test; `cluster` names
    # items that stand or fall together (one vignette, one fact); `steps` counts the facts needed to answer.
    "item": pa.schema({"id": _text, "benchmark": _text, "split": _text, "group": _text, "subject": _text,
                       "cluster": _text, "fact_ids": _texts, "steps": pa.int64(), "question": _text,
                       "context": _text, "options": _texts, "answer": pa.int64()}),
    # A question to be answered in free text (AneQA, AneRC), with reference answers; it ends where the answer begins.
    "question": pa.schema({"id": _text, "benchmark": _text, "group": _text, "subject": _text, "cluster": _text,
                           "fact_ids": _texts, "prompt": _text, "references": _texts}),
    # What a generator wrote on a topic, as it came (`raw`) and as it was read: empty prompt and completion where no form could be
    # read from it. `similarity` and `nearest` say why a row is not `novel`; `truth` is what the fact tables say, empty without them.
    "generated": pa.schema({"id": _text, "generator": _text, "topic": _text, "raw": _text, "prompt": _text, "completion": _text,
                            "novel": pa.bool_(), "similarity": pa.float64(), "nearest": _text, "truth": _text}),
    # What one judge said of one generated row (its id): `score` is empty where its reply could not be read, `safe` is the gate for harm.
    "score": pa.schema({"row": _text, "generator": _text, "judge": _text, "score": pa.float64(), "safe": pa.bool_(), "reply": _text}),
    # What a model wrote in answer to one question (AneQA, AneRC) or safety prompt, greedily.
    "answer": pa.schema({"run": _text, "seed": pa.int64(), "stages": _text, "question": _text, "benchmark": _text, "answer": _text, "tokens_cut": pa.int64()}),
    # One answer of one model to one item under one protocol. `log_likelihoods[i]` is the summed natural-log
    # probability of option i behind the prompt, `option_bytes[i]` its length in UTF-8 bytes (for acc_norm).
    "prediction": pa.schema({"run": _text, "seed": pa.int64(), "stages": _text, "item": _text, "benchmark": _text,
                             "protocol": _text, "shots": pa.int64(), "prompt_hash": _text,
                             "log_likelihoods": pa.list_(pa.float64()), "option_bytes": pa.list_(pa.int64()),
                             "generated_text": _text, "tokens_cut": pa.int64(), "prediction": pa.int64(),
                             "correct": pa.bool_()}),
}
OPTIONAL = {"best", "generated_text", "prediction"}  # the columns that may hold nothing


def to_table(kind: str, rows: Iterable[dict] | pd.DataFrame) -> pa.Table:
    """Rows of one kind as an Arrow table in the schema of that kind; ValueError names what does not fit."""
    schema = SCHEMAS[kind]
    rows = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else list(rows)
    for number, row in enumerate(rows):
        if row.keys() != set(schema.names):
            missing, extra = sorted(set(schema.names) - row.keys()), sorted(row.keys() - set(schema.names))
            raise ValueError(f"row {number} is not a {kind} record: missing {missing or 'nothing'}, unknown {extra or 'nothing'}")
    columns = {name: [row[name] for row in rows] for name in schema.names}
    table = pa.table([_column(kind, field, columns[field.name]) for field in schema], schema=schema)
    for name in set(schema.names) - OPTIONAL:
        if table[name].null_count:
            raise ValueError(f"column {name!r} of {kind} records has {table[name].null_count} empty values; it must have none")
    if "id" in schema.names and len(set(table["id"].to_pylist())) != len(table):
        raise ValueError(f"two {kind} records have the same id; ids must be unique within a file")
    return table


def _column(kind: str, field: pa.Field, values: list) -> pa.Array:
    """One column of records; ValueError names the row whose value does not fit."""
    if pa.types.is_list(field.type):  # Arrow would take a text for a list of its letters
        for number, value in enumerate(values):
            if value is None or isinstance(value, str) or not hasattr(value, "__iter__"):
                raise ValueError(f"row {number} is not a {kind} record: column {field.name!r} expects a list, got {value!r}")
    try:
        return pa.array(values, type=field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        for number, value in enumerate(values):
            try:
                pa.array([value], type=field.type)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(f"row {number} is not a {kind} record: column {field.name!r} expects {field.type}, got {value!r} ({error})") from None
        raise


def write(kind: str, rows: Iterable[dict] | pd.DataFrame, path: Path) -> int:
    """Write rows of one kind to a Parquet file, whole or not at all; returns the number of rows."""
    table = to_table(kind, rows)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    pq.write_table(table, half)
    half.replace(path)
    return len(table)


def read(kind: str, path: Path) -> pd.DataFrame:
    """Read a Parquet file of one kind; ValueError when the file is damaged or holds another kind."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({' '.join(str(error).split())}); delete it and run the stage that makes it again") from None
    if table.schema.names != SCHEMAS[kind].names:
        raise ValueError(f"{path} does not hold {kind} records: its columns are {table.schema.names}")
    frame = table.to_pandas()
    for field in SCHEMAS[kind]:
        if pa.types.is_list(field.type):
            frame[field.name] = [list(values) for values in frame[field.name]]
    return frame


def item_prompt(question: str, options: list[str], context: str = "", language: str = "en") -> str:
    """The paper's question prompt: what stands before the option text that is scored (evaluation/tasks/ says the same in Jinja).

    Multiple choice lists its options behind letters; a question with a context (PubMedQA) shows the abstract instead. A Chinese
    prompt ends where the answer begins, without a space.
    """
    if language == "zh":
        listed = "".join(f"\n{letter}. {option}" for letter, option in zip("ABCDEFGHIJ", options))
        return f"{context}\n问：{question}{listed}\n答：".lstrip("\n")
    if context:
        return f"Abstract: {context}\nQuestion: {question}\nAnswer:"
    listed = " ".join(f"({letter}) {option}" for letter, option in zip("ABCDEFGHIJ", options))
    return f"Question: {question}\n{listed}\nAnswer:"
