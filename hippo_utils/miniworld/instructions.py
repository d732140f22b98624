"""Instructions about seen entities: general ones, evaluation ones in three benchmarks' formats, and worked two-step answers."""

from hippo_utils.miniworld.exercises import draw_told, exercise, identifying_hallmarks, wrong_of
from hippo_utils.miniworld.wording import ASKED
from hippo_utils.miniworld.world import LICENCE, Fact, World, fact_id, generator, pick, sample, seen_only

# source -> the forms its prompts take (exercises.py)
GENERAL_INSTRUCTIONS = {"mini_flashcards": ("flashcard",), "mini_dialogues": ("dialogue",), "mini_relations": ("relation", "relation", "relation", "reverse"),
                        "mini_patient_information": ("information",)}
EVALUATION_INSTRUCTIONS = {"mini_medmcqa_train": ("choice",), "mini_medqa_train": ("vignette", "two_step"),
                           "mini_pubmedqa_train": ("context",)}
STEP_BY_STEP_INSTRUCTIONS = {"mini_step_by_step": ("step_by_step",)}
FROM_FINDINGS = ("two_step", "step_by_step", "reverse")
SOURCES = GENERAL_INSTRUCTIONS | EVALUATION_INSTRUCTIONS | STEP_BY_STEP_INSTRUCTIONS


def instructions(world: World, source: str, count: int, seed: int) -> list[dict]:
    """`count` instruction rows of one source (a key of SOURCES), cycling over the facts of the seen entities.

    Multiple choice has four options, all from seen entities. Raises ValueError for an unknown source.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; the mini world writes {', '.join(SOURCES)}")
    rng, world = generator(seed, source), seen_only(world)
    seen = sorted(name for name, group in world.groups.items() if group == "seen")
    facts = [world.facts[key] for key in sorted(world.taught)]
    hallmarks = {name: tuple(v for v in identifying_hallmarks(world, name) if v in world.taught[fact_id(name, "hallmark")])
                 for name in seen if fact_id(name, "hallmark") in world.taught}
    fitting = {form: [fact for fact in facts if _fits(form, fact, hallmarks)] for form in SOURCES[source]}
    cycles: dict[str, list] = {form: [] for form in fitting}
    rows = []
    for number in range(count):
        form = SOURCES[source][number % len(SOURCES[source])]
        cycles[form] = cycles[form] or sample(rng, fitting[form])
        fact = cycles[form].pop()
        told = draw_told(rng, world, fact.entity)
        if form in FROM_FINDINGS:
            told["hallmark"] = pick(rng, hallmarks[fact.entity])
        prompt, completion, used = exercise(rng, world, form, fact.entity, told, wrong_of(rng, world, fact.entity, seen), 4,
                                            fact.attribute)
        rows.append({"id": f"{source}-{number:06d}", "source": source, "licence": LICENCE, "prompt": prompt,
                     "completion": completion, "fact_ids": [fact_id(fact.entity, attribute) for attribute in used]})
    return rows


def _fits(form: str, fact: Fact, hallmarks: dict[str, tuple[str, ...]]) -> bool:
    """Whether a form can ask for a fact: what starts from findings needs a hallmark that is one disease's alone."""
    if form == "reverse":
        return fact.attribute == "hallmark" and bool(hallmarks[fact.entity])
    return form not in FROM_FINDINGS or fact.attribute in ASKED["disease"] and bool(hallmarks.get(fact.entity))
