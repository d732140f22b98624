"""What the corpus holds, in numbers: rows, words, tokens and licences per source, what each step took away, and how that stands beside the paper."""

from pathlib import Path
from typing import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hippo_utils.corpus import cleaning, hub, streams, tokenizer
from hippo_utils.manifest import StageError

STEPS = ("unusable", "too short", "wrong language", "nothing left", "exact copies", "near copies", "leaked", "held out")  # why a row is not trained on


def as_text(records: pd.DataFrame) -> pd.DataFrame:
    """Records of any kind as plain texts: a document, an instruction with its completion, a question with all its answers."""
    if "completion" in records:
        records = records.assign(text=records["prompt"] + records["completion"])
    elif "answers" in records:
        records = records.assign(text=[" ".join([prompt, *answers]) for prompt, answers in zip(records["prompt"], records["answers"])])
    return records[["id", "source", "licence", "text", "fact_ids"]]


def account(records: pd.DataFrame, folder: str | Path, kind: str) -> pd.DataFrame:
    """One row per source of records: kind, source, licence, rows, words (a Chinese character is one), tokens, tokens per word, trainable tokens.

    An end mark per text counts as a token. Trainable are, of instructions, the tokens of the completion with its end mark; of other texts all.
    """
    return _together([_counted(records, tokenizer.load(folder))], kind)


def account_file(path: Path, folder: str | Path, kind: str, processes: int) -> pd.DataFrame:
    """`account` for a file of records."""
    return _together(list(streams.over(path, processes, _counted, tokenizer.load(folder))), kind)


def _counted(batch: pd.DataFrame, loaded) -> pd.DataFrame:
    texts = as_text(batch)
    tokens = tokenizer.lengths(texts["text"], loaded)
    asked = tokenizer.lengths(batch["prompt"], loaded) if "completion" in batch else [1] * len(batch)
    counts = texts[["source", "licence"]].assign(rows=1, words=texts["text"].map(cleaning.length).astype(int), tokens=tokens,
                                                 trainable=[n - (before - 1) for n, before in zip(tokens, asked)])
    return counts.groupby(["source", "licence"], sort=False, as_index=False).sum()


def _together(parts: list[pd.DataFrame], kind: str) -> pd.DataFrame:
    columns = ["kind", "source", "licence", "rows", "words", "tokens", "tokens_per_word", "trainable"]
    if not parts:
        return pd.DataFrame(columns=columns)
    total = pd.concat(parts).groupby(["source", "licence"], sort=False, as_index=False).sum()
    return total.assign(kind=kind, tokens_per_word=(total["tokens"] / total["words"]).round(2))[columns]


def split_held_out(documents: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set a seeded share of each source's documents aside for perplexity, at least one of each: (training, held out).

    Only the column `source` is looked at, so ids alone do for a large corpus.
    """
    held = documents.groupby("source", group_keys=False).sample(frac=share, random_state=seed)
    few = documents[~documents["source"].isin(held["source"])]
    held = pd.concat([held, few.groupby("source", group_keys=False).sample(1, random_state=seed)])
    return documents.drop(held.index).reset_index(drop=True), held.sort_index().reset_index(drop=True)


def mixture(documents: pd.DataFrame, weights: dict[str, float], seed: int) -> dict[str, int]:
    """How often each document (columns id, source) is taken: weight 1 once, 0.5 a random half, 2 twice, 0 never; 1 where no weight is given.

    Which documents are taken depends on the seed, the source and the ids, not on the order of the rows.
    """
    unknown = sorted(set(weights) - set(documents["source"]))
    if unknown:
        raise StageError(f"corpus.mixture names {', '.join(unknown)}, of which there are no documents; there are {', '.join(sorted(set(documents['source'])))}")
    times = {}
    for source, part in documents.groupby("source"):
        whole, rest = divmod(weights.get(source, 1), 1)
        ids = np.sort(part["id"].to_numpy(str))
        drawn = set(np.random.default_rng([seed, *source.encode()]).permutation(ids)[:round(rest * len(ids))])
        times |= {name: int(whole) + (name in drawn) for name in ids.tolist()}
    return times


def texts(paths: Iterable[Path], leave_out: set[str] = frozenset()) -> Iterator[str]:
    """The texts of files of records that a model is trained on: those of the split test and the ids in `leave_out` aside."""
    for path in paths:
        for batch in streams.batches(path):
            taught = batch[~batch["id"].isin(leave_out) & (batch["split"] == "train" if "split" in batch else True)]
            yield from as_text(taught)["text"]


def stated(paths: Iterable[Path]) -> set[str]:
    """The facts of the mini world that files of records state, those of the split test aside."""
    facts: set[str] = set()
    for path in paths:
        splits = [("split", "=", "train")] if "split" in pq.read_schema(path).names else None
        facts |= set(pc.unique(pc.list_flatten(pq.read_table(path, columns=["fact_ids"], filters=splits)["fact_ids"])).to_pylist())
    return facts


def flow(account: pd.DataFrame, quarantine: pd.DataFrame, rules: pd.DataFrame, duplicates: pd.DataFrame, leaked: pd.DataFrame, documents: pd.DataFrame) -> pd.DataFrame:
    """Where every row went, per source of training text, beside what the paper or the data card says it holds; `documents` are
    those that the mixture chose from.

    Columns: source, licence, read, one per step that takes rows away, kept, tokens, trainable; paper_rows and paper_tokens with
    the difference (rows as read, before anything was taken away: the published counts are of the sets as they come). Where
    corpus.mixture changes something there is a column for it (negative where it takes rows more than once).
    """
    trained = account[~account["kind"].isin(["held out", "general (base)"])]
    held = account[account["kind"] == "held out"].set_index("source")["rows"]
    dropped = rules.pivot_table(index="source", columns="rule", values="dropped", aggfunc="sum") if len(rules) else pd.DataFrame()
    copies = duplicates.groupby(["source", "kind"]).size()
    gone = leaked.drop_duplicates("text_id").groupby("source").size()
    present, licences = {row["source"]: row for row in trained.to_dict("records")}, account.drop_duplicates("source").set_index("source")["licence"]
    chosen_from, rows = documents["source"].value_counts(), []
    for name in dict.fromkeys([*present, *rules["source"]]):  # a source that lost every row is in the rules only
        known = hub.catalogue().get(name)
        row = present.get(name) or {"licence": licences.get(name, known.licence if known else ""), "rows": 0, "tokens": 0, "trainable": 0}
        holds = known.holds if known else {}
        steps = {"unusable": int((quarantine["source"] == name).sum())}
        steps |= {rule: int(dropped[rule].get(name, 0)) if rule in dropped else 0 for rule in STEPS[1:4]}
        steps |= {"exact copies": int(copies.get((name, "exact"), 0)), "near copies": int(copies.get((name, "near"), 0)), "leaked": int(gone.get(name, 0)),
                  "held out": int(held.get(name, 0)), "mixture": int(chosen_from[name]) - row["rows"] if name in chosen_from else 0}
        read = row["rows"] + sum(steps.values()) - steps["unusable"]
        rows.append({"source": name, "licence": row["licence"], "read": read} | steps | {"kept": row["rows"], "tokens": row["tokens"], "trainable": row["trainable"],
                    "paper_rows": holds.get("rows"), "difference": read - holds["rows"] if "rows" in holds else None, "paper_tokens": holds.get("tokens")})
    table = pd.DataFrame(rows)
    return table if len(table) and table["mixture"].any() else table.drop(columns="mixture", errors="ignore")


def beside_the_paper(flow: pd.DataFrame, pairs: int, items: pd.DataFrame, paper: str = "hippocrates") -> pd.DataFrame:
    """The paper's own sums beside this run's: published (and how we know it), here, difference. Empty for a mini world.

    Of Hypnos only the sum of its pairs is known, and the sets are others: what it generated, 03 generates.
    """
    found = flow[flow["source"].isin(hub.catalogue())].set_index("source")
    sources = [hub.catalogue()[name] for name in found.index]
    documents = [source.name for source in sources if source.kind == "document"]
    evaluation = [source.name for source in sources if source.kind == "instruction" and source.name.endswith("_train")]
    general = [source.name for source in sources if source.kind == "instruction" and source.name not in evaluation]
    lines = [(f"{name}, rows", hub.catalogue()[name].holds["rows"], hub.catalogue()[name].holds["where"], "read", [name]) for name in documents]
    lines += [("documents for CP, tokens", 298_000_000, "paper", "tokens", documents),
              ("General Instructions, rows", 292_049, "checkpoint steps of the evaluation script", "read", general),
              ("Evaluation Instructions, rows", 404_269, "sum of the train splits", "read", evaluation),
              ("instructions together, rows", 696_318, "paper: 696K", "read", general + evaluation)]
    rows = [(quantity, published, where, int(found.loc[names, column].sum())) for quantity, published, where, column, names in lines if names]
    if len(found):
        asked = items.loc[items["split"] == "test", "benchmark"].value_counts()
        benchmarks = [hub.catalogue()[name] for name in asked.index.sort_values() if hub.catalogue()[name].holds["where"] == "paper"]
        rows += [("preference pairs", 15_000, "paper: 15K", pairs)] + [(f"{test.name}, test items", test.holds["rows"], "paper", int(asked[test.name])) for test in benchmarks]
    if paper == "hypnos":
        known = "public summaries: 8,000k of general medicine, and 24k of 217k of anesthesia that are not generated (inferred)"
        rows = [("instructions that are not generated, rows", 8_024_000, known, int(found.loc[general, "read"].sum()))] if general else []
    table = pd.DataFrame(rows, columns=["quantity", "published", "where", "here"])
    return table.assign(difference=table["here"] - table["published"])
