"""How the Chinese mini world says things: every fact in many wordings, shared by documents, pairs and imagined passages."""

import numpy as np

from hippo_utils.miniworld.anesthesia.world import kind_of
from hippo_utils.miniworld.world import World, pick
from hippo_utils.records import item_prompt

# (kind, attribute) -> what it is called
NAMES = {
    "agent": {"class": "药物类别", "mechanism": "作用机制", "use": "临床用途", "adverse_effect": "不良反应", "contraindication": "禁忌或慎用情况",
              "reversal": "拮抗或对抗药物", "dose": "常用剂量", "onset": "起效时间", "feature": "药理特点", "monitoring": "用药监测"},
    "event": {"cause": "原因", "sign": "典型表现", "management": "处理措施", "risk_factor": "危险因素", "prevention": "预防措施"},
    "technique": {"use": "适用情况", "principle": "原理", "key_point": "操作要点", "complication": "并发症", "limitation": "禁忌或局限"},
    "patient": {"risk": "麻醉风险", "avoid": "禁忌做法", "preferred": "推荐做法", "monitoring": "重点监测", "preparation": "术前准备",
                "asa": "ASA分级"},
    "disease": {"cause": "病因", "sign": "临床表现", "test": "检查", "treatment": "治疗", "complication": "并发症", "risk_factor": "危险因素"},
}
# {e} is the entity, {v} the value, {n} the attribute. Half of the wordings name the value first.
ANY = ["{e}的{n}是{v}", "{e}的{n}包括{v}", "{v}是{e}的{n}", "谈到{e}，{n}要记住{v}", "书上写明{v}为{e}的{n}"]
STATEMENTS = {  # by attribute, or by (kind, attribute) where kinds say it differently
    "class": ["{e}属于{v}", "{v}里有{e}"], "mechanism": ["{e}的作用在于{v}", "靠{v}发挥作用的有{e}"],
    "use": ["{e}可用于{v}", "遇到{v}可选{e}"], "adverse_effect": ["{e}可引起{v}", "出现{v}要想到{e}"],
    "contraindication": ["{v}属{e}的禁忌或慎用情况", "{e}禁用或慎用于{v}"], "reversal": ["{v}可对抗{e}", "对抗{e}用{v}"],
    "dose": ["{e}按{v}给药", "{v}是{e}的用量"], "onset": ["{e}起效为{v}", "{v}起效的有{e}"],
    "feature": ["{e}有{v}的特点", "{v}是{e}的特点"], "monitoring": ["用{e}要监测{v}", "{v}是{e}的监测内容"],
    ("patient", "monitoring"): ["{e}要重点监测{v}", "{v}是{e}的监测重点"],
    "cause": ["{e}可由{v}引起", "{v}可引起{e}"], "sign": ["{e}常见{v}", "见到{v}要想到{e}"],
    "management": ["发生{e}应{v}", "{v}可处理{e}"], "risk_factor": ["{v}者易发生{e}", "{e}多见于{v}"],
    "prevention": ["为防{e}应{v}", "{v}可预防{e}"], "principle": ["{e}的依据是{v}", "{v}就是{e}的依据"],
    "key_point": ["做{e}要注意{v}", "{v}是{e}的关键"], "complication": ["{e}可并发{v}", "{v}可见于{e}之后"],
    "limitation": ["{v}时慎行{e}", "{e}受限于{v}"], "risk": ["{e}要防{v}", "{v}威胁{e}"],
    "avoid": ["{e}应避免{v}", "{v}不适合{e}"], "preferred": ["{e}宜{v}", "{v}适合{e}"],
    "preparation": ["{e}的准备包括{v}", "{v}用于{e}的准备"], "asa": ["{e}评为{v}", "{v}中有{e}"],
    "test": ["{e}可查{v}", "{v}有助诊断{e}"], "treatment": ["{e}可用{v}治疗", "{v}可治疗{e}"],
}
QUESTIONS = ["{e}的{n}是什么？", "请说出{e}的{n}。", "下列哪项是{e}的{n}？"]
OPEN_QUESTIONS = QUESTIONS[:2]  # without a list of options
CATEGORIES = {"agent": "药理", "event": "并发症与危象", "technique": "技术与监测", "patient": "评估与特殊患者"}


def name(kind: str, attribute: str) -> str:
    """What an attribute is called; general knowledge names its attributes in Chinese already."""
    return NAMES.get(kind, {}).get(attribute, attribute)


def clause(rng: np.random.Generator, world: World, entity: str, attribute: str, value: str) -> str:
    """One fact in a wording drawn at random, without a full stop."""
    kind = kind_of(world, entity)
    template = pick(rng, ANY + STATEMENTS.get((kind, attribute), STATEMENTS.get(attribute, [])))
    return template.format(e=entity, v=value, n=name(kind, attribute))


def statement(rng: np.random.Generator, world: World, entity: str, attribute: str, value: str) -> str:
    return clause(rng, world, entity, attribute, value) + "。"


def question(rng: np.random.Generator, world: World, entity: str, attribute: str, forms: list[str] = QUESTIONS) -> str:
    return pick(rng, forms).format(e=entity, n=name(kind_of(world, entity), attribute))


def prompt(text: str, options: list[str] = ()) -> str:
    """A question as every stage asks it; the answer follows without a space."""
    return item_prompt(text, list(options), language="zh")
