"""Judges that are asked over HTTP: everything that can go wrong on the way, nothing lost, nothing judged twice, no key left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from judge_server import best_of, completion, serving, verdict

from hippo_utils import records
from hippo_utils.judging import prompts, verdicts
from hippo_utils.judging.endpoint import EndpointJudge, retry_after
from hippo_utils.judging.store import Store
from hippo_utils.manifest import StageError
from hippo_utils.params import Endpoint, ParamsError, load

KEY = "sk-planted-1234567890abcdef"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)


def candidates(count: int) -> pd.DataFrame:
    return pd.DataFrame([{"id": f"q{number:03d}", "source": "s", "licence": "l", "split": "train", "kind": "fact", "prompt": f"Question {number}?",
                          "authors": ["a", "b", "c"], "answers": [f" First {number}.", f" Second {number}.", f" Third {number}."], "fact_ids": []}
                         for number in range(count)])


def judge(server, **settings) -> EndpointJudge:
    given = {"model": "m", "base_url": server.url, "key_variable": "JUDGE_KEY", "in_flight": 4, "timeout": 60, "backoff": 0.01} | settings
    return EndpointJudge(Endpoint(**given), "clinician-1")


def ask(judge, rows: pd.DataFrame, store: Path | None, orders="rotations", task="best", **options) -> pd.DataFrame:
    return verdicts.ask(judge, rows, template="clinician-1", task=task, orders=orders, store=store, **options)


def expected(rows: pd.DataFrame) -> list[int]:
    """What the server thinks, asked in the first order."""
    found = []
    for row in rows.itertuples():
        letter = best_of(prompts.messages("clinician-1", "best", row.prompt, row.answers)[-1]["content"])
        found.append("ABC".index(letter))
    return found


# --- the way there ---------------------------------------------------------------------------------------------------

def test_the_verdict_is_the_servers_and_costs_what_the_server_says(tmp_path, capsys):
    rows = candidates(10)
    with serving() as server:
        one = judge(server, price_in=2.0, price_out=10.0)
        made = ask(one, rows, tmp_path / "r.jsonl")
    assert verdicts.decide(made, "unanimous")["best"].tolist() == expected(rows)
    assert records.write("judgement", made, tmp_path / "j.parquet") == 30
    said = capsys.readouterr().out
    assert one.account.spent == pytest.approx(30 * (1000 * 2 + 20 * 10) / 1e6)
    assert "30 askings, 0 stored, 30 to ask" in said and "verdict 30" in said and "30,000 tokens in, 600 out, 0.066 spent" in said
    assert made["judge"].unique().tolist() == ["m at 127.0.0.1, instructions clinician-1"]


FAULTS = ("429 0.2", "500", "half-body", "half-json", "html", "hang-up", "empty", "503", "408", "502")


def test_whatever_goes_wrong_on_the_way_nothing_is_lost_and_nothing_is_judged_twice(tmp_path, capsys):
    rows = candidates(20)
    first: dict[str, int] = {}  # each new request meets the next fault, twice, then a reply; the last one a server that says nothing

    def fault(body, times):
        number = first.setdefault(json.dumps(body), len(first))
        return FAULTS[number % len(FAULTS)] if times < 2 and number < 59 else "silence 15" if times < 1 and number == 59 else None

    with serving(fault=fault) as server:
        one = judge(server, in_flight=6, timeout=8)
        made = ask(one, rows, tmp_path / "r.jsonl")
        assert verdicts.decide(made, "unanimous")["best"].tolist() == expected(rows)
        assert sorted(server.answered().values()) == [1] * 60, "every asking got one whole reply, and no second one"
        assert server.most_in_flight <= 6
        each = 2 * 60 // len(FAULTS)
        assert dict(one.troubles) == {"429": each, "500": each, "503": each, "408": each, "502": each - 2, "time-out": 1, "connection dropped": 2 * each,
                                      "not JSON": each, "not a completion": 2 * each}
        assert f"429 {each}, 500 {each}" in capsys.readouterr().out, "counted and said"
        before = len(server.asked)
        again = ask(judge(server), rows, tmp_path / "r.jsonl")
        assert len(server.asked) == before, "all is stored, so nothing is asked"
        assert again.equals(made)


def test_the_server_is_left_alone_for_as_long_as_it_asks(tmp_path):
    with serving(fault=lambda body, times: "429 3" if times == 0 and "Question 0?" in body["messages"][-1]["content"] else None) as server:
        ask(judge(server, in_flight=2), candidates(12), tmp_path / "r.jsonl", orders="one")
        limited = next(at for at, _, fault in server.asked if fault)
        assert not [at for at, _, fault in server.asked if limited + 1 < at < limited + 2.9], "nobody asks meanwhile"


def test_retry_after_is_seconds_or_a_date_and_never_for_ever():
    assert retry_after("3") == 3 and retry_after("0.5") == 0.5 and retry_after("-1") == 0
    assert retry_after(None) is None and retry_after("soon") is None and retry_after("nan") is None
    assert retry_after("86400") == 120
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize("kind, outcome", [("prose", "unparsable"), ("refusal", "refused"), ("cut-off", "cut off"), ("400", "rejected"), ("422", "rejected")])
def test_a_reply_without_a_verdict_is_kept_asked_for_once_more_and_then_dropped(tmp_path, kind, outcome):
    """Question 0 never gets a verdict, question 1 at the second try."""
    def fault(body, times):
        said = body["messages"][-1]["content"]
        return kind if "Question 0?" in said or ("Question 1?" in said and "could not be read before" not in said) else None

    rows = candidates(3)
    with serving(fault=fault) as server:
        made = ask(judge(server), rows, tmp_path / "r.jsonl", orders="one")
        assert made["outcome"].tolist() == [outcome, "verdict", "verdict"]
        assert [len(replies) for replies in made["replies"]] == [2, 2, 1] and all(reply for reply in made["replies"][0])
        assert verdicts.decide(made, "majority")["best"].tolist() == [None, *expected(rows)[1:]], "never guessed"
        assert len(server.asked) == 5 and max(server.bodies.values()) == 1
        ask(judge(server), rows, tmp_path / "r.jsonl", orders="one")
        assert len(server.asked) == (8 if outcome == "rejected" else 5), "what the server would not take may be offered again; the rest is stored"


@pytest.mark.parametrize("fault, words", [("401", "401, .*check model, base_url and the key in JUDGE_KEY"), ("404", "404"), ("429 insufficient_quota", "429"),
                                          ("500", "no reply to q000 in 3 tries .the last: 500.. Every reply so far is stored"), ("hang-up", "connection dropped")])
def test_an_endpoint_that_cannot_answer_ends_the_run_with_one_sentence(tmp_path, fault, words):
    with serving(fault=lambda body, times: fault) as server:
        with pytest.raises(StageError, match=words) as error:
            ask(judge(server, tries=3, in_flight=1), candidates(5), tmp_path / "r.jsonl")
        assert "\n" not in str(error.value) and KEY not in str(error.value)
        assert len(server.asked) <= 3, "one request is enough to know"


def test_an_endpoint_that_is_not_there_is_one_sentence(tmp_path):
    with serving() as server:
        gone = judge(server, tries=2)
    with pytest.raises(StageError, match="no reply .* in 2 tries .the last: connection dropped"):
        ask(gone, candidates(2), tmp_path / "r.jsonl")


def test_a_judge_that_never_gives_a_verdict_is_an_error_and_not_an_empty_table(tmp_path):
    with serving(content=lambda body: "no idea") as server:
        with pytest.raises(StageError, match="none of the 6 replies .* could be read .* unparsable: 'no idea'"):
            ask(judge(server), candidates(2), tmp_path / "r.jsonl")


# --- stopping and starting -------------------------------------------------------------------------------------------

def test_the_budget_stops_it_and_a_larger_one_continues(tmp_path):
    rows = candidates(20)
    prices = dict(price_in=1000.0, price_out=1000.0, request={"max_tokens": 100})  # a reply costs 1.02
    with serving() as server:
        poor = judge(server, budget=20.0, **prices)
        with pytest.raises(StageError, match="the budget of 20 is spent: .* raise the endpoint's budget"):
            ask(poor, rows, tmp_path / "r.jsonl")
        asked = len(server.asked)
        assert 12 <= asked <= 19 and poor.account.spent == pytest.approx(1.02 * asked) and poor.account.spent <= 20
        again = judge(server, budget=20.0, **prices)
        with pytest.raises(StageError, match="the budget of 20 is spent"):
            ask(again, rows, tmp_path / "r.jsonl")
        assert again.account.spent <= 20 and len(server.asked) <= 19, "what was paid for counts the next time too"
        rich = judge(server, budget=100.0, **prices)
        made = ask(rich, rows, tmp_path / "r.jsonl")
        assert verdicts.decide(made, "unanimous")["best"].tolist() == expected(rows)
        assert sorted(server.answered().values()) == [1] * 60 and rich.account.spent == pytest.approx(61.2)


CHILD = """
import sys
import pandas as pd
from hippo_utils import records
from hippo_utils.judging import verdicts
from hippo_utils.judging.endpoint import EndpointJudge
from hippo_utils.params import Endpoint
url, folder, store = sys.argv[1:]
judge = EndpointJudge(Endpoint(model="m", base_url=url, key_variable="JUDGE_KEY", in_flight=5, backoff=0.05), "clinician-1")
rows = records.read("candidates", folder + "/candidates.parquet")
made = verdicts.ask(judge, rows, template="clinician-1", task="best", orders="rotations", store=store)
records.write("verdict", verdicts.decide(made, "majority"), folder + "/verdicts.parquet")
"""


def child(server, folder: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)])}
    return subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(folder), str(folder / "r.jsonl")], env=environment, stdout=subprocess.PIPE, text=True)


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path):
    """SIGKILL: the verdicts are those of an uninterrupted run, and only what was in flight is asked again."""
    rows = candidates(40)
    records.write("candidates", rows, tmp_path / "candidates.parquet")
    store, made = tmp_path / "r.jsonl", tmp_path / "verdicts.parquet"
    with serving(delay=0.03) as server:
        process = child(server, tmp_path)
        while len(server.asked) < 50:
            time.sleep(0.005)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.1)
        assert not made.exists()
        stored = len(store.read_text().splitlines())
        process = child(server, tmp_path)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0 and f"120 askings, {stored} stored, {120 - stored} to ask" in said
        assert 40 <= stored < 120
        assert len(server.bodies) == 120 and 0 <= sum(server.bodies.values()) - 120 <= 5, "at most what was in flight"
        assert records.read("verdict", made)["best"].tolist() == expected(rows)
        interrupted = {json.loads(line)["key"]: json.loads(line)["text"] for line in store.read_text().splitlines()}
        ask(judge(server), rows, tmp_path / "whole.jsonl")
    assert interrupted == {json.loads(line)["key"]: json.loads(line)["text"] for line in (tmp_path / "whole.jsonl").read_text().splitlines()}


def test_a_line_that_was_cut_short_does_not_count_and_spoils_nothing(tmp_path):
    file = tmp_path / "r.jsonl"
    with Store(file) as store:
        store.put("one", {"text": "1"})
        store.put("two", {"text": "2"})
    file.write_bytes(file.read_bytes()[:-5])
    with Store(file) as store:
        assert store.get("one") == {"text": "1"} and store.get("two") is None
        store.put("three", {"text": "line\nbreak\r\u2028"})
    with Store(file) as store:
        assert store.get("one") and store.get("two") is None and store.get("three") == {"text": "line\nbreak\r\u2028"}


def test_second_replies_are_paid_for_once_and_counted_every_time(tmp_path):
    spent = []
    with serving(fault=lambda body, times: "prose" if "could not be read before" not in body["messages"][-1]["content"] else None) as server:
        for _ in range(2):
            one = judge(server, price_in=1.0, price_out=0.0)
            assert (ask(one, candidates(3), tmp_path / "r.jsonl", orders="one")["outcome"] == "verdict").all()
            spent.append(one.account.spent)
        assert len(server.asked) == 6 and spent == [pytest.approx(6 * 1000 / 1e6)] * 2


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    with Store(tmp_path / "r.jsonl") as store:
        store.put("one", {"text": "1"})
        with monkeypatch.context() as full:
            full.setattr(os, "write", lambda file, data: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(StageError, match="free some space and start again"):
                store.put("two", {"text": "2"})
    with Store(tmp_path / "r.jsonl") as store:
        assert store.get("one") and store.get("two") is None


def test_two_runs_with_one_judge_take_turns_and_ask_nothing_twice(tmp_path, capfd):
    with serving(delay=0.02) as server, ThreadPoolExecutor(2) as both:
        made = [both.submit(ask, judge(server), candidates(20), tmp_path / "r.jsonl") for _ in range(2)]
        assert made[0].result().equals(made[1].result())
        assert sorted(server.answered().values()) == [1] * 60
    assert "another run is asking the same judge; waiting for it" in capfd.readouterr().out


def test_another_model_another_wording_or_another_address_is_another_judge(tmp_path):
    rows, file = candidates(4), tmp_path / "r.jsonl"
    with serving() as server, serving() as other:
        for asked, one in ((12, judge(server)), (24, judge(server, model="n")), (36, judge(server, request={"temperature": 1})), (36, judge(server, in_flight=2, tries=2))):
            ask(one, rows, file)
            assert len(server.asked) == asked
        ask(judge(server), rows.assign(prompt="Another question?"), file)
        ask(judge(other), rows, file)
        assert len(server.asked) == 48 and len(other.asked) == 12


# --- the key ---------------------------------------------------------------------------------------------------------

def test_a_key_is_in_no_reply_no_record_and_no_error_whatever_the_server_does(tmp_path, capsys, monkeypatch, caplog):
    """The server repeats the key in its replies, its refusals and its errors."""
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level("DEBUG")

    def content(body):
        return json.dumps({"notes": {"A": f"your key is {KEY}"}, "best": best_of(body["messages"][-1]["content"])})

    def fault(body, times):
        return {0: "500", 1: None}.get(times) if "Question 1?" not in body["messages"][-1]["content"] else "400"

    with serving(content=content, fault=fault) as server:
        one = judge(server)
        made = ask(one, candidates(3), tmp_path / "r.jsonl", orders="one")
        assert KEY in json.dumps(completion({"model": "m"}, content({"messages": [{"content": "<answer A x>\n1\n</answer A x>"}]})))
        assert "[key]" in made["notes"][0] and "[key]" in made["replies"][1][0]
        records.write("judgement", made, tmp_path / "judgements.parquet")
        made.to_csv(tmp_path / "judgements.csv")
        (tmp_path / "said.txt").write_text(capsys.readouterr().out + caplog.text + repr(one) + repr(vars(one).keys()) + one.identity + one.name)
        with serving(fault=lambda body, times: "401") as refusing, pytest.raises(StageError) as error:
            ask(judge(refusing), candidates(1), tmp_path / "r.jsonl")
        (tmp_path / "error.txt").write_text(str(error.value) + repr(error.getrepr(style="long")))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 5
    assert not [file.name for file in files if KEY.encode() in file.read_bytes()]


def test_without_a_key_it_says_which_variable_and_where_to_put_it(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(StageError, match="the environment variable JUDGE_KEY"):
        EndpointJudge(Endpoint(model="m", base_url="http://127.0.0.1:9/v1", key_variable="JUDGE_KEY"), "clinician-1")


@pytest.mark.parametrize("setting, words", [
    (f"preference.endpoint.key_variable={KEY}", "NAME of an environment variable"),
    ("preference.endpoint.base_url=https://user:secret@host/v1", "without user name, password or query"),
    ("preference.endpoint.base_url=https://host/v1?key=secret", "without user name, password or query"),
    ("preference.endpoint.budget=3", "a budget needs price_in and price_out"),
    ("preference.endpoint.modell=x", "unknown key; did you mean model"),
    ("preference.endpoint.in_flight=0", "in_flight"),
])
def test_a_mistake_in_the_parameters_is_one_sentence_that_repeats_no_secret(setting, words):
    with pytest.raises(ParamsError, match=words) as error:
        load("tiny", ["preference.judge=endpoint", "preference.endpoint.model=m", setting])
    assert "secret" not in str(error.value) and KEY not in str(error.value)


def test_a_judge_without_its_section_is_one_sentence():
    for kind in ("endpoint", "local"):
        with pytest.raises(ParamsError, match=f"preference.{kind} must say which model"):
            load("tiny", [f"preference.judge={kind}"])


def test_an_address_from_the_environment_is_checked_too(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://user:secret@127.0.0.1/v1")
    with pytest.raises(StageError, match="holds a user name") as error:
        EndpointJudge(Endpoint(model="m", key_variable="JUDGE_KEY"), "clinician-1")
    assert "secret" not in str(error.value)


def test_a_ranking_is_asked_for_and_read(tmp_path):
    def content(body):
        said = body["messages"][-1]["content"]
        assert "Rank the answers" in said
        best = best_of(said)
        return json.dumps({"ranking": [best, *(letter for letter in "ABC" if letter != best)]})

    rows = candidates(4)
    with serving(content=content) as server:
        made = ask(judge(server), rows, tmp_path / "r.jsonl", task="ranking")
    assert all(sorted(ranked) == [0, 1, 2] for ranked in made["ranked"])
    assert verdicts.decide(made, "unanimous")["best"].tolist() == expected(rows)
    assert json.loads(verdict({"messages": [{"content": "<answer B x>\n1\n</answer B x>"}]}))["best"] == "B"
