"""Six benchmarks in the paper's formats, built so that a claim about knowledge can fail.

The options of an item are values of its own group (a familiar word gives nothing away), no distractor may be true of the
entity, and over a test split, per group and attribute, every value has the same share of the distractors as of the right
answers. Where a group has too few distinct values for that, it goes without the attribute.
"""

import re
from collections import Counter
from typing import Callable

import numpy as np

from hippo_utils.miniworld.exercises import YES_NO_MAYBE, context_question, identifying_hallmarks, short_vignette, unnamed_vignette
from hippo_utils.miniworld.wording import ASKED, CLUES, question
from hippo_utils.miniworld.world import ATTRIBUTES, Fact, World, fact_id, generator, may_be_true, pick, same_thing, sample, slug
from hippo_utils.records import item_prompt

_ALL = (*ATTRIBUTES["drug"], *ATTRIBUTES["disease"])
FORMATS = {  # benchmark -> number of options, attributes asked in one step
    "medmcqa": (4, _ALL),
    "medqa": (4, ("indication", "mechanism", "adverse_effect", "contraindication", "monitoring")),  # and two steps about diseases
    "pubmedqa": (3, _ALL),
    "usmle_step1": (5, ("class", "mechanism", "cause")),
    "usmle_step2": (6, ("hallmark", "first_test", "indication", "treatment")),
    "usmle_step3": (5, ("monitoring", "contraindication", "antidote", "complication", "adverse_effect")),
}
SIZES = {"medmcqa": 360, "medqa": 360, "pubmedqa": 360, "usmle_step1": 110, "usmle_step2": 110, "usmle_step3": 110}  # test, about
DEVELOPMENT_SHARE = 0.2
SEEN_DEVELOPMENT = 12  # at least so many development items about seen entities: few-shot examples come from them
LONGEST = {1: 29, 2: 42}  # words of a prompt by its steps, if other wording can do it: five shots must fit the mini context
LONGEST_CONTEXT = 35
GROUPS = ("seen", "held_out", "control")


def exam(world: World, benchmark: str, seed: int) -> list[dict]:
    """All item rows of one benchmark, in random order; no fact is asked for in both development and test.

    Test items take every fact that the balance allows; `cluster` is the entity. Raises ValueError for an unknown benchmark.
    """
    if benchmark not in FORMATS:
        raise ValueError(f"unknown benchmark {benchmark!r}; the mini world has {', '.join(FORMATS)}")
    size, attributes = FORMATS[benchmark]
    rng = generator(seed, benchmark)
    cells = [(attribute, 1) for attribute in attributes]
    cells += [(attribute, 2) for attribute in ASKED["disease"]] if benchmark == "medqa" else []
    development = development_facts(world, seed)
    drafts: dict[str, list[dict]] = {"development": [], "test": []}
    wanted = SIZES[benchmark] / len({steps for _, steps in cells})
    kept = {steps: _share_kept(world, [a for a, s in cells if s == steps], wanted, steps) for _, steps in cells}
    for group in GROUPS:
        for attribute, steps in cells:
            facts = [fact for key, fact in world.facts.items() if fact.attribute == attribute
                     and world.groups[fact.entity] == group and statable(world, fact.entity, attribute)]
            for split, made in drafts.items():
                chosen = [fact for fact in sample(rng, facts)
                          if (fact_id(fact.entity, attribute) in development) == (split == "development")]
                if split == "test":  # never so few that the options cannot be filled
                    chosen = chosen[:max(round(kept[steps] * len(chosen)), size + 1)]
                new = _drafts(rng, world, chosen, steps)
                if benchmark == "pubmedqa" or split == "development":
                    new = draw_wrong(rng, world, new, facts, 2 if benchmark == "pubmedqa" else size)
                else:
                    new = balance(rng, world, new, size)
                made += [{**draft, "benchmark": benchmark, "split": split, "group": group} for draft in new]
    few_shot = [draft for draft in drafts["development"] if draft["group"] == "seen"]
    for number in range(SEEN_DEVELOPMENT - len(few_shot) if few_shot else 0):  # a small world: the same facts in other words
        drafts["development"].append(few_shot[number % len(few_shot)])
    rows: list[dict] = []
    for split, made in drafts.items():
        rows += _write(rng, world, sample(rng, made), size, {_prompt(row) for row in rows})
    return [{**row, "id": f"{benchmark}-{row['split']}-{number:04d}"} for number, row in enumerate(rows)]


def _share_kept(world: World, attributes: list[str], wanted: float, steps: int) -> float:
    """The part of the facts that gives a test split of about the size wanted; all of them in a small world."""
    there = sum(fact.attribute in attributes and bool(statable(world, fact.entity, fact.attribute)) for fact in world.facts.values())
    return min(wanted / (there * (1 - DEVELOPMENT_SHARE) * (1.4 if steps == 2 else 0.95)), 1.0)  # some twice, some dropped


def statable(world: World, entity: str, attribute: str) -> tuple[str, ...]:
    """The values an exam may call right: what training text may state; of a control entity, all."""
    key = fact_id(entity, attribute)
    if world.groups[entity] == "control":
        return world.facts[key].values if key in world.facts else ()
    return world.taught.get(key, ())


def development_facts(world: World, seed: int) -> set[str]:
    """The facts asked for in development items, a fifth of every group's facts on every attribute; test never asks
    them. Where a small world leaves a group few facts, only seen ones go to development: the test needs the rest."""
    chosen: set[str] = set()
    for group in GROUPS:
        for attribute in _ALL:
            keys = sorted(key for key, fact in world.facts.items()
                          if fact.attribute == attribute and world.groups[fact.entity] == group and statable(world, fact.entity, attribute))
            number = max(round(DEVELOPMENT_SHARE * len(keys)), group == "seen") if len(keys) > 8 or group == "seen" else 0
            chosen.update(sample(generator(seed, f"development {group} {attribute}"), keys, number))
    return chosen


def _drafts(rng: np.random.Generator, world: World, facts: list[Fact], steps: int) -> list[dict]:
    """Questions without options yet: the fact, the value to be right (the one least used so far), the clues of two steps."""
    drafts, used = [], Counter()
    for number, fact in enumerate(facts):
        clues: list[tuple[str, ...]] = [()]
        if steps == 2:
            clues = [names for names in sample(rng, CLUES["disease"])
                     if identifying(world, fact.entity) and statable(world, fact.entity, names[1])]
            clues = clues[:1 + number % 2]  # every other fact twice, if it has both a risk factor and a cause
        for names in clues:
            value = min(sample(rng, statable(world, fact.entity, fact.attribute)), key=lambda value: used[value.lower()])
            if not all(_clues(world, fact.entity, name, value) for name in names):
                continue
            used[value.lower()] += 1
            drafts.append({"fact": fact, "value": value, "steps": steps, "clues": names})
    return drafts


def _clues(world: World, entity: str, attribute: str, value: str) -> list[str]:
    """What may stand for a disease in a question whose answer is `value`: findings that share no longer word with it."""
    def words(text: str) -> set[str]:
        return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}
    there = identifying(world, entity) if attribute == "hallmark" else statable(world, entity, attribute)
    return [clue for clue in there if not words(clue) & words(value)]


def identifying(world: World, disease: str) -> list[str]:
    """The hallmarks an exam may use to stand for a disease."""
    return [value for value in identifying_hallmarks(world, disease) if value in statable(world, disease, "hallmark")]


def balance(rng: np.random.Generator, world: World, drafts: list[dict], size: int, may_be_true=may_be_true) -> list[dict]:
    """Drafts with `wrong`, size - 1 distractors each: together exactly size - 1 copies of the drafts' right answers.

    So a value is a distractor size - 1 times as often as it is right. Drafts that make this impossible (a value that is
    right too often) are left out, the commonest first; [] when too few distinct values remain.
    """
    drafts = list(drafts)
    wrong_for = {(d["fact"].entity, v): not may_be_true(world, d["fact"].entity, d["fact"].attribute, v)
                 for d in drafts for v in {d["value"] for d in drafts}}
    while drafts:
        counts = Counter(draft["value"] for draft in drafts)
        room = {v: sum(wrong_for[draft["fact"].entity, v] for draft in drafts) for v in counts}
        choices = [sum(wrong_for[draft["fact"].entity, v] for v in counts) for draft in drafts]
        if len(counts) < size:
            return []
        if min(choices) < size - 1:
            drafts.pop(int(np.argmin(choices)))
            continue
        crowded = [v for v in counts if counts[v] * (size - 1) > room[v]]
        if not crowded:
            fits = [lambda value, entity=draft["fact"].entity: wrong_for[entity, value] for draft in drafts]
            filled = _deal(rng, [draft["value"] for draft in drafts], fits, size - 1)
            if filled:
                return [{**draft, "wrong": wrong} for draft, wrong in zip(drafts, filled)]
        most = max(crowded or counts, key=lambda v: (counts[v], v))
        drafts.remove(pick(rng, [draft for draft in drafts if draft["value"] == most]))
    return []


def _deal(rng: np.random.Generator, values: list[str], fits: list[Callable[[str], bool]], copies: int) -> list[list[str]] | None:
    """Deal `copies` shuffled copies of the values to their owners so that each fits and no owner gets one twice.

    Repairs a random deal by swaps that do not add faults; None when that does not succeed.
    """
    hands = [list(hand) for hand in zip(*(sample(rng, values) for _ in range(copies)))]

    def faults(owner: int) -> list[int]:
        hand = hands[owner]
        return [place for place, value in enumerate(hand) if not fits[owner](value) or value in hand[:place]]

    for _ in range(400 * len(values)):
        wrong = [(owner, place) for owner in range(len(hands)) for place in faults(owner)]
        if not wrong:
            return hands
        one, place = pick(rng, wrong)
        for other in sample(rng, range(len(hands)), 20):
            there = int(rng.integers(copies))
            before = len(faults(one)) + len(faults(other)) * (one != other)
            hands[one][place], hands[other][there] = hands[other][there], hands[one][place]
            if len(faults(one)) + len(faults(other)) * (one != other) <= before - (rng.random() < 0.8):
                break
            hands[one][place], hands[other][there] = hands[other][there], hands[one][place]
    return None


def draw_wrong(rng: np.random.Generator, world: World, drafts: list[dict], facts: list[Fact], size: int,
               may_be_true=may_be_true) -> list[dict]:
    """Drafts with distractors drawn from the group's values without exact balance: for development, which has too few
    items for it, and for PubMedQA, where the one wrong value is asked about."""
    made = []
    for draft in drafts:
        wrong: list[str] = []
        for other in sample(rng, facts):
            value = pick(rng, statable(world, other.entity, other.attribute))
            if value not in wrong and not may_be_true(world, draft["fact"].entity, other.attribute, value):
                wrong.append(value)
        made += [{**draft, "wrong": wrong[:size - 1]}] if len(wrong) >= size - 1 else []
    return made


def _write(rng: np.random.Generator, world: World, drafts: list[dict], size: int, taken: set[str]) -> list[dict]:
    """Item rows from drafts; right answers spread evenly over the places. A prompt comes once: other words, or no item."""
    places = sample(rng, [number % size for number in range(len(drafts))])
    labels: dict[str, int] = Counter()
    rows = []
    for draft, place in zip(drafts, places):
        label = YES_NO_MAYBE[labels[draft["group"]] % 3]
        for attempt in range(40):
            row = _report(rng, world, draft, label) if draft["benchmark"] == "pubmedqa" else _choice(rng, world, draft, place, attempt)
            long = len(row["context"].split()) > LONGEST_CONTEXT if row["context"] else len(_prompt(row).split()) > LONGEST[row["steps"]]
            if _prompt(row) not in taken and (not long or attempt > 20):
                taken.add(_prompt(row))
                labels[draft["group"]] += 1
                rows.append(row)
                break
    return rows


def _prompt(row: dict) -> str:
    return item_prompt(row["question"], row["options"], row["context"])


def _row(draft: dict, keys: list[str], text: str, context: str, options: list[str], answer: int) -> dict:
    fact = draft["fact"]
    return {"benchmark": draft["benchmark"], "split": draft["split"], "group": draft["group"], "subject": fact.subject,
            "cluster": slug(fact.entity), "fact_ids": keys, "steps": draft["steps"], "question": text, "context": context,
            "options": options, "answer": answer}


def _choice(rng: np.random.Generator, world: World, draft: dict, place: int, attempt: int) -> dict:
    """A multiple-choice row. MedMCQA asks directly; MedQA and USMLE by a vignette, unless that gets too long."""
    entity, attribute = draft["fact"].entity, draft["fact"].attribute
    clues = {name: pick(rng, _clues(world, entity, name, draft["value"])) for name in draft["clues"]}
    if clues:
        text = unnamed_vignette(rng, "disease", clues, attribute)
    elif draft["benchmark"] == "medmcqa" or attempt > 10:
        text = question(rng, entity, attribute)
    else:
        text = short_vignette(rng, world, entity, attribute)
    options = sample(rng, draft["wrong"])
    options.insert(place, draft["value"])
    return _row(draft, [fact_id(entity, name) for name in (*clues, attribute)], text, "", options, place)


def _report(rng: np.random.Generator, world: World, draft: dict, label: str) -> dict:
    """A PubMedQA row. yes: the context states the value asked for; no: it states another; maybe: it is silent on it."""
    entity, attribute, value = draft["fact"].entity, draft["fact"].attribute, draft["value"]
    if label == "no" or label == "maybe" and rng.random() < 0.5:  # what is not reported may be true or not
        value = draft["wrong"][0]
    told = {name: pick(rng, statable(world, entity, name)) for name in world.profiles[entity]
            if name != attribute and statable(world, entity, name)}
    beside = [name for name, said in told.items() if not same_thing(said, value)]
    # Two or three sentences under every label: their number must not tell it.
    told = {name: told[name] for name in sample(rng, beside, int(rng.integers(1, 3)) + (label == "maybe"))}
    told |= {attribute: draft["value"]} if label != "maybe" else {}
    context, text = context_question(rng, entity, told, attribute, value)
    keys = [fact_id(entity, name) for name in {**told, attribute: value}]
    return _row(draft, keys, text, context, list(YES_NO_MAYBE), YES_NO_MAYBE.index(label))
