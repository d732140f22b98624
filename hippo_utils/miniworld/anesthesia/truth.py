"""Is a generated row right? Decided from the fact tables, which only a mini world has."""

from hippo_utils.chinese import folded
from hippo_utils.miniworld.anesthesia.wording import name
from hippo_utils.miniworld.anesthesia.world import kind_of, may_be_true
from hippo_utils.miniworld.world import World

RIGHT, WRONG, UNDECIDED, UNREADABLE = "right", "wrong", "undecided", "unreadable"


def asked(world: World, question: str) -> tuple[str, str] | None:
    """The (entity, attribute) that a question asks for; None when it names no entity or nothing that the entity has."""
    entities = [entity for entity in world.profiles if entity in question]
    for entity in sorted(entities, key=len, reverse=True):
        found = [a for a in world.profiles[entity] if f"{entity}的{name(kind_of(world, entity), a)}" in question]
        if found:
            return entity, found[0]
    return None


def verdict(world: World, question: str, answer: str) -> str:
    """right: the answer is a true value; undecided: it may be true though no row says so; unreadable: the question asks for
    nothing in the tables; wrong: all else, garbled answers included."""
    about = asked(world, question)
    if about is None:
        return UNREADABLE
    entity, attribute = about
    said = folded(answer)
    if any(said == folded(value) for value in world.profiles[entity][attribute].values):
        return RIGHT
    known = any(said == folded(value) for profile in world.profiles.values() for fact in profile.values()
                if fact.attribute == attribute for value in fact.values)
    return UNDECIDED if known and may_be_true(world, entity, attribute, answer.rstrip("。")) else WRONG
