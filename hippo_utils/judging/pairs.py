"""From verdicts to pairs: the best answer against each of the others (paper, section 3.3; 7,321 questions gave 15K pairs)."""

import pandas as pd


def best_against_others(candidates: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Preference records: one pair per answer that lost. Rows without a verdict (ties) give none."""
    judged = candidates.merge(verdicts[["id", "judge", "best"]], on="id", validate="one_to_one")
    rows = []
    for row in judged.to_dict("records"):
        if row["best"] is None or row["best"] != row["best"]:
            continue
        best = int(row["best"])
        rows += [{"id": f"{row['id']}-{other}", "source": row["source"], "split": row["split"], "kind": row["kind"], "prompt": row["prompt"],
                  "chosen": row["answers"][best], "rejected": row["answers"][other], "judged_by": row["judge"], "fact_ids": row["fact_ids"]}
                 for other in range(len(row["answers"])) if other != best]
    return pd.DataFrame(rows, columns=["id", "source", "split", "kind", "prompt", "chosen", "rejected", "judged_by", "fact_ids"])


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
