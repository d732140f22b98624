"""From verdicts to pairs: the best answer against each of the others (paper, section 3.3; 7,321 questions gave 15K pairs)."""

import numpy as np
import pandas as pd

from hippo_utils.judging.verdicts import Agreement, agreed

COLUMNS = ["id", "source", "split", "kind", "prompt", "chosen", "rejected", "judged_by", "fact_ids"]


def best_against_others(candidates: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Preference records: one pair per answer that lost. Rows without a verdict (ties) give none."""
    judged = candidates.merge(verdicts[["id", "judge", "best"]], on="id", validate="one_to_one")
    rows = []
    for row in judged.to_dict("records"):
        if row["best"] is None or row["best"] != row["best"]:
            continue
        best = int(row["best"])
        rows += [_pair(row, f"{row['id']}-{other}", best, other) for other in range(len(row["answers"])) if other != best]
    return pd.DataFrame(rows, columns=COLUMNS)


def ranked(candidates: pd.DataFrame, judgements: pd.DataFrame, agreement: Agreement) -> pd.DataFrame:
    """Preference records of full rankings: one pair for every two answers of a question on whose order the orders shown agree."""
    voted = judgements[judgements["repeat"] == 0].groupby("candidates")
    rows = []
    for row in candidates[candidates["id"].isin(voted.groups)].to_dict("records"):
        part = voted.get_group(row["id"])
        for first in range(len(row["answers"])):
            for second in range(len(row["answers"])):
                votes = sum(first in order and second in order and order.index(first) < order.index(second) for order in part["ranked"])
                if first != second and agreed(votes, len(part), agreement):
                    rows.append(_pair(row | {"judge": part["judge"].iloc[0]}, f"{row['id']}-{first}-{second}", first, second))
    return pd.DataFrame(rows, columns=COLUMNS)


def _pair(row: dict, name: str, chosen: int, rejected: int) -> dict:
    return {"id": name, "source": row["source"], "split": row["split"], "kind": row["kind"], "prompt": row["prompt"],
            "chosen": row["answers"][chosen], "rejected": row["answers"][rejected], "judged_by": row["judge"], "fact_ids": row["fact_ids"]}


def with_errors(candidates: pd.DataFrame, verdicts: pd.DataFrame, rate: float, seed: int) -> pd.DataFrame:
    """`verdicts` in which a share `rate` of those on training questions names another answer: a worse judge, whose errors are known.

    Test questions keep their verdicts, because what DPO learned is measured against the right answer. Which verdicts are
    wrong depends on the seed alone, and those wrong at a lower rate are among those wrong at a higher one.
    """
    answers = dict(zip(candidates["id"], candidates["answers"]))
    train = set(candidates.loc[candidates["split"] == "train", "id"])
    rng = np.random.default_rng(seed)
    best = []
    for name, right in zip(verdicts["id"], verdicts["best"]):
        drawn, shift = rng.random(), int(rng.integers(1, len(answers[name])))
        best.append((right + shift) % len(answers[name]) if drawn < rate and name in train and right is not None else right)
    return verdicts.assign(best=pd.Series(best, index=verdicts.index, dtype=object))


def summary(candidates: pd.DataFrame, verdicts: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Per split and kind: questions, ties, pairs, how often the clinician's answer won, and whether length gives the winner away.

    longer_wins is the share of pairs in which the chosen answer has more characters (0.5: length says nothing).
    """
    judged = candidates.merge(verdicts, on="id")
    judged["winner"] = [authors[int(best)] if best is not None and best == best else None for authors, best in zip(judged["authors"], judged["best"])]
    rows = []
    for (split, kind), part in judged.groupby(["split", "kind"], sort=True):
        own = pairs[(pairs["split"] == split) & (pairs["kind"] == kind)]
        longer, shorter = own["chosen"].str.len() > own["rejected"].str.len(), own["chosen"].str.len() < own["rejected"].str.len()
        rows.append({"split": split, "kind": kind, "questions": len(part), "ties": int(part["winner"].isna().sum()), "pairs": len(own),
                     "clinician_wins": float((part["winner"] == "clinician").mean()),
                     "longer_wins": float(longer.mean() + (~longer & ~shorter).mean() / 2)})
    return pd.DataFrame(rows)
