"""Generators and judges behind endpoints: Self-Instruct and cross-filtering over HTTP, whatever goes wrong on the way, nothing asked twice."""

import json
import re

import pandas as pd
import pytest
from judge_server import anesthesia as reply
from judge_server import serving

from hippo_utils.judging import crossfilter, selfinstruct
from hippo_utils.manifest import StageError
from hippo_utils.params import CrossFilter, Endpoint, SelfInstruct

SEEDS = pd.DataFrame({"prompt": [f"问：{drug}的作用机制是什么？\n答：" for drug in ("丙泊酚", "氯胺酮", "依托咪酯", "芬太尼")],
                      "completion": ["增强GABA-A受体功能。", "拮抗NMDA受体。", "增强GABA-A受体功能。", "激动μ受体。"]})
NAMES = ["困难气道", "恶性高热", "局麻药中毒"]
TOPICS = selfinstruct.draw_topics(NAMES, 12, 0)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("WRITER_KEY", "sk-planted-1234567890")


def how(server, **changes) -> SelfInstruct:
    given = {"base_url": server.url, "key_variable": "WRITER_KEY", "backoff": 0.01, "timeout": 60, "in_flight": 4}
    return SelfInstruct(draws=4, temperature=0.7, tokens=300, endpoints={name: Endpoint(model=f"m-{name}", **given | changes) for name in ("one", "two")})


def write(server, name: str = "one", topics=TOPICS, **changes) -> list[str]:
    return selfinstruct.ask(selfinstruct.open_endpoints(how(server, **changes))[name], topics, SEEDS, examples=2, seed=0)


def test_an_endpoint_writes_on_every_topic_and_is_shown_other_seed_tasks_each_time(home):
    bodies = []
    with serving(content=lambda body: (bodies.append(body), reply(body))[1]) as server:
        made = selfinstruct.rows("one", TOPICS, write(server))
    assert made["topic"].tolist() == TOPICS and (made["prompt"].str.startswith("问：第") & made["prompt"].str.endswith("如何处理？\n答：")).all()
    assert (made["completion"] == "按指南处理，剂量 2 mg/kg。").all() and made["prompt"].nunique() == 12
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in bodies} == {("m-one", 0.7, 300)}
    shown = [re.findall(r"问：(\S+?)的作用机制", body["messages"][0]["content"]) for body in bodies]
    assert all(len(set(names)) == 2 for names in shown) and len(set(map(tuple, shown))) > 3, "which seed tasks are shown changes"


def test_whatever_goes_wrong_no_reply_is_asked_for_twice_and_one_out_of_form_once_more(home):
    faults = ("429 0.1", "500", "half-json", "html", "hang-up", "empty")
    order: dict[str, int] = {}

    def fault(body, times):
        number = order.setdefault(json.dumps(body), len(order))
        return faults[number % len(faults)] if times < 1 else None

    def content(body):
        asked = body["messages"][-1]["content"]
        return "我不会。" if "局麻药中毒" in asked.split("主题：")[-1] and "不合要求" not in asked else reply(body)

    with serving(content=content, fault=fault) as server:
        first = write(server)
        assert sum(server.answered().values()) == 12 + 4, "four are asked for again, with the reason"
        assert write(server) == first and sum(server.answered().values()) == 16, "a second run asks for nothing"
        longer = write(server, topics=selfinstruct.draw_topics(NAMES, 18, 0))
        assert longer[:12] == first and sum(server.answered().values()) == 16 + 6 + 2, "more draws: only the new ones are asked for"
    assert selfinstruct.rows("one", TOPICS, first)["prompt"].ne("").all()


def test_a_reply_that_stays_out_of_form_is_kept_and_counted(home):
    with serving(content=lambda body: "我不会。" if "恶性高热" in body["messages"][-1]["content"].split("主题：")[-1] else reply(body)) as server:
        made = selfinstruct.rows("one", TOPICS, write(server))
    unread = made[made["prompt"] == ""]
    assert set(unread["topic"]) == {"恶性高热"} and len(unread) == 4 and (unread["raw"] == "我不会。").all()


def test_a_reply_that_is_cut_off_twice_teaches_nothing_and_is_kept(home):
    bodies, about = [], lambda body: "格式输出：\n主题：恶性高热" in body["messages"][0]["content"]

    def content(body):
        bodies.append(body["messages"][0]["content"])
        return "问：怎么办？\n答：停药并给予丹曲林。" if about(body) else reply(body)

    with serving(content=content, fault=lambda body, times: "cut-off" if about(body) else None) as server:
        made = selfinstruct.rows("one", TOPICS, write(server))
    unread = made[made["prompt"] == ""]
    assert set(unread["topic"]) == {"恶性高热"} and len(unread) == 4 and (unread["raw"] == selfinstruct.UNFINISHED + "问：怎么办？\n答：停药并给予丹").all()
    assert any("没有写完" in asked for asked in bodies) and not any("cut off" in asked for asked in bodies)


def generated(server) -> pd.DataFrame:
    return pd.concat([selfinstruct.rows(name, TOPICS, write(server, name)) for name in ("one", "two")], ignore_index=True)


def test_each_generator_is_judged_by_the_other_at_temperature_zero(home):
    bodies = []
    with serving(content=lambda body: (bodies.append(body), reply(body))[1]) as server:
        rows = generated(server)
        judges = crossfilter.open_judges(selfinstruct.open_endpoints(how(server)), CrossFilter(keep=0.5, tokens=90))
        del bodies[:]
        scores = crossfilter.ask_each_other(rows, judges)
        assert len(bodies) == len(rows) == len(scores) and {(body["temperature"], body["max_tokens"]) for body in bodies} == {(0, 90)}
        assert (scores["generator"] != scores["judge"]).all() and scores["score"].notna().all()
        assert set(rows.set_index("id").loc[scores.loc[~scores["safe"], "id"], "topic"]) == {"局麻药中毒"}, "harm is a gate, whatever the other aspects say"
        both = crossfilter.ask_each_other(rows, judges, same=True)
        assert len(bodies) == 2 * len(rows) == len(both), "only what had not been asked"
    kept = crossfilter.select(scores, 0.5, 0)
    assert kept[kept["arm"] == "cross"].groupby("generator").size().tolist() == [4, 4] == kept[kept["arm"] == "random"].groupby("generator").size().tolist()
    best = scores.set_index("id")["score"]
    assert best[kept[kept["arm"] == "cross"]["id"]].mean() > best[scores[scores["safe"]]["id"]].mean()


def test_verdicts_that_cannot_be_read_are_asked_for_once_more_then_counted_and_dropped(home):
    def content(body):
        asked = body["messages"][-1]["content"]
        if "coherence" in asked and "恶性高热" in asked:
            return '{"coherence": 11}' if "第a" in asked or "不合要求" not in asked else reply(body)
        return reply(body)

    with serving(content=content, fault=lambda body, times: "hang-up" if times == 0 and "coherence" in str(body) else None) as server:
        rows = generated(server)
        scores = crossfilter.ask_each_other(rows, crossfilter.open_judges(selfinstruct.open_endpoints(how(server)), CrossFilter(keep=0.5)))
    stubborn = set(rows[(rows["topic"] == "恶性高热") & rows["prompt"].str.contains("第a")]["id"])
    unread = scores[scores["score"].isna()]
    assert set(unread["id"]) == stubborn and (unread["reply"] == '{"coherence": 11}').all() and not unread["safe"].any()
    assert not stubborn & set(crossfilter.select(scores, 1.0, 0).query("arm != 'all'")["id"])


def test_writing_and_judging_share_one_budget(home):
    prices = {"price_in": 1000.0, "price_out": 0.0}
    with serving(content=reply) as server:
        writers = selfinstruct.open_endpoints(how(server, budget=15.0, in_flight=1, **prices))
        rows = selfinstruct.rows("one", TOPICS, selfinstruct.ask(writers["one"], TOPICS, SEEDS, examples=1, seed=0))
        assert writers["one"].account.spent == pytest.approx(12.0)
        judges = crossfilter.open_judges(writers, CrossFilter(keep=0.5))
        with pytest.raises(StageError, match="the budget of 15 is spent"):
            crossfilter.ask(judges["one"], rows)
        asked = sum(server.answered().values())
        assert 12 < asked <= 15
        richer = crossfilter.open_judges(selfinstruct.open_endpoints(how(server, budget=100.0, **prices)), CrossFilter(keep=0.5))
        assert len(crossfilter.ask(richer["one"], rows)) == 12 and sum(server.answered().values()) == 24


def test_no_key_is_one_sentence_before_anything_is_asked(home, monkeypatch):
    monkeypatch.delenv("WRITER_KEY")
    with serving(content=reply) as server, pytest.raises(StageError, match="needs a key in the environment variable WRITER_KEY"):
        selfinstruct.open_endpoints(how(server))


def test_an_endpoint_keeps_what_its_request_leaves_out():
    newer = Endpoint(model="m", request={"temperature": None, "max_tokens": None, "max_completion_tokens": 4000})
    assert newer.asked(0, 90).request == {"temperature": None, "max_tokens": None, "max_completion_tokens": 90}
    assert Endpoint(model="m").asked(1.0, 300).request == {"temperature": 1.0, "max_tokens": 300}
