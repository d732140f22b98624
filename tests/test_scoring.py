"""From stored predictions to tables: the sensitivity panel, what n can show, clean and flagged items, quarantine, and sentences for gaps."""

import json

import numpy as np
import pandas as pd
import pytest

from hippo_utils import params, records
from hippo_utils.evaluation import quarantine, scoring
from hippo_utils.evaluation.extraction import NO_ANSWER
from hippo_utils.statistics import smallest_detectable_difference, wilson


def answers(scores: list[list[float]], right: list[int], protocol: str = "option_text", shots: int = 0, stages: str = "CP", benchmark: str = "medqa", sizes=None, steps: int = 1,
            written: bool = False) -> pd.DataFrame:
    """Joined predictions: `scores` per item, or with `written` the chosen option in their place."""
    chosen = scores if written else [int(np.argmax(s)) for s in scores]
    return pd.DataFrame({"run": "r", "seed": 0, "stages": stages, "item": [f"{benchmark}-{n}" for n in range(len(right))], "benchmark": benchmark, "protocol": protocol, "shots": shots,
                         "log_likelihoods": [[] if written else s for s in scores], "option_bytes": [[] if written else (sizes or [1] * len(s)) for s in scores],
                         "generated_text": ["reply"] * len(right) if written else [None] * len(right), "prediction": chosen,
                         "correct": [c == r for c, r in zip(chosen, right)], "answer": right, "group": "all", "steps": steps, "cluster": [f"c{n}" for n in range(len(right))]})


PAPER = answers([[-1.0, -2.0], [-4.0, -3.0], [-1.0, -2.0], [-1.0, -5.0]], [0, 0, 1, 0], sizes=[1, 4])


def cell(table: pd.DataFrame, scoring_name: str, benchmark: str = "medqa") -> pd.Series:
    found = table[(table["scoring"] == scoring_name) & (table["benchmark"] == benchmark)]
    assert len(found) == 1, f"{scoring_name} in {sorted(set(table['scoring']))}"
    return found.iloc[0]


def test_the_panel_compares_the_same_items_under_every_protocol():
    letters = answers([[0.0, -1.0], [0.0, -1.0], [-1.0, 0.0]], [0, 0, 1], "letter")
    replies = answers([0, NO_ANSWER, 1], [0, 0, 1], "generate", written=True)
    table = scoring.sensitivity(pd.concat([PAPER, letters, replies], ignore_index=True))
    assert set(table["n"]) == {3}, "the fourth item was not asked under every protocol"
    usual = cell(table, "option text")
    assert (usual["accuracy"], usual["ci_low"], usual["moved"], usual["same_choice"]) == (pytest.approx(1 / 3), wilson(1, 3).low, 0, 1)
    per_byte = cell(table, "option text, per byte")  # [-1, -.5], [-4, -.75], [-1, -.5]: always the second
    assert per_byte["accuracy"] == pytest.approx(1 / 3) and per_byte["same_choice"] == pytest.approx(1 / 3)
    assert cell(table, "letter")[["accuracy", "moved", "same_choice"]].tolist() == [1, pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert cell(table, "written answer")["unread"] == pytest.approx(1 / 3) and cell(table, "written answer")["accuracy"] == pytest.approx(2 / 3)
    assert "letter, per byte" not in set(table["scoring"]) and table[table["protocol"] == "letter"]["unread"].isna().all()
    assert cell(table, "letter", "knowledge")["n"] == 3, "pools beside the benchmarks"


def test_variations_and_shots_are_named():
    moved = [PAPER.assign(protocol="option_text+permuted"), PAPER.assign(protocol="option_text+paper_examples", shots=5), PAPER.assign(protocol="letter+chat"), PAPER.assign(protocol="step_by_step")]
    table = scoring.sensitivity(pd.concat([PAPER, *moved], ignore_index=True))
    assert set(table["scoring"]) >= {"option text, options permuted", "option text, 5-shot, new examples per item, per byte", "letter, chat template", "option text, step-by-step prompt"}
    said = scoring.spread(table, "medqa")
    assert len(said) == 1 and said[0].startswith("CP, the same 4 items (medqa): ")


def test_the_panel_keeps_stages_apart():
    table = scoring.sensitivity(pd.concat([PAPER, PAPER.head(2).assign(stages="base")], ignore_index=True))
    assert table[table["stages"] == "base"]["n"].unique().tolist() == [2] and table[table["stages"] == "CP"]["n"].unique().tolist() == [4]


def test_unread_replies_are_counted():
    table = scoring.unread(pd.concat([PAPER, answers([0, NO_ANSWER, NO_ANSWER, 1], [0, 0, 0, 0], "rationale", written=True)]))
    assert table[["protocol", "n", "unread", "share"]].values.tolist() == [["rationale", 4, 2, 0.5]]
    assert scoring.unread(PAPER).empty


# --- prompting -------------------------------------------------------------------------------------------------------

def test_prompting_names_shots_and_votes_and_stands_in_one_order():
    votes = answers([0, 0], [0, 0], "self_consistency", written=True, steps=2).assign(generated_text=json.dumps(["a", "b", "c"]))
    parts = [PAPER.assign(shots=5), votes, PAPER.assign(protocol="step_by_step"), PAPER.assign(shots=1), PAPER, PAPER.assign(steps=2, item=["w", "x", "y", "z"]), PAPER.assign(protocol="letter")]
    table = scoring.prompting(pd.concat(parts, ignore_index=True), "CP")
    assert list(dict.fromkeys(table["prompting"])) == ["zero-shot", "1-shot", "5-shot", "step-by-step prompt", "vote of 3 rationales"]
    assert set(table[table["prompting"] == "vote of 3 rationales"]["benchmark"]) == {"two_step"}


def test_rationales_are_written_to_questions_of_two_steps_where_an_exam_has_such():
    items = pd.DataFrame([("a", "medqa", "test", 1), ("b", "medqa", "test", 2), ("c", "medqa", "development", 1), ("d", "medmcqa", "test", 1)], columns=["id", "benchmark", "split", "steps"])
    assert list(scoring.for_rationales(items)["id"]) == ["b", "c", "d"]


def test_an_exam_without_two_steps_keeps_its_rationales():
    table = scoring.prompting(pd.concat([PAPER, answers([0, 1], [0, 0], "rationale", written=True)], ignore_index=True), "CP")
    assert {"medqa", "knowledge"} <= set(table[table["prompting"] == "written rationale"]["benchmark"])


# --- gaps are sentences ----------------------------------------------------------------------------------------------

ROWS = [("CP", "option_text", "base"), ("SFT", "option_text", "base")]


def ladder(joined: pd.DataFrame) -> pd.DataFrame:
    return scoring.ladder(joined, ROWS, shots=0, seed=0, resamples=100)


def test_a_run_of_the_base_alone_has_nothing_to_compare_and_says_so():
    table = ladder(PAPER.assign(stages="base"))
    assert table.empty and set(scoring.PAIRED) <= set(table.columns)
    assert scoring.conclusions(table) == ["No two rows of the ladder were evaluated, so there is nothing to compare."]
    assert scoring.claims(table, scoring.accuracies(PAPER), None, pd.DataFrame(), "all").empty


@pytest.mark.parametrize("stages", ["base", "CP"])
def test_comparing_other_items_is_a_sentence(stages):
    joined = pd.concat([PAPER.assign(stages="base"), PAPER], ignore_index=True)
    with pytest.raises(ValueError, match=r"base \(option_text, medqa\) and CP \(option_text, medqa\) are to be compared on the same items, and 1 were answered by one of them only, medqa-2 among them"):
        ladder(joined[~((joined["stages"] == stages) & (joined["item"] == "medqa-2"))])


# --- what n can show, clean and flagged ------------------------------------------------------------------------------

def test_what_n_can_show_shrinks_with_n():
    table = scoring.detectable({"usmle_step1": 94, "medmcqa": 4183}).set_index("benchmark")
    assert table.loc["usmle_step1", "smallest_detectable"] == smallest_detectable_difference(94, 0.2) > 0.12
    assert 0.09 < table.loc["usmle_step1", "half_width"] < 0.11 and table.loc["medmcqa", "half_width"] < 0.016


def test_flagged_items_stand_apart_and_none_is_lost():
    table = scoring.by_contamination(PAPER, {"medqa-0", "medqa-2"}).query("benchmark == 'medqa'").set_index("items")
    assert table.loc["clean", ["n", "accuracy"]].tolist() == [2, 0.5] and table.loc["flagged", ["n", "accuracy"]].tolist() == [2, 0.5]
    assert scoring.by_contamination(PAPER, set())["items"].unique().tolist() == ["clean"]


def test_an_item_is_flagged_only_because_of_texts_that_were_trained_on():
    audit = pd.DataFrame([("a", "flashcards", "flagged"), ("a", "left_out", "flagged"), ("b", "left_out", "flagged"), ("c", "flashcards", "removed"), ("d", "dialogues", "flagged"),
                          ("e", "dialogues", "clean")], columns=["item", "source", "decision"])
    assert scoring.flagged(audit, {"flashcards": 1, "left_out": 0}) == {"a", "d"} and scoring.flagged(audit, {}) == {"a", "b", "d"}
    assert scoring.flagged(audit.head(0), {"left_out": 0}) == set()


# --- quarantine ------------------------------------------------------------------------------------------------------

SOUND = {"id": "medqa-1", "benchmark": "medqa", "split": "test", "group": "all", "subject": "", "cluster": "c", "fact_ids": [], "steps": 1, "question": "Which?", "context": "",
         "options": ["a", "b", "c"], "answer": 2}
BAD = [({"answer": -1}, "no right answer"), ({"answer": None}, "no right answer"), ({"answer": float("nan")}, "no right answer"), ({"answer": 3}, "the right answer is none of the options"),
       ({"answer": -2}, "the right answer is none of the options"), ({"options": ["a", "b", "A "]}, "two options are the same"), ({"question": "  "}, "empty question"),
       ({"question": None}, "empty question"), ({"options": ["a"], "answer": 0}, "fewer than two options"), ({"options": [], "answer": 0}, "fewer than two options"),
       ({"options": ["a", "", "c"]}, "an empty option"), ({"benchmark": "medqa5"}, "unknown benchmark")]


@pytest.mark.parametrize("change, reason", BAD)
def test_every_kind_of_bad_item_has_its_name(change, reason):
    assert quarantine.fault(SOUND) is None and quarantine.fault(SOUND | change) == reason


def test_bad_items_are_set_aside_named_and_counted():
    rows = [SOUND] + [SOUND | change | {"id": f"bad-{n}"} for n, (change, _) in enumerate(BAD)]
    frame = pd.DataFrame(rows)
    sound, bad = quarantine.quarantine(frame)
    assert sound["id"].tolist() == ["medqa-1"] and bad["id"].tolist() == [f"bad-{n}" for n in range(len(BAD))] and bad["reason"].tolist() == [reason for _, reason in BAD]
    table = quarantine.counts(frame, bad).set_index("benchmark")
    assert table.loc["medqa", ["items", "sound", "quarantined"]].tolist() == [len(BAD), 1, len(BAD) - 1] and "no right answer (3)" in table.loc["medqa", "reasons"]
    assert table.loc["medqa5", "sound"] == 0


def test_the_mini_worlds_exams_are_sound():
    from small import items
    sound, bad = quarantine.quarantine(items())
    assert bad.empty and len(sound) == len(items()) and set(sound["benchmark"]) == set(params.load("tiny").corpus.benchmarks)
