"""Tables as people and machines want them: table_<name>.csv for reading on, table_<name>.md for reading."""

import pandas as pd

from hippo_utils.manifest import Stage

DIGITS = "%.6g"  # of every number in a CSV
MARKS = {"mini": "Mini run: synthetic exams, not comparable with the paper. ", "small": "Smaller base and less data: not comparable with the paper. ", "paper": ""}


def write(stage: Stage, name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Write a table of this stage to figures/<run>/table_<name>.csv and .md, and return it to be looked at."""
    frame.to_csv(stage.figure_path(f"table_{name}.csv"), index=False, float_format=DIGITS, lineterminator="\n")
    text = f"{markdown(frame)}\n{MARKS[stage.settings.scale]}Seed {stage.settings.seed}. Not for clinical use.\n"
    stage.figure_path(f"table_{name}.md").write_text(text, encoding="utf-8")
    return frame


def markdown(frame: pd.DataFrame) -> str:
    """A DataFrame as a Markdown table, numbers with three decimals at most."""
    def cell(value) -> str:
        if isinstance(value, float):
            return "" if value != value else f"{value:.3f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"
        return str(value).replace("|", "\\|").replace("\n", " ")
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + " --- |" * len(frame.columns)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines) + "\n"
