"""The open Chinese data sets of params/hypnos.yaml, read from a mirror in miniature, and a hospital's own cases: what they become, and where they must not be seen."""

import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from judge_server import anesthesia, serving, verdict
from miniatures.make import ROWS, SECRET, base_model, mirror

from hippo_utils import manifest, params, paths, records
from hippo_utils.corpus import __main__ as command
from hippo_utils.corpus import cleaning, contamination, deduplication, hub, licences, private, sources
from hippo_utils.manifest import StageError

HYPNOS = params.load("hypnos")
MARKER = "云溪渡九〇六二"  # stands in the reference of a case, and must stand nowhere else
CASE = "患者男，六十二岁，冠心病十年，拟行腹腔镜胆囊切除术，术前血压一百六十五，代号青杨岭四七三。"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return mirror(tmp_path_factory.mktemp("mirror"))


def corpus(folder, **changes) -> params.Corpus:
    return HYPNOS.corpus.model_copy(update={"data_root": str(folder)} | changes)


def read(name: str, folder, quarantine: list | None = None) -> list[dict]:
    return list(hub.stream(hub.catalogue()[name], corpus(folder), None, 0, quarantine))


# --- the catalogue and the ledger --------------------------------------------------------------------------------------

def test_c_uda_must_be_allowed_by_name_and_the_ledger_says_what_stands_behind_it():
    licences.check(HYPNOS.corpus)
    with pytest.raises(StageError, match=r"would train on anescorpus \(C-UDA-1.0\), anesqa \(C-UDA-1.0\)\. "):
        licences.check(HYPNOS.corpus.model_copy(update={"licences": params.Corpus.model_fields["licences"].default}))
    ledger = licences.ledger(HYPNOS.corpus).set_index("source")
    assert set(ledger.index) == {"anescorpus", "huatuo_sft", "huatuo_encyclopedia", "anesqa", "aneqa", "anecq"}
    assert not ledger["redistributable"].any() and ledger["rights"].str.len().min() > 40 and ledger["known"].str.contains("unchecked against the hub").all()


def test_the_base_is_pinned_and_everything_that_the_paper_does_not_say_carries_the_mark():
    text = (paths.PARAMS / "hypnos.yaml").read_text(encoding="utf-8")
    assert re.fullmatch(r"[0-9a-f]{40}", HYPNOS.pretraining.revision) and HYPNOS.scale == "small", "its numbers stand beside nobody's"
    known = ("run:", "paper:", "  cp:", "preference:", "  world:", "  language:", "  candidates:", "  data_root:", "  private_cases:", "  revision:")
    sections = {"corpus:", "pretraining:", "instruction:", "evaluation:", "cluster:"}
    for line in text.splitlines():
        if re.match(r"\w", line) and line.split()[0] not in sections and not line.startswith(known):
            assert "(ours)" in line or line.split()[0] in ("scale:", "ablations:", "calibration:"), line
    assert len(HYPNOS.instruction.selfinstruct.endpoints) == 2 and not HYPNOS.pretraining.generators


# --- records -----------------------------------------------------------------------------------------------------------

def test_every_chinese_source_becomes_records_of_its_schema(whole, tmp_path):
    quarantine = []
    built = {kind: records.read(kind, sources.write(kind, corpus(whole), None, 0, tmp_path / kind, quarantine)) for kind in ("document", "instruction")}
    built["item"] = pd.DataFrame(hub.items(hub.source("anecq", "item"), corpus(whole), 0, quarantine))
    built["question"] = pd.DataFrame(hub.questions(hub.source("aneqa", "question"), corpus(whole), 0, quarantine))
    for kind, frame in built.items():
        assert len(records.to_table(kind, frame)) == len(frame)
    asked = pd.concat([built["instruction"]["prompt"], built["question"]["prompt"]])
    assert asked.str.match(r"问：\S").all() and asked.str.endswith("？\n答：").all() and built["instruction"]["completion"].str.match(r"\S").all(), "Chinese answers follow without a space"
    unfit = pd.DataFrame(quarantine)
    assert dict(unfit.groupby("source").size()) == {"anescorpus": 1, "huatuo_sft": 1, "huatuo_encyclopedia": 1, "anesqa": 1, "aneqa": 1}
    assert set(unfit["reason"]) == {"text is missing", "data holds no question with an answer", "the question is empty", "answer is missing"}
    counts = built["instruction"]["source"].value_counts()
    assert counts["huatuo_sft"] == counts["huatuo_encyclopedia"] == ROWS["huatuo"] and len(built["document"]) == ROWS["anescorpus"]


def test_a_talk_gives_its_first_question_and_an_entry_its_first_wording(whole):
    lines = [json.loads(line) for line in (whole / "FreedomIntelligence/HuatuoGPT-sft-data-v1/HuatuoGPT_sft_data_v1.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, raw in zip(read("huatuo_sft", whole)[:4], lines):
        assert row["prompt"] == f"问：{raw['data'][0].removeprefix('问：')}\n答：" and row["completion"] == raw["data"][1].removeprefix("答：")
    entries = [json.loads(line) for line in (whole / "FreedomIntelligence/huatuo_encyclopedia_qa/train_datasets.jsonl").read_text(encoding="utf-8").splitlines()]
    made = read("huatuo_encyclopedia", whole)
    assert made[0]["prompt"] == f"问：{entries[0]['questions'][0][0]}\n答：" and made[1]["prompt"] == f"问：{entries[1]['questions'][0]}\n答："


def test_what_is_asked_is_not_what_is_trained_on_and_copies_stay_together(whole):
    trained, asked = read("anesqa", whole), read("aneqa", whole)
    assert len(trained) + len(asked) == ROWS["anesqa"] - 1 and 0 < len(asked) < 0.1 * len(trained)
    assert not {row["prompt"] for row in trained} & {row["prompt"] for row in asked}
    assert asked[0]["references"][0].count("。") >= 2 and asked[0]["group"] == "all"
    other = list(hub.stream(hub.catalogue()["aneqa"], corpus(whole), None, 1, None))
    assert {row["prompt"] for row in other} != {row["prompt"] for row in asked}, "the draw follows the seed"


def test_anesbench_items_keep_options_answer_and_level_and_a_double_answer_is_quarantined(whole, tmp_path):
    raw = json.loads((whole / "MiliLab/AnesBench/anesbench_zh.json").read_text(encoding="utf-8"))
    made = read("anecq", whole)
    assert [row["options"][row["answer"]] for row in made] == [row[row["target"]] for row in raw] and [len(row["options"]) for row in made] == [row["choice_num"] for row in raw]
    assert made[1]["subject"] == "system 1.x: hybrid" and {row["split"] for row in made} == {"test"}
    raw += [raw[0] | {"target": "AC"}, raw[1] | {"E": None}]
    (tmp_path / "MiliLab/AnesBench").mkdir(parents=True)
    (tmp_path / "MiliLab/AnesBench/anesbench_zh.json").write_text(json.dumps(raw), encoding="utf-8")
    quarantine = []
    hub.items(hub.catalogue()["anecq"], corpus(tmp_path, quarantine_share=0.1), 0, quarantine)
    assert [row["reason"] for row in quarantine] == ["target is 'AC', expected one of A, B, C, D", "an option is empty"]


def test_cleaning_duplicates_and_the_audit_work_on_the_chinese_mirror(whole, tmp_path):
    c = corpus(whole)
    raw = records.read("document", sources.write("document", c, None, 0, tmp_path / "d", []))
    kept, counts, _ = cleaning.clean(raw, c.minimum_words, "document", "zh")
    totals = counts.groupby("rule")[["changed", "dropped"]].sum()
    assert totals.loc[[cleaning.TOO_SHORT, cleaning.WRONG_LANGUAGE], "dropped"].tolist() == [1, 1]
    assert (totals.loc[["unicode form (NFKC)", "URLs", "boilerplate sentences", "spaces"], "changed"] >= 1).all()
    kept, dropped = deduplication.deduplicate(kept, c.near_duplicate, 0)
    assert sorted(dropped["kind"]) == ["exact", "exact", "near"], "a copy in other spacing is an exact one once it is clean"
    instructions = records.read("instruction", sources.write("instruction", c, None, 0, tmp_path / "i", []))
    asked, _, _ = cleaning.clean(instructions, c.minimum_words, "instruction", "zh")
    records.write("instruction", asked, tmp_path / "asked.parquet")
    items = pd.DataFrame(hub.items(hub.catalogue()["anecq"], c, 0, []))
    found, leaked = contamination.audit_files([tmp_path / "asked.parquet"], items, c.contamination_ngram, threshold=c.contamination_threshold, processes=1, decontaminate=c.decontaminate)
    assert leaked[["source", "item"]].values.tolist() == [["anesqa", "anecq-000004"]] and (found["decision"] == contamination.REMOVED).sum() == 1


# --- a hospital's own cases --------------------------------------------------------------------------------------------

def cases(folder, **files: str):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return corpus("none", private_cases=str(folder), benchmarks=["anecq", "private_cases"])


def test_private_cases_become_questions_and_rows_that_do_not_fit_are_counted_without_their_text(tmp_path):
    lines = [{"case": CASE, "reference": "全身麻醉，丙泊酚２ｍｇ／ｋｇ。", "id": "住院号123"}, {"case": CASE + "二", "reference": "椎管内麻醉。", "question": "首选何种麻醉？"},
             {"case": " ", "reference": "x"}, {"case": 5, "reference": "x"}, {"reference": "x"}]
    quarantine = []
    c = cases(tmp_path / "p", a_jsonl="\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n{坏\n", b_csv=f"case,reference\n{CASE}三,全身麻醉。\n")
    made = private.cases(c, quarantine)
    assert len(records.to_table("question", made)) == 3 and {row["benchmark"] for row in made} == {"private_cases"}
    assert made[0]["prompt"] == f"问：病例：{CASE}\n{private.ASKED}\n答：" and made[0]["references"] == ["全身麻醉，丙泊酚2mg/kg。"]
    assert made[1]["prompt"].endswith("\n首选何种麻醉？\n答：") and "住院号" not in json.dumps(made, ensure_ascii=False)
    assert [row["reason"] for row in quarantine] == ["case is empty", "case must be text and is int", "case is missing", "not readable as JSON"]
    assert not any(row["held"] for row in quarantine) and private.cases(HYPNOS.corpus) == []


@pytest.mark.parametrize("files, words", [({}, "is no file, and no folder that holds a JSONL or CSV file with the columns case and reference"),
                                          ({"a_csv": "text,answer\nx,y\n"}, "has no column case, reference; it has text, answer"),
                                          ({"a_csv": "case,reference\n,y\n"}, "no row of .* holds a case and a reference")])
def test_private_cases_that_cannot_be_read_are_one_sentence(tmp_path, files, words):
    with pytest.raises(StageError, match=words):
        private.cases(cases(tmp_path / "p", **files))


def test_the_folder_and_the_benchmark_belong_together():
    for setting in (["corpus.private_cases=here"], ["corpus.benchmarks=[anecq, aneqa, private_cases]"]):
        with pytest.raises(params.ParamsError, match="the folder.* and the benchmark private_cases belong together"):
            params.load("hypnos", setting)
    assert params.load("hypnos", ["corpus.private_cases=here", "corpus.benchmarks=[anecq, aneqa, private_cases]"])


def test_private_cases_are_never_shown_and_a_quotation_is_found_before_publishing(tmp_path, home):
    c = cases(tmp_path / "p", a_csv=f"case,reference\n{CASE},全身麻醉复合硬膜外阻滞，注意心肌缺血和低血压。\n")
    assert not licences.redistributable("private_cases")
    row = licences.ledger(c).set_index("source").loc["private_cases"]
    assert (row["licence"], row["redistributable"], row["hub"]) == ("none", False, "")
    made = pd.DataFrame(private.cases(c))
    assert CASE not in str(licences.shown(made, "prompt", "references", by="benchmark").values)
    records.write("question", made, paths.stage_folder("hypnos", "01_corpus") / "questions.parquet")
    page, notebook = paths.figures("hypnos") / "index.html", paths.outputs("hypnos") / "05_evaluation" / "05_evaluation.ipynb"
    manifest.write_json({"x": f"一共{private.ASKED}"}, page)
    assert licences.leaks("hypnos").empty, "the sentence that asks is nobody's text"
    for file, said in ((page, f"<p>{CASE[:20]}</p>"), (notebook, json.dumps({"cells": [{"outputs": [{"data": {"text/html": [f"<td>{CASE[3:25]}</td>"]}}]}]}))):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(said, encoding="utf-8")
        assert set(licences.leaks("hypnos")["source"]) == {"private_cases"}
        file.unlink()
        manifest.write_json({"x": 1}, page)


def test_what_the_mini_world_asks_may_be_shown_though_a_real_benchmark_has_its_name():
    frame = pd.DataFrame({"benchmark": ["anecq", "medmcqa", "private_cases"], "question": ["甲", "乙", "丙"]})
    assert licences.shown(frame, "question", by="benchmark", world="anesthesia")["question"].tolist()[:2] == ["甲", "乙"]
    assert licences.public("丙", "private_cases", "anesthesia") != "丙" and licences.shown(frame, "question", by="benchmark")["question"].str.startswith("[not shown").all()


# --- the run -----------------------------------------------------------------------------------------------------------

def settings(whole, folder, base) -> list[str]:
    """params/hypnos.yaml overridden to the miniature, with cases of a hospital."""
    cases(folder / "cases", a_csv=f"case,reference\n{CASE},全身麻醉复合硬膜外阻滞，术中注意{MARKER}。\n")
    return [f"corpus.data_root={whole}", f"corpus.private_cases={folder / 'cases'}", "corpus.benchmarks=[anecq, aneqa, private_cases]", "corpus.documents.anescorpus=null",
            "corpus.instructions.huatuo_encyclopedia=null", f"pretraining.base={base}", "pretraining.revision=null", "threads=1"]


def nowhere(run: str) -> list[str]:
    """The files of a run that show what must not be shown, of all that a reader may get to see."""
    files = [*paths.figures(run).rglob("*"), *paths.outputs(run).glob("*/*.ipynb"), *paths.outputs(run).glob("*/log.txt")]
    return [file.name for file in files if file.is_file() and any(word in file.read_text(encoding="utf-8", errors="replace") for word in (SECRET, SECRET.lower(), "青杨岭", MARKER))]


def test_the_run_goes_through_01_on_the_miniature_and_shows_neither_restricted_text_nor_cases(whole, tmp_path, home):
    asked = params.load("hypnos", settings(whole, tmp_path, base_model(tmp_path / "base", "qwen2")))
    folder = paths.stage_folder("hypnos", "01_corpus")
    manifest.write_json(asked.model_dump(), folder / "parameters.json")
    done = subprocess.run([sys.executable, "-m", "hippo_utils.run", "--execute", "01_corpus", "hypnos"], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    questions = records.read("question", folder / "questions.parquet")
    assert MARKER in questions.set_index("benchmark").loc["private_cases", "references"][0] and (questions["benchmark"] == "aneqa").sum() > 3
    account = pd.read_csv(paths.figures("hypnos") / "table_corpus.csv").set_index("source")
    assert account.loc["anescorpus", "tokens_per_word"].max() < 5, "a Chinese character is a word, and its bytes are at most three tokens"
    assert pd.read_csv(paths.figures("hypnos") / "table_accounts.csv").set_index("source").loc["anesqa", "leaked"] == 1
    assert records.read("document", folder / "documents.parquet")["text"].str.contains(SECRET).all(), "the test would look for nothing"
    assert not nowhere("hypnos") and "may not be redistributed" in done.stdout
    assert command.main(["publishable", "hypnos"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_run_goes_from_01_to_07_on_the_miniature_and_shows_neither_restricted_text_nor_cases(whole, tmp_path, home):
    told = []

    def content(body):
        text = body["messages"][-1]["content"]
        told.append(text)
        if "请打分" in text:
            return json.dumps(dict.fromkeys(("fluency", "relevance", "completeness", "proficiency"), 3))
        return verdict(body) if "<answer " in text else anesthesia(body)

    with serving(content=content) as server:
        small = ["evaluation.limit=8", "evaluation.baselines=[]", "evaluation.open_ended.benchmarks=[aneqa, private_cases]", "evaluation.open_ended.limit=2",
                 "evaluation.open_ended.tokens=8", "evaluation.open_ended.sheet=2", "evaluation.open_ended.safety=2",
                 f"evaluation.open_ended.endpoint.base_url={server.url}", "evaluation.open_ended.endpoint.key_variable=WRITER_KEY", "evaluation.precision=float32", "evaluation.allow_truncation=true", "evaluation.sensitivity.limit=2", "ablations.resamples=100",
                 "calibration.resamples=100", "instruction.sft.epochs=1", "instruction.validation=20", "instruction.selfinstruct.draws=8",
                 "instruction.selfinstruct.topics=[丙泊酚, 困难气道, 局麻药中毒]", *(f"instruction.selfinstruct.endpoints.{name}.{key}={value}" for name in ("gpt", "claude")
                 for key, value in (("base_url", server.url), ("key_variable", "WRITER_KEY"))), *settings(whole, tmp_path, base_model(tmp_path / "base", "qwen2"))]
        done = subprocess.run([sys.executable, "-m", "hippo_utils.run", "hypnos", *(word for setting in small for word in ("--set", setting))],
                              capture_output=True, text=True, cwd=paths.ROOT, env=os.environ | {"WRITER_KEY": "k", "HIPPO_HOME": str(home)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert all(manifest.read("hypnos", stage) for stage in manifest.STAGES)
    main = pd.read_csv(paths.figures("hypnos") / "table_main.csv")
    assert set(HYPNOS.evaluation.stages) <= set(main["stages"])
    generated = records.read("generated", paths.stage_folder("hypnos", "03_instruction") / "generated.parquet")
    assert set(generated["generator"]) == {"gpt", "claude"} and len(generated) == 2 * 3 * 8
    judged = pd.read_csv(paths.figures("hypnos") / "table_answers_judged.csv")
    assert set(judged["benchmark"]) == {"aneqa"} and "private_cases" in set(pd.read_csv(paths.figures("hypnos") / "table_answers.csv")["benchmark"])
    assert len(told) > 20 and not any("青杨岭" in text or MARKER in text for text in told), "no endpoint is told of a hospital's cases"
    assert not nowhere("hypnos") and command.main(["publishable", "hypnos"]) == 0
