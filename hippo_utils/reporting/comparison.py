"""A run against the committed reference run, table by table, within stated tolerances.

On the reference machine every number comes back to the last digit. Another processor adds in another order, and training
amplifies the last digit: the same claims must hold, the same rows must be there, and numbers must agree as stated here.
"""

import pandas as pd

from hippo_utils import manifest, paths
from hippo_utils.reporting import studies

# table -> the columns that name a row, and how each number must agree: exactly, by a relative or an absolute tolerance,
# or so that the run's value lies within the reference's interval widened by half its width (training noise on top of n).
RULES = {
    "corpus": (["kind", "source"], {"rows": "exact", "tokens": "exact"}),
    "contamination": (["benchmark", "group"], {"items": "exact", "flagged at 1": "exact"}),
    "benchmarks": (["benchmark"], {"items": "exact", "options": "exact", "clusters": "exact"}),
    "instructions": (["source"], {"rows": "exact", "trainable": "exact"}),
    "pretraining": (["stages", "source"], {"perplexity": 0.15}),
    "preferences": (["kind", "measure"], {"n": "exact", "difference": ("difference_low", "difference_high")}),
    "arms": (["arm"], {"right": ("right_low", "right_high")}),
    "answers": (["stages", "benchmark", "group"], {"n": "exact", "rougeL": ("rougeL_low", "rougeL_high")}),
    "filters": (["stages", "compared_with", "benchmark", "group"], {"n": "exact", "difference": ("difference_low", "difference_high")}),
    "curriculum": (["stages", "compared_with", "benchmark", "group"], {"n": "exact", "difference": ("difference_low", "difference_high")}),
    "main": (["stages", "benchmark", "group", "shots", "protocol"], {"n": "exact", "accuracy": ("ci_low", "ci_high")}),
    "stages": (["stages", "benchmark", "group", "shots", "protocol"], {"n": "exact", "accuracy": ("ci_low", "ci_high")}),
}
FEW_ALLOWED = 0.05  # of the interval comparisons of a table: 95 % intervals may be left by chance


def references() -> list[str]:
    """The runs that have a committed reference; studies are kept beside them and are not compared."""
    return sorted(folder.name for folder in paths.REFERENCE.glob("*") if folder.is_dir() and folder.name not in studies.names())


def differences(reference: pd.DataFrame, run: pd.DataFrame, keys: list[str], rules: dict) -> tuple[list[str], int, int]:
    """What differs: rows on one side only and exact or relative mismatches as sentences, then how many of how many
    interval comparisons failed."""
    said, outside, compared = [], 0, 0
    joined = reference.merge(run, on=keys, how="outer", suffixes=("", "_run"), indicator=True)
    for side, words in (("left_only", "missing in the run"), ("right_only", "not in the reference")):
        if len(lonely := joined[joined["_merge"] == side]):
            said.append(f"{len(lonely)} rows {words}, first: {' '.join(map(str, lonely.iloc[0][keys]))}")
    both = joined[joined["_merge"] == "both"]
    for column, rule in rules.items():
        there, here = both[column], both[f"{column}_run"]
        if isinstance(rule, tuple):
            low, high = both[rule[0]], both[rule[1]]
            slack = (high - low) / 2
            outside += int((~here.between(low - slack, high + slack)).sum())
            compared += len(both)
            continue
        agree = there == here if rule == "exact" else (here - there).abs() <= rule * there.abs()
        wrong = both[~agree]  # what is not a number agrees with nothing
        if len(wrong):
            first = wrong.iloc[0]
            said.append(f"{column} differs in {len(wrong)} rows, first: {' '.join(map(str, first[keys]))}: {first[column]:g} in the reference, {first[column + '_run']:g} here")
    return said, outside, compared


def report(run: str) -> int:
    """Print the comparison of one run with its reference; 0 when it agrees, 1 when it does not."""
    reference, folder = paths.REFERENCE / run, paths.figures(run)
    if not reference.is_dir():
        raise manifest.StageError(f"there is no reference for {run}; there is one for {', '.join(references()) or 'no run yet'}")
    identical, worst = True, 0
    for table, (keys, rules) in RULES.items():
        name = f"table_{table}.csv"
        if not (reference / name).is_file():  # the two papers have different stages
            continue
        if not (folder / name).is_file():
            print(f"[MISSING] {run} {name}: run ./run_all.sh params/{run}.yaml first")
            return 1
        identical &= (folder / name).read_bytes() == (reference / name).read_bytes()
        said, outside, compared = differences(pd.read_csv(reference / name), pd.read_csv(folder / name), keys, rules)
        if outside > FEW_ALLOWED * compared:
            said.append(f"{outside} of {compared} numbers lie outside the reference's widened intervals")
        print(f"[{'DIFFERS' if said else 'OK'}] {run} {name}" + (f": {'; '.join(said)}" if said else f" ({compared - outside} of {compared} within intervals)" if compared else ""))
        worst = max(worst, int(bool(said)))
    print(f"{run}: {'identical to the reference, byte for byte' if identical else 'agrees with the reference within tolerances' if not worst else 'differs from the reference'}")
    return worst
