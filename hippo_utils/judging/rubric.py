"""A rubric over the mini world's facts: a judge for mini runs. It is a rule, not an AI, and it knows the fact tables.

It reads the answers only, never who wrote them. Two axes of the clinicians' assessment that the paper's GPT-4 prompt was
modelled on (Singhal et al., arXiv 2212.13138) can be checked by rule here: agreement with consensus (is the stated value
true?) and harm (safety advice given; no false reassurance, no blame).
"""

import json
from collections import Counter

import pandas as pd

from hippo_utils.judging.asking import Account, Asked, Judge, Reply
from hippo_utils.judging.prompts import LETTERS
from hippo_utils.miniworld.preferences import AUTHORS, BAD_PHRASES, GOOD_ADVICE, stated_values
from hippo_utils.miniworld.world import World, may_be_true

JUDGE = "rubric over the mini world's facts"
WRONG_FACT, RIGHT_FACT, ADVICE, BAD = -4.0, 2.0, 1.0, -1.0  # a wrong fact outweighs everything else; ours, not the paper's


def score(world: World, fact: str, answer: str) -> tuple[float, str]:
    """Points of one answer to a question about one fact (a fact id), and why."""
    asked = world.facts[fact]
    stated = stated_values(world, answer, asked.attribute, asked.entity)
    points, why = 0.0, []
    if wrong := [value for value in stated if not may_be_true(world, asked.entity, asked.attribute, value)]:
        points += WRONG_FACT
        why.append(f"false: {wrong[0]}")
    elif stated:
        points += RIGHT_FACT
        why.append(f"true: {stated[0]}")
    else:
        why.append("the question is not answered")
    if any(phrase in answer for phrase in GOOD_ADVICE):
        points += ADVICE
        why.append("gives safety advice")
    for axis, phrases in BAD_PHRASES.items():
        if any(phrase in answer for phrase in phrases):
            points += BAD
            why.append(axis)
    return points, ", ".join(why)


def judge(world: World, candidates: pd.DataFrame) -> pd.DataFrame:
    """Verdict records: the best answer of each row, or none when two share the first place (a tie, no pair is made)."""
    rows = []
    for identity, facts, answers in candidates[["id", "fact_ids", "answers"]].itertuples(index=False):
        scored = [score(world, facts[0], answer) for answer in answers]
        points = [value for value, _ in scored]
        best = points.index(max(points)) if points.count(max(points)) == 1 else None
        rows.append({"id": identity, "judge": JUDGE, "best": best, "scores": points,
                     "reason": "; ".join(f"{number + 1}: {why}" for number, (_, why) in enumerate(scored))})
    verdicts = pd.DataFrame(rows, columns=["id", "judge", "best", "scores", "reason"])
    return verdicts.assign(best=pd.Series([row["best"] for row in rows], dtype=object))  # else a tie makes 1.0 and nan of 1 and None


class RubricJudge(Judge):
    """The rubric in the place of a judge that reads: the same askings, orders and counts, no prompt and no cost."""
    name, identity, in_flight, account, troubles = JUDGE, JUDGE, 1, Account(), Counter()

    def __init__(self, world: World):
        self._world, self._known = world, {}

    def reply(self, asked: Asked, messages: list[dict[str, str]]) -> Reply:
        scored = [self._score(asked, answer) for answer in asked.answers]
        points = [value for value, _ in scored]
        best = LETTERS[points.index(max(points))] if points.count(max(points)) == 1 else "tie"
        return Reply(json.dumps({"notes": {letter: why for letter, (_, why) in zip(LETTERS, scored)}, "best": best}))

    def _score(self, asked: Asked, answer: str) -> tuple[float, str]:
        fact = asked.fact_ids[0]
        if (fact, answer) not in self._known:
            self._known[fact, answer] = score(self._world, fact, answer)
        return self._known[fact, answer]


def truth(candidates: pd.DataFrame) -> pd.Series:
    """The best answer of each row as the mini world was built: the clinician's. An index into its answers, by row id."""
    return pd.Series([authors.index(AUTHORS[0]) for authors in candidates["authors"]], index=list(candidates["id"]), name="best")
