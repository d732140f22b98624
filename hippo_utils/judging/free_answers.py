"""Free answers judged: two at a time in both orders, or one at a time on anchored scales (Hypnos; its criteria are unknown).

    judgements = compare(judge, answers, against, template=..., store=...)   # 05's answer records with what their questions say
    win_rates(answers, judgements, against, seed=...)                        # table answers_judged
    by_rubric(world, answers), absolute(judge, answers, ...)                 # one line per answer and scale
    mean_scores(scores, seed=...)                                            # table answers_scored

A mini run has no judge that can read. The rubric over the fact tables takes its place and is called that: it sees which of the
values asked for an answer names, which wrong ones, and doses that the tables do not hold; it sees nothing else.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hippo_utils.chinese import amounts, folded, tokens
from hippo_utils.judging import asking, prompts, verdicts
from hippo_utils.judging.asking import Asked, Judge
from hippo_utils.judging.endpoint import EndpointJudge
from hippo_utils.judging.rubric import RubricJudge
from hippo_utils.judging.store import Store
from hippo_utils.miniworld.anesthesia.world import may_be_true
from hippo_utils.miniworld.world import World
from hippo_utils.params import OpenEnded
from hippo_utils.statistics import bootstrap

NAMED, WRONG, DOSE = 1.0, -1.0, -2.0  # points: a value named right, a wrong one, a wrong dose; ours, not the paper's
SCALES = ("fluency", "relevance", "completeness", "proficiency")  # 1 to 5, anchored in the template
RUBRIC_SCALES = ("share of the asked values named", "share of answers with a wrong value", "share of answers with a dose that the tables do not hold")


# --- the rubric over the facts of anesthesia ---------------------------------------------------------------------------

def stated(world: World, fact_ids: Sequence[str], question: str, answer: str) -> dict[str, int]:
    """What an answer says of the facts that were asked for.

    asked: their values; named: those that the answer holds; wrong: values of the same attributes that it holds and that are
    true of nothing that was asked about; dose_errors: its amounts of a drug (mg, ml) that neither these facts nor the question hold.
    """
    facts = [world.facts[name] for name in fact_ids]
    right, kinds = {value for fact in facts for value in fact.values}, {(fact.kind, fact.attribute) for fact in facts}
    others = {value for fact in world.facts.values() if (fact.kind, fact.attribute) in kinds for value in fact.values} - right
    text, found = folded(answer), {True: 0, False: 0}
    for value in sorted(right | others, key=lambda value: (-len(folded(value)), value)):  # the longest first: a shorter one inside it is not named by it
        if folded(value) in text and (value in right or not (folded(value) in folded(question) or any(may_be_true(world, f.entity, f.attribute, value) for f in facts))):
            found[value in right] += 1
            text = text.replace(folded(value), "•")
    known = {amount for part in (question, *right) for amount in amounts(part)}
    doses = [amount for amount in amounts(answer) if amount[2].split("/")[0] in ("mg", "ml")]
    return {"asked": len(right), "named": found[True], "wrong": found[False], "dose_errors": sum(dose not in known for dose in doses)}


class FactJudge(RubricJudge):
    """The rubric in the place of a judge of free answers: the same askings, orders and counts, no prompt and no cost."""
    name = identity = "rubric over the anesthesia facts (values named right and wrong, doses)"

    def _score(self, asked: Asked, answer: str) -> tuple[float, str]:
        if (asked.id, answer) not in self._known:
            found = stated(self._world, asked.fact_ids, asked.question, answer)
            points = NAMED * found["named"] + WRONG * found["wrong"] + DOSE * found["dose_errors"]
            self._known[asked.id, answer] = points, f"{found['named']} of {found['asked']} named, {found['wrong']} wrong, {found['dose_errors']} dose errors"
        return self._known[asked.id, answer]


def open_judge(settings: OpenEnded, world: World | None) -> Judge | None:
    """The judge that the parameters name; None where they name none."""
    if settings.judge == "endpoint":
        return EndpointJudge(settings.endpoint, settings.template)
    return FactJudge(world) if settings.judge else None


# --- two at a time -----------------------------------------------------------------------------------------------------

def compare(judge: Judge, answers: pd.DataFrame, against: str, *, template: str, store: Path | None = None) -> pd.DataFrame:
    """Judgement records: every model's answer to every question beside that of the model `against`, shown in both orders.

    answers: columns stages, question, answer, prompt, reference, fact_ids. The reference stands below the question.
    """
    return verdicts.ask(judge, _pairs(answers, against), template=template, task="best", orders="reversed", store=store)


def _pairs(answers: pd.DataFrame, against: str) -> pd.DataFrame:
    """Rows of candidates: id (question/model), prompt, answers (the model's, then that of `against`), fact_ids."""
    bar = answers[answers["stages"] == against].set_index("question")["answer"]
    others = answers[(answers["stages"] != against) & answers["question"].isin(bar.index)]
    return pd.DataFrame({"id": others["question"] + "/" + others["stages"], "prompt": [_with_reference(row) for row in others.to_dict("records")],
                         "answers": [[answer, bar[question]] for question, answer in zip(others["question"], others["answer"])], "fact_ids": others["fact_ids"]})


def _with_reference(row: dict) -> str:
    return f"{row['prompt'].strip().removeprefix('问：').removesuffix('答：').strip()}\n参考答案：{row['reference']}"


def win_rates(answers: pd.DataFrame, judgements: pd.DataFrame, against: str, *, seed: int, resamples: int = 2000) -> pd.DataFrame:
    """Table answers_judged: one row per model, benchmark and group (and all groups together).

    An answer wins when both orders say so; anything else that can be read is a tie. win_rate = (wins + ties / 2) / n with a 95 %
    bootstrap interval over questions, those about one entity together; n = questions with two readable verdicts, invalid = the
    share of questions without them; turned = share of n in which the orders named different answers (a judge that goes by places);
    length, length_against (units of chinese.tokens); longer_won = share of the decided ones of unequal length that the longer won.
    """
    valid = judgements.groupby("candidates")["outcome"].agg(lambda said: said.isin(["verdict", "tie"]).all())
    turned = judgements.groupby("candidates")["ranked"].agg(lambda ranked: len({first[0] for first in ranked if first}) > 1)
    best = verdicts.decide(judgements, "unanimous").set_index("id")["best"] if len(judgements) else pd.Series(dtype=object)
    bar = answers[answers["stages"] == against].set_index("question")["answer"].map(lambda text: len(tokens(text)))
    rows = answers[answers["stages"] != against].copy()
    rows["name"] = rows["question"] + "/" + rows["stages"]
    rows = rows[rows["name"].isin(valid.index)]
    rows["valid"], rows["turned"], rows["best"] = valid[rows["name"]].to_numpy(), turned[rows["name"]].to_numpy(), best[rows["name"]].to_numpy()
    rows["length"], rows["length_against"] = [len(tokens(text)) for text in rows["answer"]], bar[rows["question"]].to_numpy()
    whole = pd.concat([rows, rows.assign(group="all")]) if set(rows["group"]) != {"all"} else rows
    lines = []
    for (stages, benchmark, group), every in whole.groupby(["stages", "benchmark", "group"], sort=False):
        part = every[every["valid"]]
        scores = part["best"].map(lambda which: 0.5 if which is None or which != which else 1.0 - which).to_numpy(float)
        decided = part[(scores != 0.5) & (part["length"] != part["length_against"]).to_numpy()]
        won_longer = (decided["length"] > decided["length_against"]) == (decided["best"] == 0)
        ends = bootstrap(scores, seed=seed, clusters=part["cluster"].to_numpy(), resamples=resamples) if len(part) else (float("nan"),) * 3
        lines.append({"judge": judgements["judge"].iloc[0], "stages": stages, "against": against, "benchmark": benchmark, "group": group, "n": len(part),
                      "wins": int((scores == 1).sum()), "ties": int((scores == 0.5).sum()), "losses": int((scores == 0).sum())}
                     | dict(zip(("win_rate", "low", "high"), ends))
                     | {"invalid": 1 - len(part) / len(every), "turned": float(part["turned"].mean()) if len(part) else float("nan"),
                        "length": every["length"].mean(), "length_against": every["length_against"].mean(), "longer_won": won_longer.mean() if len(decided) else float("nan")})
    return pd.DataFrame(lines)


# --- one at a time -----------------------------------------------------------------------------------------------------

def by_rubric(world: World, answers: pd.DataFrame) -> pd.DataFrame:
    """The rubric's three shares as scores of every answer: columns of `answers` without texts, scale, score."""
    parts = []
    for row in answers.to_dict("records"):
        found = stated(world, row["fact_ids"], row["prompt"], row["answer"])
        parts.append((found["named"] / found["asked"], float(found["wrong"] > 0), float(found["dose_errors"] > 0)))
    return _long(answers, RUBRIC_SCALES, parts, "rubric over the anesthesia facts")


def absolute(judge: Judge, answers: pd.DataFrame, *, template: str, store: Path | None = None) -> pd.DataFrame:
    """Scores of 1 to 5 on SCALES of every answer by a judge that reads; nan where its reply could not be read, which is counted."""
    asks = [Asked(f"{row['question']}/{row['stages']}", _with_reference(row), (row["answer"],), tuple(row["fact_ids"])) for row in answers.to_dict("records")]
    if store is None:
        made = asking.ask_all(judge, asks, lambda asked, complaint: _messages(template, asked, complaint), lambda asked, text: parse(text))
    else:
        with Store(store) as opened:
            made = asking.ask_all(judge, asks, lambda asked, complaint: _messages(template, asked, complaint), lambda asked, text: parse(text), opened)
    return _long(answers, SCALES, [judgement.verdict or (float("nan"),) * len(SCALES) for judgement in made], judge.name)


def _messages(template: str, asked: Asked, complaint: str) -> list[dict[str, str]]:
    system, user = prompts.template(template)
    mark = hashlib.sha256("\0".join([asked.question, *asked.answers]).encode()).hexdigest()[:12]
    said = user.render(task="absolute", mark=mark, question=asked.question, answers=[("A", asked.answers[0].strip())], labels="A", complaint=complaint)
    return [{"role": "system", "content": system.render(task="absolute").strip()}, {"role": "user", "content": said.strip()}]


def parse(text: str) -> tuple[float, ...]:
    """The four scores of a reply; ValueError unless it holds one JSON object with exactly four whole numbers from 1 to 5."""
    found = prompts.objects(prompts.THOUGHT.sub("", text))
    if len(found) != 1:
        raise ValueError(f"it holds {len(found)} JSON objects, and one was asked for")
    if set(found[0]) != set(SCALES):
        raise ValueError(f"its keys are not {', '.join(SCALES)}")
    if any(isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 5 for value in found[0].values()):
        raise ValueError(f"its scores are not whole numbers from 1 to 5: {json.dumps(found[0])}")
    return tuple(float(found[0][scale]) for scale in SCALES)


def _long(answers: pd.DataFrame, scales: Sequence[str], scores: list[tuple[float, ...]], judge: str) -> pd.DataFrame:
    about = answers[["stages", "benchmark", "group", "cluster", "question"]].reset_index(drop=True).assign(judge=judge)
    return pd.concat([about.assign(scale=scale, score=[row[place] for row in scores]) for place, scale in enumerate(scales)], ignore_index=True)


def mean_scores(scores: pd.DataFrame, *, seed: int, resamples: int = 2000) -> pd.DataFrame:
    """Table answers_scored: mean score per model, benchmark, group and scale with a 95 % bootstrap interval over questions; n, unread."""
    whole = pd.concat([scores, scores.assign(group="all")]) if set(scores["group"]) != {"all"} else scores
    lines = []
    for names, every in whole.groupby(["judge", "stages", "benchmark", "group", "scale"], sort=False):
        part = every[every["score"].notna()]
        ends = bootstrap(part["score"].to_numpy(), seed=seed, clusters=part["cluster"].to_numpy(), resamples=resamples) if len(part) else (float("nan"),) * 3
        lines.append((*names, len(part), len(every) - len(part), *ends))
    return pd.DataFrame(lines, columns=["judge", "stages", "benchmark", "group", "scale", "n", "unread", "mean", "low", "high"])
