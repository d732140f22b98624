"""A mirror of every data set of the paper in miniature: invented items in the hub's file formats and columns, ugly rows among them.

    from miniatures.make import mirror, base_model
    mirror(folder)                      # lay out <folder>/<hub id>/<file> for corpus.data_root
    base_model(folder, "llama")         # a random base of a few thousand weights with a tokenizer, for pretraining.base

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
ROWS = {"guidelines": 60, "pmc_patients": 60, "pubmedqa": 80, "general": 24, "umls": 20, "exam": 60, "icliniq": 60, "test": 30}


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
    return folder


def base_model(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """A random base of `family` (llama or mistral) with a tokenizer, as a folder in the hub's format; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    from hippo_utils.corpus import tokenizer
    write = Writer(seed)
    tokenizer.train((write.text(4) for _ in range(200)), 512, Path(folder))
    shape = dict(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=2048, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**shape)) if family == "llama" else MistralForCausalLM(MistralConfig(**shape, sliding_window=64))
    model.save_pretrained(folder)
    return Path(folder)
