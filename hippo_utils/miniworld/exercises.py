"""A fact as an exercise: (prompt, completion) in each format that the base, the instructions and the exams share.

The prompt ends where the completion begins; completions start with a space.
"""

from typing import Callable

import numpy as np

from hippo_utils.miniworld.wording import (ASKED, CLUE_TEXTS, CLUES, PATIENT_OPENERS, clause, noun, patient, question,
                                           sentence, statement, yes_no_question)
from hippo_utils.miniworld.world import World, fact_id, may_be_true, mentions, pick, same_thing, sample
from hippo_utils.records import item_prompt

STEP_BY_STEP = "Solve it in a step-by-step fashion, then give the answer."
YES_NO_MAYBE = ["yes", "no", "maybe"]
# (attribute, how many) -> that many values that are wrong of the entity in question
Wrong = Callable[[str, int], list[str]]


def step_by_step_prompt(prompt: str) -> str:
    """Any question prompt with the instruction to reason first; training and evaluation use the same words."""
    return f"{STEP_BY_STEP}\n{prompt}"


def short_vignette(rng: np.random.Generator, world: World, entity: str, attribute: str) -> str:
    """One step: a patient with a named disease or drug, and the question."""
    who = patient(rng, entity)[0]
    drug = world.profiles[entity][attribute].kind == "drug"
    verb = pick(rng, ["receives", "is given", "is treated with"] if drug else ["has", "comes with", "was found to have"])
    return f"{who} {verb} {entity}. {question(rng, entity, attribute)}"


def unnamed_vignette(rng: np.random.Generator, kind: str, clues: dict[str, str], asked: str) -> str:
    """Two steps: findings that identify one entity, which is not named, and a question about it."""
    if kind == "disease":
        text = "".join(pick(rng, CLUE_TEXTS[attribute]).format(v=value) for attribute, value in clues.items())
        return f"{text} {question(rng, 'this condition', asked)}"
    text = " and ".join(f"{value} as {noun(attribute, False)}" for attribute, value in clues.items())
    return f"There is {text}. {question(rng, f'this {kind}', asked)}"


def rationale(entity: str, attribute: str, value: str) -> str:
    return f" The findings point to {entity}. {sentence(f'{noun(attribute)} {entity} is {value}')} Answer: {value}"


def multiple_choice(rng: np.random.Generator, text: str, value: str, wrong: list[str]) -> tuple[str, str]:
    return item_prompt(text, sample(rng, [value, *wrong])), " " + value


def context_question(rng: np.random.Generator, entity: str, told: dict[str, str], asked: str, value: str) -> tuple[str, str]:
    """(context, question) in PubMedQA's manner: the context states `told`, the question is about `asked` and `value`."""
    texts = [clause(rng, entity, attribute, said) for attribute, said in told.items()]
    texts = [sentence(text) for text in sample(rng, texts)]
    texts[-1] = f"RESULTS: {texts[-1]}"
    if len(texts) > 1:
        texts[0] = f"BACKGROUND: {texts[0]}"
    return " ".join(texts), yes_no_question(rng, entity, asked, value)


def two_step_forms(told: dict[str, str], kind: str) -> list[tuple[dict[str, str], list[str]]]:
    """The (clues, attributes that may be asked) that these values allow."""
    forms = []
    for names in CLUES.get(kind, ()):
        asked = [a for a in ASKED.get(kind, told) if a in told and a not in names]
        if asked and all(name in told for name in names):
            forms.append(({name: told[name] for name in names}, asked))
    return forms


def identifying_hallmarks(world: World, disease: str) -> tuple[str, ...]:
    """The hallmarks that no other disease of the world shares and that do not contain the disease's own name."""
    def hallmarks(name: str) -> tuple[str, ...]:
        return world.profiles[name]["hallmark"].values if "hallmark" in world.profiles[name] else ()
    others = [value for name in world.groups if name != disease for value in hallmarks(name)]
    return tuple(value for value in hallmarks(disease) if not mentions(value, disease)
                 and not any(same_thing(value, other) for other in others))


def exercise(rng: np.random.Generator, world: World, form: str, entity: str, told: dict[str, str], wrong: Wrong,
             options: int = 4, asked: str | None = None) -> tuple[str, str, list[str]]:
    """One exercise about an entity of which `told` (attribute -> value, in the order drawn) is to be taken as true.

    form: choice, vignette, two_step, step_by_step, context, flashcard, dialogue, relation, reverse (from the finding to
    its disease) or information. A form that does not fit the entity or the values falls back on a simpler one.
    Returns the prompt, the completion, and the attributes whose facts it uses.
    """
    asked = asked or pick(rng, list(told))
    value, kind = told[asked], world.profiles[entity][asked].kind
    if form in ("two_step", "step_by_step"):
        forms = two_step_forms(told, kind)
        if forms:
            clues, questions = pick(rng, forms)
            asked = asked if asked in questions else pick(rng, questions)
            text = unnamed_vignette(rng, kind, clues, asked)
            prompt, completion = multiple_choice(rng, text, told[asked], wrong(asked, options - 1))
            if form == "step_by_step":
                prompt, completion = step_by_step_prompt(prompt), rationale(entity, asked, told[asked])
            return prompt, completion, [*clues, asked]
        form = "choice"
    if form in ("choice", "vignette"):
        medical = kind in ("drug", "disease")
        text = short_vignette(rng, world, entity, asked) if form == "vignette" and medical else question(rng, entity, asked)
        return *multiple_choice(rng, text, value, wrong(asked, options - 1)), [asked]
    if form == "context":
        answer, false = pick(rng, YES_NO_MAYBE), wrong(asked, 1)
        answer = "yes" if answer == "no" and not false else answer  # a small world may know no wrong value
        if false and (answer == "no" or answer == "maybe" and rng.random() < 0.5):  # what is not reported may be true or not
            value = false[0]
        others = [attribute for attribute in told if attribute != asked and not same_thing(told[attribute], value)]
        others = sample(rng, others, int(rng.integers(1, 3)) + (answer == "maybe"))  # as many sentences whatever the answer is
        stated = others if answer == "maybe" else [asked, *others]
        context, text = context_question(rng, entity, {attribute: told[attribute] for attribute in stated}, asked, value)
        return item_prompt(text, YES_NO_MAYBE, context), " " + answer, [*stated, *([asked] if answer == "maybe" else [])]
    if form == "flashcard":
        return f"Flashcard: {question(rng, entity, asked)}\nAnswer:", " " + pick(
            rng, [statement(rng, entity, asked, value), sentence(value)]), [asked]
    if form == "dialogue":
        opener = pick(rng, PATIENT_OPENERS)
        return f"Patient: {opener + ' ' if opener else ''}{question(rng, entity, asked)}\nDoctor:", " " + statement(
            rng, entity, asked, value), [asked]
    if form == "reverse":
        clue = CLUES.get(kind, [(asked,)])[0][0]
        if clue in told:
            return f"Relation: ? | {clue.replace('_', ' ')} | {told[clue]} |", " " + entity, [clue]
    if form in ("relation", "reverse"):
        return f"Relation: {entity} | {asked.replace('_', ' ')} |", " " + value, [asked]
    attributes = [asked, *sample(rng, [a for a in told if a != asked], int(rng.integers(1, 3)))]
    return f"Tell me about {entity} in plain words.\nAnswer:", "".join(
        " " + statement(rng, entity, attribute, told[attribute]) for attribute in attributes), attributes


def draw_told(rng: np.random.Generator, world: World, entity: str) -> dict[str, str]:
    """One true value for every attribute that training text may state, in random order."""
    known = [a for a in world.profiles[entity] if fact_id(entity, a) in world.taught]
    return {attribute: pick(rng, world.taught[fact_id(entity, attribute)]) for attribute in sample(rng, known)}


def wrong_of(rng: np.random.Generator, world: World, entity: str, others: list[str]) -> Wrong:
    """Wrong values for an entity, drawn by way of other entities, so that a value is as often wrong as it is right."""
    def wrong(attribute: str, size: int) -> list[str]:
        found: list[str] = []
        for other in sample(rng, others):
            values = world.taught.get(fact_id(other, attribute), ())
            value = pick(rng, values) if values else None
            if value and value not in found and not may_be_true(world, entity, attribute, value):
                found.append(value)
                if len(found) == size:
                    break
        return found
    return wrong
