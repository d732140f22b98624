"""Chinese answers: overlap by characters, and doses, units and drugs apart from it."""

import pytest

from hippo_utils import chinese
from hippo_utils.evaluation import answers

REFERENCE = "丙泊酚成人诱导剂量为1.5~2.5 mg/kg，静脉注射，常见不良反应是注射痛。"
PARAPHRASE = "成年人诱导时静注丙泊酚，用量每公斤体重1.5至2.5毫克，注射部位疼痛较常见。".replace("每公斤体重1.5至2.5毫克", "1.5至2.5毫克每公斤")
TENFOLD = REFERENCE.replace("1.5~2.5", "15~25")
DRUGS = ["芬太尼", "舒芬太尼", "丙泊酚"]


@pytest.mark.parametrize("text, found", [
    ("诱导1.5～2.5ｍｇ／ｋｇ", [(1.5, 2.5, "mg/kg")]), ("1.5至2.5毫克每千克", [(1.5, 2.5, "mg/kg")]), ("1.5-2.5 mg/kg", [(1.5, 2.5, "mg/kg")]),
    ("500 μg", [(0.5, 0.5, "mg")]), ("500微克", [(0.5, 0.5, "mg")]), ("500µg", [(0.5, 0.5, "mg")]), ("0.5mg", [(0.5, 0.5, "mg")]),
    ("约2分钟，即120秒", [(120.0, 120.0, "秒")] * 2), ("0.1 μg/kg/min", [(0.0001, 0.0001, "mg/kg/分钟")]), ("20%脂肪乳1.5毫升", [(20.0, 20.0, "%"), (1.5, 1.5, "ml")]),
    ("1克", [(1000.0, 1000.0, "mg")]), ("5-HT3受体，克罗恩病", []), ("体重60公斤", []),
    ("丙泊酚4～12 mg/(kg·h)", [(4.0, 12.0, "mg/kg/h")]), ("4~12 mg·kg⁻¹·h⁻¹", [(4.0, 12.0, "mg/kg/h")]), ("0.1 μg·kg-1·min-1", [(0.0001, 0.0001, "mg/kg/分钟")]),
    ("肝素5000单位", [(5000.0, 5000.0, "iu")]), ("缩宫素10 U", [(10.0, 10.0, "iu")]), ("输注1,000 ml", [(1000.0, 1000.0, "ml")]),
    ("1mg/kg-1.5mg/kg", [(1.0, 1.5, "mg/kg")]),
])
def test_amounts_are_read_whatever_their_spelling(text, found):
    assert chinese.amounts(text) == found


def test_overlap_rewards_the_wrong_dose_and_the_check_does_not():
    """The trap: a tenfold dose is nearly the reference, a right paraphrase is not."""
    tenfold, paraphrase = (answers.bleu([a], [REFERENCE])[0] for a in (TENFOLD, PARAPHRASE))
    assert tenfold > paraphrase + 20
    wrong, right = (answers.agreement(a, REFERENCE, DRUGS) for a in (TENFOLD, PARAPHRASE))
    assert right["agrees"] and not wrong["agrees"] and wrong["dose_errors"] == 1
    unit = answers.agreement(REFERENCE.replace("mg/kg", "μg"), REFERENCE, DRUGS)
    assert not unit["agrees"] and unit["amounts_added"] == 1
    unit = answers.agreement(REFERENCE.replace("mg/kg", "ml"), REFERENCE, DRUGS)
    assert unit["unit_errors"] == 1 and unit["dose_errors"] == 0


def test_the_longest_drug_name_is_meant():
    found = answers.agreement("给予芬太尼", "给予舒芬太尼", DRUGS)
    assert (found["drugs_missing"], found["drugs_added"], found["agrees"]) == (1, 1, False)
    assert answers.agreement("舒芬太尼与丙泊酚", "丙泊酚，舒芬太尼", DRUGS)["agrees"]


def test_a_rate_by_the_minute_is_not_one_by_the_hour():
    assert not answers.agreement("丙泊酚4~12 mg/(kg·min)", "丙泊酚4~12 mg/(kg·h)", DRUGS)["agrees"]
    assert answers.agreement("丙泊酚4~12 mg·kg⁻¹·h⁻¹", "丙泊酚4~12 mg/(kg·h)", DRUGS)["agrees"]


@pytest.mark.parametrize("text, named", [
    ("给予阿芬太尼", {"阿芬太尼"}), ("艾司氯胺酮", {"艾司氯胺酮"}), ("左布比卡因", {"左布比卡因"}), ("静滴异丙肾上腺素", {"异丙肾上腺素"}), ("激动α1肾上腺素受体", set()),
    ("阻断肾上腺素能神经", set()), ("肾上腺素能升高血压", {"肾上腺素"}), ("顺式阿曲库铵", {"顺阿曲库铵"}), ("去甲肾上腺素与肾上腺素", {"去甲肾上腺素", "肾上腺素"}),
    ("低分子肝素", {"低分子肝素"}), ("异丙酚诱导", {"丙泊酚"})])
def test_a_drug_inside_another_drug_s_name_is_not_named(text, named):
    assert answers.drugs_in(text, answers.drug_names()) == named


def test_bleu_says_how_it_was_counted():
    value, signature = answers.bleu([REFERENCE], [REFERENCE])
    assert value == pytest.approx(100) and "tok:zh" in signature and "version:" in signature


def test_rouge_counts_characters():
    found = answers.overlap([REFERENCE, "", "喉痉挛", "ＡＳＡ Ⅲ级"], [REFERENCE, REFERENCE, "用2", "asa iii级"])
    assert found["rougeL"].tolist() == [1.0, 0.0, 0.0, 1.0]  # the default tokenizer: 0 for the first, of no letters at all
    assert found["answer_length"].tolist()[:2] == [len(chinese.tokens(REFERENCE)), 0]


def test_a_corpus_is_scored_as_a_whole():
    rows, whole = answers.score([REFERENCE, TENFOLD], [REFERENCE, REFERENCE], DRUGS)
    assert len(rows) == whole["n"] == 2 and whole["agrees"] == 0.5 and 0.9 < whole["rougeL"] < 1 and "tok:zh" in whole["bleu_signature"]
