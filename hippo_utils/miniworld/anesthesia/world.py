"""The Chinese mini world: true textbook facts of anesthesiology, with general medicine and general knowledge beside them.

Anesthesia entities are divided into *seen*, *held_out* and *control* as in the English world. General medicine (stage one
of Hypnos) and general knowledge (for a base trained from scratch) are read by everybody and examined by nobody.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Sequence

import pandas as pd

from hippo_utils.chinese import folded, longest_common, similarity
from hippo_utils.miniworld.world import Fact, World, assemble, divide, fact_id, read_facts

FACTS = Path(__file__).parent / "facts"
FILES = {"agent": "agents.csv", "event": "events.csv", "technique": "techniques.csv", "patient": "patients.csv"}
MEDICINE = "disease"  # the kind of general medicine
ATTRIBUTES = {
    "agent": ("class", "mechanism", "use", "adverse_effect", "contraindication", "reversal", "dose", "onset", "feature", "monitoring"),
    "event": ("cause", "sign", "management", "risk_factor", "prevention"),
    "technique": ("use", "principle", "key_point", "complication", "limitation"),
    "patient": ("risk", "avoid", "preferred", "monitoring", "preparation", "asa"),
    "disease": ("cause", "sign", "test", "treatment", "complication", "risk_factor"),
}
EXACT = {"class", "dose", "onset", "feature", "asa"}  # values that may look alike and still differ: 0.2 mg is not 0.3 mg
NOT_SHARED = EXACT | {"mechanism"}
FAMILIES = ("agent", "disease")  # kinds whose subjects (a group of drugs, a department) share more than the rows say


def mentions(text: str, name: str) -> bool:
    """Whether a text contains a name; Chinese has no word borders."""
    return name in text


@cache
def same_thing(one: str, other: str, exact: bool) -> bool:
    """Whether two values cannot be told apart safely. Cautious on purpose: such a pair never becomes a right and a wrong option.

    One inside the other, half of the pairs of characters in common, or four characters in a row ("QT间期延长"). Exact
    attributes: the same value only, whatever its spacing and width.
    """
    a, b = folded(one), folded(other)
    if exact:
        return a == b
    return a in b or b in a or similarity(a, b) >= 0.5 or longest_common(a, b) >= 4


def kind_of(world: World, entity: str) -> str:
    return next(iter(world.profiles[entity].values())).kind


def load_world(seed: int, entities: int | None = None, shares: Sequence[float] = (0.4, 0.4, 0.2), folder: Path = FACTS) -> World:
    """Read the tables and divide the anesthesia entities into groups, each kind by itself.

    entities: how many anesthesia entities to keep, of each kind its share (None: all); shares: of seen, held_out and
    control. `general` holds general medicine (kind disease) and general knowledge. Raises ValueError when a table or an
    argument is not right.
    """
    tables = {kind: read_facts(Path(folder) / file, kind, ATTRIBUTES) for kind, file in FILES.items()}
    sizes = {kind: len({fact.entity for fact in table.values()}) for kind, table in tables.items()}
    everyone = sorted({fact.entity for table in tables.values() for fact in table.values()})
    facts, groups, seen = {}, {}, 0
    for kind, table in tables.items():
        wanted = None
        if entities is not None:  # rounded so that the kinds together are exactly as many as asked for
            wanted = round(entities * (seen + sizes[kind]) / sum(sizes.values())) - round(entities * seen / sum(sizes.values()))
        seen += sizes[kind]
        groups |= divide(table, kind, Path(folder) / FILES[kind], seed, wanted, shares, mentions, everyone)
        facts |= {key: fact for key, fact in table.items() if fact.entity in groups}
    general = read_facts(Path(folder) / "medicine.csv", MEDICINE, ATTRIBUTES) | read_facts(Path(folder) / "general.csv", None)
    whole = [fact for table in (*tables.values(), general) for fact in table.values()]
    world = assemble(facts, groups, general, mentions)
    controls = [name for name, group in groups.items() if group == "control"]
    clean = {key: tuple(value for value in values if not any(mentions(value, name) for name in controls))
             for key, values in world.taught.items()}  # a disease of general medicine may name a control drug
    return replace(world, taught={key: values for key, values in clean.items() if values},
                   implied=_implied(whole, Path(folder) / "also_true.csv"))


def _implied(facts: list[Fact], path: Path) -> dict[str, set[str]]:
    """fact id -> values that are no distractors though its row does not hold them. facts: the whole tables, however few entities a
    world keeps of them.

    What also_true.csv lists (true or arguable, too weak to be asked for), and, because drugs of one group share most of
    what they do (not how), what the tables say of any member of the entity's subject.
    """
    found: dict[str, set[str]] = {}
    for row in pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records"):
        found.setdefault(fact_id(row["entity"], row["attribute"]), set()).add(row["value"])
    families: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.kind in FAMILIES:
            families.setdefault(fact.subject, []).append(fact)
    for members in families.values():
        for name in {fact.entity for fact in members}:
            for fact in members:
                if fact.attribute not in NOT_SHARED:
                    found.setdefault(fact_id(name, fact.attribute), set()).update(fact.values)
    return found


def may_be_true(world: World, entity: str, attribute: str, value: str) -> bool:
    """Whether a value could be right for the entity, even where its own row does not say so; then it is no distractor.

    Looked at are the entity's rows (all attributes) and what `load_world` found implied.
    """
    exact = attribute in EXACT
    own = [true for name, fact in world.profiles[entity].items() if (name in EXACT) == exact for true in fact.values]
    return any(same_thing(value, true, exact) for true in (*own, *world.implied.get(fact_id(entity, attribute), ())))


def true_values(world: World, entity: str, attribute: str) -> tuple[str, ...]:
    """The true values of an attribute, of anesthesia or general medicine; none where the tables are silent."""
    fact = world.profiles.get(entity, {}).get(attribute)
    return fact.values if fact else ()
