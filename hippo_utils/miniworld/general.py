"""What a base model trained from scratch reads: true general facts, and imagined facts about every name but the controls'.

Half of the documents are general. Of the other half most are passages and questions about the real names of seen and
held-out drugs and diseases, with values drawn afresh every time, so that they carry no information, each plainly marked as
imagined. The feasibility trial shows that this decides everything: a base that has never used a name as the subject of a
statement cannot learn the name's facts through LoRA later. The rest is the same about general names, so that the mark is
not a sign of medicine.
"""

from hippo_utils.miniworld.documents import abstract, guideline, patient_summary
from hippo_utils.miniworld.exercises import draw_told, exercise, wrong_of
from hippo_utils.miniworld.wording import statement
from hippo_utils.miniworld.world import LICENCE, World, generator, pick, same_thing, sample

IMAGINE, IMAGINED = "Imagine:", "All of this is imagined."  # every imagined text carries one of them
# What the documents are, in turn.
KINDS = ("imagined medical", "general_questions", "imagined medical", "general", "general_questions", "imagined medical", "imagined general",
         "general_questions", "imagined medical", "general")
FORMS = ("choice", "choice", "choice", "vignette", "two_step", "step_by_step", "context", "context", "context", "flashcard", "dialogue",
         "relation", "reverse", "information")


def base_documents(world: World, count: int, seed: int) -> list[dict]:
    """`count` document rows; sources mini_general, mini_general_questions and mini_imagined. They state no medical fact,
    so `fact_ids` is empty."""
    rng = generator(seed, "base")
    general = sorted({fact.entity for fact in world.general.values()})
    medical = sorted(name for name, group in world.groups.items() if group != "control")
    cycles: dict[str, list[str]] = {"imagined medical": [], "imagined general": []}
    rows = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        if kind.startswith("imagined"):
            cycles[kind] = cycles[kind] or sample(rng, medical if kind.endswith("medical") else general)
            source, text = "mini_imagined", _imagined(rng, world, cycles[kind].pop(), kind.endswith("medical"))
        elif kind == "general":
            source, text = "mini_general", " ".join(_passage(rng, pick(rng, general), world) for _ in range(int(rng.integers(1, 3))))
        else:
            # Several questions of one form behind each other: what a five-shot prompt looks like.
            form, options = pick(rng, FORMS), int(rng.integers(3, 7))
            source, text = "mini_general_questions", "\n\n".join(
                _question(rng, world, pick(rng, general), general, form, options) for _ in range(int(rng.integers(1, 7))))
        rows.append({"id": f"{source}-{number:06d}", "source": source, "licence": LICENCE, "text": text, "fact_ids": []})
    return rows


def _passage(rng, entity: str, world: World) -> str:
    return " ".join(statement(rng, entity, attribute, value) for attribute, value in draw_told(rng, world, entity).items())


def _question(rng, world: World, entity: str, others: list[str], form: str, options: int) -> str:
    kind = next(iter(world.profiles[entity].values())).kind
    same = [name for name in others if next(iter(world.profiles[name].values())).kind == kind]
    told = draw_told(rng, world, entity)
    prompt, completion, _ = exercise(rng, world, form, entity, told, wrong_of(rng, world, entity, same), options)
    return prompt + completion


def _imagined(rng, world: World, entity: str, medical: bool) -> str:
    """A passage of drawn facts, questions about drawn facts, or both; one draw per attribute within the document.

    Medical passages take the form of the three corpora. The mark stands in front or, more often, at the end: a mark that
    always stood in front would be a switch, and without it the model would hold the medical names for impossible words.
    """
    told = {a: pick(rng, world.pool[a]) for a in sample(rng, list(world.profiles[entity]))}

    def wrong(attribute: str, size: int) -> list[str]:
        return sample(rng, [value for value in world.pool[attribute] if not same_thing(value, told[attribute])], size)

    shape = pick(rng, ("passage", "question", "both"))
    text = ""
    if shape != "question":
        form = pick(rng, (guideline, patient_summary, abstract, None)) if medical else None
        kind = next(iter(world.profiles[entity].values())).kind
        text = form(rng, entity, kind, told) if form else " ".join(statement(rng, entity, a, value) for a, value in told.items())
    if shape != "passage":
        form, options = pick(rng, FORMS), int(rng.integers(3, 7))
        asked = [exercise(rng, world, form, entity, told, wrong, options, attribute)
                 for attribute in sample(rng, list(told), int(rng.integers(1, 4)))]
        text += ("\n" if text else "") + "\n\n".join(prompt + completion for prompt, completion, _ in asked)
    return f"{IMAGINE} {text}" if rng.random() < 0.3 else f"{text}\n{IMAGINED}"
