"""Copies among the instructions: exact ones are left out within and across sources, near ones stay and are counted."""

import pandas as pd
import pytest

from hippo_utils import params, records
from hippo_utils.corpus import accounts, deduplication
from hippo_utils.corpus.streams import Writer

LONG = "Question: which drug is given first when the fever of a patient with {} does not fall within three days of rest and fluids?\nAnswer:"


def row(name: str, prompt: str, completion: str, source: str = "a") -> dict:
    return {"id": name, "source": source, "licence": "MIT", "prompt": prompt, "completion": completion, "fact_ids": []}


@pytest.fixture
def asked(tmp_path):
    """A file of two batches: an original, copies of several kinds, and what is no copy."""
    batches = [[row("a-1", LONG.format("gout"), " Abralin."), row("a-2", LONG.format("gout"), " Bendorol."), row("a-3", LONG.format("GOUT").upper(), "  ABRALIN. ")],
               [row("b-1", LONG.format("gout"), " Abralin.", "b"), row("b-2", LONG.format("gout").replace("three", "four"), " Abralin.", "b"), row("b-3", "Say yes.", " Yes.", "b"),
                row("b-4", LONG.format("gout"), " Abralin.", "b")]]
    with Writer(tmp_path / "asked.parquet", records.SCHEMAS["instruction"]) as out:
        for batch in batches:
            out.write(pd.DataFrame(batch))
    return tmp_path / "asked.parquet"


@pytest.mark.parametrize("processes", [1, 2])
def test_exact_copies_go_near_ones_stay_and_both_are_named(asked, processes):
    copies = deduplication.instructions_file(asked, threshold=0.85, seed=1, processes=processes)
    assert records.read("instruction", asked)["id"].tolist() == ["a-1", "a-2", "b-2", "b-3"], "the first of each is kept, another answer is another instruction"
    assert copies.columns.tolist() == deduplication.DROPPED
    exact = copies[copies["kind"] == "exact"]
    assert exact[["id", "kept_id", "kept_source"]].values.tolist() == [["a-3", "a-1", "a"], ["b-1", "a-1", "a"], ["b-4", "a-1", "a"]]
    near = copies[copies["kind"] == "near, kept"]
    assert {"b-2"} <= set(near["id"]) and (near["similarity"] < 1).all() and not {"b-3"} & set(near["id"])


def test_the_accounts_take_only_what_is_gone(asked):
    copies = deduplication.instructions_file(asked, threshold=0.85, seed=1, processes=1)
    kept = records.read("instruction", asked).groupby(["source", "licence"]).agg(rows=("id", "size")).reset_index()
    account = kept.assign(kind="instructions", words=1, tokens=1, tokens_per_word=1.0, trainable=1)
    nothing = pd.DataFrame(columns=["source", "rule", "dropped", "text_id"])
    flow = accounts.flow(account, nothing, nothing.head(0), copies, nothing, nothing).set_index("source")
    assert flow.loc["a", ["read", "exact copies", "near copies", "kept"]].tolist() == [3, 1, 0, 2]
    assert flow.loc["b", ["read", "exact copies", "near copies", "kept"]].tolist() == [4, 2, 0, 2]


def test_thousands_of_rows_of_one_template_are_not_all_compared_with_each_other(tmp_path, monkeypatch):
    calls = []
    jaccard = deduplication.jaccard
    monkeypatch.setattr(deduplication, "jaccard", lambda one, other: calls.append(1) or jaccard(one, other))
    with Writer(tmp_path / "asked.parquet", records.SCHEMAS["instruction"]) as out:
        out.write(pd.DataFrame([row(f"a-{n}", LONG.format(f"illness number {n * 7919}"), f" Drug {n * 104729}.") for n in range(400)]))
    deduplication.instructions_file(tmp_path / "asked.parquet", threshold=0.9, seed=1, processes=1)
    assert len(calls) <= 400 * deduplication.RIVALS * deduplication.bands(0.9)[0] < 400 * 399 / 2


def test_the_paper_runs_leave_copies_out_and_the_mini_runs_are_as_they_were():
    assert {name: params.load(name).corpus.deduplicate_instructions for name in ("hippo_llama", "hippo_mistral", "colab_t4", "mini_llama", "mini_mistral")} == {
        "hippo_llama": True, "hippo_mistral": True, "colab_t4": True, "mini_llama": False, "mini_mistral": False}


def test_a_set_without_rows_has_an_empty_account(tmp_path, monkeypatch):
    """As the general text of a run that brings its base."""
    monkeypatch.setattr(accounts.tokenizer, "load", lambda folder: None)
    monkeypatch.setattr(accounts.tokenizer, "lengths", lambda texts, loaded: [1 for _ in texts])
    records.write("document", pd.DataFrame(columns=records.SCHEMAS["document"].names), tmp_path / "general.parquet")
    assert accounts.account_file(tmp_path / "general.parquet", "", "general (base)", 1).empty
