"""The corpus room: nothing disappears unseen, copies and leaks are found, and what is handed on can be trusted."""

import re

import numpy as np
import pandas as pd
import pytest
from small import TINY, items, world

from hippo_utils import records
from hippo_utils.corpus import accounts, cleaning, contamination, deduplication, sources, streams, tokenizer
from hippo_utils.manifest import StageError

LONG = "Metformin lowers hepatic glucose output and is the usual first drug in type 2 diabetes."


def documents(*texts: str, source: str | list[str] = "here") -> pd.DataFrame:
    return pd.DataFrame({"id": [f"d{number}" for number in range(len(texts))], "source": source, "licence": "CC BY 4.0",
                         "text": texts, "fact_ids": [[] for _ in texts]})


# --- cleaning --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rule, before, after", [
    ("unicode form (NFKC)", "The e\ufb03cacy at 5\u00a0mg was １０％.", "The efficacy at 5 mg was 10%."),
    ("control characters", "A hid\u200bden\x07 sign, soft\u00adly.", "A hidden sign, softly."),
    ("URLs", "Read https://www.example.org/a?b=1 and www.example.org today.", "Read and today."),
    ("boilerplate sentences", "Downloaded from a site. Aspirin thins blood. All rights reserved!", "Aspirin thins blood."),
    ("URLs", "See the site (www.example.org/a). Take it https://example.org/b. Or not.", "See the site. Take it . Or not."),
    ("boilerplate sentences", "First.\n\nSecond. Click here for more.\nPlease subscribe to our list.\n\nThird.", "First.\n\nSecond.\n\nThird."),
    ("superfluous words", "Hi, Thank you for posting your query. Take it with food.", "Take it with food."),
    ("superfluous words", "Hello, welcome to Chat Doctor. Take it with food. Thanks for your query on HealthCareMagic!", "Take it with food."),
    ("repeated lines", "Aspirin thins blood\nAspirin thins blood\n\n\nIt does.", "Aspirin thins blood\n\n\nIt does."),
    ("repeated sentences", "Aspirin thins blood. Aspirin thins blood. It does.", "Aspirin thins blood. It does."),
    ("spaces", "  Aspirin  thins\tblood.  It does. \n Yes. ", "Aspirin thins blood. It does.\nYes."),
])
def test_each_rule_changes_what_it_names_and_is_the_only_one_blamed(rule, before, after):
    cleaned, counts, changes = cleaning.clean(documents(before), 1)
    assert cleaned["text"].tolist() == [after]
    assert rule in set(changes["rule"]) and set(changes["rule"]) <= {rule, "spaces"}
    assert counts.set_index("rule").loc[rule, "changed"] == 1


@pytest.mark.parametrize("text", [LONG, "Temperature 38.5 °C; CK-MB 12 µg/l?! (See p. 4.)".replace("µ", "μ"), "Dose:\n\n- 5 mg\n- 10 mg, twice", "孕妇禁用。可致畸。",
                                  "Sodium was low. It was not low. It was low.", "GSE12345 data were downloaded from the Gene Expression Omnibus.",
                                  "Do you subscribe to the view that fever is useful?", "Alzheimer´s disease at 38.5 ºC or 37˚C; ①2 mg", "Thank you for your question. Take it.", "You are welcome to a second consultation. Thanks to rest it heals."])
def test_clean_text_stays_byte_identical(text):
    cleaned, _, changes = cleaning.clean(documents(text), 0)
    assert cleaned["text"].iloc[0] == text and changes.empty


def test_exponents_and_fractions_keep_their_value():
    """NFKC alone turns 10⁹ into 109 and 1½ tablets into 11⁄2: a change of dose."""
    text = "Platelets 150 × 10⁹/l, 1½ tablets, 25 kg/m²"
    assert cleaning.clean(documents(text), 0)[0]["text"].iloc[0] == text


def test_code_in_instructions_stays_indented_and_may_repeat_itself():
    code = " def f(x):\n    x += 1\n    x += 1\n\n    return x"
    row = {"id": "1", "source": "s", "licence": "l", "prompt": "Add.  Add. Add.\nAnswer:", "completion": code.replace("\n\n", "  \n   \n"), "fact_ids": []}
    cleaned, counts, _ = cleaning.clean(pd.DataFrame([row]), 1, "instruction")
    assert cleaned[["prompt", "completion"]].values.tolist() == [["Add. Add. Add.\nAnswer:", code]]
    assert set(counts["rule"]) == {*cleaning.RULES, *cleaning.DROPS}
    assert cleaning.clean(documents(code), 1)[0]["text"].tolist() == ["def f(x):\nx += 1\n\nreturn x"], "in documents it comes from PDF"


@pytest.mark.parametrize("end", ["\r\n", "\r", "\x0c", "\u2028", "\x85"])
def test_line_and_page_ends_never_glue_two_words_together(end):
    assert cleaning.clean(documents(f"first page{end}second page"), 0)[0]["text"].iloc[0] == "first page\nsecond page"


def test_too_short_is_dropped_and_listed():
    cleaned, counts, changes = cleaning.clean(documents(LONG, "Only three words", "www.example.org/a www.example.org/b www.example.org/c"), 4)
    assert cleaned["id"].tolist() == ["d0"]
    dropped = changes[changes["rule"] == cleaning.TOO_SHORT]
    assert dropped["id"].tolist() == ["d1", "d2"] and (dropped["after"] == "").all()
    assert dropped["before"].iloc[0] == "Only three words"
    assert counts["dropped"].sum() == 2


@pytest.mark.parametrize("text, language, dropped", [
    ("La fièvre est un signe fréquent chez les enfants et il faut consulter un médecin si elle dure plus de trois jours avec une toux.", "en", True),
    ("El paciente debe consultar a su médico si la fiebre dura más de tres días y no mejora con el tratamiento que se le ha dado.", "en", True),
    ("Der Patient sollte seinen Arzt aufsuchen, wenn das Fieber länger als drei Tage dauert und sich mit der Behandlung nicht bessert, die er hat.", "en", True),
    ("麻醉前应禁食八小时，禁饮两小时，以减少误吸的风险，并评估气道。", "en", False), ("麻醉前应禁食八小时，禁饮两小时，以减少误吸的风险，并评估气道。", "zh", False),
    (LONG * 3, "zh", True), (LONG * 3, "en", False), ("Dose: 5 mg, 10 mg, 20 mg; tablets, capsules.", "en", False)])
def test_documents_in_another_language_are_dropped_and_listed(text, language, dropped):
    """Short texts and texts without spaces are not judged as English: there are too few words to tell."""
    cleaned, counts, _ = cleaning.clean(documents(text), 1, "document", language)
    assert counts.set_index("rule").loc[cleaning.WRONG_LANGUAGE, "dropped"] == dropped == (len(cleaned) == 0)


def test_chinese_length_counts_characters():
    assert cleaning.length("麻醉前禁食 8 小时 of ASA3") == 5 + 1 + 2 + 2


def test_instructions_keep_the_space_between_prompt_and_completion():
    rows = pd.DataFrame([{"id": "1", "source": "s", "licence": "l", "prompt": "Is\u00a0it so?\nAnswer:", "completion": " Yes,  see www.example.org today.", "fact_ids": []},
                         {"id": "2", "source": "s", "licence": "l", "prompt": "And this?\nAnswer:", "completion": " www.example.org", "fact_ids": []}])
    cleaned, counts, changes = cleaning.clean(rows, 50, "instruction")
    assert cleaned[["prompt", "completion"]].values.tolist() == [["Is it so?\nAnswer:", " Yes, see today."]], "the minimum of words is for documents"
    assert counts.set_index("rule").loc[cleaning.NOTHING_LEFT, "dropped"] == 1 and set(changes["id"]) == {"1", "2"}


def test_what_the_mini_world_writes_needs_no_cleaning_but_its_planted_dirt():
    instructions, candidates = sources.build_instructions(TINY.corpus, world(), 0), sources.build_candidates(TINY.corpus, world(), 0)
    for kind, rows in (("instruction", instructions), ("candidates", candidates)):
        assert cleaning.clean(rows, 12, kind)[2].empty
    _, counts, _ = cleaning.clean(sources.build_documents(TINY.corpus, world(), 0), 12)
    assert counts.groupby("rule")["dropped"].sum()[cleaning.WRONG_LANGUAGE] == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_is_cleaned_like_its_rows_whatever_the_number_of_processes(tmp_path, processes):
    raw = sources.build_documents(TINY.corpus.model_copy(update={"dirt": 0.5}), world(), 0)
    with streams.Writer(tmp_path / "raw.parquet", records.SCHEMAS["document"]) as out:
        for start in range(0, len(raw), 70):
            out.write(raw[start:start + 70])
    counts, examples = cleaning.clean_file(tmp_path / "raw.parquet", tmp_path / "clean.parquet", tmp_path / "log.parquet", kind="document", minimum_words=12,
                                           language="en", processes=processes)
    cleaned, expected, changes = cleaning.clean(raw, 12)
    assert records.read("document", tmp_path / "clean.parquet").equals(cleaned)
    assert pd.read_parquet(tmp_path / "log.parquet").equals(changes) and examples["rule"].is_unique
    joined = counts.merge(expected, on=["source", "rule"], suffixes=("", "_expected"), validate="one_to_one")
    assert len(joined) == len(expected) and (joined["changed"] == joined["changed_expected"]).all() and (joined["dropped"] == joined["dropped_expected"]).all()


def test_a_file_that_breaks_off_has_no_name(tmp_path):
    with pytest.raises(RuntimeError):
        with streams.Writer(tmp_path / "x.parquet", records.SCHEMAS["document"]) as out:
            out.write(documents(LONG))
            raise RuntimeError("the disk is full")
    assert not list(tmp_path.iterdir())


def test_the_log_explains_every_difference():
    raw = sources.build_documents(TINY.corpus.model_copy(update={"dirt": 0.5}), world(), 0)
    cleaned, counts, changes = cleaning.clean(raw, 12)
    assert len(raw) == len(cleaned) + counts["dropped"].sum()
    assert counts["changed"].sum() + counts["dropped"].sum() == len(changes)
    kept = raw[raw["id"].isin(cleaned["id"])]
    differs = set(kept["id"][kept["text"].to_numpy() != cleaned["text"].to_numpy()])
    assert differs and differs == set(changes["id"]) - set(raw["id"][~raw["id"].isin(cleaned["id"])])
    assert set(counts["source"]) == set(raw["source"]) and set(counts["rule"]) == {*cleaning.RULES, *cleaning.DROPS}
    again, _, more = cleaning.clean(cleaned, 12)
    assert more.empty and again.equals(cleaned), "cleaning clean text must change nothing"


def test_example_shows_the_place_of_the_change():
    _, _, changes = cleaning.clean(documents("x" * 300 + " www.example.org"), 1)
    shown = cleaning.example(changes).set_index("rule")
    assert "www.example.org" in shown.loc["URLs", "before"] and "www" not in shown.loc["URLs", "after"]


# --- duplicates ------------------------------------------------------------------------------------------------------

def planted(count: int, threshold: float, seed: int = 0) -> tuple[pd.DataFrame, dict[str, float]]:
    """Random texts of two sources, each with a variant of itself, and the true similarity of every variant."""
    rng = np.random.default_rng(seed)
    lexicon = ["".join(rng.choice(list("abcdefghijklmnop"), size=rng.integers(3, 9))) for _ in range(2000)]
    rows, similarity = [], {}
    for number in range(count):
        words = list(rng.choice(lexicon, 60))
        variant = list(words)
        for _ in range(rng.integers(1, 7)):
            variant[rng.integers(len(variant))] = str(rng.choice(lexicon))
        rows += [(f"o{number}", "first", " ".join(words)), (f"v{number}", "second", " ".join(variant))]
        similarity[f"v{number}"] = deduplication.jaccard(*(deduplication.shingles(text) for _, _, text in rows[-2:]))
    return pd.DataFrame(rows, columns=["id", "source", "text"]), similarity


@pytest.mark.parametrize("threshold", [0.8, 0.9])
def test_planted_near_duplicates_are_found_at_the_threshold(threshold):
    """MinHash only proposes; with datasketch's own bands half of the pairs just above the threshold were never proposed."""
    texts, similarity = planted(150, threshold)
    _, dropped = deduplication.deduplicate(texts, threshold, seed=3)
    true = {name for name, value in similarity.items() if value >= threshold}
    assert 20 < len(true) < 150
    found = set(dropped["id"])
    assert found <= true, "a pair below the threshold was dropped"
    assert len(found) >= 0.99 * len(true), f"{len(true - found)} of {len(true)} near duplicates were missed"
    assert (dropped["id"].str[1:] == dropped["kept_id"].str[1:]).all() and (dropped["kept_source"] == "first").all()
    assert dropped["similarity"].tolist() == [similarity[name] for name in dropped["id"]]


def test_exact_copies_are_found_across_sources_and_the_first_is_kept():
    texts = documents(LONG, "Another text about the heart and its valves.", LONG.upper().replace(" ", "  "), LONG, source=["a", "a", "b", "c"])
    kept, dropped = deduplication.deduplicate(texts, 0.9, seed=0)
    assert kept["id"].tolist() == ["d0", "d1"]
    assert dropped[["id", "source", "kept_id", "kept_source", "kind"]].values.tolist() == [["d2", "b", "d0", "a", "exact"], ["d3", "c", "d0", "a", "exact"]]


def test_chinese_and_very_short_texts_are_told_apart():
    texts = documents("术前应禁食八小时，禁饮两小时，以减少误吸的风险。", "丙泊酚用于全身麻醉的诱导和维持，应缓慢静脉注射。", "abc", "abd", "")
    assert len(deduplication.deduplicate(texts, 0.9, seed=0)[0]) == 5


@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_is_deduplicated_like_its_rows_whatever_the_number_of_processes(tmp_path, processes):
    raw = sources.build_documents(TINY.corpus.model_copy(update={"dirt": 0.6}), world(), 0)
    with streams.Writer(tmp_path / "raw.parquet", records.SCHEMAS["document"]) as out:
        for start in range(0, len(raw), 50):
            out.write(raw[start:start + 50])
    dropped = deduplication.deduplicate_file(tmp_path / "raw.parquet", tmp_path / "kept.parquet", threshold=0.9, seed=5, processes=processes)
    kept, expected = deduplication.deduplicate(raw, 0.9, seed=5)
    assert records.read("document", tmp_path / "kept.parquet").equals(kept) and dropped.equals(expected) and len(dropped) > 10


def test_clusters_hold_every_dropped_text_once():
    _, dropped = deduplication.deduplicate(documents(LONG, LONG, "Another text about the heart and its valves.", LONG.upper(), source=["a", "b", "b", "c"]), 0.9, seed=0)
    assert deduplication.clusters(dropped).values.tolist() == [["d0", 3, 2, 0, "a, b, c"]]
    assert deduplication.clusters(dropped.head(0)).empty


def test_recall_and_precision_on_planted_copies_are_measured():
    table = deduplication.planted(sources.build_documents(TINY.corpus, world(), 0), 0.9, seed=1, most=200)
    found = table.set_index("range")
    assert table["planted"].sum() == 200 and (table["precision"] == 1).all()
    assert (found.loc[["[0.9, 0.95)", "copy"], "recall"] > 0.98).all() and found.loc["[0.8, 0.9)", "found"] == 0


def test_every_document_is_kept_or_listed():
    raw = sources.build_documents(TINY.corpus.model_copy(update={"dirt": 0.6}), world(), 0)
    kept, dropped = deduplication.deduplicate(raw, 0.9, seed=0)
    assert sorted([*kept["id"], *dropped["id"]]) == sorted(raw["id"])
    copies = [name for name in raw["id"] if name.endswith("-copy")]
    assert set(copies) <= set(dropped["id"]) and set(dropped["kept_id"]) <= set(kept["id"])
    assert set(dropped["kind"]) == {"exact", "near"}


# --- contamination ---------------------------------------------------------------------------------------------------

QUESTION = "Which drug is the first choice for absence seizures in children?"  # 11 words
CONTEXT = "RESULTS: In this trial of sixty patients the drug lowered mean arterial pressure by four points."


def exam(*questions: str, context: str = "") -> pd.DataFrame:
    return pd.DataFrame({"id": [f"q{n}" for n in range(len(questions))], "benchmark": "medqa", "group": "held_out", "context": context, "question": questions})


def score(text: str, question: str = QUESTION, n: int = 8, context: str = "") -> float:
    found = contamination.overlaps(documents(text), exam(question, context=context), n)
    return found["score"].iloc[0] if len(found) else 0.0


@pytest.mark.parametrize("n", [3, 8, 11, 12, 30])
def test_a_question_of_n_or_fewer_words_is_found_whole(n):
    """n-grams are easily lost at exactly n words; a shorter question is matched whole."""
    assert len(contamination.words(QUESTION)) == 11
    assert score(f"Before it. {QUESTION} After it.", n=n) == 1.0


def test_a_short_question_needs_all_its_words():
    assert score("which drug is the first choice for absence seizures in adults", n=12) == 0.0


@pytest.mark.parametrize("leak", [
    QUESTION, QUESTION.upper(), QUESTION.replace(" ", "\n  "), "which drug, is the first choice: for absence seizures -- in children",
    " ".join([LONG] * 40 + [QUESTION] + [LONG] * 40)], ids=["verbatim", "capitals", "spacing", "punctuation", "inside a long text"])
def test_a_planted_leak_scores_one(leak):
    assert score(leak) == 1.0


@pytest.mark.parametrize("question", ["A 5 µg dose of the ﬁrst agent stops ﬁbrinolysis in ____ of all so\u00adcalled cases", "Is 10⁹/l of STRAẞE normal_in adults or not at all"])
def test_a_question_is_found_in_its_own_cleaned_copy(question):
    cleaned = cleaning.clean(documents(f"Card: {question.replace('____', '')}"), 1)[0]
    assert contamination.overlaps(cleaned, exam(question), 8)["score"].tolist() == [1.0]


def test_half_a_question_scores_the_share_of_its_words_and_shows_them():
    found = contamination.overlaps(documents("the first choice for absence seizures in children is known"), exam(QUESTION), 8)
    assert found["score"].iloc[0] == pytest.approx(8 / 11)
    assert found["matched"].iloc[0] == "· · · the first choice for absence seizures in children"


def test_the_abstract_of_a_pubmedqa_question_belongs_to_it():
    question = "Does the drug lower blood pressure?"
    assert score(CONTEXT, question, context=CONTEXT) == pytest.approx(16 / 22)
    assert score(f"{CONTEXT} {question}", question, context=CONTEXT) == 1.0
    assert score(CONTEXT, question) == 0.0


def test_the_best_matching_text_is_named_and_clean_items_are_absent():
    texts = documents("the first choice for absence seizures in children", LONG, QUESTION)
    found = contamination.overlaps(texts, exam(QUESTION, "What is an entirely different thing that nobody has ever asked about?"), 8)
    assert found[["item", "text_id", "score"]].values.tolist() == [["q0", "d2", 1.0]]


def brute_force(texts: pd.DataFrame, items: pd.DataFrame, n: int) -> dict[tuple[str, str], float]:
    """Scores by the definition, pair by pair."""
    scores = {}
    for item, context, question in items[["id", "context", "question"]].itertuples(index=False):
        asked = contamination.words(f"{context} {question}")
        size = min(n, len(asked))
        for identity, text in texts[["id", "text"]].itertuples(index=False):
            held = set(contamination.ngrams(contamination.words(text), size))
            covered = {place for start, gram in enumerate(contamination.ngrams(asked, size)) if gram in held for place in range(start, start + size)}
            if covered:
                scores[identity, item] = len(covered) / len(asked)
    return scores


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_scores_are_those_of_the_definition(n):
    rng = np.random.default_rng(n)
    def sentence(longest):
        return " ".join(rng.choice(list("abcd"), rng.integers(0, longest)))
    texts = documents(*[sentence(40) for _ in range(30)])
    asked = exam(*[sentence(14) for _ in range(25)])
    asked["context"] = [sentence(9) if number % 3 else "" for number in range(25)]
    found = contamination.scores(texts, contamination.index(asked, n))
    scores = {(texts["id"][text], asked["id"][item]): score for text, item, score in found.itertuples(index=False)}
    assert scores == brute_force(texts, asked, n) and len(scores) > 20


def test_a_window_never_reaches_from_one_text_into_the_next():
    half = QUESTION.split()
    found = contamination.scores(documents(" ".join(half[:6]), " ".join(half[6:])), contamination.index(exam(QUESTION), 8))
    assert found.empty


def test_a_short_question_counts_as_leaked_only_with_its_options():
    asked = exam("Treatment of choice is?").assign(options=[["Aspirin 100 mg", "Heparin", "Rest"]])
    texts = documents("The treatment of choice is heparin.", "Treatment of choice is? (A) Rest (B) aspirin, 100 mg (C) HEPARIN", source=["guidelines", "cards"])
    audit, _ = contamination.compare(texts, contamination.index(asked, 8), 0.8)
    assert audit.set_index("source")[["score", "rule", "decision"]].values.tolist() == [[1.0, contamination.WITH_OPTIONS, "flagged"], [1.0, contamination.SHORT, "clean"]]
    assert contamination.sweep(contamination.overlaps(texts, asked, 8), asked)["flagged"].tolist() == [1]


def test_chinese_is_compared_by_characters():
    question = "术前禁食的最短时间是多少小时？"
    assert score(f"根据指南，{question}八小时。", question) == 1.0 and score("术前应禁食八小时，禁饮两小时。", question) == 0.0


def test_every_kind_of_planted_leak_is_found():
    test = items()[items()["split"] == "test"]
    raw = sources.build_documents(TINY.corpus, world(), 0)
    table = contamination.planted(test, raw, 8, 0.8, seed=1, most=120)
    assert table["leak"].tolist() == ["verbatim", "re-punctuated", "options shuffled", "inside a long document"]
    assert (table["recall"] == 1).all() and (table["planted"] == 120).all()


def test_planted_leaks_of_questions_with_signs_for_options_are_found_or_left_out():
    asked = exam("The normal dose is 5 µg", "Sign of the change?", "Which of them?").assign(options=[["true", "false"], ["+", "-", "±", "0"], ["rest", "heparin", "-"]])
    table = contamination.planted(asked, documents(LONG), 8, 0.8, seed=1)
    assert (table["recall"] == 1).all() and (table["planted"] == 1).all()
    flagged = contamination.compare(documents("Sign of the change? 0"), contamination.index(asked, 8), 0.8)[1]
    assert flagged["item"].tolist() == ["q1"], "options without words are not looked for"


@pytest.mark.parametrize("processes", [1, 2])
def test_the_audit_of_files_names_texts_decides_and_removes(tmp_path, processes):
    asked = exam(QUESTION, "What is an entirely different thing that nobody has ever asked about?")
    with streams.Writer(tmp_path / "d.parquet", records.SCHEMAS["document"]) as out:
        out.write(documents(LONG, QUESTION[:45], source="guidelines"))
        out.write(documents(QUESTION, f"Card: {QUESTION}", LONG, source="cards").assign(id=["c0", "c1", "c2"]))
        out.write(documents(QUESTION, source="exams").assign(id=["e0"]))
    audit, pairs = contamination.audit_files([tmp_path / "d.parquet"], asked, 5, threshold=0.8, processes=processes, decontaminate=["cards"])
    assert audit.columns.tolist() == contamination.COLUMNS
    assert audit[["source", "text_id", "decision"]].values.tolist() == [["cards", "c0", "removed"], ["exams", "e0", "flagged"], ["guidelines", "d1", "clean"]]
    assert pairs.values.tolist() == [["cards", "c0", "q0"], ["cards", "c1", "q0"]], "every text that leaks is named, not only the best"
    assert contamination.worst(audit)["source"].tolist() == ["cards"]
    table = contamination.by_source(audit).set_index("source")
    assert table.loc["cards", "removed"] == 1 and table.loc["exams", "flagged"] == 1 and table.loc["guidelines", "flagged"] == 0
    without = contamination.audit_files([tmp_path / "d.parquet"], asked, 5, threshold=0.8, processes=1)[0]
    assert contamination.sweep(without, asked)["flagged"].tolist() == [1] and (without["score"] == audit["score"]).all()


def test_the_sweep_counts_every_item_and_never_rises_with_the_threshold():
    test = items()[items()["split"] == "test"]
    leaked = test.groupby("benchmark").head(3)
    half = leaked["question"].str.split().map(lambda words: " ".join(words[:len(words) * 3 // 4]))
    texts = documents(*leaked["question"].head(9), *half.tail(9), *(leaked["context"] + " " + leaked["question"]).tail(9))
    audit = contamination.sweep(contamination.overlaps(texts, test, 6), test)
    assert audit["items"].sum() == len(test)
    flagged = audit.filter(like="flagged at").to_numpy()
    assert (np.diff(flagged, axis=1) <= 0).all() and flagged[:, -1].sum() >= 9 and flagged[:, 0].sum() > flagged[:, -1].sum()


# --- tokenizer and accounts ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokenizer.train([LONG] * 5, 300, tmp_path_factory.mktemp("tokenizer") / "t")


@pytest.mark.parametrize("text", [LONG, " leading, trailing ", "naïve café ≥ 5 µg · 10⁹", "麻醉前禁食 8 小时。", "a\n\n\tb  c", "👩‍⚕️ ok"])
def test_the_tokenizer_gives_back_every_byte(folder, text):
    from transformers import AutoTokenizer
    loaded = AutoTokenizer.from_pretrained(folder)
    ids = loaded(text, add_special_tokens=False)["input_ids"]
    assert loaded.decode(ids) == text
    assert tokenizer.load(folder).encode(text).ids == ids, "counting and training must see the same tokens"


def test_the_end_mark_ends_pads_and_is_one_token(folder):
    from transformers import AutoTokenizer
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.eos_token == loaded.pad_token == tokenizer.END and loaded.eos_token_id == 0
    assert loaded("x" + tokenizer.END)["input_ids"][-1] == loaded.eos_token_id
    assert len(loaded("x")["input_ids"]) == 1, "no mark may be added on its own: prompts would no longer be prefixes"
    assert len(loaded) == tokenizer.load(folder).get_vocab_size() <= 300


def test_accounts_add_up(folder):
    texts = documents(LONG, "Two words", LONG, source=["a", "a", "b"])
    account = accounts.account(texts, folder, "kind").set_index("source")
    assert account["rows"].to_dict() == {"a": 2, "b": 1}
    assert account["words"].sum() == texts["text"].str.split().str.len().sum()
    assert account["tokens"].sum() == sum(len(tokenizer.load(folder).encode(text).ids) + 1 for text in texts["text"])


def test_split_held_out_is_disjoint_seeded_and_takes_its_share_of_every_source():
    texts = documents(*[f"text {n}" for n in range(300)], source=["a", "b", "b"] * 100)
    kept, held = accounts.split_held_out(texts, 0.1, seed=1)
    assert sorted([*kept["id"], *held["id"]]) == sorted(texts["id"]) and not set(kept["id"]) & set(held["id"])
    assert held["source"].value_counts().to_dict() == {"a": 10, "b": 20}
    assert held.equals(accounts.split_held_out(texts, 0.1, seed=1)[1])
    assert set(held["id"]) != set(accounts.split_held_out(texts, 0.1, seed=2)[1]["id"])


# --- sources ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("section, build", [("documents", sources.build_documents), ("instructions", sources.build_instructions),
                                            ("candidates", sources.build_candidates)])
def test_sources_refuse_unknown_names_and_endless_counts(section, build):
    corpus = TINY.corpus
    with pytest.raises(StageError, match=f"corpus.{section} names pubmed_abstracts, which is no source; there are mini_"):
        build(corpus.model_copy(update={section: {"pubmed_abstracts": 5}}), world(), 0)
    first = next(iter(getattr(corpus, section)))
    with pytest.raises(StageError, match=f"{first} is written on the spot and has no end"):
        build(corpus.model_copy(update={section: {first: None}}), world(), 0)


def test_a_run_on_hub_data_stops_with_a_sentence():
    with pytest.raises(StageError, match="corpus.world is null.*params/mini_llama.yaml"):
        sources.world(TINY.corpus.model_copy(update={"world": None}), 0)


def test_what_the_sources_build_fits_the_schemas_and_follows_the_seed():
    for kind, build in (("document", sources.build_documents), ("document", sources.build_general), ("instruction", sources.build_instructions),
                        ("candidates", sources.build_candidates), ("item", sources.build_items)):
        made = build(TINY.corpus, world(), 0)
        assert len(records.to_table(kind, made)) == len(made) > 0
    one, same, other = (sources.build_documents(TINY.corpus, world(), seed)["text"].tolist() for seed in (0, 0, 1))
    assert one == same != other


# --- records ---------------------------------------------------------------------------------------------------------

ROW = {"id": "1", "source": "s", "licence": "l", "text": "t", "fact_ids": ["a"]}


@pytest.mark.parametrize("rows, words", [
    ([ROW, {**ROW, "id": "2", "txet": "t"}], r"row 1 is not a document record.*unknown \['txet'\]"),
    ([{name: value for name, value in ROW.items() if name != "text"}], r"row 0 .*missing \['text'\]"),
    ([{**ROW, "text": None}], "'text' of document records has 1 empty"),
    ([ROW, ROW], "same id"),
    ([{**ROW, "text": 5}], "row 0 is not a document record: column 'text' expects string, got 5"),
    ([ROW, {**ROW, "id": "2", "fact_ids": "abc"}], "row 1 is not a document record: column 'fact_ids' expects a list"),
], ids=["unknown column", "missing column", "empty value", "same id", "wrong type", "text for a list"])
def test_rows_that_do_not_fit_are_refused_by_name(tmp_path, rows, words):
    with pytest.raises(ValueError, match=words):
        records.write("document", rows, tmp_path / "d.parquet")
    assert not list(tmp_path.iterdir())


def test_records_come_back_as_they_were(tmp_path):
    rows = pd.DataFrame([ROW, {**ROW, "id": "2", "text": "孕妇 \n禁用", "fact_ids": []}])
    assert records.write("document", rows, tmp_path / "deep" / "d.parquet") == 2
    assert records.read("document", tmp_path / "deep" / "d.parquet").to_dict("records") == rows.to_dict("records")
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["d.parquet"]


def test_an_empty_table_keeps_its_columns(tmp_path):
    records.write("document", pd.DataFrame([ROW]).head(0), tmp_path / "d.parquet")
    assert records.read("document", tmp_path / "d.parquet").columns.tolist() == list(ROW)


def test_a_damaged_file_is_a_sentence(tmp_path):
    file = tmp_path / "d.parquet"
    records.write("document", [{**ROW, "id": str(n), "text": LONG * n} for n in range(20)], file)
    whole = file.read_bytes()
    for damaged in (b"", b"not parquet at all", whole[:len(whole) // 2], whole[:-4], whole[:100] + b"\xff" * 60 + whole[160:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(file)) + ".*delete it and run the stage"):
            records.read("document", file)
    with pytest.raises(ValueError, match="cannot be read"):
        records.read("document", tmp_path / "missing.parquet")


def test_another_kind_of_record_is_refused(tmp_path):
    records.write("document", [ROW], tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="does not hold item records"):
        records.read("item", tmp_path / "d.parquet")


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "d.parquet"
    records.write("document", [ROW], file)

    def full_disk(table, path):
        path.write_bytes(b"PAR1 half a fi")
        raise OSError("No space left on device")

    monkeypatch.setattr(records.pq, "write_table", full_disk)
    with pytest.raises(OSError):
        records.write("document", [{**ROW, "id": "2"}], file)
    monkeypatch.undo()
    assert records.read("document", file)["id"].tolist() == ["1"]


# --- mixtures and accounts -------------------------------------------------------------------------------------------

def test_a_mixture_takes_its_share_whatever_the_order_and_marks_copies(tmp_path):
    texts = documents(*[f"text {n}" for n in range(200)], source=["a", "b"] * 100)
    times = accounts.mixture(texts, {"a": 0.25, "b": 2}, seed=1)
    assert times == accounts.mixture(texts.iloc[::-1], {"b": 2, "a": 0.25}, seed=1) != accounts.mixture(texts, {"a": 0.25, "b": 2}, seed=2)
    records.write("document", texts, tmp_path / "all.parquet")
    assert streams.select(tmp_path / "all.parquet", tmp_path / "mixed.parquet", times) == 25 + 200
    mixed = records.read("document", tmp_path / "mixed.parquet")
    assert mixed["source"].value_counts().to_dict() == {"b": 200, "a": 25} and mixed["id"].is_unique and mixed["text"].value_counts().max() == 2
    assert accounts.mixture(texts, {"a": 0}, seed=1) == {name: int(source == "b") for name, source in zip(texts["id"], texts["source"])}
    with pytest.raises(StageError, match="corpus.mixture names c, of which there are no documents; there are a, b"):
        accounts.mixture(texts, {"c": 1}, seed=1)


def test_the_accounts_add_up_with_a_mixture_and_no_source_vanishes():
    kept = documents(*"abcdefgh", source=["none"] * 3 + ["twice"] * 3 + ["once"] * 2)
    account = pd.DataFrame([{"kind": "documents", "source": name, "licence": "CC BY 4.0", "rows": rows, "tokens": 10, "trainable": 10} for name, rows in (("twice", 6), ("once", 2))]
                           + [{"kind": "held out", "source": "none", "licence": "CC0", "rows": 1, "tokens": 3, "trainable": 3}])
    rules = pd.DataFrame([{"rule": cleaning.TOO_SHORT, "source": name, "changed": 0, "dropped": 1} for name in ("none", "twice", "once", "gone")])
    nothing = pd.DataFrame(columns=["source", "kind", "text_id"])
    flow = accounts.flow(account, nothing, rules, nothing, nothing, kept).set_index("source")
    assert flow["read"].to_dict() == {"twice": 4, "once": 3, "none": 5, "gone": 1}, "what was read does not depend on the mixture"
    assert flow["mixture"].to_dict() == {"twice": -3, "once": 0, "none": 3, "gone": 0} and flow["kept"].to_dict() == {"twice": 6, "once": 2, "none": 0, "gone": 0}
    assert flow.loc["none", "licence"] == "CC0"
    once = accounts.flow(account.drop(index=0), nothing, rules[2:3], nothing, nothing, kept[6:])
    assert once["source"].tolist() == ["once"] and "mixture" not in once


@pytest.mark.parametrize("processes", [1, 2])
def test_trainable_tokens_are_those_of_the_completion_and_its_end_mark(folder, tmp_path, processes):
    rows = pd.DataFrame([{"id": str(n), "source": "s", "licence": "l", "prompt": f"{LONG}\nAnswer:", "completion": f" {n} Yes.", "fact_ids": []} for n in range(5)])
    records.write("instruction", rows, tmp_path / "i.parquet")
    account = accounts.account_file(tmp_path / "i.parquet", folder, "instructions", processes).iloc[0]
    loaded = tokenizer.load(folder)
    assert account["tokens"] == sum(len(loaded.encode(p + c).ids) + 1 for p, c in zip(rows["prompt"], rows["completion"]))
    assert account["trainable"] == sum(len(loaded.encode(c).ids) + 1 for c in rows["completion"])
    assert account.to_dict() == accounts.account(rows, folder, "instructions").iloc[0].to_dict()
