"""Where records come from. Every source, whatever its form, is turned into the records of hippo_utils.records here.

The mini world's sources are written on the spot from its fact tables; `world` opens it. Without a world, the paper's data sets
are read (hub.py) and streamed into files. Rows of a data set that do not fit are appended to `quarantine`, with the reason.
"""

from itertools import islice
from pathlib import Path

import pandas as pd

from hippo_utils.corpus import hub, streams
from hippo_utils.manifest import StageError
from hippo_utils.miniworld import documents as written
from hippo_utils.miniworld import exams, general, instructions, preferences
from hippo_utils.miniworld.world import World, load_world
from hippo_utils.params import Corpus, derive_seed
from hippo_utils.records import SCHEMAS

DOCUMENTS = {"mini_guidelines": written.guidelines, "mini_patients": written.patients, "mini_abstracts": written.abstracts}
INSTRUCTIONS = tuple(instructions.SOURCES)
CANDIDATES = (preferences.SOURCE,)
ASKED = {"document": "documents", "instruction": "instructions", "candidates": "candidates"}  # kind -> where the parameters list its sources


def world(corpus: Corpus, seed: int) -> World:
    """The mini world with its entities divided into seen, held-out and control groups by `seed`."""
    if corpus.world is None:
        raise StageError("corpus.world is null, so this run reads the paper's data sets and has no fact tables; "
                         "what needs them runs with params/mini_llama.yaml or params/mini_mistral.yaml")
    try:
        return load_world(derive_seed(seed, "world"), corpus.entities)
    except ValueError as error:
        raise StageError(str(error)) from None


def write(kind: str, corpus: Corpus, world: World | None, seed: int, path: Path, quarantine: list[dict]) -> Path:
    """Write the document, instruction or candidates records of every source of the parameters to a Parquet file, batch by batch.

    Sources come in alphabetical order: the order of a params file must not matter. Raises StageError for what a source lacks.
    """
    with streams.Writer(path, SCHEMAS[kind]) as out:
        if world is None:
            for name, count in sorted(getattr(corpus, ASKED[kind]).items()):
                made = hub.stream(hub.source(name, kind), corpus, count, seed, quarantine)
                while batch := list(islice(made, hub.BATCH)):
                    out.write(pd.DataFrame(batch, columns=SCHEMAS[kind].names))
        else:
            build = {"document": build_documents, "instruction": build_instructions, "candidates": build_candidates}[kind](corpus, world, seed)
            for start in range(0, len(build), hub.BATCH):
                out.write(build[start:start + hub.BATCH])
    return path


def build_documents(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Document records of every mini source of `corpus.documents`."""
    rows = []
    for source, count in sorted(corpus.documents.items()):
        _known(source, DOCUMENTS, "corpus.documents")
        rows += DOCUMENTS[source](world, _number(count, source), derive_seed(seed, source))
    return pd.DataFrame(written.add_dirt(rows, corpus.dirt, derive_seed(seed, "dirt")))


def build_general(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Document records of general text for a base that is trained here: it states no medical fact."""
    return pd.DataFrame(general.base_documents(world, corpus.general, derive_seed(seed, "general")))


def build_instructions(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Instruction records of every mini source of `corpus.instructions`."""
    rows = []
    for source, count in sorted(corpus.instructions.items()):
        _known(source, INSTRUCTIONS, "corpus.instructions")
        rows += instructions.instructions(world, source, _number(count, source), derive_seed(seed, source))
    return pd.DataFrame(rows)


def build_candidates(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Candidate records: patients' questions with three answers each, not judged yet."""
    rows = []
    for source, count in sorted(corpus.candidates.items()):
        _known(source, CANDIDATES, "corpus.candidates")
        rows += preferences.candidates(world, _number(count, source), derive_seed(seed, source))
    return pd.DataFrame(rows)


def build_items(corpus: Corpus, world: World | None, seed: int, quarantine: list[dict] | None = None) -> pd.DataFrame:
    """Item records of every benchmark of `corpus.benchmarks`, development and test.

    In the mini world one seed for all: a fact that one benchmark asks for in development is in no benchmark's test.
    """
    if world is None:
        rows = [row for name in corpus.benchmarks for row in hub.items(hub.source(name, "item"), corpus, seed, quarantine)]
        return pd.DataFrame(rows, columns=SCHEMAS["item"].names)
    return pd.DataFrame([row for name in corpus.benchmarks for row in exams.exam(world, name, derive_seed(seed, "exams"))])


def _known(source: str, sources, where: str) -> None:
    if source not in sources:
        raise StageError(f"{where} names {source}, which is no source; there are {', '.join(sources)}")


def _number(count: int | None, source: str) -> int:
    if count is None:
        raise StageError(f"{source} is written on the spot and has no end: give it a number of rows instead of null")
    return count
