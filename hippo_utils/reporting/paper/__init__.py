"""The papers' published numbers as data. Nothing here was measured by this project.

hippocrates.csv: main table (21 models, zero- and five-shot), stage table (two bases, zero-shot), the means of figure 3 and the
sizes of the data sets, of arXiv 2404.16621; n is the size of the benchmark as the authors' evaluation code loads it. Sizes that
the paper does not print come from the data sets' cards, as the note says. hippocrates_timeline.csv: figure 1.
"""

from pathlib import Path

import pandas as pd


def ledger() -> pd.DataFrame:
    """Every published number: table, model, stages, shots, benchmark, outcome, n, value, unit, note."""
    return pd.read_csv(Path(__file__).parent / "hippocrates.csv", keep_default_na=False, na_values={"n": [""], "shots": [""]})


def published(table: str) -> pd.DataFrame:
    """The published numbers of one table: `main`, `stages`, `figure 3` or `data`. Accuracies in percent, as printed."""
    frame = ledger()
    return frame[frame["table"] == table].drop(columns="table").reset_index(drop=True)


def hypnos() -> pd.DataFrame:
    """What is public of Hypnos: what, benchmark, value (empty for steps of the method), unit, mark, note."""
    return pd.read_csv(Path(__file__).parent / "hypnos.csv", keep_default_na=False, na_values={"value": [""]})


def items(name: str) -> dict[str, int]:
    """Items per benchmark of one paper (hippocrates or hypnos)."""
    frame = published("data") if name == "hippocrates" else hypnos()
    return frame.query("unit == 'items'").set_index("benchmark")["value"].astype(int).to_dict()


def timeline() -> pd.DataFrame:
    """Published accuracy on MedQA (five-shot, percent) by month: model, date, accuracy_percent."""
    return pd.read_csv(Path(__file__).parent / "hippocrates_timeline.csv")
