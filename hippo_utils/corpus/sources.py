"""Where records come from. Every source, whatever its form, is turned into the records of hippo_utils.records here.

The mini world's sources are written on the spot from its fact tables; `world` opens it.
"""

import pandas as pd

from hippo_utils.manifest import StageError
from hippo_utils.miniworld import documents as written
from hippo_utils.miniworld import exams, general, instructions, preferences
from hippo_utils.miniworld.world import World, load_world
from hippo_utils.params import Corpus, derive_seed

DOCUMENTS = {"mini_guidelines": written.guidelines, "mini_patients": written.patients, "mini_abstracts": written.abstracts}
INSTRUCTIONS = tuple(instructions.SOURCES)
CANDIDATES = (preferences.SOURCE,)


def world(corpus: Corpus, seed: int) -> World:
    """The mini world with its entities divided into seen, held-out and control groups by `seed`."""
    if corpus.world is None:
        raise StageError("corpus.world is null, so this run reads hub data sets, and this version reads only the embedded mini world "
                         "(README, Limits); use params/mini_llama.yaml or params/mini_mistral.yaml")
    try:
        return load_world(derive_seed(seed, "world"), corpus.entities)
    except ValueError as error:
        raise StageError(str(error)) from None


def build_documents(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Document records of every source of `corpus.documents`, in the order of the parameters."""
    rows = []
    for source, count in corpus.documents.items():
        _known(source, DOCUMENTS, "corpus.documents")
        rows += DOCUMENTS[source](world, _number(count, source), derive_seed(seed, source))
    return pd.DataFrame(written.add_dirt(rows, corpus.dirt, derive_seed(seed, "dirt")))


def build_general(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Document records of general text for a base that is trained here: it states no medical fact."""
    return pd.DataFrame(general.base_documents(world, corpus.general, derive_seed(seed, "general")))


def build_instructions(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Instruction records of every source of `corpus.instructions`."""
    rows = []
    for source, count in corpus.instructions.items():
        _known(source, INSTRUCTIONS, "corpus.instructions")
        rows += instructions.instructions(world, source, _number(count, source), derive_seed(seed, source))
    return pd.DataFrame(rows)


def build_candidates(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Candidate records: patients' questions with three answers each, not judged yet."""
    rows = []
    for source, count in corpus.candidates.items():
        _known(source, CANDIDATES, "corpus.candidates")
        rows += preferences.candidates(world, _number(count, source), derive_seed(seed, source))
    return pd.DataFrame(rows)


def build_items(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Item records of every benchmark of `corpus.benchmarks`, development and test.

    One seed for all: a fact that one benchmark asks for in development is in no benchmark's test.
    """
    return pd.DataFrame([row for name in corpus.benchmarks for row in exams.exam(world, name, derive_seed(seed, "exams"))])


def _known(source: str, sources, where: str) -> None:
    if source not in sources:
        raise StageError(f"{where} names {source}, which is no source; there are {', '.join(sources)}")


def _number(count: int | None, source: str) -> int:
    if count is None:
        raise StageError(f"{source} is written on the spot and has no end: give it a number of rows instead of null")
    return count
