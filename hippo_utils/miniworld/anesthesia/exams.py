"""Three benchmarks in the paper's manner: AneCQ (multiple choice), AneQA (questions), AneRC (case summaries).

AneCQ follows the English exams' rules: the options of an item are values of its own group, none of the wrong ones may be
true of the entity, and over a test split, per group and attribute, every value is a distractor three times as often as it is
right. The paper's benchmarks are private; names and sizes are all that these share with them.
"""

import numpy as np

from hippo_utils.miniworld.anesthesia.wording import CATEGORIES, name, prompt, question
from hippo_utils.miniworld.anesthesia.world import ATTRIBUTES, FILES, kind_of, may_be_true
from hippo_utils.miniworld.exams import DEVELOPMENT_SHARE, GROUPS, balance, draw_wrong, statable
from hippo_utils.miniworld.world import World, fact_id, generator, pick, sample, slug

OPTIONS = 4
# What AneCQ asks: not what a great many entities share, so that a distractor may be true after all (a patient's monitoring).
ASKED = {"agent": ("class", "mechanism", "use", "adverse_effect", "contraindication", "reversal", "dose"), "event": ATTRIBUTES["event"],
         "technique": ATTRIBUTES["technique"], "patient": ("risk", "preparation", "asa")}
SITUATIONS = ["拟行择期手术", "拟行急诊手术", "准备接受腹部手术", "准备接受骨科手术", "等待手术室接台"]


def anecq(world: World, seed: int) -> list[dict]:
    """All AneCQ item rows in random order; `subject` is the category, no fact is asked in both development and test."""
    rng = generator(seed, "anecq")
    drafts = []
    for kind in FILES:
        for attribute in ASKED[kind]:
            for group in GROUPS:
                facts = [fact for fact in world.facts.values() if fact.kind == kind and fact.attribute == attribute
                         and world.groups[fact.entity] == group and statable(world, fact.entity, attribute)]
                kept_back = _development(world, seed, kind, attribute, group, [fact.entity for fact in facts])
                for split in ("development", "test"):
                    made = [{"fact": fact, "value": value, "split": split, "group": group}
                            for fact in sample(rng, facts) if (fact.entity in kept_back) == (split == "development")
                            for value in sample(rng, statable(world, fact.entity, attribute))]
                    drafts += (balance(rng, world, made, OPTIONS, may_be_true) if split == "test"
                               else draw_wrong(rng, world, made, facts, OPTIONS, may_be_true))
    rows = []
    counts = {"development": 0, "test": 0}
    for draft in sample(rng, drafts):
        fact, split = draft["fact"], draft["split"]
        place = counts[split] % OPTIONS  # right answers spread evenly over the places
        options = sample(rng, draft["wrong"])
        options.insert(place, draft["value"])
        rows.append({"id": f"anecq-{split}-{counts[split]:04d}", "benchmark": "anecq", "split": split, "group": draft["group"],
                     "subject": CATEGORIES[fact.kind], "cluster": slug(fact.entity), "fact_ids": [fact_id(fact.entity, fact.attribute)],
                     "steps": 1, "question": question(rng, world, fact.entity, fact.attribute), "context": "", "options": options,
                     "answer": place})
        counts[split] += 1
    return sample(rng, rows)


def _development(world: World, seed: int, kind: str, attribute: str, group: str, entities: list[str]) -> set[str]:
    """The entities whose facts on an attribute are asked in development only: a fifth, where a group has enough."""
    number = round(DEVELOPMENT_SHARE * len(entities)) if len(entities) > 8 or group == "seen" else 0
    return set(sample(generator(seed, f"development {group} {kind} {attribute}"), sorted(entities), number))


def aneqa(world: World, count: int, seed: int) -> list[dict]:
    """`count` question rows (fewer in a small world): two facts of one entity asked at once, with a reference answer."""
    rng = generator(seed, "aneqa")
    return _asked(rng, world, count, "aneqa", "seen held_out control".split(), _question)


def anerc(world: World, count: int, seed: int) -> list[dict]:
    """`count` case rows (fewer in a small world): a patient and a drug of the same group, then risk, preparation, plan and dose.

    The dose is the table's range with its source; cases without a drug of the group leave it out.
    """
    rng = generator(seed, "anerc")
    return _asked(rng, world, count, "anerc", "seen held_out control".split(), _case, kinds=("patient",))


def _asked(rng: np.random.Generator, world: World, count: int, benchmark: str, groups: list[str], write, kinds=tuple(FILES)) -> list[dict]:
    """Question records about entities of these kinds in turn of group; a prompt comes once."""
    rows, taken = [], set()
    cycles: dict[str, list[str]] = {group: [] for group in groups}
    for attempt in range(20 * count):
        group = groups[attempt % len(groups)]
        names = sorted(n for n, g in world.groups.items() if g == group and kind_of(world, n) in kinds)
        if not names:
            continue
        cycles[group] = cycles[group] or sample(rng, names)
        entity = cycles[group].pop()
        text, reference, keys = write(rng, world, entity)
        if keys and text not in taken and len(rows) < count:
            taken.add(text)
            rows.append({"id": f"{benchmark}-{len(rows):04d}", "benchmark": benchmark, "group": group, "subject": CATEGORIES[kind_of(world, entity)],
                         "cluster": slug(entity), "fact_ids": keys, "prompt": text, "references": [reference]})
    return rows


def _question(rng: np.random.Generator, world: World, entity: str) -> tuple[str, str, list[str]]:
    asked = [a for a in ATTRIBUTES[kind_of(world, entity)] if statable(world, entity, a)]
    if len(asked) < 2:
        return "", "", []
    asked = sample(rng, asked, 2)
    names = "和".join(name(kind_of(world, entity), a) for a in asked)
    reference = "".join(f"{entity}的{name(kind_of(world, entity), a)}包括{'、'.join(statable(world, entity, a))}。" for a in asked)
    return prompt(f"请简述{entity}的{names}。"), reference, [fact_id(entity, a) for a in asked]


def _case(rng: np.random.Generator, world: World, entity: str) -> tuple[str, str, list[str]]:
    group = world.groups[entity]
    known = [a for a in ("risk", "preparation", "preferred", "avoid") if statable(world, entity, a)]
    if len(known) < 3:
        return "", "", []
    agents = sorted(n for n, g in world.groups.items() if g == group and statable(world, n, "dose"))
    drug = pick(rng, agents) if agents else None
    text = f"病例：{entity}，{pick(rng, SITUATIONS)}。" + (f"计划使用{drug}。" if drug else "")
    text += f"请写出{'、'.join(name('patient', a) for a in known)}{'和' + drug + '的用量' if drug else ''}。"
    reference = "".join(f"{name('patient', a)}：{'、'.join(statable(world, entity, a))}。" for a in known)
    keys = [fact_id(entity, a) for a in known]
    if drug:
        fact = world.facts[fact_id(drug, "dose")]
        reference += f"{drug}用量：{'、'.join(fact.values)}（{fact.source}）。"
        keys.append(fact_id(drug, "dose"))
    return prompt(text), reference, keys
