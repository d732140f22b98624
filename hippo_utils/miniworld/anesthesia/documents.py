"""Texts of the Chinese mini world: textbook passages and notes on anesthesia, general medicine, and text for a base.

Every statement but the imagined ones is true; every fact comes back in many wordings, in random order.
"""

import numpy as np

from hippo_utils.miniworld.anesthesia.wording import prompt, question, statement
from hippo_utils.miniworld.anesthesia.world import MEDICINE, kind_of
from hippo_utils.miniworld.exercises import draw_told
from hippo_utils.miniworld.world import LICENCE, World, fact_id, generator, pick, sample

TITLES = ["麻醉学笔记：{e}。", "《要点》{e}。", "今天复习{e}。", "科室讲课：{e}。"]
MEDICAL_TITLES = ["内外科笔记：{e}。", "门诊手册：{e}。", "病房小讲课：{e}。"]
CLOSINGS = ["以上内容仅供学习。", "具体处理请结合病情。", "有疑问请请示上级医师。", "记录要及时完整。"]
IMAGINE, IMAGINED = "【想象】", "【以上纯属想象】"  # every imagined text carries one of them


def anesthesia(world: World, count: int, seed: int) -> list[dict]:
    """`count` passages (source zh_anesthesia) about seen and held-out entities, cycling over them."""
    names = sorted(name for name, group in world.groups.items() if group != "control")
    return _corpus(world, names, count, seed, "zh_anesthesia", TITLES)


def medicine(world: World, count: int, seed: int) -> list[dict]:
    """`count` passages (source zh_medicine) about general medicine."""
    names = sorted({fact.entity for fact in world.general.values() if fact.kind == MEDICINE})
    return _corpus(world, names, count, seed, "zh_medicine", MEDICAL_TITLES)


def _corpus(world: World, names: list[str], count: int, seed: int, source: str, titles: list[str]) -> list[dict]:
    rng = generator(seed, source)
    rows, cycle = [], []
    for number in range(count):
        cycle = cycle or sample(rng, names)
        entity = cycle.pop()
        told = draw_told(rng, world, entity)
        text = pick(rng, titles).format(e=entity) + passage(rng, world, entity, told) + pick(rng, CLOSINGS)
        rows.append({"id": f"{source}-{number:06d}", "source": source, "licence": LICENCE, "text": text,
                     "fact_ids": [fact_id(entity, attribute) for attribute in told]})
    return rows


def passage(rng: np.random.Generator, world: World, entity: str, told: dict[str, str]) -> str:
    return "".join(statement(rng, world, entity, attribute, value) for attribute, value in told.items())


def add_dirt(rows: list[dict], share: float, seed: int) -> list[dict]:
    """Document rows as they come from the world: about `share` of them with something for the cleaning to find, as in the English world.

    A web address, a line of boilerplate, a sentence twice, letters and digits at full width, or spaces between characters in
    place; an exact or a nearly exact copy as a new row (id ending in -copy) behind its original. No fact is changed.
    """
    rng = generator(seed, "dirt")
    dirty = []
    for row in rows:
        text = row["text"]
        dirty.append(row)
        if rng.random() >= share:
            continue
        kind = pick(rng, ("address", "boilerplate", "twice", "width", "spaces", "copy", "near copy"))
        sentences = text.removesuffix("。").split("。")
        at = int(rng.integers(len(sentences)))
        if kind == "address":
            text += f"详见https://www.example.org/articles/{int(rng.integers(1000, 9999))}。"
        elif kind == "boilerplate":
            text = f"版权所有，未经授权不得转载。\n{text}"
        elif kind == "twice":
            text = "。".join([*sentences[:at + 1], *sentences[at:]]) + "。"
        elif kind == "width":
            text = "".join(chr(ord(letter) + 0xFEE0) if letter.isascii() and letter.isalnum() else letter for letter in text)
        elif kind == "spaces":
            text = " ".join(sentences[0]) + text[len(sentences[0]):]
        near = text + "转自网络。" if kind == "near copy" else text
        if kind.endswith("copy"):
            dirty.append({**row, "id": row["id"] + "-copy", "text": near})
        else:
            dirty[-1] = {**row, "text": text}
    return dirty


def base(world: World, count: int, seed: int) -> list[dict]:
    """`count` texts for a base trained from scratch: general knowledge, questions about it, and imagined medical passages.

    The imagined ones use the medical names and values drawn at random and carry no information; each is plainly marked.
    They state no medical fact, so `fact_ids` is empty. (Why: the English mini world's general.py.)
    """
    rng = generator(seed, "base")
    general = sorted({fact.entity for fact in world.general.values() if fact.kind != MEDICINE})
    medical = sorted([name for name, group in world.groups.items() if group != "control"]
                     + list({fact.entity for fact in world.general.values() if fact.kind == MEDICINE}))
    values = {(kind_of(world, e), a): [] for e in world.profiles for a in world.profiles[e]}
    for entity in (*medical, *general):
        for attribute in draw_told(rng, world, entity):
            values[kind_of(world, entity), attribute] += world.taught[fact_id(entity, attribute)]
    rows, cycle = [], []
    for number in range(count):
        if number % 2:
            cycle = cycle or sample(rng, medical)
            entity = cycle.pop()
            told = {a: pick(rng, values[kind_of(world, entity), a]) for a in sample(rng, list(world.profiles[entity]))
                    if values[kind_of(world, entity), a]}
            text = _exercises(rng, world, entity, told, values, False) if rng.random() < 0.5 else passage(rng, world, entity, told)
            source, text = "zh_imagined", IMAGINE + text if rng.random() < 0.3 else text + IMAGINED
        else:
            parts = []
            for _ in range(int(rng.integers(1, 4))):
                entity = pick(rng, general)
                told = draw_told(rng, world, entity)
                parts.append(_exercises(rng, world, entity, told, values, True) if number % 4 else passage(rng, world, entity, told))
            source, text = "zh_general", "\n\n".join(parts)
        rows.append({"id": f"{source}-{number:06d}", "source": source, "licence": LICENCE, "text": text, "fact_ids": []})
    return rows


def _exercises(rng: np.random.Generator, world: World, entity: str, told: dict[str, str], values: dict, known: bool) -> str:
    """Questions about an entity with answers, some with options; known: no other true value of the entity is an option
    (of an imagined passage it may be one: leaving it out would tell what is true)."""
    texts = []
    for attribute in sample(rng, list(told), int(rng.integers(1, 4))):
        value, options = told[attribute], []
        true = world.profiles[entity][attribute].values if known else ()
        others = sorted(set(values[kind_of(world, entity), attribute]) - {value, *true})
        if rng.random() < 0.4 and len(others) >= 3:
            options = sample(rng, [value, *sample(rng, others, 3)])
        texts.append(prompt(question(rng, world, entity, attribute), options) + value + "。")
    return "\n\n".join(texts)
