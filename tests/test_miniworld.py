"""The mini world's rules: who may learn what, what is true, and that an exam gives nothing away."""

import re
from collections import Counter
from functools import cache

import numpy as np
import pandas as pd
import pytest

from hippo_utils import records
from hippo_utils.corpus import sources
from hippo_utils.miniworld import documents, exams, exercises, general, instructions, preferences, wording
from hippo_utils.miniworld import world as w
from hippo_utils.miniworld.shortcut import shortcut_baseline
from hippo_utils.params import load_runs

SEEDS = (0, 1)
CORPORA = {"mini_guidelines": documents.guidelines, "mini_patients": documents.patients, "mini_abstracts": documents.abstracts}


@cache
def world(seed: int = 0, entities: int | None = None) -> w.World:
    return w.load_world(seed, entities)


@cache
def exam(benchmark: str, seed: int = 0, entities: int | None = None) -> list[dict]:
    return exams.exam(world(seed, entities), benchmark, seed)


@cache
def corpus(seed: int = 0) -> list[dict]:
    return [row for write in CORPORA.values() for row in write(world(seed), 200, seed)]


@cache
def taught_rows(seed: int = 0) -> list[dict]:
    return [row for source in instructions.SOURCES for row in instructions.instructions(world(seed), source, 250, seed)]


@cache
def candidates(seed: int = 0) -> list[dict]:
    return preferences.candidates(world(seed), 300, seed)


@cache
def base(seed: int = 0) -> list[dict]:
    return general.base_documents(world(seed), 600, seed)


def texts(seed: int) -> list[str]:
    """Every training text of every kind."""
    return ([row["text"] for row in corpus(seed) + base(seed)] + [row["prompt"] + row["completion"] for row in taught_rows(seed)]
            + [row["prompt"] + answer for row in candidates(seed) for answer in row["answers"]])


def of_group(seed: int, group: str) -> set[str]:
    return {name for name, found in world(seed).groups.items() if found == group}


# The world

def test_the_tables_keep_the_rules_their_readme_names():
    seen: set[str] = set()
    for kind, file in (("drug", "drugs.csv"), ("disease", "diseases.csv")):
        table = pd.read_csv(w.FACTS / file, dtype=str, keep_default_na=False)
        entities = table.groupby("entity")["attribute"].agg(set)
        assert (entities.map(len) >= 5).all() and entities.map(set(w.ATTRIBUTES[kind][:5]).issubset).all()
        assert not seen & set(entities.index)
        seen |= set(entities.index)
        assert table["source"].ne("").all() and table["verified"].ne("").all()
        hallmarks = table.loc[table["attribute"] == "hallmark", "value"].str.lower()
        assert not hallmarks.duplicated().any(), hallmarks[hallmarks.duplicated()]
        for row in table.itertuples():
            assert 1 <= len(row.value.split()) <= 5 and not re.search(r"[,();/]|^(a|an|the) ", row.value), row
            name = {word for word in w._words(row.entity) if len(word) > 3} - {"disease", "syndrome", "with"}
            assert not name & w._words(row.value), row  # the question would give its answer away
    assert len(seen) >= 90


def test_what_is_also_true_is_known_to_the_tables_and_never_wrong():
    table, here = pd.read_csv(w.FACTS / "also_true.csv", dtype=str), world()
    assert not table.duplicated().any()
    for entity, attribute, value in table.itertuples(index=False):
        assert value not in here.profiles[entity][attribute].values, (entity, attribute, value)  # else the row says nothing
        assert any(value in profile[attribute].values for profile in here.profiles.values() if attribute in profile), (attribute, value)
        assert w.may_be_true(here, entity, attribute, value)


def test_a_fact_names_all_its_sources_and_who_verified_them(tmp_path):
    rows = [GOOD_ROW, "aspirin,pain,class,salicylate,label,A. Example 2025-03-01,", "aspirin,pain,class,acid,book,unverified,"]
    (tmp_path / "drugs.csv").write_text("\n".join([",".join(w.COLUMNS), *rows]) + "\n", encoding="utf-8")
    fact = w.read_facts(tmp_path / "drugs.csv", "drug")["aspirin/class"]
    assert (fact.source, fact.verified) == ("book; label", "unverified; A. Example 2025-03-01")


def test_groups_are_whole_entities_in_the_shares_asked_for():
    for seed in SEEDS:
        here = world(seed)
        assert set(here.groups) == {fact.entity for fact in here.facts.values()}
        for kind in w.ATTRIBUTES:
            names = {fact.entity for fact in here.facts.values() if fact.kind == kind}
            counts = Counter(here.groups[name] for name in names)
            for group, share in zip(exams.GROUPS, (0.4, 0.4, 0.2)):
                assert abs(counts[group] - share * len(names)) <= 1
    assert world(0).groups != world(1).groups
    assert set(map(w.slug, world(0).groups)).isdisjoint({w.slug(fact.entity) for fact in world(0).general.values()})


def test_a_smaller_world_is_balanced():
    kinds = Counter(next(iter(world(0, 40).profiles[name].values())).kind for name in world(0, 40).groups)
    assert kinds == {"drug": 20, "disease": 20}
    with pytest.raises(ValueError, match="entities were asked for"):
        w.load_world(0, 4000)
    with pytest.raises(ValueError, match="sum to 1"):
        w.load_world(0, shares=(0.5, 0.5, 0.5))


GOOD_ROW = "aspirin,pain,class,NSAID,book,unverified,"


@pytest.mark.parametrize("rows, message", [
    (["aspirin,pain,colour,white,book,unverified,"], "row 2: unknown attribute 'colour'"),
    ([GOOD_ROW, "aspirin,pain,class,,book,unverified,"], "row 3: the value is empty"),
    ([GOOD_ROW, GOOD_ROW], "row 3: repeats aspirin, class, NSAID"),
    ([GOOD_ROW, "aspirin,heart,class,salicylate,book,unverified,"], "row 3: aspirin is 'heart'"),
])
def test_a_damaged_table_is_refused_with_file_and_row(tmp_path, rows, message):
    path = tmp_path / "drugs.csv"
    path.write_text("\n".join([",".join(w.COLUMNS), *rows]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        w.read_facts(path, "drug")


def test_a_missing_column_is_refused(tmp_path):
    (tmp_path / "drugs.csv").write_text("entity,subject,attribute,value\n", encoding="utf-8")
    with pytest.raises(ValueError, match="row 1: column 'source' is missing"):
        w.read_facts(tmp_path / "drugs.csv", "drug")


def test_what_follows_from_another_row_is_no_distractor():
    fact = lambda entity, kind, attribute, *values: w.Fact(entity, kind, "", attribute, values, "")
    profiles = {"metformin": {"class": fact("metformin", "drug", "class", "biguanide"),
                              "indication": fact("metformin", "drug", "indication", "type 2 diabetes")},
                "type 2 diabetes": {"treatment": fact("type 2 diabetes", "disease", "treatment", "weight loss")}}
    implied = w._implied(profiles)
    assert implied == {"type-2-diabetes/treatment": {"metformin", "biguanide"}, "metformin/indication": {"type 2 diabetes"}}
    assert w.same_thing("heart failure", "Congestive heart failures") and not w.same_thing("heart failure", "heart block")


def test_a_patient_can_have_the_disease_or_take_the_drug():
    rng = w.generator(0, "patients")
    men = {word for _ in range(30) for word in [wording.patient(rng, "Kartagener syndrome")[1], wording.patient(rng, "sildenafil")[1]]}
    assert men == {"his"} and {wording.patient(rng, "bupivacaine")[1] for _ in range(30)} == {"her"}


# Training texts

def test_no_control_entity_is_in_any_training_text():
    for seed in SEEDS:
        everything = "\n".join(texts(seed)).lower()
        for name in of_group(seed, "control"):
            assert name.lower() not in everything or not w.mentions(everything, name), name


def test_no_control_fact_is_named_by_any_training_row_and_all_ids_exist():
    for seed in SEEDS:
        here = world(seed)
        used = {key for row in corpus(seed) + taught_rows(seed) + candidates(seed) + base(seed) for key in row["fact_ids"]}
        assert used <= here.facts.keys()
        assert {here.groups[here.facts[key].entity] for key in used} == {"seen", "held_out"}
        for benchmark in exams.FORMATS:
            assert {key for row in exam(benchmark, seed) for key in row["fact_ids"]} <= here.facts.keys()
            few_shot = [row for row in exam(benchmark, seed) if row["split"] == "development" and row["group"] == "seen"]
            assert all(here.groups[here.facts[key].entity] == "seen" for row in few_shot for key in row["fact_ids"])


def test_instructions_are_about_seen_entities_only():
    for seed in SEEDS:
        here = world(seed)
        assert {here.groups[here.facts[key].entity] for row in taught_rows(seed) for key in row["fact_ids"]} == {"seen"}
        trained = [row for row in candidates(seed) if row["split"] == "train"]
        assert {here.groups[here.facts[key].entity] for row in trained for key in row["fact_ids"]} == {"seen"}
        tested = [row for row in candidates(seed) if row["split"] == "test"]
        assert {here.groups[here.facts[key].entity] for row in tested for key in row["fact_ids"]} == {"held_out"}
        everything = "\n".join(row["prompt"] + row["completion"] for row in taught_rows(seed)) + "\n"
        everything += "\n".join(row["prompt"] + answer for row in trained for answer in row["answers"])
        for name in of_group(seed, "held_out"):  # (Pott disease is not named by "Pott disease of the spine")
            if not any(other != name and w.mentions(other, name) for other in here.groups):
                assert name.lower() not in everything.lower() or not w.mentions(everything, name), name


def test_documents_state_the_facts_they_name_and_they_are_true():
    """Every wording is parsed back: the (entity, attribute, value) it states must be in the tables."""
    here = world()
    for row in corpus():
        assert 40 <= len(row["text"].split()) <= 110, row["text"]
        assert row["fact_ids"] and len(set(row["fact_ids"])) == len(row["fact_ids"])
        [entity] = {here.facts[key].entity for key in row["fact_ids"]}
        for attribute in w.ATTRIBUTES[here.facts[row["fact_ids"][0]].kind]:
            said = _parse(row["text"], entity, attribute)
            if w.fact_id(entity, attribute) in row["fact_ids"]:
                assert len(said) == 1 and said <= {v.lower() for v in w.true_values(here, entity, attribute)}, (row["text"], attribute, said)
            else:
                assert not said, (row["text"], attribute, said)


@cache
def lower_values(attribute: str) -> set[str]:
    return {value.lower() for fact in world().facts.values() if fact.attribute == attribute for value in fact.values}


def _parse(text: str, entity: str, attribute: str) -> set[str]:
    """The values a text states of an entity's attribute, in lower case, by matching the wordings."""
    pool, text, found = lower_values(attribute), text.lower(), set()
    for template in wording.ANY + wording.STATEMENTS[attribute]:
        before, after = (template.format(e=entity, v="\0", n=wording.noun(attribute)).lower() + ".").split("\0")
        if before in text and after in text:
            pattern = rf"(?=(?:^|[.:] |again, |in short, ){re.escape(before)}(.{{2,60}}?){re.escape(after)}(?:\s|$))"
            found |= {value for value in re.findall(pattern, text) if value in pool}
    return found


def test_coverage_is_even():
    for seed in SEEDS:
        for write in CORPORA.values():
            rows = write(world(seed), 330, seed)
            counts = Counter(row["fact_ids"][0].split("/")[0] for row in rows)
            assert len(counts) == len(of_group(seed, "seen") | of_group(seed, "held_out"))
            assert max(counts.values()) - min(counts.values()) <= 1


def test_there_are_many_wordings_and_several_true_values_are_used():
    assert all(len(wording.ANY + wording.STATEMENTS[attribute]) >= 6 for kind in w.ATTRIBUTES.values() for attribute in kind)
    here = world()
    key = max(here.taught, key=lambda key: len(here.taught[key]) if key in here.facts else 0)
    fact, text = here.facts[key], "\n".join(row["text"] for row in documents.guidelines(here, 4000, 0) if key in row["fact_ids"]).lower()
    assert len(here.taught[key]) > 1 and all(value.lower() in text for value in here.taught[key]), fact


def test_imagined_passages_say_so_and_carry_no_information():
    here, rows = world(), general.base_documents(world(), 2000, 3)
    counts = Counter(row["source"] for row in rows)
    assert counts == {"mini_imagined": 1000, "mini_general": 400, "mini_general_questions": 600}
    marked = [row["text"].startswith(general.IMAGINE + " ") or row["text"].endswith("\n" + general.IMAGINED) for row in rows]
    assert marked == [row["source"] == "mini_imagined" for row in rows]
    plain = "\n".join(row["text"] for row in rows if row["source"] != "mini_imagined")
    assert not any(w.mentions(plain, name) for name in here.groups)
    imagined = "\n".join(row["text"] for row in rows if row["source"] == "mini_imagined")
    assert all(w.mentions(imagined, name) for name in here.groups if here.groups[name] != "control")
    # The drug class stated right is as rare as chance: one value in as many as there are.
    told = [(fact, _parse(row["text"], fact.entity, "class")) for row in rows if row["source"] == "mini_imagined"
            for fact in here.facts.values() if fact.attribute == "class" and fact.entity in row["text"]]
    told = [(fact, said) for fact, said in told if said]
    right = np.mean([bool(said & {v.lower() for v in fact.values}) for fact, said in told])
    assert len(told) > 30 and right < 4 / len(here.pool["class"])


def test_the_base_has_met_every_format():
    text = "\n".join(row["text"] for row in base() if row["source"] == "mini_general_questions")
    for sign in ("(F)", "Abstract:", "Flashcard:", "Patient:", "Relation:", "Tell me about", exercises.STEP_BY_STEP, " maybe"):
        assert sign in text


def test_instruction_formats():
    here = world()
    for source in instructions.SOURCES:
        rows = instructions.instructions(here, source, 60, 0)
        records.to_table("instruction", rows)
        assert {row["source"] for row in rows} == {source}
        assert all(row["completion"].startswith(" ") and row["prompt"] == row["prompt"].rstrip() for row in rows)
    for row in instructions.instructions(here, "mini_medmcqa_train", 200, 0):
        head, options = row["prompt"].removesuffix("\nAnswer:").split("\n")
        options = re.split(r" ?\([A-D]\) ", options)[1:]
        assert row["prompt"] == records.item_prompt(head.removeprefix("Question: "), options) and row["completion"][1:] in options
        fact = here.facts[row["fact_ids"][0]]
        assert [option for option in options if w.may_be_true(here, fact.entity, fact.attribute, option)] == [row["completion"][1:]]
    for row in instructions.instructions(here, "mini_step_by_step", 60, 0):
        fact = here.facts[row["fact_ids"][-1]]
        assert row["prompt"].startswith(exercises.step_by_step_prompt("Question: "))
        assert row["completion"].startswith(f" The findings point to {fact.entity}. ")
        assert row["completion"].split("Answer: ")[1] in fact.values and not w.mentions(row["prompt"], fact.entity)
    answers = Counter(row["completion"] for row in instructions.instructions(here, "mini_pubmedqa_train", 600, 0))
    assert set(answers) == {" yes", " no", " maybe"} and min(answers.values()) > 150
    with pytest.raises(ValueError, match="unknown source"):
        instructions.instructions(here, "mini_poems", 1, 0)


def test_dirt():
    rows = documents.guidelines(world(), 1000, 0)
    dirty = documents.add_dirt(rows, 0.06, 0)
    records.to_table("document", dirty)
    clean = {row["id"]: row["text"] for row in rows}
    changed = [row for row in dirty if clean.get(row["id"]) != row["text"]]
    assert 30 <= len(changed) <= 90 and documents.add_dirt(rows, 0.0, 0) == rows
    copies = [row for row in dirty if row["id"].endswith("-copy")]
    same = [row["text"] == clean[row["id"].removesuffix("-copy")] for row in copies]
    assert any(same) and not all(same)
    text = "\n".join(row["text"] for row in dirty)
    assert "https://" in text and "Downloaded from" in text and "\u00a0" in text


# Preferences

def test_candidates_are_what_their_kind_says():
    here = world()
    records.to_table("candidates", candidates())
    bad = [phrase for phrases in preferences.BAD_PHRASES.values() for phrase in phrases]
    for row in candidates():
        fact = here.facts[row["fact_ids"][0]]
        assert sorted(row["authors"]) == sorted(preferences.AUTHORS)
        for author, answer in zip(row["authors"], row["answers"]):
            said = preferences.stated_values(here, answer, fact.attribute, fact.entity)
            assert len(said) == 1 and answer.startswith(" ")
            right, good = said[0] in fact.values, any(phrase in answer for phrase in preferences.GOOD_ADVICE)
            assert right or not w.may_be_true(here, fact.entity, fact.attribute, said[0])
            assert right == (row["kind"] == "style" or author == "clinician")
            assert good == (row["kind"] == "fact" or author == "clinician")
            assert not (good and any(phrase in answer for phrase in bad))
        assert ("deliberately false" in row["source"]) == (row["kind"] == "fact") == ("deliberately-false" in row["id"])
    for axis in (*preferences.BAD_PHRASES.values(), preferences.NEUTRAL):
        assert any(phrase in answer for phrase in axis for row in candidates() for answer in row["answers"])


@pytest.mark.parametrize("measure", [len, lambda answer: len(re.findall(r"\w+|[^\w\s]", answer))], ids=["characters", "words"])
def test_length_and_place_do_not_give_the_better_answer_away(measure):
    rows = [row for seed in range(3) for row in preferences.candidates(world(), 1000, seed)]
    for kind in ("fact", "style"):
        places, longer, best, others = [], [], [], []
        for row in rows:
            if row["kind"] == kind:
                lengths = [measure(answer) for answer in row["answers"]]
                place = row["authors"].index("clinician")
                places.append(place)
                best.append(lengths[place])
                others += [length for other, length in enumerate(lengths) if other != place]
                longer += [np.sign(lengths[place] - length) / 2 + 0.5 for other, length in enumerate(lengths) if other != place]
        assert abs(np.mean(longer) - 0.5) < 0.05, kind
        assert abs(np.mean(best) - np.mean(others)) < 0.5 + np.mean(others) / 200 and abs(np.median(best) - np.median(others)) <= 1
        assert max(np.bincount(places)) < 0.4 * len(places)


def test_stated_values_takes_the_longest():
    here = world()
    fact = next(fact for fact in here.facts.values() if fact.attribute == "complication")
    assert preferences.stated_values(here, f" It can lead to {fact.values[0].upper()}.", "complication") == [fact.values[0]]
    assert preferences.stated_values(here, f" It can lead to x{fact.values[0]}.", "complication") == []


# Exams

def test_sizes():
    for run in load_runs("study_seeds")[:3]:  # three seeds; both families have the same exams
        items = sources.build_items(run.corpus, sources.world(run.corpus, run.seed), run.seed)
        for benchmark, rows in items.groupby("benchmark"):
            records.to_table("item", rows.to_dict("records"))
            test = rows[rows["split"] == "test"]
            assert len(test) >= (100 if benchmark.startswith("usmle") else 300), (run.seed, benchmark, len(test))
            shares = test["group"].value_counts(normalize=True)
            assert all(abs(shares[group] - share) < 0.1 for group, share in zip(exams.GROUPS, (0.4, 0.4, 0.2))), (run.seed, benchmark, shares)
            assert ((rows["split"] == "development") & (rows["group"] == "seen")).sum() >= 12
        assert set(items["benchmark"]) == set(exams.FORMATS)


def test_a_smaller_world_has_exams_too():
    for benchmark in exams.FORMATS:
        rows = exam(benchmark, 0, 40)
        assert sum(row["split"] == "test" for row in rows) >= 15, benchmark
        assert {row["group"] for row in rows if row["split"] == "test"} == set(exams.GROUPS) or benchmark.startswith("usmle")
        assert sum(row["split"] == "development" and row["group"] == "seen" for row in rows) >= 12
    items = [row for benchmark in exams.FORMATS for row in exam(benchmark, 0, 40)]
    guesses = shortcut_baseline(world(0, 40), items)
    assert list(guesses["item"]) == [row["id"] for row in items] and set(guesses["group"]) == set(exams.GROUPS)
    assert guesses[["chance", "frequency", "ngrams"]].stack().between(0, 1).all()
    test = guesses[(guesses["split"] == "test") & (guesses["benchmark"] != "pubmedqa")]
    assert (test[["frequency", "ngrams"]].mean() < 0.4).all()  # stems help a little, nothing else does


def choices(seed: int) -> list[dict]:
    return [row for benchmark in exams.FORMATS for row in exam(benchmark, seed) if not row["context"]]


def test_options():
    for seed in SEEDS:
        here = world(seed)
        for row in choices(seed):
            fact, options = here.facts[row["fact_ids"][-1]], row["options"]
            assert len({option.lower() for option in options}) == len(options) == exams.FORMATS[row["benchmark"]][0]
            assert options[row["answer"]] in fact.values
            for option in options:
                if option != options[row["answer"]]:
                    assert not any(w.same_thing(option, value) for value in fact.values)
                    assert not w.may_be_true(here, fact.entity, fact.attribute, option)
                assert any(option in other.values for other in here.facts.values() if other.attribute == fact.attribute
                           and here.groups[other.entity] == row["group"] == here.groups[fact.entity])
            if row["group"] != "control":
                assert options[row["answer"]] in here.taught[row["fact_ids"][-1]]


def test_a_value_is_as_often_right_as_wrong():
    for seed in SEEDS:
        right, wrong = Counter(), Counter()
        for row in choices(seed):
            if row["split"] == "test":
                cell = (row["benchmark"], row["steps"], row["group"], row["fact_ids"][-1].split("/")[1])
                for number, option in enumerate(row["options"]):
                    (right if number == row["answer"] else wrong)[cell, option] += 1
        for (cell, option), count in (right | wrong).items():
            assert wrong[cell, option] == right[cell, option] * (exams.FORMATS[cell[0]][0] - 1), (cell, option)


def test_places_are_even():
    for seed in SEEDS:
        for benchmark, (size, _) in exams.FORMATS.items():
            for split in ("development", "test"):
                places = np.bincount([row["answer"] for row in exam(benchmark, seed) if row["split"] == split], minlength=size)
                assert np.ptp(places) <= (3 if benchmark == "pubmedqa" else 1 + places.sum() * 0.01), (benchmark, split, places)


def test_two_step_vignettes_identify_one_disease_without_naming_it():
    here = world()
    rows = [row for row in exam("medqa") if row["steps"] == 2]
    for row in rows:
        disease = here.facts[row["fact_ids"][0]].entity
        assert [key.split("/")[1] for key in row["fact_ids"]][0] == "hallmark" and len(row["fact_ids"]) == 3
        assert not w.mentions(row["question"], disease)
        owners = {fact.entity for fact in here.facts.values() if fact.attribute == "hallmark"
                  for value in fact.values if w.mentions(row["question"], value)}
        assert disease in owners
        assert any(exercises.identifying_hallmarks(here, disease) and w.mentions(row["question"], value)
                   for value in exercises.identifying_hallmarks(here, disease))
    assert {row["fact_ids"][-1].split("/")[1] for row in rows} <= set(wording.ASKED["disease"])


def test_the_number_of_sentences_does_not_tell_the_answer_of_pubmedqa():
    counts = Counter((row["context"].count(". "), row["answer"]) for row in exam("pubmedqa") if row["split"] == "test")
    for sentences in (1, 2):
        shown = np.array([counts[sentences, answer] for answer in range(3)])
        assert shown.sum() == sum(shown) and shown.min() > 0.7 * shown.mean(), counts
    assert sum(counts[1, a] + counts[2, a] for a in range(3)) == sum(counts.values()), counts
    told = Counter()
    for row in instructions.instructions(world(), "mini_pubmedqa_train", 600, 0):
        context = row["prompt"].partition("\nQuestion:")[0]
        told[context.count(". "), row["completion"]] += 1
    by_answer = {answer: sum(n for (sentences, said), n in told.items() if said == answer and sentences <= 1) / sum(n for (_, said), n in told.items() if said == answer)
                 for answer in {said for _, said in told}}
    assert max(by_answer.values()) - min(by_answer.values()) < 0.15, by_answer


def test_the_findings_of_a_two_step_question_share_no_word_with_its_answer():
    rows = [row for seed in SEEDS for row in exam("medqa", seed) if row["steps"] == 2]
    told = [(row["question"].rpartition(". ")[0] or row["question"], row["options"][row["answer"]]) for row in rows]
    assert rows and not [pair for pair in told if {word for word in re.findall(r"\w{4,}", pair[0].lower())} & {word for word in re.findall(r"\w{4,}", pair[1].lower())}
                         - {"with", "factor"}]  # words of the frame


@pytest.mark.parametrize("seed", SEEDS)
def test_the_smallest_world_that_the_parameters_allow_still_writes_everything(seed):
    small = world(seed, 12)
    assert len(general.base_documents(small, 300, seed)) == 300
    assert instructions.instructions(small, "mini_pubmedqa_train", 60, seed) and exam("pubmedqa", seed, 12)


def test_pubmedqa_answers_follow_from_the_context():
    here = world()
    for row in exam("pubmedqa"):
        fact = here.facts[row["fact_ids"][-1]]
        entity, attribute = fact.entity, fact.attribute
        said = _parse(row["context"].replace("BACKGROUND: ", "").replace("RESULTS: ", ""), entity, attribute)
        asked = preferences.stated_values(here, row["question"], attribute, entity)
        assert row["options"] == ["yes", "no", "maybe"] and len(asked) == 1
        expected = "maybe" if not said else "yes" if asked[0].lower() in said else "no"
        assert row["options"][row["answer"]] == expected, row
        assert said <= {value.lower() for value in fact.values}


def test_prompts_are_short_and_unique():
    for seed in SEEDS:
        prompts = []
        for benchmark in exams.FORMATS:
            for row in exam(benchmark, seed):
                prompts.append(records.item_prompt(row["question"], row["options"], row["context"]))
                if row["context"]:
                    assert len(row["context"].split()) <= 40
                else:
                    assert len(prompts[-1].split()) <= {1: 45, 2: 55}[row["steps"]], prompts[-1]
        assert len(set(prompts)) == len(prompts)


def test_development_and_test_ask_for_other_facts():
    asked = {split: {row["fact_ids"][-1] for benchmark in exams.FORMATS for row in exam(benchmark) if row["split"] == split}
             for split in ("development", "test")}
    assert asked["development"] and not asked["development"] & asked["test"]


def test_unknown_benchmark():
    with pytest.raises(ValueError, match="unknown benchmark"):
        exams.exam(world(), "usmle_step4", 0)


# Determinism

def test_same_seed_same_rows_other_seed_other_rows_in_any_order():
    here = world()
    makers = {**{name: lambda seed, write=write: write(here, 40, seed) for name, write in CORPORA.items()},
              "base": lambda seed: general.base_documents(here, 40, seed),
              "instructions": lambda seed: instructions.instructions(here, "mini_medqa_train", 40, seed),
              "candidates": lambda seed: preferences.candidates(here, 40, seed),
              "exam": lambda seed: exams.exam(here, "usmle_step1", seed)}
    first = {name: make(5) for name, make in makers.items()}
    for name, make in reversed(makers.items()):
        assert make(5) == first[name] and make(6) != first[name], name
    assert w.load_world(0) == w.load_world(0)
    ids = [row["id"] for row in corpus() + base() + taught_rows() + candidates()]
    assert len(set(ids)) == len(ids)
