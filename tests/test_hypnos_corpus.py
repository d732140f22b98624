"""Chinese in the corpus room: characters are counted, marks and widths are one, no word of the text is lost; English stays as it was."""

import pandas as pd
import pytest

from hippo_utils import chinese, params, paths, records
from hippo_utils.corpus import accounts, cleaning, contamination, deduplication, sources, streams
from hippo_utils.miniworld.anesthesia import documents as written
from hippo_utils.miniworld.anesthesia import exams, pairs
from hippo_utils.miniworld.anesthesia import world as w

WORLD = w.load_world(0, 60)
FASTING = "麻醉前应禁食八小时，禁饮两小时，以减少误吸的风险，并评估气道。"


def documents(*texts: str) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"d{number}" for number in range(len(texts))], "source": "here", "licence": "CC BY 4.0", "text": texts,
                         "fact_ids": [[] for _ in texts]})


def cleaned(text: str) -> str:
    return cleaning.clean(documents(text), 0, "document", "zh")[0]["text"].iloc[0]


# --- cleaning --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rule, before, after", [
    ("unicode form (NFKC)", "ＡＳＡ３级患者用丙泊酚２ｍｇ／ｋｇ静注,缓慢(静脉).", "ASA3级患者用丙泊酚2mg/kg静注，缓慢（静脉）."),
    ("control characters", "丙泊\u200b酚\ufeff可用。", "丙泊酚可用。"),
    ("URLs", "详见https://www.example.org/a?b=1，然后禁食。", "详见，然后禁食。"),
    ("boilerplate sentences", "版权所有，未经授权不得转载。丙泊酚起效快。点击此处下载全文！", "丙泊酚起效快。"),
    ("superfluous words", "您好，感谢您的咨询！术前应禁食。希望我的回答对您有帮助，祝您健康。", "术前应禁食。"),
    ("repeated sentences", "丙泊酚起效快。丙泊酚起效快。作用短。", "丙泊酚起效快。作用短。"),
    ("repeated lines", "丙泊酚起效快\n丙泊酚起效快\n\n作用短", "丙泊酚起效快\n\n作用短"),
    ("spaces", " 丙泊酚 起效 快 。 用 5 mg  。", "丙泊酚起效快。用 5 mg 。"),
])
def test_each_rule_works_on_chinese_and_is_the_only_one_blamed(rule, before, after):
    kept, counts, changes = cleaning.clean(documents(before), 1, "document", "zh")
    assert kept["text"].tolist() == [after]
    assert rule in set(changes["rule"]) <= {rule, "spaces"} and counts.set_index("rule").loc[rule, "changed"] == 1


@pytest.mark.parametrize("text", [
    FASTING, "血小板150×10⁹/L，体重指数25 kg/m²，1½片。", "步骤：①2 mg静脉注射；②0.5 mg追加；⒊3 mg维持……", "他说：“先禁食。”然后离开。", "Propofol（丙泊酚）2.5 mg/kg, i.v.\n\n- 缓慢\n- 监测",
    "您的咨询很重要的一点是：术前必须停用华法林五天，改用低分子肝素桥接，并在手术当天早晨复查凝血功能，希望您遵照执行。",
    "病人扫描二维码登记后进入手术室由麻醉医师再次核对身份和手术部位并确认禁食禁饮时间然后建立静脉通路连接监护仪给氧去氮后开始诱导插管确认位置"])
def test_chinese_that_is_clean_stays_byte_identical(text):
    """A number in a circle is no digit of a dose, a sentence that says something is no leave-taking, text without marks is no boilerplate."""
    assert cleaned(text) == text


def test_an_address_takes_nothing_of_the_sentence_behind_it():
    assert cleaned("见www.example.org/x 麻醉前禁食八小时。") == "见麻醉前禁食八小时。"
    assert cleaning.clean(documents("见www.example.org/x麻醉 end"), 0)[0]["text"].iloc[0] == "见 end", "in English text an address ends with a space"


def test_length_counts_characters_and_no_marks():
    assert cleaning.length("孕妇禁用。可致畸！") == 7 and cleaning.length("麻醉前禁食 8 小时 of ASA3") == 10
    assert cleaning.length("Dose：１０ mg") == 2, "text without Chinese characters is counted as before"
    kept, _, changes = cleaning.clean(documents(FASTING, "禁食。", "术前禁食八小时，禁饮"), 10, "document", "zh")
    assert kept["id"].tolist() == ["d0"] and changes["rule"].tolist() == [cleaning.TOO_SHORT] * 2


@pytest.mark.parametrize("text, dropped", [
    (FASTING, False), ("丙泊酚Propofol与芬太尼Fentanyl合用时应减量并监测呼吸抑制的发生。", False), ("禁食。", False),
    ("Propofol lowers the systemic vascular resistance and the blood pressure falls.", True),
    ("麻酔の前には八時間の絶食が必要であり、誤嚥の危険を減らすことができます。", True), ("ASA 3: 5 mg, 10 mg; 0.5 mg/kg.", False)])
def test_a_chinese_corpus_holds_chinese(text, dropped):
    """Drug names in Latin letters do not make a text English; kana make it Japanese; what is too short is not judged."""
    assert (len(cleaning.clean(documents(text), 1, "document", "zh")[0]) == 0) == dropped


def test_what_the_chinese_world_writes_needs_no_cleaning_and_gets_no_space():
    texts = pd.DataFrame(written.anesthesia(WORLD, 80, 0) + written.base(WORLD, 80, 0))
    asked = pd.DataFrame(pairs.seed_tasks(WORLD, 60, 0))
    kept, counts, changes = cleaning.clean(texts, 12, "document", "zh")
    assert changes[changes["rule"] != "spaces"].empty and len(kept) == len(texts)
    kept, _, changes = cleaning.clean(asked, 12, "instruction", "zh")
    assert changes.empty and kept.equals(asked) and not asked["completion"].str.startswith(" ").any()


def test_cleaning_chinese_twice_changes_nothing_more():
    dirty = documents(*[f"{text} 详见 www.example.org/x 。\n{text}ＡＳＡ３级 , 您好，感谢您的咨询！" for text in pd.DataFrame(written.anesthesia(WORLD, 40, 1))["text"]])
    once, _, changes = cleaning.clean(dirty, 1, "document", "zh")
    assert {"unicode form (NFKC)", "URLs", "superfluous words"} <= set(changes["rule"])
    assert cleaning.clean(once, 1, "document", "zh")[2].empty


# --- duplicates, contamination, accounts -------------------------------------------------------------------------------

def test_planted_copies_of_chinese_texts_are_found_at_the_threshold():
    texts = pd.DataFrame(written.anesthesia(WORLD, 60, 0) + written.medicine(WORLD, 40, 0))
    table = deduplication.planted(texts, 0.8, seed=1, most=80).set_index("range")
    assert table["planted"].sum() == 80 and (table["precision"] == 1).all()
    ranges = [name for name in table.index if name == "copy" or float(name[1:4]) >= 0.8]
    assert len(ranges) >= 3 and table.loc[ranges, "planted"].sum() > 30, "the copies lie around the threshold, not far from it"
    assert (table.loc[ranges, "recall"] > 0.95).all()


def exam(*questions: str, options: list[str] = ()) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"q{n}" for n in range(len(questions))], "benchmark": "anecq", "group": "held_out", "context": "", "question": questions,
                         "options": [list(options)] * len(questions)})


@pytest.mark.parametrize("leak", ["ＡＳＡ３级病人静脉注射丙泊酚2.5mg/kg后最常见的不良反应是什么？", "ASA 3级病人 静脉注射 丙泊酚 2.5 mg/kg 后，最常见的不良反应是什么?",
                                  "前文。asa3级病人静脉注射丙泊酚２．５ｍｇ／ｋｇ后最常见的不良反应是什么"], ids=["width", "spacing", "case and marks"])
def test_a_chinese_question_is_found_in_whatever_width_and_spacing(leak):
    asked = exam("ASA3级病人静脉注射丙泊酚2.5 mg/kg后最常见的不良反应是什么？")
    found = contamination.overlaps(documents(FASTING, leak), asked, 8)
    assert found[["text_id", "score"]].values.tolist() == [["d1", 1.0]]
    other = leak.replace("2.5", "0.5").replace("２．５", "0.5")
    assert contamination.overlaps(documents(other), asked, 8)["score"].iloc[0] < 1, "another dose is another question"


def test_a_short_chinese_question_counts_as_leaked_only_with_its_options():
    asked = exam("首选药是？", options=["丙泊酚 2 mg", "依托咪酯", "氯胺酮"])
    texts = documents("首选药是丙泊酚。", "首选药是？A.氯胺酮 B.丙泊酚２ｍｇ C.依托咪酯")
    pairs = contamination.compare(texts, contamination.index(asked, 8), 0.8)[1]
    assert pairs["text_id"].tolist() == ["d1"]


def test_every_kind_of_planted_leak_of_the_chinese_exam_is_found():
    items = pd.DataFrame(exams.anecq(WORLD, 0))
    texts = pd.DataFrame(written.anesthesia(WORLD, 60, 0))
    table = contamination.planted(items[items["split"] == "test"], texts, 13, 0.8, seed=1, most=60)
    assert (table["recall"] == 1).all() and (table["planted"] == 60).all()


def test_words_of_chinese_texts_are_characters_in_the_accounts(tmp_path):
    from hippo_utils.corpus import tokenizer
    folder = tokenizer.train([FASTING * 20], 300, tmp_path / "t")
    row = accounts.account(documents(FASTING), folder, "documents").iloc[0]
    assert row["words"] == len(chinese.tokens(FASTING)) == 27 and row["tokens_per_word"] < 10


def test_files_are_cleaned_and_audited_in_chinese_by_several_processes(tmp_path):
    asked = exam("ASA3级病人静脉注射丙泊酚2.5 mg/kg后最常见的不良反应是什么？")
    with streams.Writer(tmp_path / "raw.parquet", records.SCHEMAS["document"]) as out:
        out.write(documents(FASTING, "版权所有。丙泊酚可用于全身麻醉的诱导。"))
        out.write(documents(asked["question"][0].replace("3", "３")).assign(id="leak"))
    cleaning.clean_file(tmp_path / "raw.parquet", tmp_path / "c.parquet", tmp_path / "log.parquet", kind="document", minimum_words=5, language="zh", processes=2)
    assert records.read("document", tmp_path / "c.parquet")["text"].tolist() == [FASTING, "丙泊酚可用于全身麻醉的诱导。", asked["question"][0]]
    found, leaked = contamination.audit_files([tmp_path / "c.parquet"], asked, 8, threshold=0.8, processes=2, decontaminate=["here"])
    assert found["decision"].tolist() == [contamination.REMOVED] and leaked["text_id"].tolist() == ["leak"]


# --- English -----------------------------------------------------------------------------------------------------------

def test_english_tables_of_the_reference_run_are_what_they_were():
    """Cleaning and contamination of mini_llama's documents, instructions and answers to judge, counted again, are the committed counts."""
    settings = params.load("mini_llama")
    world = sources.world(settings.corpus, settings.seed)
    made = {"document": sources.build_documents(settings.corpus, world, settings.seed), "instruction": sources.build_instructions(settings.corpus, world, settings.seed),
            "candidates": sources.build_candidates(settings.corpus, world, settings.seed)}
    kept, counts, _ = zip(*(cleaning.clean(rows, settings.corpus.minimum_words, kind) for kind, rows in made.items()))
    committed = pd.read_csv(paths.ROOT / "figures/reference/mini_llama/table_cleaning.csv")
    counts = pd.concat(counts, ignore_index=True)
    assert counts.equals(committed[committed["source"].isin(counts["source"])].reset_index(drop=True))
    items = sources.build_items(settings.corpus, world, settings.seed)
    test = items[items["split"] == "test"]
    questions = contamination.index(test, settings.corpus.contamination_ngram)
    assert questions.words is contamination.words
    taught = [rows[rows["split"] == "train"] if "split" in rows else rows for rows in kept]
    best = [contamination.compare(accounts.as_text(rows), questions, settings.corpus.contamination_threshold)[0] for rows in taught]
    sweep = contamination.sweep(contamination._audit(best, test, settings.corpus.decontaminate), test)
    assert sweep.equals(pd.read_csv(paths.ROOT / "figures/reference/mini_llama/table_contamination.csv"))


def test_the_tokens_of_a_chinese_text_are_shown_without_broken_characters(tmp_path):
    from hippo_utils.corpus import tokenizer
    loaded = tokenizer.load(tokenizer.train(["丙泊酚用于诱导。"] * 40, 300, tmp_path))
    text = "痉挛时停用丙泊酚。"
    shown = tokenizer.pieces(text, loaded, most=200)
    assert "".join(piece.split(" (")[0] for piece in shown) == text and "\ufffd" not in "".join(shown)
    assert any(piece.startswith("痉 (") for piece in shown), "a character of several tokens says so"
