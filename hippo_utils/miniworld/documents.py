"""The three corpora of continued pre-training: guidelines, patient summaries and abstracts of seen and held-out entities.

Every statement is true; every fact comes back in many wordings, in random order, with a drawn one of its true values.
"""

import numpy as np

from hippo_utils.miniworld.exercises import draw_told
from hippo_utils.miniworld.wording import clause, patient, sentence
from hippo_utils.miniworld.world import LICENCE, World, fact_id, generator, pick, sample

TITLES = ["Guideline on {e}.", "Recommendations for {e}.", "{e}: a short guideline.", "Practice points on {e}.", "Chapter: {e}."]
CLOSINGS = ["Review the plan at every visit.", "Adapt the advice to the patient.", "Record every decision in the notes.",
            "Ask a colleague when in doubt.", "Explain each step in plain words."]
VISITS = {
    "disease": ["{who} was seen in the clinic because of {e}.", "{who} came to the ward with {e}.", "{who} was referred with {e}."],
    "drug": ["{who} came to talk about {e}.", "{who} was seen in the clinic about treatment with {e}.", "{who} asked about {e}."],
}
COMPLAINTS = ["The complaint was feeling unwell for {n} days.", "The complaint had begun {n} days before.", "{She} had slept badly for {n} nights.",
              "{She} had been worried for {n} days."]
REMARKS = ["The notes say: {c}.", "{Her} doctor explained: {c}.", "The team recalled: {c}.", "On the round it was said: {c}.", "{C}.", "{C}."]
BACKGROUNDS = ["BACKGROUND: What is known about {e} is summarised.", "BACKGROUND: Knowledge of {e} matters in practice.",
               "BACKGROUND: We looked again at {e}."]
METHODS = ["METHODS: We read {n} reports on {e}.", "METHODS: {n} records on {e} were reviewed.", "METHODS: A panel of {n} experts discussed {e}."]
CONCLUSIONS = ["CONCLUSION: {C}.", "CONCLUSION: Again, {c}.", "CONCLUSION: In short, {c}."]


def guidelines(world: World, count: int, seed: int) -> list[dict]:
    """`count` guideline passages (source mini_guidelines), each with all facts of one entity."""
    return _corpus(world, count, seed, "mini_guidelines", 7, guideline)


def patients(world: World, count: int, seed: int) -> list[dict]:
    """`count` patient summaries (source mini_patients): who came, why, and up to five facts."""
    return _corpus(world, count, seed, "mini_patients", 5, patient_summary)


def abstracts(world: World, count: int, seed: int) -> list[dict]:
    """`count` abstract-like passages (source mini_abstracts): background, methods, results, conclusion; up to five facts."""
    return _corpus(world, count, seed, "mini_abstracts", 5, abstract)


def guideline(rng: np.random.Generator, entity: str, kind: str, told: dict[str, str]) -> str:
    """What a guideline says of an entity; `told` holds a value for each attribute to state."""
    parts = [sentence(clause(rng, entity, a, value)) for a, value in told.items()]
    return " ".join([_fill(pick(rng, TITLES), e=entity), *parts, *sample(rng, CLOSINGS, 2 if len(parts) < 6 else 1)])


def patient_summary(rng: np.random.Generator, entity: str, kind: str, told: dict[str, str]) -> str:
    """A patient with the disease or on the drug (`kind`), and what was said about it."""
    who, her, she = patient(rng, entity)
    visit = pick(rng, VISITS[kind]).format(who=who, e=entity)
    complaint = pick(rng, COMPLAINTS).format(n=int(rng.integers(2, 30)), She=she.capitalize())
    remarks = [_fill(pick(rng, REMARKS), c=clause(rng, entity, a, value), Her=her.capitalize()) for a, value in told.items()]
    return " ".join([visit, complaint, *remarks])


def abstract(rng: np.random.Generator, entity: str, kind: str, told: dict[str, str]) -> str:
    """Background, methods, results and conclusion about an entity; `told` needs two attributes at least."""
    clauses = [clause(rng, entity, a, value) for a, value in told.items()]
    parts = [sentence(c) for c in clauses[:-1]]
    number = int(rng.integers(12, 90))
    return " ".join([_fill(pick(rng, BACKGROUNDS), e=entity), parts[0], pick(rng, METHODS).format(n=number, e=entity),
                     "RESULTS:", *parts[1:], _fill(pick(rng, CONCLUSIONS), c=clauses[-1])])


def _fill(template: str, **slots: str) -> str:
    """A template with its slots filled; {C} is {c} with a capital, and so is the text's first letter."""
    text = template.format(**slots, C=slots.get("c", " ")[0].upper() + slots.get("c", " ")[1:])
    return text[0].upper() + text[1:]


def _corpus(world: World, count: int, seed: int, source: str, most: int, text) -> list[dict]:
    """Rows of one corpus, cycling over the entities, so that two entities' counts differ by at most one."""
    rng = generator(seed, source)
    entities = sorted({world.facts[key].entity for key in world.taught if key in world.facts})
    rows, cycle = [], []
    for number in range(count):
        cycle = cycle or sample(rng, entities)
        entity = cycle.pop()
        told = dict(list(draw_told(rng, world, entity).items())[:most])
        kind = world.profiles[entity][next(iter(told))].kind
        rows.append({"id": f"{source}-{number:06d}", "source": source, "licence": LICENCE, "text": text(rng, entity, kind, told),
                     "fact_ids": [fact_id(entity, attribute) for attribute in told]})
    return rows


def add_dirt(rows: list[dict], share: float, seed: int) -> list[dict]:
    """Document rows as they come from the world: about `share` of them with something for the cleaning to find.

    A web address, a boilerplate line, a sentence twice or odd Unicode in place; an exact or a nearly exact copy as a new
    row (id ending in -copy) behind its original. No fact is changed.
    """
    rng = generator(seed, "dirt")
    dirty = []
    for row in rows:
        text = row["text"]
        dirty.append(row)
        if rng.random() >= share:
            continue
        kind = pick(rng, ("address", "boilerplate", "twice", "unicode", "copy", "near copy"))
        if kind == "address":
            text += f" See https://www.example.org/articles/{int(rng.integers(1000, 9999))} for more."
        elif kind == "boilerplate":
            text = f"Downloaded from www.example.org on {int(rng.integers(1, 29))} May 2021. All rights reserved.\n{text}"
        elif kind == "twice":
            parts = text.split(". ")
            at = int(rng.integers(len(parts) - 1))
            text = ". ".join(parts[:at + 1] + parts[at:])
        elif kind == "unicode":
            text = text.replace(" ", "\u00a0", 3).replace("fi", "\ufb01").replace(" the ", " the\u200b ").replace("'", "\u2019")
        if kind.endswith("copy"):
            words = text.split(" ")
            near = " ".join(words[:-3] + ["As", "said:"] + words[-3:]) if kind == "near copy" else text
            dirty.append({**row, "id": row["id"] + "-copy", "text": near})
        else:
            dirty[-1] = {**row, "text": text}
    return dirty
