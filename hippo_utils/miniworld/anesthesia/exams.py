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
SITUATIONS = ["等待麻醉前评估", "即将进入手术室", "已到手术室等候", "由您负责麻醉", "今天安排手术"]  # they fit every patient of the table
RESCUE = ("拮抗药",)  # subjects whose drugs answer a finding that a case does not tell
# Drugs that nobody would plan for these patients at the table's dose, by general knowledge as the tables: beside what the tables say.
UNFIT = {
    "嗜铬细胞瘤患者": "麻黄碱 去氧肾上腺素 利多卡因", "重症肌无力患者": "罗库溴铵 维库溴铵 顺阿曲库铵", "哮喘患者": "硫喷妥钠",
    "重度主动脉瓣狭窄患者": "丙泊酚 硫喷妥钠 氯胺酮 麻黄碱 右美托咪定", "肥厚型梗阻性心肌病患者": "氯胺酮 麻黄碱 利多卡因 右美托咪定",
    "剖宫产孕妇": "右美托咪定", "重度子痫前期孕妇": "氯胺酮 麻黄碱 去氧肾上腺素 右美托咪定", "病态肥胖患者": "右美托咪定", "阻塞性睡眠呼吸暂停患者": "右美托咪定",
    "急诊饱胃患者": "维库溴铵 顺阿曲库铵 右美托咪定", "颅内压增高患者": "氯胺酮", "规律透析的尿毒症患者": "罗库溴铵 维库溴铵",
    "肝硬化失代偿患者": "丙泊酚 硫喷妥钠 罗库溴铵 维库溴铵 利多卡因 右美托咪定", "甲状腺功能亢进患者": "麻黄碱 利多卡因", "近期心肌梗死患者": "丙泊酚 硫喷妥钠 氯胺酮 麻黄碱 利多卡因 右美托咪定",
    "早产儿": "利多卡因 右美托咪定", "高龄髋部骨折患者": "丙泊酚 硫喷妥钠 依托咪酯 氯胺酮 右美托咪定", "脓毒性休克患者": "丙泊酚 依托咪酯 硫喷妥钠 氯胺酮 右美托咪定",
    "腹主动脉瘤破裂患者": "丙泊酚 硫喷妥钠 依托咪酯 氯胺酮 右美托咪定", "帕金森病患者": "麻黄碱", "杜氏肌营养不良患儿": "罗库溴铵 维库溴铵 顺阿曲库铵 右美托咪定",
    "二尖瓣狭窄患者": "麻黄碱 利多卡因 丙泊酚 硫喷妥钠", "脑死亡器官捐献者": "丙泊酚 依托咪酯 氯胺酮 硫喷妥钠 右美托咪定 利多卡因 昂丹司琼 麻黄碱 去氧肾上腺素",
    "重症颅脑外伤患者": "氯胺酮 丙泊酚 硫喷妥钠 右美托咪定"}


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
    """`count` case rows (fewer in a small world): a patient and a drug of the same group that suits them, then risk, preparation, plan and dose.

    The dose is the table's with its source; cases without such a drug in the group leave it out.
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


def suits(world: World, drug: str, patient: str) -> bool:
    """Whether a drug may be planned for a patient at the table's dose: as far as the tables know, and UNFIT.

    Children get no dose that is for adults or does not go by weight; drugs that answer an emergency or a finding (RESCUE) are not planned.
    """
    dose, avoided = world.profiles[drug]["dose"], world.profiles[patient].get("avoid")
    wrong = world.profiles[drug].get("contraindication")
    return not (dose.subject in RESCUE or drug in UNFIT.get(patient, "").split() or any("过敏反应" in value for value in dose.values)
                or any(drug in value for value in (avoided.values if avoided else ())) or any(value in patient for value in (wrong.values if wrong else ()))
                or "儿" in patient and any("成人" in value or "/kg" not in value for value in dose.values))


def _case(rng: np.random.Generator, world: World, entity: str) -> tuple[str, str, list[str]]:
    group = world.groups[entity]
    known = [a for a in ("risk", "preparation", "preferred", "avoid") if statable(world, entity, a)]
    if len(known) < 3:
        return "", "", []
    agents = sorted(n for n, g in world.groups.items() if g == group and statable(world, n, "dose") and suits(world, n, entity))
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
