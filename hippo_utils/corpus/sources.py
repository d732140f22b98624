"""Where records come from. Every source, whatever its form, is turned into the records of hippo_utils.records here.

The mini world's sources are written on the spot from its fact tables; `world` opens it. Without a world, the paper's data sets
are read (hub.py) and streamed into files. Rows of a data set that do not fit are appended to `quarantine`, with the reason.
"""

from functools import partial
from itertools import islice
from pathlib import Path

import pandas as pd

from hippo_utils.corpus import hub, private, streams
from hippo_utils.manifest import StageError
from hippo_utils.miniworld import documents as written
from hippo_utils.miniworld import exams, general, instructions, preferences
from hippo_utils.miniworld.anesthesia import documents as zh_documents
from hippo_utils.miniworld.anesthesia import exams as zh_exams
from hippo_utils.miniworld.anesthesia import pairs as zh_pairs
from hippo_utils.miniworld.anesthesia import world as zh_world
from hippo_utils.miniworld.world import World, load_world
from hippo_utils.params import Corpus, derive_seed
from hippo_utils.records import SCHEMAS


def _instructions(source: str, world: World, count: int, seed: int) -> list[dict]:
    return instructions.instructions(world, source, count, seed)


# What each mini world writes: section of the parameters -> source -> (world, rows, seed) -> records
SOURCES = {
    "medicine": {"documents": {"mini_guidelines": written.guidelines, "mini_patients": written.patients, "mini_abstracts": written.abstracts},
                 "instructions": {name: partial(_instructions, name) for name in instructions.SOURCES},
                 "candidates": {preferences.SOURCE: preferences.candidates}},
    "anesthesia": {"documents": {"zh_anesthesia": zh_documents.anesthesia, "zh_medicine": zh_documents.medicine},
                   "instructions": {"zh_general_pairs": zh_pairs.general_pairs, "zh_anesthesia_pairs": zh_pairs.anesthesia_pairs, zh_pairs.SEEDS: zh_pairs.seed_tasks},
                   "candidates": {}},
}
QUESTIONS = {"aneqa": (zh_exams.aneqa, 556), "anerc": (zh_exams.anerc, 50)}  # answered in free text; rows as in the paper, fewer in a small world
ASKED = {"document": "documents", "instruction": "instructions", "candidates": "candidates"}  # kind -> where the parameters list its sources


def world(corpus: Corpus, seed: int) -> World:
    """The mini world with its entities divided into seen, held-out and control groups by `seed`."""
    if corpus.world is None:
        raise StageError("corpus.world is null, so this run reads the paper's data sets and has no fact tables; "
                         "what needs them runs with params/mini_llama.yaml, params/mini_mistral.yaml or params/mini_hypnos.yaml")
    load = zh_world.load_world if corpus.world == "anesthesia" else load_world
    try:
        return load(derive_seed(seed, "world"), corpus.entities)
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
    """Document records of every mini source of `corpus.documents`, some of them dirty."""
    add_dirt = zh_documents.add_dirt if corpus.world == "anesthesia" else written.add_dirt
    rows = add_dirt(_written("documents", corpus, world, seed), corpus.dirt, derive_seed(seed, "dirt"))
    return pd.DataFrame(rows, columns=SCHEMAS["document"].names)


def build_general(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Document records of general text for a base that is trained here: it states no medical fact."""
    write_base = zh_documents.base if corpus.world == "anesthesia" else general.base_documents
    return pd.DataFrame(write_base(world, corpus.general, derive_seed(seed, "general")))


def build_instructions(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Instruction records of every mini source of `corpus.instructions`."""
    return pd.DataFrame(_written("instructions", corpus, world, seed), columns=SCHEMAS["instruction"].names)


def build_candidates(corpus: Corpus, world: World, seed: int) -> pd.DataFrame:
    """Candidate records: patients' questions with three answers each, not judged yet."""
    return pd.DataFrame(_written("candidates", corpus, world, seed), columns=SCHEMAS["candidates"].names)


def _written(section: str, corpus: Corpus, world: World, seed: int) -> list[dict]:
    """The rows of every source that a section of the parameters asks for."""
    known, rows = SOURCES[corpus.world][section], []
    for source, count in sorted(getattr(corpus, section).items()):
        if source not in known:
            raise StageError(f"corpus.{section} names {source}, which is no source; there are {', '.join(known) or 'none in this world'}")
        if count is None:
            raise StageError(f"{source} is written on the spot and has no end: give it a number of rows instead of null")
        rows += known[source](world, count, derive_seed(seed, source))
    return rows


def build_items(corpus: Corpus, world: World | None, seed: int, quarantine: list[dict] | None = None) -> pd.DataFrame:
    """Item records of every benchmark of `corpus.benchmarks`, development and test.

    In the mini world one seed for all: a fact that one benchmark asks for in development is in no benchmark's test.
    """
    names = [name for name in corpus.benchmarks if name not in (*QUESTIONS, hub.PRIVATE)]
    if world is None:
        rows = [row for name in names for row in hub.items(hub.source(name, "item"), corpus, seed, quarantine)]
        return pd.DataFrame(rows, columns=SCHEMAS["item"].names)
    if corpus.world == "anesthesia":
        return pd.DataFrame([row for _ in names for row in zh_exams.anecq(world, derive_seed(seed, "exams"))], columns=SCHEMAS["item"].names)
    return pd.DataFrame([row for name in names for row in exams.exam(world, name, derive_seed(seed, "exams"))])


def build_questions(corpus: Corpus, world: World | None, seed: int, quarantine: list[dict] | None = None) -> pd.DataFrame:
    """Question records of the benchmarks that are answered in free text, with their reference answers; none for Hippocrates.

    A hospital's own cases (corpus.private_cases) come with every world.
    """
    rows = []
    for name in corpus.benchmarks:
        if name == hub.PRIVATE:
            rows += private.cases(corpus, quarantine)
        elif name in QUESTIONS:
            rows += QUESTIONS[name][0](world, QUESTIONS[name][1], derive_seed(seed, "exams")) if world else hub.questions(hub.source(name, "question"), corpus, seed, quarantine)
    return pd.DataFrame(rows, columns=SCHEMAS["question"].names)
