"""The paper's data sets, read from a mirror in miniature: every source becomes records, and what is wrong with a file is one sentence."""

import json
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest
from miniatures.make import ROWS, SECRET, base_model, mirror

from hippo_utils import manifest, params, paths, records
from hippo_utils.corpus import __main__ as command
from hippo_utils.corpus import contamination, hub, licences, sources
from hippo_utils.manifest import StageError

LLAMA = params.load("hippo_llama")
HYPNOS = params.load("hypnos")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
def own(whole, tmp_path):
    """A mirror of the test's own, to break."""
    return shutil.copytree(whole, tmp_path / "mirror")


def corpus(folder, **changes) -> params.Corpus:
    return LLAMA.corpus.model_copy(update={"data_root": str(folder)} | changes)


def read(name: str, folder, quarantine: list | None = None) -> list[dict]:
    source = hub.catalogue()[name]
    return list(hub.stream(source, corpus(folder), None, 0, quarantine))


# --- the catalogue ---------------------------------------------------------------------------------------------------

def test_the_paper_runs_find_every_source_and_every_entry_says_what_one_must_know():
    used = hub.used(LLAMA.corpus) + hub.used(HYPNOS.corpus)
    assert {source.name for source in used} == set(hub.catalogue()), "a source that no params file uses"
    for source in used:
        assert source.reader in hub.READERS and source.kind in records.SCHEMAS and set(source.columns.values()) <= {"text", "integer", "struct", "list", "optional"}
        assert source.rights and source.known and source.citation and source.hub.count("/") == 1


def test_the_rows_add_up_to_the_papers_sums():
    rows = {source.name: source.holds["rows"] for source in hub.catalogue().values()}
    evaluation = ["medmcqa_train", "medqa_train", "pubmedqa_train"]
    assert sum(rows[name] for name in evaluation) == 404_269
    assert sum(rows[name] for name in LLAMA.corpus.instructions if name not in evaluation) == 292_049


def test_a_run_outside_its_licences_stops_and_says_which():
    licences.check(LLAMA.corpus)
    with pytest.raises(StageError, match=r"would train on pmc_patients \(CC-BY-NC-SA-4.0\)\. "):
        licences.check(LLAMA.corpus.model_copy(update={"licences": [label for label in LLAMA.corpus.licences if "NC" not in label]}))
    default = params.Corpus.model_fields["licences"].default
    with pytest.raises(StageError, match="healthcaremagic"):
        licences.check(LLAMA.corpus.model_copy(update={"licences": default}))


# --- records ---------------------------------------------------------------------------------------------------------

def test_every_source_becomes_records_of_its_schema(whole, tmp_path):
    quarantine = []
    built = {kind: records.read(kind, sources.write(kind, corpus(whole), None, 0, tmp_path / kind, quarantine)) for kind in ("document", "instruction", "candidates")}
    built["item"] = sources.build_items(corpus(whole), None, 0, quarantine)
    for kind, frame in built.items():
        assert len(records.to_table(kind, frame)) == len(frame)
    assert set(built["document"]["source"]) | set(built["instruction"]["source"]) | set(built["candidates"]["source"]) | set(built["item"]["benchmark"]) == {source.name for source in hub.used(LLAMA.corpus)}
    assert built["instruction"]["prompt"].str.endswith("\nAnswer:").all() and built["instruction"]["completion"].str.match(r" \S").all()
    unfit = pd.DataFrame(quarantine)
    assert dict(unfit.groupby("source").size()) == {"guidelines": 1, "pmc_patients": 1, "pubmedqa_contexts": 1, "medical_flashcards": 1, "medicationqa": 2, "medmcqa_train": 1,
                                                    "medqa_train": 1, "pubmedqa_train": 1, "icliniq": 1, "medmcqa": 1, "medqa": 1}
    assert unfit["reason"].tolist()[:3] == ["clean_text is missing", "patient is empty", "context.contexts holds no text"]


def test_only_the_rows_of_a_source_are_taken_from_a_shared_file(whole):
    assert len(read("umls", whole)) == len(read("umls_relations", whole)) == ROWS["umls"]


def test_the_number_of_rows_can_be_limited_and_the_order_of_the_parameters_does_not_matter(whole, tmp_path):
    for name, asked in (("one", {"guidelines": 7, "pmc_patients": 3}), ("other", {"pmc_patients": 3, "guidelines": 7})):
        sources.write("document", corpus(whole, documents=asked), None, 0, tmp_path / name, [])
    assert records.read("document", tmp_path / "one")["source"].value_counts().to_dict() == {"guidelines": 7, "pmc_patients": 3}
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_source_that_breaks_off_leaves_no_file(own, tmp_path):
    (own / ABSTRACTS).write_bytes(b"PAR1 not much more")
    with pytest.raises(StageError, match="pubmedqa_contexts"):
        sources.write("document", corpus(own), None, 0, tmp_path / "d.parquet", [])
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == []


def test_a_limited_number_of_rows_is_drawn_from_the_whole_file_by_the_seed(whole):
    source, c = hub.catalogue()["guidelines"], corpus(whole)
    everything = [row["text"] for row in read("guidelines", whole)]
    drawn, other = ([row["text"] for row in hub.stream(source, c, 12, seed, None)] for seed in (0, 1))
    assert len(drawn) == 12 and drawn != everything[:12] and drawn != other, "the head of a file is not a sample of it"
    assert drawn == [text for text in everything if text in drawn] == [row["text"] for row in hub.stream(source, c, 12, 0, [])]


def test_where_every_row_has_the_same_instruction_one_without_an_input_asks_nothing(own):
    rows = [{"instruction": "Answer this question truthfully", "input": f"What is {n}?" if n else " ", "output": "A number."} for n in range(60)]
    (own / FLASHCARDS).write_text(json.dumps(rows))
    quarantine = []
    assert len(read("medical_flashcards", own, quarantine)) == 59 and [row["reason"] for row in quarantine] == ["input is empty"]
    assert any(row["prompt"].count("\n") == 1 for row in read("open_platypus", own)), "there the instruction alone may ask"


@pytest.mark.parametrize("question, needed", [
    ("A photomicrograph of the lesion is obtained.", True), ("His skin is affected (see image).", True), ("The image shows the lesion.", True), ("The figure below gives the curve.", True),
    ("An ECG obtained on admission is shown.", True), ("An x-ray of the chest is shown below.", True), ("Findings are as shown in the accompanying CT scan.", True),
    ("Laboratory studies are shown below:", False), ("Her results are shown in the table.", False), ("ECG shows ST elevation in V2.", False), ("He is worried about his body image.", False),
    ("CT scan of the abdomen is normal and laboratory studies are shown below.", False), ("Fetal heart tracing shows late decelerations.", False), ("Which drug has been shown to reduce mortality?", False)])
def test_a_question_needs_a_picture_where_it_names_one_that_is_shown(question, needed):
    row = {"question": question, "options": {"A": "x", "B": "y"}, "answer_idx": "A"}
    assert hub.READERS["usmle"](hub.catalogue()["usmle_step1"], row)["subject"] == ("needs a picture" if needed else "text alone")


def test_exam_rows_keep_question_options_and_answer(whole):
    raw = pq.read_table(whole / "openlifescienceai/medmcqa/data/validation-00000-of-00001.parquet").to_pylist()
    made = [row for row in read("medmcqa", whole)]
    assert [row["question"] for row in made] == [row["question"] for row in raw]
    assert [row["options"][row["answer"]] for row in made] == [row[("opa", "opb", "opc", "opd")[row["cop"]]] for row in raw]
    instruction, item = read("medqa_train", whole)[0], read("medqa", whole)[0]
    assert instruction["prompt"].startswith("Read the case and choose the right answer.\nQuestion: ") and "(B) " + instruction["completion"].strip() in instruction["prompt"]
    assert item["answer"] == 1 and len(item["options"]) == 4


def test_options_that_are_none_are_dropped_and_pictures_are_flagged(whole):
    made = pd.DataFrame(read("usmle_step2", whole))
    assert set(made["options"].map(len)) == {5, 6}
    assert made["subject"].value_counts().to_dict() == {"text alone": ROWS["test"] - 1, "needs a picture": 1}
    assert made["subject"][2] == "needs a picture"


def test_pubmedqa_takes_all_items_or_the_official_ones(whole, tmp_path):
    everything = sources.build_items(corpus(whole, benchmarks=["pubmedqa"]), None, 0)
    assert len(everything) == ROWS["test"] and set(everything["split"]) == {"test"}
    ids = everything["cluster"].tolist()[:5]
    (tmp_path / "ids.json").write_text(json.dumps(dict.fromkeys(ids, "yes")))
    official = sources.build_items(corpus(whole, benchmarks=["pubmedqa"], pubmedqa_test=str(tmp_path / "ids.json")), None, 0)
    assert official[official["split"] == "test"]["cluster"].tolist() == ids and len(official) == ROWS["test"]
    (tmp_path / "ids.json").write_text('{"77": "no"}')
    with pytest.raises(StageError, match="1 ids that pubmedqa does not have, the first is 77"):
        sources.build_items(corpus(whole, benchmarks=["pubmedqa"], pubmedqa_test=str(tmp_path / "ids.json")), None, 0)


def test_consultations_are_divided_by_question_whatever_the_order(whole):
    splits = {row["prompt"]: row["split"] for row in read("icliniq", whole)}
    assert set(splits.values()) == {"train", "test"}
    assert read("icliniq", whole)[0]["authors"] == ["clinician", "chatgpt", "chatdoctor"]


# --- bad files -------------------------------------------------------------------------------------------------------

GUIDELINES, FLASHCARDS = "epfl-llm/guidelines/open_guidelines.jsonl", "medalpaca/medical_meadow_medical_flashcards/medical_meadow_wikidoc_medical_flashcards.json"
ABSTRACTS, PATIENTS = "qiaojin/PubMedQA/pqa_artificial/train-00000-of-00001.parquet", "zhengyun21/PMC-Patients/PMC-Patients.csv"


def cut(file):
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


def retyped(file):
    frame = pq.read_table(file).to_pandas()
    frame.assign(pubid=frame["pubid"].astype(str)).to_parquet(file)


@pytest.mark.parametrize("name, file, damage, words", [
    ("guidelines", GUIDELINES, lambda f: f.unlink(), "has no file open_guidelines.jsonl; on a machine that reaches the hub, run `python -m hippo_utils.corpus fetch"),
    ("guidelines", GUIDELINES, lambda f: f.write_bytes(b""), "is empty; delete it and get it again"),
    ("guidelines", GUIDELINES, lambda f: f.write_text("<!DOCTYPE html><html>log in</html>"), r"holds a web page \(HTML\) instead of data"),
    ("guidelines", GUIDELINES, lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "only a pointer to large file storage"),
    ("guidelines", GUIDELINES, cut, "is cut off in line"),
    ("guidelines", GUIDELINES, lambda f: f.write_text('{"text": "x"}\n'), "has no column clean_text; it has text"),
    ("guidelines", GUIDELINES, lambda f: f.write_text('{"clean_text": 5}\n' * 3), "3 of 3 rows do not fit .*clean_text must be text and is int"),
    ("medical_flashcards", FLASHCARDS, cut, "is cut off or no JSON behind row"),
    ("medical_flashcards", FLASHCARDS, lambda f: f.write_text('[{"instruction": "a"}]'), "has no column input, output; it has instruction"),
    ("medical_flashcards", FLASHCARDS, lambda f: f.write_text("[]"), "holds no row"),
    ("medical_flashcards", FLASHCARDS, lambda f: f.write_text("hello"), "is no JSON array"),
    ("pubmedqa_contexts", ABSTRACTS, cut, "is damaged or cut off"),
    ("pubmedqa_contexts", ABSTRACTS, retyped, "column pubid of .* must be integer and is (large_)?string"),
    ("medical_flashcards", FLASHCARDS, lambda f: f.write_text('{\n "data": [\n  {"instruction": "a"}\n ]\n}\n'), "holds one JSON object over several lines, expected an array"),
    ("pmc_patients", PATIENTS, cut, "is cut off in row 30"),
    ("pmc_patients", PATIENTS, lambda f: f.write_text(f.read_text()[:-30]), "is cut off or no CSV near line"),
    ("pmc_patients", PATIENTS, lambda f: f.write_text("a,b\n1,2\n"), "has no column patient_uid, patient; it has a, b"),
])
def test_a_bad_file_is_one_sentence_that_names_the_source_and_what_to_do(own, name, file, damage, words):
    damage(own / file)
    with pytest.raises(StageError, match=words) as error:
        read(name, own)
    assert str(error.value).startswith(f"{name}: ") and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_too_many_unusable_rows_stop_the_run(own):
    rows = [json.loads(line) for line in (own / GUIDELINES).read_text().splitlines()]
    (own / GUIDELINES).write_text("".join(json.dumps(row | ({"clean_text": " "} if n < 5 else {})) + "\n" for n, row in enumerate(rows)))
    with pytest.raises(StageError, match=r"guidelines: 6 of 60 rows do not fit \(most often: clean_text is empty\); at most a share of 0.02"):
        read("guidelines", own)
    assert len(list(hub.stream(hub.catalogue()["guidelines"], corpus(own, quarantine_share=0.1), None, 0, None))) == 54


def test_a_large_json_array_is_read_piece_by_piece(own):
    rows = [{"instruction": f"Asked {n}", "input": '"]}, {[' * (n % 7 + 1), "output": "x" * 997} for n in range(3000)]  # three pieces, brackets inside texts
    (own / FLASHCARDS).write_text(json.dumps(rows))
    made = read("medical_flashcards", own)
    assert len(made) == 3000 and made[1999]["prompt"].startswith("Asked 1999")
    (own / FLASHCARDS).write_text("".join(json.dumps(row) + "\n" for row in rows))  # JSON lines under the name .json
    assert read("medical_flashcards", own) == made


# --- the lock and the hub --------------------------------------------------------------------------------------------

def test_a_mirror_is_locked_and_a_changed_file_is_refused(own, capsys):
    assert command.main(["fetch", "hippo_llama", "--set", f"corpus.data_root={own}"]) == 0
    lock = json.loads((own / hub.LOCK).read_text())
    assert lock["epfl-llm/guidelines"]["files"]["open_guidelines.jsonl"]["sha256"] == manifest.file_hash(own / GUIDELINES)
    assert set(lock) == {source.hub for source in hub.used(LLAMA.corpus)}
    read("guidelines", own)
    (own / GUIDELINES).write_text((own / GUIDELINES).read_text().replace("twice", "never", 1))
    with pytest.raises(StageError, match="guidelines: .* is not the file that lock.json names .*fetch PARAMS"):
        read("guidelines", own)
    assert command.main(["fetch", "hippo_llama", "--set", f"corpus.data_root={own}"]) == 2
    assert "is not the file that lock.json names" in capsys.readouterr().err


@pytest.fixture
def served(whole, monkeypatch):
    """The mirror as a hub; a file named in the set that is returned cannot be downloaded."""
    import huggingface_hub
    refused = set()

    class Hub:
        def dataset_info(self, name, revision):
            return type("Info", (), {"sha": revision if "@" in revision else f"{name}@{revision}"})

        def list_repo_files(self, name, repo_type, revision):
            return ["README.md", *sorted(str(file.relative_to(whole / name)) for file in (whole / name).rglob("*") if file.is_file())]

    def download(name, file, repo_type, revision, local_dir):
        if file in refused:
            raise ConnectionError("reset by peer")
        (local_dir / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(whole / name / file, local_dir / file)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return refused


def test_fetch_brings_what_is_missing_at_one_revision(whole, served, tmp_path):
    assert command.main(["fetch", "hippo_llama", "--set", f"corpus.data_root={tmp_path}/here"]) == 0
    lock = json.loads((tmp_path / "here" / hub.LOCK).read_text())
    assert lock["openlifescienceai/medmcqa"]["revision"] == "openlifescienceai/medmcqa@91c6572c454088bf71b679ad90aa8dffcd0d5868"
    assert not list((tmp_path / "here").rglob("README.md")), "only what is read is fetched"
    assert len(read("guidelines", tmp_path / "here")) == ROWS["guidelines"] - 1
    assert not hub.unlocked(corpus(tmp_path / "here")) and hub.unlocked(corpus(whole)) == sorted(lock)
    for name in ("medmcqa", "medqa"):  # test items and development items lie in two files of one data set
        made = hub.items(hub.catalogue()[name], corpus(tmp_path / "here"), 0, [])
        assert {row["split"] for row in made} == {"test", "development"}


def test_a_fetch_that_breaks_off_is_known_to_be_incomplete_and_goes_on(whole, served, tmp_path, capsys):
    here = ["fetch", "hypnos", "--set", f"corpus.data_root={tmp_path}/here"]
    served.add("AnesCorpus_zh-00001-of-00002.parquet")
    assert command.main(here) == 2 and "anescorpus: MiliLab/AnesCorpus cannot be fetched from the hub (reset by peer)" in capsys.readouterr().err
    with pytest.raises(StageError, match=r"anescorpus: .* does not hold what lock.json names \(AnesCorpus_zh-00001-of-00002.parquet is missing; AnesCorpus_zh-00000-of-00002"):
        read("anescorpus", tmp_path / "here")
    served.clear()
    assert command.main(here) == 0
    assert len(read("anescorpus", tmp_path / "here")) == ROWS["anescorpus"]


def test_a_locked_file_that_is_gone_and_one_that_no_lock_names_are_refused_until_fetched(served, own, capsys):
    shard, extra = own / "MiliLab/AnesCorpus/AnesCorpus_zh-00001-of-00002.parquet", own / "MiliLab/AnesCorpus/AnesCorpus_zh-00002-of-00003.parquet"
    here = ["fetch", "hypnos", "--set", f"corpus.data_root={own}"]
    assert command.main(here) == 0
    extra.write_bytes(shard.read_bytes())
    with pytest.raises(StageError, match="AnesCorpus_zh-00002-of-00003.parquet is not locked.*or delete a file that does not belong there"):
        read("anescorpus", own)
    extra.unlink()
    shard.unlink()
    with pytest.raises(StageError, match="AnesCorpus_zh-00001-of-00002.parquet is missing.*fetch PARAMS"):
        read("anescorpus", own)
    assert command.main(here) == 0 and len(read("anescorpus", own)) == ROWS["anescorpus"]


def test_a_hub_that_has_no_such_file_is_said_at_once(whole, served, tmp_path, monkeypatch, capsys):
    import dataclasses
    renamed = dataclasses.replace(hub.catalogue()["guidelines"], files=["renamed.jsonl"])
    monkeypatch.setattr(hub, "used", lambda corpus: [renamed])
    assert command.main(["fetch", "hippo_llama", "--set", f"corpus.data_root={tmp_path}/here"]) == 2
    said = capsys.readouterr().err
    assert re.match(r"error: guidelines: epfl-llm/guidelines at \S+ has no file renamed.jsonl; it has README.md, open_guidelines.jsonl. Correct files or revision", said) and said.count("\n") == 1


def test_neither_network_nor_mirror_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    class Gone:
        def dataset_info(self, name, revision):
            raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "HfApi", Gone)
    assert command.main(["fetch", "hippo_llama", "--set", f"corpus.data_root={tmp_path}/nowhere"]) == 2
    said = capsys.readouterr().err
    assert re.match(r"error: guidelines: epfl-llm/guidelines cannot be fetched from the hub \(Name or service not known\); run this on a machine that reaches it", said)
    assert said.count("\n") == 1 and not (tmp_path / "nowhere").exists()


# --- the whole stage -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def stage(whole, tmp_path_factory):
    """01_corpus of params/hippo_llama.yaml, executed on the miniature: (folder of the stage, folder of its figures, its log)."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIPPO_HOME", str(home))
        settings = params.load("hippo_llama", [f"corpus.data_root={whole}", f"pretraining.base={base_model(home / 'base')}", "threads=1"])
        folder, figures = paths.stage_folder(settings.run, "01_corpus"), paths.figures(settings.run)
        manifest.write_json(settings.model_dump(), folder / "parameters.json")
        done = subprocess.run([sys.executable, "-m", "hippo_utils.run", "--execute", "01_corpus", settings.run], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, figures, done.stdout


def test_the_paper_run_goes_through_01_on_the_miniature(stage):
    folder, figures, printed = stage
    made = json.loads((folder / "manifest.json").read_text())
    assert {"documents.parquet", "held_out.parquet", "instructions.parquet", "candidates.parquet", "items.parquet", "quarantine.parquet"} <= made["outputs"].keys()
    flow = pd.read_csv(figures / "table_accounts.csv").set_index("source")
    taken = ["too short", "wrong language", "nothing left", "exact copies", "near copies", "leaked", "held out"]
    assert (flow["read"] == flow["kept"] + flow[taken].sum(axis=1)).all(), "a row is kept, or a step says why not"
    assert flow.loc["guidelines", ["unusable", "too short", "wrong language", "exact copies", "near copies", "held out"]].tolist() == [1] * 6
    assert flow.loc["guidelines", "difference"] == ROWS["guidelines"] - 1 - 37_970 and flow.loc["medqa_train", "trainable"] < flow.loc["medqa_train", "tokens"]
    paper = pd.read_csv(figures / "table_beside_the_paper.csv").set_index("quantity")
    assert paper.loc["Evaluation Instructions, rows", "here"] == flow.loc[["medmcqa_train", "medqa_train", "pubmedqa_train"], "read"].sum()
    assert paper.loc["medqa, test items", ["published", "here", "difference"]].tolist() == [1273, ROWS["test"], ROWS["test"] - 1273]
    assert "not verified, because no lock names them" in printed and "91c6572c454088bf71b679ad90aa8dffcd0d5868 (not verified)" in (figures / "datasheet_items.md").read_text()
    found = pd.read_parquet(folder / "contamination.parquet")
    assert found.columns.tolist() == contamination.COLUMNS
    decided = found.set_index(["source", "item"])
    assert decided.loc[("genmedgpt", "medmcqa-000004"), ["decision", "rule", "text_id"]].tolist() == ["removed", "whole question", "genmedgpt-000005"]
    assert decided.loc[("icliniq", "medmcqa-000006"), "decision"] == "flagged", "the source is not one of those that the paper cleaned: the text stays, the item is marked"
    assert "genmedgpt-000005" not in set(records.read("instruction", folder / "instructions.parquet")["id"]) and flow.loc["genmedgpt", "leaked"] == 1
    assert {"datasheet_documents.md", "datasheet_instructions.md", "datasheet_items.md"} <= made["figures"].keys()
    assert manifest.file_hash(folder / "documents.parquet") in (figures / "datasheet_documents.md").read_text()
    account = pd.read_csv(figures / "table_corpus.csv")
    assert set(LLAMA.corpus.documents) <= set(account["source"]) and (account["tokens"] > 0).all()
    assert len(records.read("document", folder / "held_out.parquet")) > 0, "perplexity needs held-out documents of every source"


def test_text_that_may_not_be_redistributed_is_shown_nowhere(stage):
    folder, figures, printed = stage
    hidden = {name for name, source in hub.catalogue().items() if not source.redistribute}
    texts = records.read("document", folder / "documents.parquet")
    assert texts[texts["source"].isin(hidden)]["text"].str.contains(SECRET).mean() > 0.9, "the test would look for nothing"
    for file in [folder / "01_corpus.ipynb", *figures.iterdir()]:
        assert SECRET.lower() not in file.read_text(errors="replace").lower(), f"{file.name} shows text that may not be redistributed"
    assert "may not be redistributed" in printed


def test_the_check_before_publishing_finds_a_quotation_and_passes_what_01_shows(stage, monkeypatch, capsys):
    folder, figures, _ = stage
    monkeypatch.setenv("HIPPO_HOME", str(folder.parent.parent.parent))
    assert command.main(["publishable", "hippo_llama"]) == 0
    secret = records.read("instruction", folder / "instructions.parquet").set_index("source").loc["healthcaremagic", "completion"].iloc[0]
    for file, said in ((figures / "table_quoted.md", f"| x | {secret.upper()} |"), (folder / "quoted.ipynb", json.dumps({"cells": [{"outputs": [{"text": ["See:\n", secret]}]}]}))):
        file.write_text(said)
        assert command.main(["publishable", "hippo_llama"]) == 1
        assert f"{file.name} shows text of healthcaremagic, which may not be redistributed" in capsys.readouterr().out
        file.unlink()
    free = records.read("instruction", folder / "instructions.parquet").set_index("source").loc["wikidoc", "completion"].iloc[0]
    (figures / "table_free.md").write_text(free)
    assert command.main(["publishable", "hippo_llama"]) == 0
    (figures / "table_free.md").unlink()


@pytest.fixture(scope="module")
def trained(stage):
    """02 and 03 of the same run: their executed notebooks."""
    home = stage[0].parent.parent.parent
    settings = json.loads((stage[0] / "parameters.json").read_text())
    settings = params.load("hippo_llama", [f"corpus.data_root={settings['corpus']['data_root']}", f"pretraining.base={settings['pretraining']['base']}", "threads=1",
                                           "instruction.sft.epochs=0.5", "instruction.validation=20"])
    for name in ("02_pretraining", "03_instruction"):
        manifest.write_json(settings.model_dump(), home / "outputs" / settings.run / name / "parameters.json")
        done = subprocess.run([sys.executable, "-m", "hippo_utils.run", "--execute", name, settings.run], capture_output=True, text=True, cwd=paths.ROOT,
                              env=os.environ | {"HIPPO_HOME": str(home)})
        assert done.returncode == 0, done.stdout + done.stderr
    return [home / "outputs" / settings.run / name / f"{name}.ipynb" for name in ("01_corpus", "02_pretraining", "03_instruction")]


def quotations(text: str) -> set[tuple[str, ...]]:
    """The runs of eight words in a text. (What a model says in 02 and 03 is at most 16 tokens long; a single marked word may be its own.)"""
    words = re.findall(r"\w+", text.lower())
    return set(zip(*(words[start:] for start in range(8))))


def test_no_notebook_that_trains_on_restricted_text_quotes_it(stage, trained, monkeypatch):
    folder, figures, _ = stage
    hidden = {name for name, source in hub.catalogue().items() if not source.redistribute}
    restricted = set()
    for name in ("documents", "held_out", "instructions", "candidates", "items"):
        rows = pd.read_parquet(folder / f"{name}.parquet")
        rows = rows[rows["benchmark" if name == "items" else "source"].isin(hidden)]
        for column in {"text", "prompt", "completion", "question", "context", "answers"} & set(rows):
            for value in rows[column]:
                restricted |= quotations(value if isinstance(value, str) else " ".join(value))
    marked = sum(SECRET.lower() in words for words in restricted)
    assert marked > 10_000, "the test would look for nothing"
    for file in [*trained, *(file for file in figures.iterdir() if file.suffix in (".csv", ".md", ".svg"))]:
        assert not quotations(licences._said(file)) & restricted, f"{file.name} quotes text that may not be redistributed"
    assert "may not be redistributed" in licences._said(trained[1]) and "may not be redistributed" in licences._said(trained[2])
    monkeypatch.setenv("HIPPO_HOME", str(folder.parent.parent.parent))
    assert command.main(["publishable", "hippo_llama"]) == 0


@pytest.mark.parametrize("name, column", [("pubmedqa", "final_decision"), ("medqa", "answer_idx")])
def test_a_text_in_the_wrong_column_is_not_quoted_in_the_reason(own, name, column):
    source = hub.catalogue()[name]
    text = f"The patient, a teacher with {SECRET}, came back after two weeks."
    row = {wanted: "x" for wanted in source.columns} | {column: text, "options": {"A": "x", "B": "y"}, "context": {"contexts": ["x"]}, "pubid": 1}
    with pytest.raises(ValueError) as refused:
        hub.READERS[source.reader](source, row)
    assert column in str(refused.value) and SECRET not in str(refused.value) and f"a text of {len(text)} characters" in str(refused.value)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_miniature_base_is_a_base(tmp_path, family):
    from hippo_utils.training import models
    model, tokenizer = models.load_pretrained(str(base_model(tmp_path / family, family)))
    assert model.config.model_type == family and tokenizer.decode(tokenizer("A trial of 5 adults")["input_ids"]) == "A trial of 5 adults"
    assert models.answer(model, tokenizer, ["Question: x\nAnswer:"], 3)
