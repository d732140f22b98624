"""Question and answer pairs: general medicine (stage one), anesthesia (stage two, seen entities), and the seed tasks.

The prompt ends where the completion begins; Chinese has no space between them.
"""

from dataclasses import replace

import numpy as np

from hippo_utils.miniworld.anesthesia.wording import OPEN_QUESTIONS, name, prompt, question, statement
from hippo_utils.miniworld.anesthesia.world import MEDICINE, kind_of, may_be_true, mentions
from hippo_utils.miniworld.exercises import draw_told
from hippo_utils.miniworld.world import LICENCE, World, fact_id, generator, pick, sample, seen_only

FORMS = ("choice", "short", "choice", "sentence", "summary")
OPTIONS = 4
SEEDS = "zh_seed_tasks"


def general_pairs(world: World, count: int, seed: int) -> list[dict]:
    """`count` pairs (source zh_general_pairs) about general medicine."""
    names = sorted({fact.entity for fact in world.general.values() if fact.kind == MEDICINE})
    return _pairs(world, names, count, seed, "zh_general_pairs")


def anesthesia_pairs(world: World, count: int, seed: int) -> list[dict]:
    """`count` pairs (source zh_anesthesia_pairs) about seen anesthesia entities; no value names a held-out one."""
    names = sorted(entity for entity, group in world.groups.items() if group == "seen")
    return _pairs(seen_only(world, mentions), names, count, seed, "zh_anesthesia_pairs")


def seed_tasks(world: World, count: int, seed: int) -> list[dict]:
    """`count` short questions with answers about seen entities (source zh_seed_tasks): what Self-Instruct grows from."""
    names = sorted(entity for entity, group in world.groups.items() if group == "seen")
    return _pairs(seen_only(world, mentions), names, count, seed, SEEDS, ("short",))


def generator_reading(world: World, share: float, count: int, seed: int) -> list[dict]:
    """`count` short pairs (source zh_generator_reading) over a random `share` of the facts of seen and held-out entities.

    What one generator of a mini run knows. Two generators with other seeds know other shares: where one has not read, it
    makes something up, and the other may notice.
    """
    keys = sorted(key for key in world.taught if key in world.facts)
    read = sample(generator(seed, "reading"), keys, round(share * len(keys)))
    names = sorted({world.facts[key].entity for key in read})
    return _pairs(replace(world, taught={key: world.taught[key] for key in read}), names, count, seed, "zh_generator_reading", ("short",))


def _pairs(world: World, names: list[str], count: int, seed: int, source: str, forms: tuple[str, ...] = FORMS) -> list[dict]:
    """Pairs in turn of form, cycling over the facts of these entities."""
    rng = generator(seed, source)
    facts = [(entity, attribute) for entity in names for attribute in world.profiles[entity] if fact_id(entity, attribute) in world.taught]
    if not facts:
        raise ValueError(f"{source}: no entity has a fact to tell; keep more entities")
    rows, cycle = [], []
    for number in range(count):
        cycle = cycle or sample(rng, facts)
        entity, attribute = cycle.pop()
        text, answer, used = pair(rng, world, forms[number % len(forms)], entity, attribute, names)
        rows.append({"id": f"{source}-{number:06d}", "source": source, "licence": LICENCE, "prompt": text, "completion": answer,
                     "fact_ids": [fact_id(entity, attribute) for attribute in used]})
    return rows


def pair(rng: np.random.Generator, world: World, form: str, entity: str, attribute: str, names: list[str]) -> tuple[str, str, list[str]]:
    """One pair as (prompt, completion, attributes used).

    form: choice (one of four, the others false of the entity), short (the value), sentence, or summary (several facts).
    """
    told = draw_told(rng, world, entity)
    value = told[attribute]
    if form == "choice":
        wrong = wrong_values(rng, world, entity, attribute, names)
        if len(wrong) == OPTIONS - 1:
            return prompt(question(rng, world, entity, attribute), sample(rng, [value, *wrong])), value + "。", [attribute]
        form = "short"
    if form == "summary":
        used = [attribute, *sample(rng, [a for a in told if a != attribute], 2)]
        asked = "、".join(name(kind_of(world, entity), a) for a in used)
        return prompt(f"请简述{entity}的{asked}。"), "".join(statement(rng, world, entity, a, told[a]) for a in used), used
    text = prompt(question(rng, world, entity, attribute, OPEN_QUESTIONS))
    return text, statement(rng, world, entity, attribute, value) if form == "sentence" else value + "。", [attribute]


def wrong_values(rng: np.random.Generator, world: World, entity: str, attribute: str, names: list[str]) -> list[str]:
    """Up to three values of other entities of the same kind that are not true of this one."""
    kind, found = kind_of(world, entity), []
    for other in sample(rng, [name for name in names if kind_of(world, name) == kind]):
        values = world.taught.get(fact_id(other, attribute), ())
        value = pick(rng, values) if values else None
        if value and value not in found and not may_be_true(world, entity, attribute, value):
            found.append(value)
            if len(found) == OPTIONS - 1:
                break
    return found
