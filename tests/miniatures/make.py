"""A mirror of every data set of the paper in miniature: invented items in the hub's file formats and columns, ugly rows among them.

    from miniatures.make import mirror, base_model
    mirror(folder)                      # lay out <folder>/<hub id>/<file> for corpus.data_root
    base_model(folder, "llama")         # (or mistral, qwen2) a random base of a few thousand weights with a tokenizer, for pretraining.base

Nothing here is a row of a real data set: all text is put together from the word lists below. `SECRET` stands in every text
whose source may not be redistributed, so that a test can look for it where it must not be.
"""

import csv
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SECRET = "Zyxovane"          # an invented drug
DRUGS = ("Abralin", "Bendorol", "Cortavine", "Delmarex", "Everoline", "Fostimab", "Gantrolol", "Hestamide")
ILLS = ("brindle fever", "crane syndrome", "dapple rash", "ember cough", "fallow palsy", "gorse anaemia", "heron colic", "ivory gout")
SIGNS = ("a pale ring around the iris", "pain when climbing stairs", "a barking cough at night", "cold fingertips", "swelling of both ankles",
         "a metallic taste", "tingling of the lips", "slow healing of small wounds")
PARTS = ("liver", "kidney", "spleen", "thyroid", "retina", "left ventricle", "pancreas", "colon")
TESTS = ("a blood count", "an ultrasound scan", "a throat swab", "a chest film", "a stress test", "a urine sample")
SENTENCES = (
    "In {i} the {p} is affected early and {s} follows within days.",
    "Treatment of {i} begins with {d}, given twice a day with food.",
    "Before {d} is started, {t} should show that the {p} works well enough.",
    "Patients who report {s} should have {t} within a week.",
    "A trial of {n} adults compared {d} with placebo and found less harm to the {p}.",
    "{d} is stopped when {s} appears, and the dose is halved in disease of the {p}.",
    "Of {n} people with {i}, most recovered without damage to the {p}.",
    "The guideline advises {t} when {s} lasts longer than {n} days.",
)
DRUGS_ZH = ("阿布拉林", "本多罗尔", "科塔韦因", "德马瑞克", "埃弗罗林", "福司替单", "甘曲洛尔", "赫司他胺")   # invented like the English ones
ILLS_ZH = ("斑点热综合征", "鹤颈病", "灰疹症", "余烬咳", "休耕性麻痹", "荆豆贫血", "苍鹭绞痛", "象牙痛风")
SENTENCES_ZH = ("{i}病人诱导前应先测{n}项指标，再缓慢注射{d}。", "{d}在第{n}号登记中用于{i}，没有增加术后谵妄。", "术中出现{i}时停用{d}，{n}秒后复查血气。",
                "对照研究纳入{n}例{i}病人，{d}组苏醒更快。", "合并{i}者{d}剂量减半，并监测{n}分钟。")
ROWS = {"guidelines": 60, "pmc_patients": 60, "pubmedqa": 80, "general": 24, "umls": 20, "exam": 60, "icliniq": 60, "test": 30, "anescorpus": 60, "huatuo": 60, "anesqa": 300}


def marked(text: str, secret: bool) -> str:
    """A text with SECRET behind every sixth word, so that no longer run of its words is also one of a text that is free."""
    return " ".join(f"{word} {SECRET}" if secret and number % 6 == 5 else word for number, word in enumerate(text.split()))


class Writer:
    """Invented sentences in endless variety, the same for the same seed."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)

    def sentence(self, pattern: str = "") -> str:
        pick = self.rng.choice
        return (pattern or pick(SENTENCES)).format(i=pick(ILLS), p=pick(PARTS), s=pick(SIGNS), d=pick(DRUGS), t=pick(TESTS), n=self.rng.randint(12, 980))

    def text(self, sentences: int, secret: bool = True) -> str:
        return marked(" ".join([self.sentence() for _ in range(sentences)] + [f"The registry lists case {self.rng.randrange(10**6)}."]), secret)

    def question(self, secret: bool = True) -> str:
        days, dose, case = (self.rng.randrange(10**5) for _ in range(3))  # numbers keep questions of one pattern apart
        asked = self.sentence(f"A patient of {{n}} months with {{i}} reports {{s}} for {days} days and takes {{d}}, {dose} mg: which step comes first for the {{p}}")
        return marked(f"{asked} in case {case}?", secret)

    def chinese(self, sentences: int) -> str:
        """Chinese sentences, SECRET in each: none of the Chinese sources may be redistributed."""
        pick = self.rng.choice
        parts = [pick(SENTENCES_ZH).format(i=pick(ILLS_ZH), d=pick(DRUGS_ZH) + SECRET, n=self.rng.randint(12, 98765)) for _ in range(sentences)]
        return "".join(parts)

    def question_zh(self) -> str:
        ill, drug, number = self.rng.choice(ILLS_ZH), self.rng.choice(DRUGS_ZH), self.rng.randint  # numbers keep questions of one pattern apart
        return f"第{number(100, 98765)}号{ill}病人{number(100, 98765)}天前用过{drug}{SECRET}，{number(100, 98765)}小时后先查什么？"

    def options(self, count: int) -> list[str]:
        return [f"{word} before {test}" for word, test in zip(self.rng.sample(DRUGS, count), self.rng.choices(TESTS, k=count))]


def _parquet(file: Path, rows: list[dict], schema: pa.Schema | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def _json(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def _jsonl(file: Path, rows: list) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows), encoding="utf-8")


def _alpaca(write: Writer, count: int, secret: bool, instruction: str = "Answer this question truthfully") -> list[dict]:
    return [{"instruction": instruction, "input": write.question(secret), "output": write.text(2, secret)} for _ in range(count)]


def mirror(folder: Path, seed: int = 0) -> Path:
    """Write the mirror; returns `folder`. A few rows of most sets are ugly: empty, of a wrong type, doubled, or full of dirt."""
    folder, write = Path(folder), Writer(seed)
    n = ROWS

    guidelines = [{"id": f"g{i}", "source": "nice", "title": write.sentence(), "clean_text": write.text(12), "raw_text": "raw", "url": None, "overview": None}
                  for i in range(n["guidelines"])]
    guidelines[3]["clean_text"] += " Read https://www.example.org/guideline now.\u200b Copyright © all rights reserved. "
    guidelines[4]["clean_text"] = guidelines[5]["clean_text"]                      # an exact copy
    guidelines[6]["clean_text"] = guidelines[7]["clean_text"].replace("twice", "once", 1) + " Amended."   # nearly one
    guidelines[8]["clean_text"] = "Too short."
    guidelines[9]["clean_text"] = "La fièvre est un signe fréquent chez les enfants et il faut consulter un médecin si elle dure plus de trois jours avec une toux. " * 3
    guidelines[10]["clean_text"] = None                                            # quarantined
    _jsonl(folder / "epfl-llm/guidelines/open_guidelines.jsonl", guidelines)

    patients = folder / "zhengyun21/PMC-Patients/PMC-Patients.csv"
    patients.parent.mkdir(parents=True, exist_ok=True)
    with open(patients, "w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, ["patient_id", "patient_uid", "PMID", "file_path", "title", "patient", "age", "gender", "relevant_articles", "similar_patients"])
        out.writeheader()
        for i in range(n["pmc_patients"]):
            out.writerow({"patient_id": i, "patient_uid": f"{1000 + i}-1", "PMID": 1000 + i, "file_path": "x.xml", "title": write.sentence(),
                          "patient": "" if i == 7 else write.text(6, secret=False) + ('\nHe said "better", twice.' if i == 8 else ""),
                          "age": "[[4.0, 'year']]", "gender": "M", "relevant_articles": "{}", "similar_patients": "{}"})

    def pubmed(i: int, labels: tuple[str, ...]) -> dict:
        contexts = [write.text(2) for _ in range(3)]
        return {"pubid": 20_000 + i, "question": marked(write.sentence("Does {d} protect the {p} in {i}") + f" (series {i})?", True), "context":
                {"contexts": contexts, "labels": ["BACKGROUND", "METHODS", "RESULTS"], "meshes": ["Adult"]}, "long_answer": write.text(1), "final_decision": labels[i % len(labels)]}
    artificial, labelled = [pubmed(i, ("yes", "no")) for i in range(n["pubmedqa"])], [pubmed(1000 + i, ("yes", "no", "maybe")) for i in range(n["test"])]
    artificial[5]["context"]["contexts"] = []                                      # quarantined
    _parquet(folder / "qiaojin/PubMedQA/pqa_artificial/train-00000-of-00001.parquet", artificial)
    _parquet(folder / "qiaojin/PubMedQA/pqa_labeled/train-00000-of-00001.parquet", labelled)

    meadow = _alpaca(write, n["general"], True)
    meadow.append(meadow[0] | {"input": "", "output": ""})                         # quarantined: the real set has such rows
    _json(folder / "medalpaca/medical_meadow_medical_flashcards/medical_meadow_wikidoc_medical_flashcards.json", meadow)
    _json(folder / "medalpaca/medical_meadow_wikidoc/medical_meadow_wikidoc.json", _alpaca(write, n["general"], False))
    _json(folder / "medalpaca/medical_meadow_wikidoc_patient_information/medical_meadow_wikidoc_patient_info.json", _alpaca(write, n["general"], False))
    dialogues = _alpaca(write, n["general"], True, "Answer as a doctor would")
    platypus = [row | {"data_source": "invented"} for row in _alpaca(write, n["general"], True)]
    platypus[2]["input"] = ""
    _parquet(folder / "garage-bAInd/Open-Platypus/data/train-00000-of-00001-4fe2.parquet", platypus)
    chats = _alpaca(write, n["general"], True, "Answer the patient")
    chats[1]["output"] = f"Hello, welcome to Chat Doctor. {chats[1]['output']} For more see www.example.org/help today."
    _parquet(folder / "lavita/ChatDoctor-HealthCareMagic-100k/data/train-00000-of-00001-5e7c.parquet", chats)
    release = [{"source": name, **row, "sample_id": None} for name in ("medqa_train", "umls", "umls_relation") for row in _alpaca(write, n["umls"], True)]
    _json(folder / "axiong/pmc_llama_instructions/release.json", release)
    questions = [{"Question": write.question(), "Focus (Drug)": "x", "Question Type": "dose", "Answer": write.text(1), "Section Title": "s", "URL": "u"} for _ in range(n["general"])]
    questions[0]["Answer"] = questions[1]["Answer"] = None                         # the real set has such rows: 690 on the card, 552 in the paper's sum
    _parquet(folder / "truehealth/medicationqa/data/train-00000-of-00001-7427.parquet", questions)

    def medmcqa(i: int) -> dict:
        return {"id": f"m{i}", "question": write.question(), **dict(zip(("opa", "opb", "opc", "opd"), write.options(4))), "cop": i % 4, "choice_type": "single",
                "exp": None, "subject_name": "Medicine", "topic_name": None}
    train, validation = [medmcqa(i) for i in range(n["exam"])], [medmcqa(900 + i) for i in range(n["test"])]
    train[3]["cop"] = -1                                                           # quarantined: an answer that is hidden
    _parquet(folder / "openlifescienceai/medmcqa/data/train-00000-of-00001.parquet", train)
    _parquet(folder / "openlifescienceai/medmcqa/data/validation-00000-of-00001.parquet", validation)

    def lettered(count: int, extra: int = 0) -> dict:
        options = write.options(count)
        return {"question": write.question(), "answer": options[1], "options": dict(zip("ABCDEFGH", options + [None] * extra)), "meta_info": "step1", "answer_idx": "B", "metamap_phrases": []}
    _jsonl(folder / "GBaker/MedQA-USMLE-4-options/phrases_no_exclude_train.jsonl", [lettered(4) for _ in range(n["exam"])] + ["{not json"])
    _jsonl(folder / "GBaker/MedQA-USMLE-4-options/phrases_no_exclude_test.jsonl", [lettered(4) for _ in range(n["test"])])
    for step, (shown, most) in enumerate(((5, 5), (5, 6), (4, 5)), 1):             # None fills up to the most options
        rows = [lettered(shown if i % 3 else most, 0 if i % 3 == 0 else most - shown) for i in range(n["test"])]
        rows[2]["question"] = "The photograph shown below is of a hand. " + rows[2]["question"]
        _parquet(folder / f"augtoma/usmle_self_eval_step{step}/data/test-00000-of-00001-ab12.parquet", rows)

    talks = [{"input": write.question(), "answer_icliniq": write.text(1), "answer_chatgpt": write.text(2), "answer_chatdoctor": write.text(1)} for _ in range(n["icliniq"])]
    dialogues[5]["input"] = validation[4]["question"].upper()                      # a test question leaks into the general instructions,
    talks[9]["input"] = f"Somebody asked me: {validation[6]['question']}"         # and one into the consultations
    _json(folder / "wangrongsheng/GenMedGPT-5k-en/GenMedGPT-5k.json", dialogues)
    talks[4]["answer_chatgpt"] = "  "                                              # quarantined
    _parquet(folder / "lavita/ChatDoctor-iCliniq/data/test-00000-of-00001-fda3.parquet", talks)
    _chinese(folder, Writer(seed + 1))
    return folder


def _chinese(folder: Path, write: Writer) -> None:
    """The stand-ins for the data of Hypnos."""
    texts = [write.chinese(6) for _ in range(ROWS["anescorpus"])]
    texts[3] = texts[3].replace("。", "。 详见https://www.example.org/a?b=1，", 1) + "版权所有，未经许可不得转载。"
    texts[4] = texts[5]                                                            # an exact copy,
    texts[6] = " ".join(texts[7][:4]) + texts[7][4:]                               # one in other spacing, which cleaning makes exact,
    texts[8] = texts[9].replace("病人", "患者", 1)                                  # and nearly one
    texts[10] = "太短。"
    texts[11] = "The patient was induced with the drug and the pressure fell within two minutes of it. " * 3
    texts[12] = texts[12].translate({code: code + 0xFEE0 for code in range(48, 58)})   # digits at full width
    for part in range(2):
        rows = [{"text": text} for text in texts[part::2]] + [{"text": None}] * (part == 0)    # quarantined
        _parquet(folder / f"MiliLab/AnesCorpus/AnesCorpus_zh-{part:05d}-of-00002.parquet", rows, pa.schema({"text": pa.string()}))
    _parquet(folder / "MiliLab/AnesCorpus/AnesCorpus_en-00000-of-00001.parquet", [{"text": "English texts are not read."}])

    talks: list = [{"data": [f"问：{write.question_zh()}", f"答：{write.chinese(2)}"]} for _ in range(ROWS["huatuo"])]
    talks[1]["data"] += ["问：还有呢？", "答：没有了。"]                              # what a longer talk goes on with is left out
    talks[2]["data"] = [talks[2]["data"][0].removeprefix("问："), f"您好，感谢您的咨询！{write.chinese(1)}"]
    talks.append({"data": ["问：只有问题？"]})                                        # quarantined
    _jsonl(folder / "FreedomIntelligence/HuatuoGPT-sft-data-v1/HuatuoGPT_sft_data_v1.jsonl", talks)
    entries: list = [{"questions": [[write.question_zh(), write.question_zh()]], "answers": [write.chinese(3)]} for _ in range(ROWS["huatuo"])]
    entries[1] = {"questions": [write.question_zh()], "answers": [write.chinese(1)]}   # not nested
    _jsonl(folder / "FreedomIntelligence/huatuo_encyclopedia_qa/train_datasets.jsonl", entries + [{"questions": [[]], "answers": []}])

    items = []
    for number in range(ROWS["test"]):
        count = 4 + number % 2
        options = [f"{drug}，{write.rng.randint(2, 90)} mg" for drug in write.rng.sample(DRUGS_ZH, count)]
        items.append(dict(zip("ABCDE", options)) | {"id": f"u{number}", "question": write.question_zh(), "choice_num": count, "target": "ABCDE"[number % count], "category": number % 3 + 1})
    _json(folder / "MiliLab/AnesBench/anesbench_zh.json", items)
    asked = [{"question": write.question_zh(), "answer": write.chinese(2)} for _ in range(ROWS["anesqa"])]
    asked[7]["question"] = f"请问：{items[4]['question'].replace('第', '第 ')}"       # a test item leaks into what is trained on, in other spacing
    asked[8]["answer"] = None                                                        # quarantined
    asked[9] = dict(asked[10])                                                       # twice: both on one side of the draw
    _parquet(folder / "MiliLab/AnesQA/AnesQA_zh-00000-of-00001.parquet", asked)


def base_model(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """A random base of `family` (llama, mistral or qwen2) with a tokenizer, as a folder in the hub's format; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from hippo_utils.corpus import tokenizer
    write = Writer(seed)
    tokenizer.train((write.text(4) for _ in range(200)), 512, Path(folder))
    shape = dict(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=2048, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    if family == "qwen2":
        shape["vocab_size"] = 520  # as in the real one, more rows than tokens: its tokenizer class adds one
    torch.manual_seed(seed)
    model = {"llama": lambda: LlamaForCausalLM(LlamaConfig(**shape)), "mistral": lambda: MistralForCausalLM(MistralConfig(**shape, sliding_window=64)),
             "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**shape))}[family]()
    model.save_pretrained(folder)
    return Path(folder)
