"""A datasheet in Markdown for each set that 01 builds (after Gebru et al., arXiv 1803.09010): made from the tables, holds no text of a source."""

import pandas as pd

from hippo_utils.manifest import Stage, file_hash
from hippo_utils.reporting.tables import markdown

PURPOSE = {
    "documents": "continued pre-training (02)", "held_out": "perplexity in 02, trained on by nobody", "instructions": "supervised fine-tuning (03)",
    "candidates": "questions with several answers, to be judged and turned into preferences (04)", "items": "evaluation (05); never trained on",
}
KINDS = {"documents": "document", "held_out": "document", "instructions": "instruction", "candidates": "candidates", "items": "item"}


def write(stage: Stage, name: str, rows: int, ledger: pd.DataFrame, flow: pd.DataFrame, rules: pd.DataFrame, sweep: pd.DataFrame) -> str:
    """Write datasheet_<name>.md of one built set beside the tables; returns its text."""
    file = stage.folder / f"{name}.parquet"
    sources = ledger[ledger["kind"] == KINDS[name]]
    corpus = stage.settings.corpus
    parts = [f"# {name}.parquet of run {stage.settings.run}", f"For {PURPOSE[name]}. {rows:,} records, sha256 `{file_hash(file)}`, seed {stage.settings.seed}, "
             f"{stage.settings.scale} scale. Not for clinical use.", "## Sources and rights",
             "A label is what a data card says; what stands behind it may say less. Sources that are not redistributable must not be published, nor a model's training text with them.",
             markdown(sources.drop(columns="kind"))]
    if name in ("documents", "instructions", "candidates"):
        mine = flow[flow["source"].str.split(" (", regex=False).str[0].isin(sources["source"])]
        parts += ["## Where every row went", "`read` is what the files hold; every later column takes rows away; `kept` is what stands in this file.", markdown(mine)]
        touched = rules[rules["source"].isin(sources["source"]) & ((rules["changed"] > 0) | (rules["dropped"] > 0))]
        parts += ["## Cleaning", markdown(touched) if len(touched) else "No rule changed anything."]
    if name == "documents":
        parts += ["## Duplicates", f"Exact copies, and near copies from a Jaccard similarity of {corpus.near_duplicate:g} of character 5-grams, were dropped within and across sources; "
                  "duplicates.parquet lists each beside the document that was kept."]
    if name == "items":
        parts += ["## Contamination", f"Runs of {corpus.contamination_ngram} words, threshold {corpus.contamination_threshold:g}; `flagged` counts what training text still holds, "
                  "contamination.parquet names text, rule and decision.", markdown(sweep)]
    parts += ["## What is not known", "Whether texts name or describe real persons, and whether statements are right, was not checked here. "
              + "How far the columns of each source are known: " + "; ".join(f"{row.source}: {row.known}" for row in sources.itertuples()) + "."]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    stage.figure_path(f"datasheet_{name}.md").write_text(text, encoding="utf-8")
    return text
