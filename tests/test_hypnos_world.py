"""The Chinese mini world's rules: one written form, who may learn what, what is true, and that an exam gives nothing away."""

import unicodedata
from collections import Counter
from functools import cache

import numpy as np
import pandas as pd
import pytest

from hippo_utils import chinese, records
from hippo_utils.miniworld import world as shared
from hippo_utils.miniworld.anesthesia import documents, exams, pairs, wording
from hippo_utils.miniworld.anesthesia import world as w

SEEDS = (0, 1)


@cache
def world(seed: int = 0, entities: int | None = None):
    return w.load_world(seed, entities)


@cache
def anecq(seed: int = 0) -> list[dict]:
    return exams.anecq(world(seed), seed)


@cache
def texts(seed: int) -> list[dict]:
    return documents.anesthesia(world(seed), 400, seed) + documents.medicine(world(seed), 300, seed)


@cache
def base(seed: int) -> list[dict]:
    return documents.base(world(seed), 800, seed)


@cache
def taught(seed: int) -> list[dict]:
    return pairs.general_pairs(world(seed), 400, seed) + pairs.anesthesia_pairs(world(seed), 500, seed) + pairs.seed_tasks(world(seed), 200, seed)


def of_group(seed: int, group: str) -> set[str]:
    return {name for name, found in world(seed).groups.items() if found == group}


# Chinese text

@pytest.mark.parametrize("raw, written", [
    ("ＡＳＡ３级", "ASA3级"), ("剂量１．５～２．５ｍｇ／ｋｇ", "剂量1.5~2.5mg/kg"), ("什么药?", "什么药？"), ("丙泊酚 与 氯胺酮", "丙泊酚与氯胺酮"),
    ("丙泊酚,依托咪酯", "丙泊酚，依托咪酯"), ("血小板100×10⁹/L", "血小板100×10⁹/L"), ("1.5~2.5 mg/kg", "1.5~2.5 mg/kg"), ("比值(TOF)0.9", "比值(TOF)0.9"),
])
def test_one_written_form(raw, written):
    assert chinese.normalise(raw) == written and chinese.normalise(written) == written


def test_characters_take_the_place_of_words():
    assert chinese.tokens("丙泊酚1.5mg/kg，ＡＢＣ") == ["丙", "泊", "酚", "1.5", "mg", "kg", "abc"]
    assert chinese.similarity("恶性高热的处理", "恶性高热的处理。") == 1.0 == chinese.similarity("ASA III级", "ＡＳＡ ＩＩＩ级")
    assert chinese.similarity("恶性高热的处理", "喉痉挛怎么办") == 0.0
    assert 0 < chinese.similarity("恶性高热的处理措施", "恶性高热的典型表现") < 0.7
    assert chinese.ngrams("丙", 3) == {("丙",)} and chinese.ngrams("", 3) == set()


# The tables

def test_tables_are_as_the_readme_says():
    seen = set()
    for kind, file in {**w.FILES, w.MEDICINE: "medicine.csv"}.items():
        table = pd.read_csv(w.FACTS / file, dtype=str, keep_default_na=False)
        assert tuple(table.columns) == shared.COLUMNS
        assert (table["source"] != "").all() and (table["verified"] != "").all() and table["second_reading"].str.contains("language model|\\d{4}").all()
        for row in table.to_dict("records"):
            assert row["entity"] not in row["value"], row  # the question would give its answer away
            assert len(row["value"]) <= 26 and "，" not in row["value"]
            assert row["value"] not in row["entity"] and row["value"].count("(") == row["value"].count(")"), row
            assert unicodedata.normalize("NFKC", row["value"]) == row["value"], row
        counts = table.groupby("entity")["attribute"].nunique()
        assert (counts >= 5).all(), counts[counts < 5]
        assert not seen & set(counts.index)
        seen |= set(counts.index)
        if kind == "agent":  # doses come as ranges or single values with a source that is meant
            assert table[table["attribute"] == "dose"]["source"].str.contains("说明书|指南|建议|米勒").all()
    assert len(world().groups) >= 60 and len({f.entity for f in world().general.values() if f.kind == w.MEDICINE}) >= 60


def test_what_is_also_true_names_known_entities_and_values_and_repeats_no_row():
    table = pd.read_csv(w.FACTS / "also_true.csv", dtype=str, keep_default_na=False)
    here = world()
    assert not table.duplicated().any()
    for entity, attribute, value in table.itertuples(index=False):
        assert entity in here.groups and any(value in fact.values for fact in here.facts.values() if fact.attribute == attribute)
        assert value not in w.true_values(here, entity, attribute), (entity, attribute, value)
        assert w.may_be_true(here, entity, attribute, value)


def test_a_damaged_table_is_refused_with_file_and_row(tmp_path):
    for file in w.FACTS.glob("*.csv"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with open(tmp_path / "events.csv", "a", encoding="utf-8") as table:
        table.write("喉痉挛,气道并发症,颜色,蓝,书,unverified,\n")
    with pytest.raises(ValueError, match=r"events\.csv, row 183: unknown attribute '颜色'"):
        w.load_world(0, folder=tmp_path)


def test_groups_are_whole_entities_in_the_shares_asked_for():
    for seed in SEEDS:
        for kind in w.FILES:
            names = [name for name in world(seed).groups if w.kind_of(world(seed), name) == kind]
            counts = Counter(world(seed).groups[name] for name in names)
            for group, share in zip(("seen", "held_out", "control"), (0.4, 0.4, 0.2)):
                assert abs(counts[group] - share * len(names)) <= 1
        assert not of_group(seed, "control") & {name for name in world(seed).groups
                                               if any(name != other and name in other for other in world(seed).groups)}
    assert world(0).groups != world(1).groups and len(world(0, 60).groups) == 60
    with pytest.raises(ValueError, match="entities were asked for"):
        w.load_world(0, 4000)


def test_values_that_look_alike():
    assert w.same_thing("静注肾上腺素", "静注去氧肾上腺素", False) and w.same_thing("闭角型青光眼", "急性闭角型青光眼", False)
    assert not w.same_thing("静注昂丹司琼", "静注钙剂", False)
    assert not w.same_thing("插管0.6 mg/kg", "插管0.5 mg/kg", True) and w.same_thing("首剂０.2mg", "首剂0.2 mg", True)
    here = world()
    assert w.may_be_true(here, "芬太尼", "adverse_effect", "椎管内给药后瘙痒")  # of its group of drugs
    assert w.may_be_true(here, "丙泊酚", "use", "快速顺序诱导插管") and not w.may_be_true(here, "丙泊酚", "use", "中和肝素")
    assert not w.may_be_true(here, "罗库溴铵", "class", "去极化肌松药")


# Training texts

def test_no_control_entity_is_in_any_training_text():
    for seed in SEEDS:
        everything = "\n".join([row["text"] for row in texts(seed) + base(seed)] + [row["prompt"] + row["completion"] for row in taught(seed)])
        for name in of_group(seed, "control"):
            assert name not in everything, name
        used = {key for row in texts(seed) + taught(seed) for key in row["fact_ids"]}
        assert used <= world(seed).facts.keys() | world(seed).general.keys()
        assert not of_group(seed, "control") & {world(seed).facts[key].entity for key in used if key in world(seed).facts}


def test_pairs_are_about_seen_entities_or_general_medicine_and_have_one_right_option():
    for seed in SEEDS:
        here = world(seed)
        held_out = {name for name in of_group(seed, "held_out") if not any(name != other and name in other for other in here.groups)}
        for row in taught(seed):
            if row["source"] != "zh_general_pairs":
                assert {here.groups[here.facts[key].entity] for key in row["fact_ids"]} == {"seen"}
                assert not any(name in row["prompt"] + row["completion"] for name in held_out), row
            fact = {**here.facts, **here.general}[row["fact_ids"][0]]
            options = [line[3:] for line in row["prompt"].split("\n")[1:] if line[1:3] == ". "]
            if options:
                assert len(options) == 4
                assert [o for o in options if w.may_be_true(here, fact.entity, fact.attribute, o)] == [row["completion"][:-1]]
            assert row["prompt"].endswith("\n答：") and row["completion"].endswith("。") and any(v in row["completion"] for v in fact.values)
        assert {row["source"] for row in taught(seed)} == {"zh_general_pairs", "zh_anesthesia_pairs", "zh_seed_tasks"}
        records.to_table("instruction", taught(seed))


def test_documents_state_the_facts_they_name():
    for row in texts(0):
        facts = [{**world().facts, **world().general}[key] for key in row["fact_ids"]]
        assert len({fact.entity for fact in facts}) == 1 and facts[0].entity in row["text"]
        for fact in facts:
            assert any(value in row["text"] for value in fact.values), (row, fact)
        assert chinese.normalise(row["text"]) == row["text"]
    records.to_table("document", texts(0) + base(0))
    counts = Counter(row["fact_ids"][0].split("/")[0] for row in texts(0) if row["source"] == "zh_anesthesia")
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(len(wording.ANY + wording.STATEMENTS[a]) >= 6 for kind in w.ATTRIBUTES.values() for a in kind)


def test_imagined_passages_say_so_and_carry_no_information():
    here = world()
    marked = [row["text"].startswith(documents.IMAGINE) or row["text"].endswith(documents.IMAGINED) for row in base(0)]
    assert marked == [row["source"] == "zh_imagined" for row in base(0)]
    plain = "\n".join(row["text"] for row in base(0) if row["source"] != "zh_imagined")
    medical = [name for name in here.profiles if w.kind_of(here, name) in w.ATTRIBUTES]
    assert not any(name in plain for name in medical)
    right = [value in fact.values for row in documents.base(here, 3000, 1) if row["source"] == "zh_imagined"
             for fact in here.facts.values() if fact.attribute == "class" and f"{fact.entity}的药物类别" in row["text"]
             for value in here.pool["class"] if f"{fact.entity}的药物类别是{value}。" in row["text"]]
    assert len(right) > 15 and np.mean(right) < 0.2  # the classes of 49 drugs: guessing is right about once in 20


# Exams

def test_options():
    for seed, size in [(seed, size) for seed in SEEDS for size in (None, 60)]:
        here, whole = world(seed, size), world(seed)
        rows = exams.anecq(here, seed) if size else anecq(seed)
        records.to_table("item", rows)
        for row in rows:
            fact, options = here.facts[row["fact_ids"][0]], row["options"]
            assert len(set(options)) == 4 and options[row["answer"]] in fact.values and row["subject"] == wording.CATEGORIES[fact.kind]
            assert [o for o in options if w.may_be_true(whole, fact.entity, fact.attribute, o)] == [options[row["answer"]]], row
            for option in options:
                assert any(option in other.values for other in here.facts.values() if other.attribute == fact.attribute and other.kind == fact.kind
                           and here.groups[other.entity] == row["group"] == here.groups[fact.entity])
            assert fact.entity in row["question"]


def test_a_value_is_as_often_right_as_wrong_and_places_are_even():
    for seed in SEEDS:
        right, wrong = Counter(), Counter()
        for row in anecq(seed):
            if row["split"] == "test":
                fact = world(seed).facts[row["fact_ids"][0]]
                for number, option in enumerate(row["options"]):
                    (right if number == row["answer"] else wrong)[fact.kind, row["group"], fact.attribute, option] += 1
        assert right and all(wrong[cell] == 3 * right[cell] for cell in right | wrong)
        for split in ("development", "test"):
            assert np.ptp(np.bincount([row["answer"] for row in anecq(seed) if row["split"] == split], minlength=4)) <= 1


def test_every_category_and_group_is_asked_and_development_facts_are_not_tested():
    for seed in SEEDS:
        test = [row for row in anecq(seed) if row["split"] == "test"]
        assert len(test) >= 450
        assert {(row["subject"], row["group"]) for row in test} == {(c, g) for c in wording.CATEGORIES.values() for g in exams.GROUPS}
        development = {row["fact_ids"][0] for row in anecq(seed) if row["split"] == "development"}
        assert development and not development & {row["fact_ids"][0] for row in test}
        groups = Counter(row["group"] for row in test)
        assert all(abs(groups[g] / len(test) - s) < 0.1 for g, s in zip(exams.GROUPS, (0.4, 0.4, 0.2))), groups


@pytest.mark.parametrize("write, count", [(exams.aneqa, 90), (exams.anerc, 50)])
def test_questions_with_references(write, count):
    for seed in SEEDS:
        here, rows = world(seed), write(world(seed), count, seed)
        records.to_table("question", rows)
        assert len(rows) == count and len({row["prompt"] for row in rows}) == count and {row["group"] for row in rows} == set(exams.GROUPS)
        for row in rows:
            patient = here.facts[row["fact_ids"][0]].entity
            for key in row["fact_ids"]:
                fact = here.facts[key]
                assert fact.entity == patient or exams.suits(here, fact.entity, patient)
                assert here.groups[fact.entity] == row["group"] and fact.entity in row["prompt"]
                assert any(value in row["references"][0] for value in fact.values)
                if fact.attribute == "dose" and write is exams.anerc:
                    assert fact.source in row["references"][0]


def test_a_case_plans_no_drug_that_harms_its_patient():
    here = world()
    drugs = [fact.entity for fact in here.facts.values() if fact.attribute == "dose"]
    patients = {name for name in here.groups if w.kind_of(here, name) == "patient"}
    for patient, drug in (("早产儿", "丙泊酚"), ("早产儿", "麻黄碱"), ("规律透析的尿毒症患者", "舒更葡糖钠"), ("颅内压增高患者", "丹曲林"), ("嗜铬细胞瘤患者", "氯胺酮"),
                          ("脓毒性休克患者", "丙泊酚"), ("长期服用激素患者", "依托咪酯"), ("重症肌无力患者", "罗库溴铵"), ("哮喘患者", "肾上腺素")):
        assert patient in patients and drug in drugs and not exams.suits(here, drug, patient), (patient, drug)
    assert set(exams.UNFIT) <= patients and {drug for names in exams.UNFIT.values() for drug in names.split()} <= set(drugs)
    for patient in patients:
        assert any(exams.suits(here, drug, patient) for drug in drugs), patient
        avoided = "".join(w.true_values(here, patient, "avoid"))
        for drug in [drug for drug in drugs if exams.suits(here, drug, patient)]:
            dose = here.facts[f"{drug}/dose"]
            assert drug not in avoided and dose.subject != "拮抗药" and not ("儿" in patient and "成人" in "".join(dose.values)), (patient, drug)


def test_a_smaller_world_has_exams_too():
    rows = exams.anecq(world(0, 60), 0)
    assert len([row for row in rows if row["split"] == "test"]) >= 100
    assert len(exams.anerc(world(0, 60), 20, 0)) >= 10


def test_same_seed_same_rows():
    here = world()
    makers = [lambda s: exams.anecq(here, s), lambda s: exams.aneqa(here, 30, s), lambda s: exams.anerc(here, 20, s),
              lambda s: documents.anesthesia(here, 30, s), lambda s: documents.base(here, 30, s), lambda s: pairs.seed_tasks(here, 30, s)]
    for make in makers:
        assert make(3) == make(3) != make(4)
    assert w.load_world(0) == w.load_world(0)


def test_two_generators_have_read_other_shares():
    here = world(0)
    facts = {key for key in here.taught if key in here.facts}
    read = [{row["fact_ids"][0] for row in pairs.generator_reading(here, 0.7, 4 * len(facts), seed)} for seed in (0, 1)]
    assert all(abs(len(part) - 0.7 * len(facts)) <= 1 and part < facts for part in read)
    assert read[0] != read[1] and facts - (read[0] | read[1])  # there are facts that neither has read
