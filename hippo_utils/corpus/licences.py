"""The licence ledger, enforced: what a run may train on, and which text may be shown.

A run trains only on sources whose licence label its parameters name. Text of a source that may not be redistributed is not
shown: notebooks pass what they display through `public` or `shown`, and before anything is published `leaks` searches every
table, figure and executed notebook of a run for it (python -m hippo_utils.corpus publishable RUN).
"""

import json
from pathlib import Path

import pandas as pd

from hippo_utils import paths
from hippo_utils.corpus import contamination, private, streams
from hippo_utils.corpus.accounts import as_text
from hippo_utils.corpus.hub import BENCHMARK, PRIVATE, catalogue, revision, used
from hippo_utils.manifest import StageError
from hippo_utils.miniworld.world import LICENCE
from hippo_utils.params import Corpus

HIDDEN = "[not shown: {source} may not be redistributed]"


def check(corpus: Corpus) -> None:
    """Refuse a run that would train on a source whose licence its parameters do not name; StageError says which."""
    if corpus.world is not None:  # the mini world's text is this project's own, CC BY 4.0
        return
    outside = [f"{source.name} ({source.licence})" for source in used(corpus) if source.kind not in BENCHMARK and source.licence not in corpus.licences]
    if outside:
        raise StageError(f"corpus.licences allows {', '.join(corpus.licences)}; this run would train on {', '.join(outside)}. Leave the sources out, or read what "
                         "hippo_utils/corpus/sources.yaml says of their rights and add the labels")


def redistributable(source: str, world=None) -> bool:
    """Whether text of a source (or benchmark) may be shown: the mini world's may (its exams have the names of the papers' benchmarks), a hospital's own cases never."""
    found = catalogue().get(source)
    return source != PRIVATE and (world is not None or found is None or found.redistribute)


def public(text: str, source: str, world=None) -> str:
    """A text to be shown, or a note in its place. `world`: the mini world that it is from, if it is."""
    return text if redistributable(source, world) else HIDDEN.format(source=source)


def shown(frame: pd.DataFrame, *columns: str, by: str = "source", world=None) -> pd.DataFrame:
    """A table to be shown: text `columns` of rows whose source (or `by`) may not be redistributed are replaced by a note."""
    hidden = ~frame[by].map(lambda source: redistributable(source, world)).astype(bool)
    return frame.assign(**{column: frame[column].mask(hidden, [HIDDEN.format(source=name) for name in frame[by]]) for column in columns})


def ledger(corpus: Corpus) -> pd.DataFrame:
    """One row per source of a run: kind, source, hub id, revision, licence, whether text may be shown, the rights behind the label, how its
    columns are known, and what to cite."""
    if corpus.world is None:
        rows = [(source.kind, source.name, source.hub, revision(source, corpus), source.licence, source.redistribute, source.rights, source.known, source.citation) for source in used(corpus)]
    else:
        names = [("document", corpus.documents), ("instruction", corpus.instructions), ("candidates", corpus.candidates), ("item", {*corpus.benchmarks} - {PRIVATE})]
        rows = [(kind, name, "", "", LICENCE, True, "written from the fact tables of this project", "made here", "") for kind, asked in names for name in sorted(asked)]
    if corpus.private_cases is not None:
        rows.append((private.SOURCE.kind, PRIVATE, "", "", private.SOURCE.licence, False, private.SOURCE.rights, private.SOURCE.known, ""))
    return pd.DataFrame(rows, columns=["kind", "source", "hub", "revision", "licence", "redistributable", "rights", "known", "citation"])


# --- before anything is published ------------------------------------------------------------------------------------------

RUN_OF_WORDS = 10  # so many words in a row are a quotation and no coincidence; more, and a table cell cut at 100 characters could hold one unseen
BINARY = {".png", ".pdf"}


def leaks(run: str) -> pd.DataFrame:
    """Where text that may not be redistributed stands in what a run shows: file, source, share (of the file's words).

    Searched are figures/<run> and the executed notebooks, for runs of RUN_OF_WORDS words of the records of 01.
    """
    files = [file for file in sorted(paths.figures(run).rglob("*")) if file.is_file() and file.suffix not in BINARY]
    files += sorted(paths.outputs(run).glob("*/*.ipynb"))
    if not files:
        raise StageError(f"there is nothing of run {run} to publish: neither {paths.shown(paths.figures(run))} nor executed notebooks")
    made = paths.manifest(run, "01_corpus")
    world = json.loads(made.read_text(encoding="utf-8"))["parameters"]["corpus"]["world"] if made.is_file() else None
    published = pd.DataFrame({"id": [paths.shown(file) for file in files], "context": "", "question": [_said(file) for file in files]})
    questions = contamination.index(published, RUN_OF_WORDS)
    found = []
    for name in ("documents", "held_out", "instructions", "candidates", "items", "questions"):
        file = paths.stage_folder(run, "01_corpus") / f"{name}.parquet"
        for batch in streams.batches(file) if file.is_file() else ():
            texts = {"items": _of_items, "questions": _of_questions}.get(name, as_text)(batch)
            hidden = texts[~texts["source"].map(lambda source: redistributable(source, world)).astype(bool)].reset_index(drop=True)
            hits = contamination.scores(hidden, questions)
            found.append(pd.DataFrame({"file": published["id"].to_numpy()[hits["item"]], "source": hidden["source"].to_numpy()[hits["text"]], "share": hits["score"]}))
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["file", "source", "share"])
    return table.groupby(["file", "source"], as_index=False)["share"].max()


def _of_items(items: pd.DataFrame) -> pd.DataFrame:
    texts = [" ".join([context, question, *options]) for context, question, options in zip(items["context"], items["question"], items["options"])]
    return pd.DataFrame({"id": items["id"], "source": items["benchmark"], "text": texts})


def _of_questions(questions: pd.DataFrame) -> pd.DataFrame:
    """Cases and references; the sentence that this project asks for is nobody's text."""
    texts = [" ".join([prompt.replace(private.ASKED, ""), *references]) for prompt, references in zip(questions["prompt"], questions["references"])]
    return pd.DataFrame({"id": questions["id"], "source": questions["benchmark"], "text": texts})


def _said(file: Path) -> str:
    """What a file shows: of a notebook the outputs, of anything else the text."""
    if file.suffix != ".ipynb":
        return file.read_text(encoding="utf-8", errors="replace")
    outputs = [output for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] for output in cell.get("outputs", [])]
    parts = [part for output in outputs for part in (output.get("text", ""), *(value for kind, value in output.get("data", {}).items() if kind.startswith("text/")))]
    return "\n".join("".join(part) for part in parts)
