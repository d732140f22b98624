"""The claims ledger: its statuses on invented runs, the paper's arithmetic, and verdicts that follow the data."""

import numpy as np
import pandas as pd
import pytest

from hippo_utils.reporting import claims, paper
from hippo_utils.statistics import wilson

SIZES = paper.published("data").query("unit == 'items'").set_index("benchmark")["value"].astype(int).to_dict()
ANY = {"seed": 0, "resamples": 100}


def exam(stages: str, accuracy: dict[str, float] | float, shots: int = 0, protocol: str = "option_text", sizes: dict[str, int] = SIZES, group: str = "all") -> pd.DataFrame:
    """Invented predictions: `accuracy` (percent) of the items of each benchmark are right, and the model is surer where it is."""
    parts = []
    for benchmark, n in sizes.items():
        share = accuracy[benchmark] if isinstance(accuracy, dict) else accuracy
        right = np.arange(n) < round(share * n / 100)
        parts.append(pd.DataFrame({"stages": stages, "benchmark": benchmark, "item": [f"{benchmark}-{i}" for i in range(n)], "cluster": [f"{benchmark}-{i}" for i in range(n)],
                                   "group": group, "steps": 1, "protocol": protocol, "shots": shots, "correct": right, "answer": 0, "prediction": np.where(right, 0, 1),
                                   "log_likelihoods": [[-1.0, -3.0] if r else [-2.5, -2.0] for r in right]}))
    return pd.concat(parts, ignore_index=True)


def published(model: str, stages: str) -> dict[str, float]:
    rows = paper.published("stages").query("model == @model and stages == @stages")
    return rows.set_index("benchmark")["value"].to_dict()


def ledger(joined: pd.DataFrame, scale: str = "paper", model: str | None = "LLaMA-2 7b", **more) -> pd.DataFrame:
    return claims.ledger(claims.measured(joined, model, **ANY, **more), scale)


def account(**sources: tuple[int, int]) -> pd.DataFrame:
    """What 01 counts, as {source: (rows, tokens)}; instructions are named *_train here."""
    return pd.DataFrame([("instructions" if name.endswith("_train") else "continued pre-training", name, *size) for name, size in sources.items()],
                        columns=["kind", "source", "rows", "tokens"])


def rows(table: pd.DataFrame, /, **where) -> pd.DataFrame:
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table), where
    return table


@pytest.fixture(scope="module")
def same() -> pd.DataFrame:
    """A run that finds the paper's numbers on as many items: LLaMA-2, base and CP+SFT, zero-shot."""
    return pd.concat([exam(stages, published("LLaMA-2 7b", stages)) for stages in ("base", "CP+SFT")], ignore_index=True)


def test_every_published_number_is_in_the_ledger_once():
    table = ledger(exam("base", 30.0), "mini")
    assert len(table) == len(paper.ledger()) == 425 and table["published"].tolist() == paper.ledger()["value"].tolist()
    assert not table.duplicated(claims.KEYS).any() and set(table["status"]) <= set(claims.STATUSES)
    assert table["reason"].str.len().gt(5).all()


def test_a_run_that_finds_the_same_on_the_same_number_of_items_reproduces(same):
    table = ledger(same)
    for stages in ("base", "CP+SFT"):
        found = rows(table, table="stages", model="LLaMA-2 7b", stages=stages)
        assert (found["status"] == "reproduced").all() and len(found) == 7
    assert (rows(table, table="main", model="Hippo-LLaMA 7b", shots=0)["status"] == "reproduced").all(), "Hippo-LLaMA is CP+SFT"
    assert (rows(table, table="main", model="LLaMA-2 7b", shots=0)["status"] == "reproduced").all()
    cell = rows(table, table="stages", stages="base", model="LLaMA-2 7b", benchmark="usmle_step1").iloc[0]
    k = round(cell["published"] * 94 / 100)
    assert (cell["run_n"], cell["run_low"], cell["run_high"]) == (94, pytest.approx(100 * wilson(k, 94).low), pytest.approx(100 * wilson(k, 94).high))


def test_what_was_not_evaluated_is_not_run(same):
    table = ledger(same)
    others = table[(table["table"] == "stages") & ((table["model"] == "Mistral 7b") | ~table["stages"].isin(["base", "CP+SFT"]))]
    assert (others["status"] == "not run").all() and (rows(table, table="figure 3")["status"] == "not run").all()
    assert (rows(table, table="main", shots=5)["status"] == "not run").all() and rows(table, table="main", model="Qwen 72b")["run_value"].isna().all()


def test_a_number_outside_the_interval_differs(same):
    off = same.copy()
    base = (off["stages"] == "base") & (off["benchmark"] == "medmcqa")
    off.loc[base, "correct"] = np.arange(base.sum()) < 0.5 * base.sum()  # 50 % where the paper has 34.4
    table = rows(ledger(off), table="stages", stages="base", model="LLaMA-2 7b").set_index("benchmark")["status"]
    assert table["medmcqa"] == "differs" and table["average"] == "differs" and (table.drop(["medmcqa", "average"]) == "reproduced").all()


def test_the_ends_of_the_interval_decide(same):
    found = claims.measured(same, "LLaMA-2 7b", **ANY)
    cell = (found["table"] == "stages") & (found["stages"] == "base") & (found["benchmark"] == "medqa")
    for low, high, status in ((29.3, 31.0, "reproduced"), (28.0, 29.3, "reproduced"), (29.31, 31.0, "differs"), (28.0, 29.29, "differs")):
        changed = found.assign(low=found["low"].where(~cell, low), high=found["high"].where(~cell, high))
        assert rows(claims.ledger(changed, "paper"), table="stages", stages="base", model="LLaMA-2 7b", benchmark="medqa")["status"].item() == status


@pytest.mark.parametrize("model", ["LLaMA-2 7b", "Mistral 7b"])
def test_a_mini_run_can_never_be_reproduced(model):
    """Not even one whose numbers, items and rows are exactly the paper's."""
    parts = [exam(stages, published(model, stages)) for stages in ("base", "CP", "SFT", "CP+SFT", "CP+SFT+DPO")]
    parts += [exam("CP+SFT+DPO", published(model, "CP+SFT+DPO+CoT"), protocol="step_by_step")]
    parts += [exam(stages, 50.0, shots=5, protocol="option_text+paper_examples") for stages in ("base", "SFT", "CP+SFT")]
    run, sizes = pd.concat(parts, ignore_index=True), account(guidelines=(37970, 96_000_000), medqa_train=(10178, 1))
    mini, full = ledger(run, "mini", model, account=sizes), ledger(run, "paper", model, account=sizes)
    assert set(mini["status"]) == {"not comparable", "not run"}
    assert mini[mini["status"] == "not comparable"]["reason"].eq("a mini run: another model and another exam").all()
    assert ((mini["status"] == "not run") == (full["status"] == "not run")).all() and (full["status"] == "reproduced").sum() > 40


def test_another_number_of_items_is_not_comparable(same):
    fewer = same[~same["item"].isin({"usmle_step1-0", "pubmedqa-3"})]
    table = rows(ledger(fewer), table="stages", stages="base", model="LLaMA-2 7b").set_index("benchmark")
    assert table["status"].drop(["usmle_step1", "pubmedqa", "average"]).eq("reproduced").all()
    assert table.loc["usmle_step1", ["status", "reason"]].tolist() == ["not comparable", "measured on 93 items, published on 94"]
    assert table.loc["average", "status"] == "not comparable"


def test_a_few_quarantined_items_are_said_and_many_are_another_exam(same):
    gone = {f"medqa-{n}" for n in range(5)} | {"usmle_step1-0"}
    found = claims.measured(same[~same["item"].isin(gone)], "LLaMA-2 7b", **ANY)
    table = rows(claims.ledger(found, "paper", {"medqa": 5, "usmle_step1": 1}), table="stages", stages="base", model="LLaMA-2 7b").set_index("benchmark")
    assert table.loc["medqa", ["status", "reason"]].tolist() == ["reproduced", "inside the 95 % interval, 5 unanswerable items set aside"]
    assert table.loc["usmle_step1", "status"] == "not comparable", "one of 94 is more than a share of 0.01"
    assert table.loc["average", "reason"] == "inside the 95 % interval, 6 unanswerable items set aside"
    assert rows(claims.ledger(found, "paper", {"medqa": 4}), table="stages", stages="base", model="LLaMA-2 7b", benchmark="medqa")["status"].item() == "not comparable"


def test_another_protocol_is_not_comparable():
    fixed = exam("CP+SFT", 50.8, shots=5)
    table = rows(ledger(fixed), table="main", model="Hippo-LLaMA 7b", shots=5)
    assert (table["status"] == "not comparable").all() and (table["reason"] == "measured under option_text, published under option_text+paper_examples").all()
    as_published = ledger(pd.concat([fixed, fixed.assign(protocol="option_text+paper_examples")], ignore_index=True))
    assert rows(as_published, table="main", model="Hippo-LLaMA 7b", shots=5, benchmark="medqa")["status"].item() == "reproduced", "the paper's protocol is chosen where there are two"
    letters = ledger(exam("base", published("LLaMA-2 7b", "base"), protocol="letter"))
    assert (rows(letters, table="stages", stages="base", model="LLaMA-2 7b")["status"] == "not comparable").all()


def test_only_the_last_row_behind_the_step_by_step_prompt_is_the_papers_cot(same):
    run = pd.concat([same, exam("base", published("LLaMA-2 7b", "CP+SFT+DPO+CoT"), protocol="step_by_step")], ignore_index=True)
    table = ledger(run)
    assert (rows(table, table="stages", stages="CP+SFT+DPO+CoT")["status"] == "not run").all()
    assert (rows(table, table="stages", stages="base", model="LLaMA-2 7b")["status"] == "reproduced").all()


def test_a_base_that_is_not_the_papers_reproduces_nothing(same):
    assert claims.base_name("meta-llama/Llama-2-7b-hf") == claims.base_name("/data/hub/Llama-2-7b-hf/") == "LLaMA-2 7b"
    assert claims.base_name("mistralai/Mistral-7B-v0.1") == "Mistral 7b" and claims.base_name("mistralai/Mistral-7B-v0.3") is None
    assert claims.base_name(None, "mistral") == "Mistral 7b"
    table = ledger(same, model=claims.base_name("mistralai/Mistral-7B-v0.3"))
    assert (table[table["table"].isin(["main", "stages", "figure 3"])]["status"] == "not run").all()


def test_baselines_fill_the_other_rows_of_the_main_table(same):
    values = paper.published("main").query("model == 'Meditron 7b' and shots == 0").set_index("benchmark")["value"].to_dict()
    table = ledger(same, baselines=exam("Meditron 7b", values))
    assert (rows(table, table="main", model="Meditron 7b", shots=0)["status"] == "reproduced").all()
    assert (rows(table, table="main", model="Meditron 70b")["status"] == "not run").all()


def test_figure_3_compares_mean_probabilities():
    run = exam("CP", 50.0, shots=5, protocol="option_text+paper_examples")
    table = rows(ledger(run, model="Mistral 7b"), table="figure 3", stages="CP", benchmark="medqa").set_index("outcome")
    right, wrong = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-0.5))
    assert table.loc["correct", ["run_value", "run_n", "status"]].tolist() == [pytest.approx(right), 1273, "differs"]
    assert table.loc["incorrect", "run_value"] == pytest.approx(wrong)
    assert (rows(ledger(run, model="LLaMA-2 7b"), table="figure 3")["status"] == "not run").all(), "figure 3 is of Hippo-Mistral"


def test_data_set_sizes_are_compared_as_counts(same):
    counted = account(guidelines=(37970, 95_800_000), pmc_patients=(167000, 150_000_000), pubmedqa_contexts=(1, 52_000_000))
    table = rows(ledger(same, account=counted), table="data").set_index(["benchmark", "unit"])
    assert table.loc[("guidelines", "rows"), "status"] == "reproduced" and table.loc[("pmc_patients", "rows"), "status"] == "differs"
    assert table.loc[("medmcqa", "items"), "status"] == "reproduced" and table.loc[("medqa_train", "rows"), "status"] == "not run"
    assert table.loc[("guidelines", "tokens"), "status"] == "reproduced" and table.loc[("pmc_patients", "tokens"), "status"] == "differs"
    whole = rows(ledger(same, account=counted), table="data", model="all documents").iloc[0]
    assert (whole["published"], whole["run_value"], whole["status"]) == (298_000_000, 297_800_000, "reproduced")


# --- the paper's arithmetic --------------------------------------------------------------------------------------------

def test_the_paper_s_arithmetic_is_checked_and_nothing_else_is_blamed():
    table = claims.arithmetic()
    wrong = table[~table["agrees"]]
    averages = wrong[wrong["check"] == "average is the mean of its row"]
    assert set(zip(averages["model"], averages["shots"], averages["printed"], averages["computed"].round(1))) == {
        ("BioMedLM", 0, 25.9, 29.2), ("Bio-Mistral 7b", 5, 31.9, 44.6), ("LLaMA-2 13b", 5, 40.9, 44.2), ("Vicuna 13b", 5, 44.6, 48.0), ("MedAlpaca 13b", 5, 44.2, 36.6)}
    fractions = wrong[wrong["check"] == "a whole number of items"]
    assert set(zip(fractions["model"], fractions["stages"], fractions["benchmark"], fractions["printed"])) == {
        ("MedAlpaca 13b", "", "usmle_step2", 24.5), ("LLaMA-2 7b", "CP+SFT+DPO+CoT", "usmle_step2", 43.7)}
    assert set(wrong["check"]) == {"average is the mean of its row", "a whole number of items", "parts add up to the whole"} and len(wrong) == 8
    assert table["check"].value_counts()["average is the mean of its row"] == 54 and (table["check"] == "a whole number of items").sum() == 3 * 54


@pytest.mark.parametrize("n", [94, 109, 122])
def test_every_possible_share_passes_the_fraction_check_and_half_items_do_not(n):
    shares = [100 * k / n for k in range(n + 1)]
    assert all(abs(round(share, 1) - share) <= claims.ROUNDED_TWICE for share in shares)
    assert all(abs(100 * (k + 0.5) / n - share) > claims.ROUNDED_TWICE for k in range(n) for share in shares)


# --- statements --------------------------------------------------------------------------------------------------------

def paired_rows(*differences: float, width: float = 0.02) -> pd.DataFrame:
    steps = [*((new, "option_text", old) for new, old in claims.STEPS), ("CP+SFT+DPO", "step_by_step", "CP+SFT+DPO")]
    return pd.DataFrame([{"stages": new, "protocol": protocol, "compared_with": old, "benchmark": "knowledge", "group": "all", "n": 100, "difference": d,
                          "difference_low": d - width, "difference_high": d + width} for (new, protocol, old), d in zip(steps, differences)])


def verdicts(paired: pd.DataFrame, joined: pd.DataFrame, where: str = "this run", found: pd.DataFrame | None = None) -> dict[str, str]:
    table = claims.statements(paired, joined, pd.DataFrame(columns=claims.MEASURED) if found is None else found, group="all", shots=5, **ANY)
    assert table["evidence"].str.len().gt(10).all() and len(table) == 10
    return table[table["judged_on"] == where].set_index("statement")["verdict"].to_dict()


SMALL = {"medmcqa": 60, "pubmedqa": 60}


def test_the_paper_s_words_against_its_own_numbers():
    found = verdicts(paired_rows(0.1, 0.1, 0.1, 0.1, 0.0), exam("CP", 50.0, 5, sizes=SMALL), "published numbers")
    assert found == {claims.EACH_STAGE: "does not hold", claims.SURER_RIGHT: "holds", claims.MEDMCQA_SUREST: "does not hold", claims.BEATS_70B: "does not hold", claims.COT_SMALL: "holds"}


@pytest.mark.parametrize("differences, verdict", [((0.1, 0.1, 0.1, 0.1), "holds"), ((0.1, 0.1, 0.1, -0.1), "does not hold"), ((0.1, 0.1, 0.1, 0.01), "undecided"), ((0.1, 0.1), "undecided")])
def test_each_stage_adds_only_if_every_interval_says_so(differences, verdict):
    assert verdicts(paired_rows(*differences), exam("CP", 50.0, 5, sizes=SMALL))[claims.EACH_STAGE] == verdict


def test_surer_when_right_follows_the_confidences():
    joined = exam("CP", 50.0, 5, sizes=SMALL)
    assert verdicts(paired_rows(0.1), joined)[claims.SURER_RIGHT] == "holds"
    assert verdicts(paired_rows(0.1), joined.assign(correct=~joined["correct"]))[claims.SURER_RIGHT] == "does not hold"
    shuffled = joined.assign(correct=np.random.default_rng(0).permutation(joined["correct"]))
    assert verdicts(paired_rows(0.1), shuffled)[claims.SURER_RIGHT] == "undecided"
    assert verdicts(paired_rows(0.1), joined.assign(shots=0))[claims.SURER_RIGHT] == "not run"


def test_surest_benchmark_follows_the_confidences():
    high, low = exam("CP", {"medmcqa": 90.0, "pubmedqa": 20.0}, 5, sizes=SMALL), exam("CP", {"medmcqa": 20.0, "pubmedqa": 90.0}, 5, sizes=SMALL)
    assert [verdicts(paired_rows(0.1), joined)[claims.MEDMCQA_SUREST] for joined in (high, low)] == ["holds", "does not hold"]


def test_the_prompt_s_effect_needs_an_interval_within_a_point():
    joined = exam("CP", 50.0, 5, sizes=SMALL)
    assert [verdicts(paired_rows(0.1, 0.1, 0.1, 0.1, d, width=w), joined)[claims.COT_SMALL] for d, w in ((0.0, 0.005), (0.0, 0.02), (0.1, 0.02))] == ["holds", "undecided", "does not hold"]


def test_seventy_billion_needs_a_baseline_and_intervals_that_do_not_meet():
    joined = exam("CP", 50.0, 5, sizes=SMALL)
    hippo = exam("SFT", 60.0)
    for accuracy, verdict in ((50.0, "holds"), (70.0, "does not hold"), (60.5, "undecided")):
        found = claims.measured(hippo, "Mistral 7b", baselines=exam("Qwen 72b", accuracy), **ANY)
        assert verdicts(paired_rows(0.1), joined, found=found)[claims.BEATS_70B] == verdict
    assert verdicts(paired_rows(0.1), joined, found=claims.measured(hippo, "Mistral 7b", **ANY))[claims.BEATS_70B] == "not run"
