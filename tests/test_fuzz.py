"""Anything at all as input: a sentence and exit code 2, or a result in which every given value stands; never a traceback.

With the 900 cases of test_params.py about 3,600 by default; HIPPO_FUZZ=5000 makes each of them as many.
"""

import dataclasses
import json
import math
import os

import pandas as pd
import pytest
import yaml
from hippo_utils import params, records, run
from hippo_utils.corpus import hub
from hippo_utils.evaluation import extraction
from hippo_utils.judging import crossfilter, prompts
from hippo_utils.manifest import StageError
from hippo_utils.params import ParamsError
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_params import BASE, LEAVES, ODDITIES, TREES, WORDS, spoiled

FUZZ = settings(max_examples=int(os.environ.get("HIPPO_FUZZ", 300)), deadline=None, suppress_health_check=list(HealthCheck))
NASTY = st.sampled_from(["<script>alert(1)</script>", "\x00", "\ud800", "\u202e", "\u2028", "A" * 5000, "../../etc/passwd", "{{ 7 * 7 }}", "{% raw %}", "=1+1", "NaN", "null", ""])
TEXTS = st.text(max_size=40) | NASTY


def leaves(tree: dict, before: tuple = ()) -> dict[tuple, object]:
    """Every value of nested mappings by its path."""
    found = {}
    for name, value in tree.items():
        found |= leaves(value, (*before, name)) if isinstance(value, dict) and value else {(*before, name): value}
    return found


def one_line(error: Exception) -> None:
    assert str(error).strip() and len(str(error).splitlines()) == 1


# --- parameters ------------------------------------------------------------------------------------------------------

@FUZZ
@given(text=spoiled())
def test_no_value_of_an_accepted_file_is_lost_or_replaced_by_a_default(text, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "spoiled.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        found = params.load(file)
    except ParamsError as error:
        return one_line(error)
    loaded = leaves(json.loads(json.dumps(found.model_dump())))
    for path, value in leaves({name: value for name, value in yaml.safe_load(text).items() if (name, value) != ("extends", None)}).items():  # null extends nothing
        assert loaded.get(path, {}) == (float(value) if isinstance(loaded.get(path), float) else value), path


@FUZZ
@given(data=st.data())
def test_an_unknown_key_is_refused_wherever_it_stands(data):
    content = json.loads(json.dumps(BASE))
    place, path = content, []
    while (inner := [name for name, value in place.items() if isinstance(value, dict) and name not in ("documents", "instructions", "candidates", "mixture")]) and data.draw(st.booleans()):
        path.append(data.draw(st.sampled_from(inner)))
        place = place[path[-1]]
    word = data.draw(WORDS)
    assume(word not in params._known_keys(path) and word != "extends")
    place[word] = data.draw(TREES)
    with pytest.raises(ParamsError) as error:
        params.resolve(content)
    one_line(error.value)


@settings(FUZZ, max_examples=FUZZ.max_examples // 2)
@given(name=st.sampled_from(["any.yaml", "study_any.yaml"]), variants=st.none() | st.dictionaries(WORDS, TREES, max_size=3),
       above=st.dictionaries(st.sampled_from([*BASE, "extends", "variants", "runn"]), TREES, max_size=2), oddity=st.sampled_from(["", *ODDITIES]))
def test_the_command_line_answers_any_file_with_code_2_and_one_line_or_takes_it(name, variants, above, oddity, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / name
    content = {"extends": "mini_llama"} | above | ({"variants": variants} if variants is not None else {})
    file.write_text(yaml.dump(content, allow_unicode=True) + oddity + "\n", encoding="utf-8", errors="surrogatepass")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.manifest, "reasons", lambda settings, stage: [])  # what is up to date is not the question here
        patch.setattr("builtins.print", lambda *words, **options: said.append(" ".join(map(str, words))))
        code = run.main([str(file), "--dry-run"])
    if code == 2:
        assert len(said) == 1 and said[0].startswith("error: ") and len(said[0].splitlines()) == 1
    else:
        assert code == 0 and said and all("everything is up to date" in line for line in said)


# --- rows and replies ------------------------------------------------------------------------------------------------

@FUZZ
@given(kind=st.sampled_from(sorted(records.SCHEMAS)), data=st.data())
def test_a_row_of_any_kind_fits_or_is_named(kind, data, tmp_path_factory):
    """What is accepted is read back as it was; nothing is cast in silence except an integer into a float."""
    schema = records.SCHEMAS[kind]
    good = {"string": TEXTS, "int64": st.integers(-2**63, 2**63 - 1), "double": st.floats(allow_nan=False), "bool": st.booleans(),
            "list<element: string>": st.lists(TEXTS, max_size=2), "list<element: double>": st.lists(st.floats(allow_nan=False), max_size=2),
            "list<element: int64>": st.lists(st.integers(-2**63, 2**63 - 1), max_size=2)}
    columns = [good[str(field.type).replace("item:", "element:")] for field in schema]
    spoil = data.draw(st.integers(0, 2 * len(columns)))  # one column, or none, holds something else
    row = {field.name: data.draw(LEAVES | st.lists(LEAVES, max_size=2) if number == spoil else column) for number, (field, column) in enumerate(zip(schema, columns))}
    file = tmp_path_factory.getbasetemp() / "row.parquet"
    try:
        records.write(kind, [row], file)
    except (ValueError, UnicodeEncodeError) as error:
        assert str(error).strip()
        return
    back = records.read(kind, file).to_dict("records")[0]
    for name, value in row.items():
        assert same(back[name], value), (name, value, back[name])


def same(one, other) -> bool:
    if isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    if other is None or (isinstance(other, float) and math.isnan(other)):
        return one is None or pd.isna(one)
    return one == other and isinstance(one, str) == isinstance(other, str)


OPTIONS = ["metformin", "a beta blocker", "insulin", "none of these"]


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(reply=st.text(max_size=80) | st.builds("{}Answer:{}".format, TEXTS, TEXTS | st.sampled_from([f" ({letter}) " for letter in "abcdexz"] + OPTIONS + [o.upper() + "." for o in OPTIONS])))
def test_any_reply_names_an_option_or_none(reply):
    chosen = extraction.parse_answer(reply, OPTIONS)
    assert chosen == extraction.NO_ANSWER or 0 <= chosen < len(OPTIONS)
    if "Answer:" not in reply:
        assert chosen == extraction.NO_ANSWER


JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 12) | st.floats() | TEXTS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8)
VERDICTS = st.fixed_dictionaries({}, optional={"best": st.sampled_from(["A", "B", "tie", "a", "D"]) | JSON, "ranking": st.permutations("ABC") | JSON, "notes": JSON,
                                               **{aspect: st.integers(0, 10) | JSON for aspect in crossfilter.ASPECTS}})
REPLIES = st.text(max_size=60) | st.builds(lambda before, verdicts, after: before + after.join(json.dumps(verdict) for verdict in verdicts),
                                           TEXTS | st.sampled_from(["<think>{\"best\": \"A\"}</think>", "```json\n", "{", "Sure! "]), st.lists(VERDICTS | JSON, min_size=1, max_size=2), TEXTS)


@FUZZ
@given(reply=REPLIES, task=st.sampled_from(sorted(prompts.SHAPES)))
def test_any_reply_of_a_judge_is_one_whole_verdict_or_refused(reply, task):
    try:
        order, notes = prompts.parse(reply, task, 3)
    except ValueError as error:
        assert str(error).strip()
    else:
        assert len(set(order)) == len(order) and set(order) | set(notes) <= {0, 1, 2}
        assert len(order) == 3 if task == "ranking" else len(order) <= 1
    scores = crossfilter.parse(reply)
    assert scores is None or (set(scores) == set(crossfilter.ASPECTS) and all(0 <= score <= 10 for score in scores.values()))


SOURCES = sorted(hub.catalogue().values(), key=lambda source: source.name)
GOOD = {"text": TEXTS, "optional": TEXTS | st.none(), "integer": st.integers(-1, 5), "list": st.lists(TEXTS | st.lists(TEXTS, max_size=2), max_size=3),
        "struct": st.fixed_dictionaries({}, optional={"contexts": st.lists(TEXTS | st.none(), max_size=2) | JSON, **{letter: TEXTS | st.none() for letter in "ABCD"}})}


@pytest.mark.parametrize("key", ["\r", "\ud800", "\u2028"])
def test_an_option_with_an_odd_name_is_set_aside_in_one_line_that_can_be_written(key, tmp_path):
    source = next(source for source in SOURCES if source.name == "medqa")
    row = {name: "aspirin" for name in source.columns} | {"options": {key: "aspirin"}, "answer_idx": "A"}
    for file in source.files:
        path = tmp_path / source.hub / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    quarantine = []
    with pytest.raises(StageError) as error:
        list(hub.stream(source, params.load("mini_llama").corpus.model_copy(update={"data_root": str(tmp_path)}), None, 0, quarantine))
    one_line(error.value)
    assert "none of the options" in str(error.value)
    pd.DataFrame(quarantine).to_parquet(tmp_path / "quarantine.parquet")


@FUZZ
@given(source=st.sampled_from(SOURCES), data=st.data())
def test_any_row_of_any_source_becomes_a_record_or_is_set_aside_with_a_reason(source, data, tmp_path_factory):
    source = dataclasses.replace(source, files=["rows.jsonl"], where={}, drawn=(0.0, 1.0))
    good = {"answer_idx": st.sampled_from("ABCDE"), "final_decision": st.sampled_from(["yes", "No ", "perhaps"])}
    row = data.draw(st.fixed_dictionaries({name: JSON if data.draw(st.integers(0, 5)) == 0 else good.get(name, GOOD[wanted]) for name, wanted in source.columns.items()}))
    folder = tmp_path_factory.getbasetemp() / "mirror"
    file = folder / source.hub / "rows.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text((json.dumps(row) + "\n") * 2, encoding="utf-8")
    corpus, quarantine = params.load("mini_llama").corpus.model_copy(update={"data_root": str(folder)}), []
    try:
        made = list(hub.stream(source, corpus, None, 0, quarantine))
    except StageError as error:
        assert len(quarantine) == 2 and all(entry["reason"].strip() for entry in quarantine)
        return one_line(error)
    assert len(made) == 2 and not quarantine and len({record["id"] for record in made}) == 2
