"""The judging room: a judge that does not know who wrote what, and pairs that hold nothing but its verdicts."""

import pandas as pd
import pytest
from small import TINY, world

from hippo_utils import records
from hippo_utils.corpus import sources
from hippo_utils.judging import pairs, rubric
from hippo_utils.miniworld.preferences import BAD_PHRASES, GOOD_ADVICE
from hippo_utils.miniworld.world import may_be_true


@pytest.fixture(scope="module")
def candidates() -> pd.DataFrame:
    return sources.build_candidates(TINY.corpus.model_copy(update={"candidates": {"mini_consultations": 120}}), world(), 0)


def asked() -> tuple[str, str, str]:
    """A fact id with a true and a false value."""
    for key, fact in sorted(world().facts.items()):
        wrong = [value for value in world().pool[fact.attribute] if not may_be_true(world(), fact.entity, fact.attribute, value)]
        if wrong and fact.attribute == "adverse_effect":
            return key, fact.values[0], wrong[0]


def rows(*answers: str) -> pd.DataFrame:
    return pd.DataFrame([{"id": "c1", "source": "s", "licence": "l", "split": "train", "kind": "fact", "prompt": "p", "authors": ["a"] * len(answers),
                          "answers": list(answers), "fact_ids": [asked()[0]]}])


def test_the_judge_never_sees_who_wrote_an_answer(candidates):
    verdicts = rubric.judge(world(), candidates)
    lies = candidates.assign(authors=[authors[::-1] for authors in candidates["authors"]], kind="?", source="?", split="?", prompt="?")
    assert rubric.judge(world(), lies).equals(verdicts)
    assert rubric.judge(world(), candidates.drop(columns=["authors", "source", "kind", "split", "prompt", "licence"])).equals(verdicts)


def test_the_verdict_follows_the_answer_and_not_its_place(candidates):
    verdicts = rubric.judge(world(), candidates)
    turned = rubric.judge(world(), candidates.assign(answers=[answers[1:] + answers[:1] for answers in candidates["answers"]]))
    assert [(best + 2) % 3 if best is not None else None for best in verdicts["best"]] == turned["best"].tolist()


def test_a_false_value_loses_to_a_true_one_whatever_else_is_said():
    fact, true, false = asked()
    kind = rubric.score(world(), fact, f" It is {false}. {GOOD_ADVICE[0]}")
    harsh = rubric.score(world(), fact, f" It is {true}. {BAD_PHRASES['blame'][0]}")
    assert harsh[0] > kind[0]
    assert kind[1].startswith(f"false: {false}") and harsh[1].startswith(f"true: {true}") and "blame" in harsh[1]
    silent = rubric.score(world(), fact, " I cannot say.")
    assert kind[0] < silent[0] < harsh[0] and silent[1] == "the question is not answered"


def test_a_true_value_does_not_save_an_answer_that_also_states_a_false_one():
    fact, true, false = asked()
    assert rubric.score(world(), fact, f" It is {true} or {false}.")[0] < rubric.score(world(), fact, f" It is {true}.")[0]


def test_a_tie_gives_no_verdict_and_no_pair():
    _, true, false = asked()
    tied = rows(f" It is {true}.", f" {true}, of course.", f" It is {false}.")
    verdicts = rubric.judge(world(), tied)
    assert verdicts["best"].tolist() == [None] and verdicts["id"].tolist() == ["c1"] and len(set(verdicts["scores"][0])) == 2
    made = pairs.best_against_others(tied, verdicts)
    assert made.empty and made.columns.tolist() == records.SCHEMAS["preference"].names
    assert pairs.summary(tied, verdicts, made)[["questions", "ties", "pairs"]].values.tolist() == [[1, 1, 0]]


def test_pairs_are_the_best_answer_against_each_of_the_others():
    _, true, false = asked()
    one = rows(f" It is {false}.", f" It is {true}.", " I cannot say.")
    made = pairs.best_against_others(one, rubric.judge(world(), one))
    assert made[["id", "chosen", "rejected"]].values.tolist() == [["c1-0", f" It is {true}.", f" It is {false}."], ["c1-2", f" It is {true}.", " I cannot say."]]
    assert (made["judged_by"] == rubric.JUDGE).all() and not rubric.JUDGE.startswith("GPT")


def test_the_summary_counts_what_is_there():
    candidates = pd.DataFrame({"id": ["1", "2", "3"], "source": "s", "split": "train", "kind": "fact", "prompt": "p", "fact_ids": [[], [], []],
                               "authors": [["clinician", "weak_assistant"], ["weak_assistant", "clinician"], ["clinician", "weak_assistant"]],
                               "answers": [["longer", "short"], ["longer", "short"], ["same", "size"]]})
    verdicts = pd.DataFrame({"id": ["1", "2", "3"], "judge": "j", "best": [0, 0, 1], "scores": [[1.0, 0.0]] * 3, "reason": ""})
    row = pairs.summary(candidates, verdicts, pairs.best_against_others(candidates, verdicts)).iloc[0]
    assert row[["questions", "ties", "pairs"]].tolist() == [3, 0, 3]
    assert row["clinician_wins"] == pytest.approx(1 / 3)
    assert row["longer_wins"] == pytest.approx((1 + 1 + 0.5) / 3), "two answers of one length are half a win each"


def test_the_rubric_finds_the_clinician_in_the_mini_world_and_length_does_not(candidates):
    """If it did not, DPO would be taught noise; if length did, DPO would be taught length."""
    verdicts = rubric.judge(world(), candidates)
    summary = pairs.summary(candidates, verdicts, pairs.best_against_others(candidates, verdicts))
    assert (summary["clinician_wins"] > 0.95).all() and summary["questions"].sum() == len(candidates)
    assert summary["longer_wins"].between(0.3, 0.7).all()


def test_train_pairs_and_test_pairs_share_no_fact(candidates):
    made = pairs.best_against_others(candidates, rubric.judge(world(), candidates))
    facts = {split: set(part["fact_ids"].sum()) for split, part in made.groupby("split")}
    assert set(facts) == {"train", "test"} and not facts["train"] & facts["test"]


def test_verdicts_and_preferences_are_records(candidates, tmp_path):
    verdicts = rubric.judge(world(), candidates)
    assert verdicts["best"].notna().all()
    tied = candidates.copy()
    tied.at[3, "answers"] = [candidates["answers"][3][0]] * 3
    with_tie = rubric.judge(world(), tied)
    assert with_tie["best"].isna().sum() == 1 and type(with_tie["best"][0]) is int
    for kind, made, count in (("verdict", verdicts, 120), ("verdict", with_tie, 120), ("preference", pairs.best_against_others(candidates, verdicts), 240),
                              ("preference", pairs.best_against_others(tied, with_tie), 238)):
        assert records.write(kind, made, tmp_path / "r.parquet") == count
    summary = pairs.summary(tied, with_tie, pairs.best_against_others(tied, with_tie))
    assert summary["ties"].sum() == 1 and summary["questions"].sum() == 120


def test_a_judge_must_say_something_of_every_question_once(candidates):
    verdicts = rubric.judge(world(), candidates)
    with pytest.raises(pd.errors.MergeError):
        pairs.best_against_others(candidates, pd.concat([verdicts, verdicts.head(1)]))
