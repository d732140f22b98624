"""Is a generated row right? Decided from the fact tables, which only a mini world has."""

import pandas as pd

from hippo_utils.chinese import folded
from hippo_utils.miniworld.anesthesia.wording import OPEN_QUESTIONS, name, prompt, question
from hippo_utils.miniworld.anesthesia.world import kind_of, may_be_true, mentions
from hippo_utils.miniworld.world import World, fact_id, generator, sample

RIGHT, WRONG, UNDECIDED, UNREADABLE = "right", "wrong", "undecided", "unreadable"
GOOD = {RIGHT: True, WRONG: False, UNDECIDED: None, UNREADABLE: False}  # a question about nothing is no good row


def asked(world: World, text: str) -> tuple[str, str] | None:
    """The (entity, attribute) that a question asks for; None when it names no entity or nothing that the entity has."""
    entities = [entity for entity in world.profiles if entity in text]
    for entity in sorted(entities, key=len, reverse=True):
        found = [a for a in world.profiles[entity] if f"{entity}的{name(kind_of(world, entity), a)}" in text]
        if found:
            return entity, found[0]
    return None


def facts(world: World, text: str) -> list[str]:
    """The fact ids that a question asks for: one, or none."""
    about = asked(world, text)
    return [fact_id(*about)] if about else []


def quiz(world: World, count: int, seed: int) -> pd.DataFrame:
    """One open question on each of `count` facts of seen and held-out entities (fewer in a small world): fact_id, entity, prompt."""
    rng = generator(seed, "quiz")
    keys = sample(rng, sorted(key for key in world.taught if key in world.facts), count)
    return pd.DataFrame([{"fact_id": key, "entity": fact.entity, "prompt": prompt(question(rng, world, fact.entity, fact.attribute, OPEN_QUESTIONS))}
                         for key in keys for fact in [world.facts[key]]])


def names(world: World, text: str, group: str) -> list[str]:
    """The entities of a group that a text names."""
    return [entity for entity, of in world.groups.items() if of == group and mentions(text, entity)]


def verdict(world: World, asks: str, answer: str) -> str:
    """right: the answer is a true value; undecided: it may be true though no row says so; unreadable: the question asks for
    nothing in the tables; wrong: all else, garbled answers included."""
    about = asked(world, asks)
    if about is None:
        return UNREADABLE
    entity, attribute = about
    said = folded(answer)
    if any(said == folded(value) for value in world.profiles[entity][attribute].values):
        return RIGHT
    known = any(said == folded(value) for profile in world.profiles.values() for fact in profile.values()
                if fact.attribute == attribute for value in fact.values)
    return UNDECIDED if known and may_be_true(world, entity, attribute, answer.rstrip("。")) else WRONG
