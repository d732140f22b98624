"""The licence ledger, enforced: what a run may train on, and which text may be shown.

A run trains only on sources whose licence label its parameters name. Text of a source that may not be redistributed is never
shown: a notebook passes what it displays through `public`, and nothing else of a text enters figures/.
"""

import pandas as pd

from hippo_utils.corpus.hub import catalogue, used
from hippo_utils.manifest import StageError
from hippo_utils.miniworld.world import LICENCE
from hippo_utils.params import Corpus

HIDDEN = "[not shown: {source} may not be redistributed]"


def check(corpus: Corpus) -> None:
    """Refuse a run that would train on a source whose licence its parameters do not name; StageError says which."""
    if corpus.world is not None:  # the mini world's text is this project's own, CC BY 4.0
        return
    outside = [f"{source.name} ({source.licence})" for source in used(corpus) if source.kind != "item" and source.licence not in corpus.licences]
    if outside:
        raise StageError(f"corpus.licences allows {', '.join(corpus.licences)}; this run would train on {', '.join(outside)}. Leave the sources out, or read what "
                         "hippo_utils/corpus/sources.yaml says of their rights and add the labels")


def redistributable(source: str) -> bool:
    """Whether text of a source (or benchmark) may be shown; the mini world's may."""
    found = catalogue().get(source)
    return found is None or found.redistribute


def public(text: str, source: str) -> str:
    """A text to be shown, or a note in its place."""
    return text if redistributable(source) else HIDDEN.format(source=source)


def shown(frame: pd.DataFrame, *columns: str, by: str = "source") -> pd.DataFrame:
    """A table to be shown: text `columns` of rows whose source (or `by`) may not be redistributed are replaced by a note."""
    hidden = ~frame[by].map(redistributable).astype(bool)
    return frame.assign(**{column: frame[column].mask(hidden, [HIDDEN.format(source=name) for name in frame[by]]) for column in columns})


def ledger(corpus: Corpus) -> pd.DataFrame:
    """One row per source of a run: kind, source, hub id, licence, whether text may be shown, the rights behind the label, how its columns are known."""
    if corpus.world is None:
        rows = [(source.kind, source.name, source.hub, source.licence, source.redistribute, source.rights, source.known) for source in used(corpus)]
    else:
        names = [("document", corpus.documents), ("instruction", corpus.instructions), ("candidates", corpus.candidates), ("item", corpus.benchmarks)]
        rows = [(kind, name, "", LICENCE, True, "written from the fact tables of this project", "made here") for kind, asked in names for name in sorted(asked)]
    return pd.DataFrame(rows, columns=["kind", "source", "hub", "licence", "redistributable", "rights", "known"])
