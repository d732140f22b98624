"""The mini world: true, textbook-level facts about drugs and diseases, and who is allowed to learn what.

The facts are tables a clinician can read and correct (`facts/drugs.csv`, `facts/diseases.csv`); everything else in
this room is written from them. Whole entities are divided into three groups: *seen* (documents and instructions),
*held_out* (documents only) and *control* (no training text of any kind: accuracy there must stay at chance).
"""

import re
import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Callable, Sequence, TypeVar

import numpy as np
import pandas as pd

FACTS = Path(__file__).parent / "facts"
LICENCE = "CC-BY-4.0"  # of the fact tables and of all text written from them
COLUMNS = ("entity", "subject", "attribute", "value", "source", "verified", "second_reading")
ATTRIBUTES = {
    "drug": ("class", "mechanism", "indication", "adverse_effect", "contraindication", "monitoring", "antidote"),
    "disease": ("cause", "hallmark", "first_test", "treatment", "complication", "risk_factor"),
}
GENERIC = {"therapy", "surgery", "intravenous", "avoidance", "replacement", "emergency", "combination", "chronic", "prolonged"}
INHERITED = "mutation|deletion|expansion|deficien|defect|substitution|absent|parent|carrier|ancestry|HLA|autoimmun|autoantibod"
T = TypeVar("T")


@dataclass(frozen=True)
class Fact:
    """All true values of one attribute of one entity."""
    entity: str
    kind: str  # drug or disease; in the general world its subject (country, animal, artist)
    subject: str
    attribute: str
    values: tuple[str, ...]
    source: str  # where to look them up, each source once
    verified: str = ""  # who looked them up, each note once ("unverified": nobody); none in the general tables


@dataclass(frozen=True)
class World:
    facts: dict[str, Fact]               # fact id ("entity/attribute") -> fact
    groups: dict[str, str]               # entity -> seen, held_out or control
    general: dict[str, Fact]             # facts about countries, animals and artists
    profiles: dict[str, dict[str, Fact]]  # entity, medical or general -> attribute -> fact
    taught: dict[str, tuple[str, ...]]   # fact id -> values that training text may state: no control entity's, none naming one
    pool: dict[str, tuple[str, ...]]     # attribute -> every value a training text may mention, medical and general
    implied: dict[str, set[str]]         # fact id -> values its row does not hold that are, or may be, true (also_true.csv, other rows)


def generator(seed: int, use: str) -> np.random.Generator:
    """Random numbers for one named use, so that no use depends on what was drawn for another."""
    return np.random.default_rng([seed, zlib.crc32(use.encode())])


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def sample(rng: np.random.Generator, choices: Sequence[T], size: int | None = None) -> list[T]:
    """`size` choices without replacement (all of them, shuffled, when size is None)."""
    return [choices[i] for i in rng.permutation(len(choices))[:size]]


@cache
def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9\u4e00-\u9fff]+", "-", text.lower()).strip("-")  # Chinese names stay as they are


def fact_id(entity: str, attribute: str) -> str:
    return f"{slug(entity)}/{attribute}"


def mentions(text: str, name: str) -> bool:
    """Whether a text contains a name as whole words, in any case, singular or plural."""
    if name.lower() not in text.lower():  # much quicker than the pattern, and mostly the answer
        return False
    return re.search(rf"(?<!\w){re.escape(name)}(?:s|es)?(?!\w)", text, re.IGNORECASE) is not None


@cache
def _words(text: str) -> frozenset[str]:
    return frozenset(word.rstrip("s") for word in re.findall(r"\w+", text.lower()))


def same_thing(one: str, other: str) -> bool:
    """Whether two values cannot be told apart safely: all words of one occur in the other ("heart failure" and
    "congestive heart failure"). Cautious on purpose: such a pair never becomes a right and a wrong option."""
    return _words(one) <= _words(other) or _words(other) <= _words(one)


def read_facts(path: Path, kind: str | None, attributes: dict[str, tuple[str, ...]] = ATTRIBUTES) -> dict[str, Fact]:
    """One table in long form as facts. kind None: the general table, which has no fixed attributes (`attributes`: of each kind).

    Raises ValueError, naming file and row (as a spreadsheet counts), for a missing column, an unknown attribute,
    an empty or padded cell, or a repeated row.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    columns = COLUMNS if kind else COLUMNS[:5]
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"{path}, row 1: column {missing[0]!r} is missing; the columns are {', '.join(columns)}")
    facts: dict[str, Fact] = {}
    subjects: dict[str, str] = {}
    table["verified"] = table["verified"] if kind else ""
    for row, (entity, subject, attribute, value, source, verified) in enumerate(table[list(COLUMNS[:6])].itertuples(index=False), 2):
        for name, cell in (("entity", entity), ("subject", subject), ("value", value)):
            if not cell or cell != cell.strip():
                raise ValueError(f"{path}, row {row}: the {name} is empty or has spaces around it: {cell!r}")
        if kind and attribute not in attributes[kind]:
            raise ValueError(f"{path}, row {row}: unknown attribute {attribute!r}; a {kind} has {', '.join(attributes[kind])}")
        if subjects.setdefault(entity, subject) != subject:
            raise ValueError(f"{path}, row {row}: {entity} is {subject!r} here and {subjects[entity]!r} above")
        key = fact_id(entity, attribute)
        known = facts.get(key)
        if known and (known.entity != entity or value.lower() in map(str.lower, known.values)):
            raise ValueError(f"{path}, row {row}: repeats {known.entity}, {attribute}, {value}")
        if known:
            facts[key] = replace(known, values=(*known.values, value), source=_joined(known.source, source),
                                 verified=_joined(known.verified, verified))
        else:
            facts[key] = Fact(entity, kind or subject, subject, attribute, (value,), source, verified)
    return facts


def _joined(known: str, new: str) -> str:
    return known if new in known.split("; ") else f"{known}; {new}"


def load_world(seed: int, entities: int | None = None, shares: Sequence[float] = (0.4, 0.4, 0.2),
               folder: Path = FACTS) -> World:
    """Read the tables and divide the entities into groups.

    entities: how many to keep, half of them drugs (None: all); shares: of seen, held_out and control, summing to 1.
    folder: where drugs.csv, diseases.csv and also_true.csv are; the general table always is the package's.
    Raises ValueError when a table or an argument is not right.
    """
    facts: dict[str, Fact] = {}
    groups: dict[str, str] = {}
    for kind, file in (("drug", "drugs.csv"), ("disease", "diseases.csv")):
        table = read_facts(Path(folder) / file, kind)
        clash = table.keys() & facts.keys()
        if clash:
            raise ValueError(f"{Path(folder) / file}: {sorted(clash)[0]} is in drugs.csv already")
        wanted = None if entities is None else (entities + (kind == "drug")) // 2
        groups |= divide(table, kind, Path(folder) / file, seed, wanted, shares)
        facts |= {key: fact for key, fact in table.items() if fact.entity in groups}
    world = assemble(facts, groups, read_facts(FACTS / "general.csv", None))
    implied = _implied({name: world.profiles[name] for name in groups})
    for entity, attribute, value in pd.read_csv(Path(folder) / "also_true.csv", dtype=str).itertuples(index=False):
        implied.setdefault(fact_id(entity, attribute), set()).add(value)
    return replace(world, implied=implied)


def divide(table: dict[str, Fact], kind: str, path: Path, seed: int, wanted: int | None, shares: Sequence[float],
           mentions: Callable[[str, str], bool] = mentions, others: Sequence[str] = ()) -> dict[str, str]:
    """The group (seen, held_out, control) of `wanted` entities of one table (None: all), drawn by `seed`; `others`: names
    of other tables."""
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be three numbers (seen, held_out, control) that sum to 1, not {shares}")
    names = sample(generator(seed, f"groups of {kind}"), sorted({fact.entity for fact in table.values()}))
    wanted = len(names) if wanted is None else wanted
    if not 0 < wanted <= len(names):
        raise ValueError(f"{wanted} entities were asked for, but {path} has {len(names)}")
    names = names[:wanted]
    # A name inside another's ("hepatitis B" in "hepatitis B vaccine") would be read along with it: no control.
    names.sort(key=lambda name: any(name != other and mentions(other, name) for other in (*names, *others)), reverse=True)
    seen, control = round(shares[0] * wanted), round(shares[2] * wanted)
    return {name: "seen" if number < seen else "control" if number >= wanted - control else "held_out"
            for number, name in enumerate(names)}


def assemble(facts: dict[str, Fact], groups: dict[str, str], general: dict[str, Fact],
             mentions: Callable[[str, str], bool] = mentions) -> World:
    """A world of these facts: what training text may state leaves out control entities and every value that names one."""
    controls = [name for name, group in groups.items() if group == "control"]
    clean = {value: not any(mentions(value, name) for name in controls)
             for fact in facts.values() for value in fact.values}
    taught = {key: tuple(value for value in fact.values if clean[value])
              for key, fact in facts.items() if groups[fact.entity] != "control"}
    taught |= {key: fact.values for key, fact in general.items()}
    profiles: dict[str, dict[str, Fact]] = {}
    pool: dict[str, set[str]] = {}
    for fact in (*facts.values(), *general.values()):
        profiles.setdefault(fact.entity, {})[fact.attribute] = fact
        pool.setdefault(fact.attribute, set()).update(value for value in fact.values if clean.get(value, True))
    return World(facts, groups, general, profiles, {key: values for key, values in taught.items() if values},
                 {attribute: tuple(sorted(values)) for attribute, values in pool.items()}, {})


def seen_only(world: World, mentions: Callable[[str, str], bool] = mentions) -> World:
    """The world as instructions may tell it: facts of seen entities, without the values that name a held-out one (a seen
    disease's treatment would give away a held-out drug's indication)."""
    names = [name for name, group in world.groups.items() if group == "held_out"]
    taught = {key: tuple(value for value in values if not any(mentions(value, name) for name in names))
              for key, values in world.taught.items() if world.groups.get(key in world.facts and world.facts[key].entity) == "seen"}
    return replace(world, taught={key: values for key, values in taught.items() if values})


def true_values(world: World, entity: str, attribute: str) -> tuple[str, ...]:
    """The true values of an attribute; none where the tables are silent."""
    fact = world.facts.get(fact_id(entity, attribute))
    return fact.values if fact else ()


def may_be_true(world: World, entity: str, attribute: str, value: str) -> bool:
    """Whether a value could be right for the entity, even where its own row does not say so; then it is no distractor.

    Looked at are all attributes (an adverse effect may be a contraindication as well), what also_true.csv lists and what
    other entities' rows imply. Supportive care helps everybody, and so may another regimen with the same drug; where
    heredity or autoimmunity plays a part, no statement about parents or ancestry is called wrong.
    """
    own = {name: fact.values for name, fact in world.profiles[entity].items()}
    if any(same_thing(value, true) for values in (*own.values(), world.implied.get(fact_id(entity, attribute), ())) for true in values):
        return True
    if attribute == "treatment":
        words = {word for true in own.get(attribute, ()) for word in _words(true)}
        return value == "supportive care" or any(len(word) > 6 and word not in GENERIC for word in words & _words(value))
    if attribute == "risk_factor" and re.search("parent|carrier|ancestry", value):
        return any(re.search(INHERITED, true) for name in ("cause", "risk_factor") for true in own.get(name, ()))
    return False


def _implied(profiles: dict[str, dict[str, Fact]]) -> dict[str, set[str]]:
    """Treatments and indications that follow from another entity's rows: a drug indicated for a disease treats it,
    and so does every drug of a class that treats it, whether or not the disease's own row names the drug."""
    implied: dict[str, set[str]] = {}
    drugs = [name for name, profile in profiles.items() if any(fact.kind == "drug" for fact in profile.values())]
    for disease in profiles.keys() - set(drugs):
        treatments = profiles[disease]["treatment"].values if "treatment" in profiles[disease] else ()
        for drug in drugs:
            profile = profiles[drug]
            names = (drug, *(profile["class"].values if "class" in profile else ()))
            indications = profile["indication"].values if "indication" in profile else ()
            if any(same_thing(disease, v) for v in indications) or any(same_thing(n, v) for n in names for v in treatments):
                implied.setdefault(fact_id(disease, "treatment"), set()).update(names)
                implied.setdefault(fact_id(drug, "indication"), set()).add(disease)
    return implied
