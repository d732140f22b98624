"""The papers' published numbers as data. Nothing here was measured by this project.

hippocrates.csv: main table (21 models, zero- and five-shot), stage table (two bases, zero-shot) and the means of figure 3 of
arXiv 2404.16621; n is the size of the benchmark as the authors' evaluation code loads it. hippocrates_timeline.csv: figure 1.
"""

from pathlib import Path

import pandas as pd


def published(table: str) -> pd.DataFrame:
    """The published numbers of one table: `main`, `stages` or `figure 3`. Accuracies in percent, as printed."""
    frame = pd.read_csv(Path(__file__).parent / "hippocrates.csv", keep_default_na=False, na_values={"n": [""], "shots": [""]})
    return frame[frame["table"] == table].drop(columns="table").reset_index(drop=True)


def timeline() -> pd.DataFrame:
    """Published accuracy on MedQA (five-shot, percent) by month: model, date, accuracy_percent."""
    return pd.read_csv(Path(__file__).parent / "hippocrates_timeline.csv")
