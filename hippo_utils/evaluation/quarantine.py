"""Items that cannot be answered fairly: named, set aside and counted, instead of scored as wrong or as chance."""

import pandas as pd

from hippo_utils.records import BENCHMARKS


def fault(item: dict) -> str | None:
    """What is wrong with one item, in words; None for a sound one."""
    options = [str(option).strip().casefold() for option in item["options"]]
    if item["benchmark"] not in BENCHMARKS:
        return "unknown benchmark"
    if pd.isna(item["question"]) or not item["question"].strip():
        return "empty question"
    if len(options) < 2:
        return "fewer than two options"
    if not all(options):
        return "an empty option"
    if len(set(options)) < len(options):
        return "two options are the same"
    if item["answer"] is None or item["answer"] != item["answer"] or item["answer"] == -1:
        return "no right answer"
    if int(item["answer"]) != item["answer"] or not 0 <= item["answer"] < len(options):
        return "the right answer is none of the options"
    return None


def quarantine(items: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(sound items, bad ones with columns id, benchmark, split, reason)."""
    reason = pd.Series([fault(item) for item in items.to_dict("records")], index=items.index, dtype=object)
    return items[reason.isna()], items.assign(reason=reason)[reason.notna()][["id", "benchmark", "split", "reason"]].reset_index(drop=True)


def counts(items: pd.DataFrame, bad: pd.DataFrame) -> pd.DataFrame:
    """Test items per benchmark: how many there are, how many are sound, and what is wrong with the others."""
    test, bad = items[items["split"] == "test"], bad[bad["split"] == "test"]
    rows = []
    for benchmark, part in test.groupby("benchmark", sort=False):
        reasons = bad[bad["benchmark"] == benchmark]["reason"].value_counts()
        rows.append({"benchmark": benchmark, "items": len(part), "sound": len(part) - int(reasons.sum()), "quarantined": int(reasons.sum()),
                     "reasons": "; ".join(f"{reason} ({count})" for reason, count in reasons.items())})
    return pd.DataFrame(rows)
