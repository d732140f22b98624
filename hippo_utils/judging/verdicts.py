"""From questions with candidate answers to verdicts: every question is judged in several orders, and agreement decides.

A judge that prefers a place rather than an answer names another answer in another order. The rule: an answer is best if
more than half of the orders say so (majority), or all of them (unanimous); orders without a readable verdict count as
saying nothing. Anything else is a tie, and a tie makes no pair.
"""

import hashlib
import itertools
from pathlib import Path
from typing import Literal

import pandas as pd

from hippo_utils import paths
from hippo_utils.judging import asking, prompts
from hippo_utils.judging.asking import Asked, Judge
from hippo_utils.judging.endpoint import EndpointJudge
from hippo_utils.judging.local import LocalJudge
from hippo_utils.judging.rubric import RubricJudge
from hippo_utils.judging.store import Store
from hippo_utils.manifest import StageError
from hippo_utils.miniworld.world import World
from hippo_utils.params import Preference

Orders = Literal["one", "reversed", "rotations", "all"]
Agreement = Literal["majority", "unanimous"]
COLUMNS = ["id", "candidates", "judge", "order", "repeat", "outcome", "ranked", "notes", "replies", "tokens_in", "tokens_out"]


def open_judge(settings: Preference, world: World | None = None) -> Judge:
    """The judge that the parameters name. The rubric needs the mini world."""
    if settings.judge == "endpoint":
        return EndpointJudge(settings.endpoint, settings.template)
    if settings.judge == "local":
        return LocalJudge(settings.local, settings.template, settings.task)
    if world is None:
        raise StageError("preference.judge is rubric, which looks things up in the mini world's facts, and this run has corpus.world null; "
                         "choose the judge endpoint or local")
    return RubricJudge(world)


def place(judge: Judge) -> Path | None:
    """The file that keeps this judge's replies; none for the rubric, which answers faster than a file is read."""
    return None if isinstance(judge, RubricJudge) else paths.replies(judge.identity[:16])


def orders(kind: Orders, question: str, answers: int) -> list[tuple[int, ...]]:
    """The orders in which the answers of a question are shown. With rotations, every answer stands once at every place.

    The first is drawn by the hash of the question: data sets hold their authors in one and the same order.
    """
    first = tuple(sorted(range(answers), key=lambda answer: hashlib.sha256(f"{answer}/{question}".encode()).digest()))
    return {"one": [first], "reversed": [first, first[::-1]], "rotations": [first[turn:] + first[:turn] for turn in range(answers)],
            "all": list(itertools.permutations(first))}[kind]


def askings(candidates: pd.DataFrame, kind: Orders, repeated: int = 0) -> list[Asked]:
    """Every row in every order; `repeated` rows, chosen by the hash of their id, once more in the first order."""
    again = set(sorted(candidates["id"], key=lambda name: hashlib.sha256(name.encode()).digest())[:repeated])
    asks = []
    for row in candidates.to_dict("records"):
        shown = orders(kind, row["prompt"], len(row["answers"]))
        for order, repeat in [(order, 0) for order in shown] + ([(shown[0], 1)] if row["id"] in again else []):
            asks.append(Asked(row["id"], row["prompt"], tuple(row["answers"][i] for i in order), tuple(row["fact_ids"]), order, repeat))
    return asks


def ask(judge: Judge, candidates: pd.DataFrame, *, template: str, task: prompts.Task, orders: Orders, repeated: int = 0,
        store: Path | None = None) -> pd.DataFrame:
    """Judgement records of every row of `candidates` in every order. What the file `store` holds is not asked again."""
    def render(asked: Asked, complaint: str) -> list[dict[str, str]]:
        return prompts.messages(template, task, asked.question, list(asked.answers), complaint)

    def parse(asked: Asked, text: str):
        return prompts.parse(text, task, len(asked.answers))

    asks = askings(candidates, orders, repeated)
    if store is None:
        judgements = asking.ask_all(judge, asks, render, parse)
    else:
        with Store(store) as opened:
            judgements = asking.ask_all(judge, asks, render, parse, opened)
    rows = []
    for asked, verdict, outcome, replies, tokens_in, tokens_out in judgements:
        places, notes = verdict or ([], {})
        rows.append({"id": f"{asked.id}/{''.join(map(str, asked.order))}/{asked.repeat}", "candidates": asked.id, "judge": judge.name, "order": list(asked.order),
                     "repeat": asked.repeat, "outcome": "tie" if verdict and not places else outcome, "ranked": [asked.order[place] for place in places],
                     "notes": "; ".join(f"{asked.order[place] + 1}: {note}" for place, note in sorted(notes.items(), key=lambda note: asked.order[note[0]])),
                     "replies": list(replies), "tokens_in": tokens_in, "tokens_out": tokens_out})
    return pd.DataFrame(rows, columns=COLUMNS)


def agreed(votes: int, asked: int, agreement: Agreement) -> bool:
    """Whether `votes` of `asked` orders are enough."""
    return votes == asked if agreement == "unanimous" else 2 * votes > asked


def decide(judgements: pd.DataFrame, agreement: Agreement) -> pd.DataFrame:
    """Verdict records, one per row that was judged: best by agreement or None, scores = the share of orders that each answer won."""
    rows = []
    for name, part in judgements[judgements["repeat"] == 0].groupby("candidates", sort=False):
        first = [ranked[0] if ranked else None for ranked in part["ranked"]]
        wins = [first.count(answer) for answer in range(len(part["order"].iloc[0]))]
        best = next((answer for answer, votes in enumerate(wins) if agreed(votes, len(part), agreement)), None)
        said = part["notes"].iloc[first.index(best)] if best is not None else f"a tie: {wins} of {len(part)} orders"
        rows.append({"id": name, "judge": part["judge"].iloc[0], "best": best, "scores": [votes / len(part) for votes in wins], "reason": said})
    verdicts = pd.DataFrame(rows, columns=["id", "judge", "best", "scores", "reason"])
    return verdicts.assign(best=pd.Series([row["best"] for row in rows], dtype=object))  # else a tie makes 1.0 and nan of 1 and None
