"""Parameters: every mistake is one sentence, and the three routes into a notebook mean the same."""

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT, parameters_cell, write_notebook
from hypothesis import HealthCheck, example, given, settings, strategies as st
from hippo_utils import manifest, params, paths
from hippo_utils.params import ParamsError

FILES = [file.stem for file in paths.params_files()]
LLAMA = params.load("mini_llama")


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / "mine.yaml"
        file.write_text(text, encoding="utf-8")
        return file
    return write


# --- reading -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", FILES)
def test_every_params_file_is_valid_and_named_after_its_run(name):
    assert params.load(name).run == name


def test_extends_merges_mappings_deeply_and_replaces_everything_else(write):
    merged = params.load(write("extends: mini_llama\nrun: mine\nevaluation: {shots: [0, 2, 5]}\npreference: {dpo: {beta: 0.3}}\n"
                               "corpus: {documents: {mini_patients: null}}"))
    assert merged.evaluation.shots == [0, 2, 5] and merged.evaluation.stages == LLAMA.evaluation.stages
    assert merged.preference.dpo.beta == 0.3 and merged.preference.dpo.lora == LLAMA.preference.dpo.lora
    assert merged.corpus.documents == LLAMA.corpus.documents | {"mini_patients": None}


def test_extends_may_be_a_chain_but_not_a_circle(write, tmp_path, monkeypatch):
    folder = tmp_path / "params"
    folder.mkdir()
    monkeypatch.setattr(paths, "PARAMS", folder)
    (folder / "base.yaml").write_text((ROOT / "params" / "mini_llama.yaml").read_text())
    (folder / "middle.yaml").write_text("extends: base\nrun: middle\nseed: 1")
    (folder / "top.yaml").write_text("extends: middle\nrun: top\nthreads: 2")
    assert (params.load("top").seed, params.load("top").threads) == (1, 2)
    (folder / "one.yaml").write_text("extends: two")
    (folder / "two.yaml").write_text("extends: one")
    with pytest.raises(ParamsError, match="one -> two -> one|two -> one -> two"):
        params.load("one")


def test_the_seed_of_a_use_depends_on_its_name_and_not_on_order():
    assert LLAMA.seed_for("a") == LLAMA.seed_for("a") != LLAMA.seed_for("b")
    assert params.derive_seed(1, "a") != params.derive_seed(0, "a")


# --- 1e-4 is a number everywhere -----------------------------------------------------------------------------------

def test_exponents_are_numbers_on_every_route(write):
    rate = "preference: {dpo: {learning_rate: 1e-4}}"
    by_file = params.load(write(f"extends: mini_llama\n{rate}"))
    by_set = params.load("mini_llama", ["preference.dpo.learning_rate=1e-4"])
    by_papermill = params.from_cell({"extends": "mini_llama"} | yaml.safe_load(rate))
    assert isinstance(yaml.safe_load(rate)["preference"]["dpo"]["learning_rate"], str), "YAML reads it as text: the reason for this test"
    for found in (by_file, by_set, by_papermill):
        assert found.preference.dpo.learning_rate == 1e-4
    assert by_file.hash() == by_set.hash() == by_papermill.hash()


# --- mistakes ------------------------------------------------------------------------------------------------------

MISTAKES = {  # content of the file -> what the one line must say
    "unknown section": ("extends: mini_llama\nprefernce: {}", ["prefernce", "unknown key", "did you mean preference?"]),
    "unknown key": ("extends: mini_llama\npreference: {dpo: {betta: 0.1}}", ["preference.dpo.betta", "did you mean beta?"]),
    "nothing like it": ("extends: mini_llama\npreference: {qqqq: 1}", ["preference.qqqq", "known here: judge, endpoint"]),
    "text for a number": ("extends: mini_llama\nseed: many", ["seed", "integer", "'many'"]),
    "yes for a number": ("extends: mini_llama\nthreads: yes", ["threads", "integer", "True"]),
    "a broken number": ("extends: mini_llama\npretraining: {architecture: {layers: 4.0}}", ["pretraining.architecture.layers", "integer", "4.0"]),
    "infinite": ("extends: mini_llama\npreference: {dpo: {learning_rate: .inf}}", ["preference.dpo.learning_rate", "finite"]),
    "out of range": ("extends: mini_llama\ncorpus: {held_out_share: 0.9}", ["corpus.held_out_share", "less than 0.5", "0.9"]),
    "no such choice": ("extends: mini_llama\npreference: {dpo: {loss: sigmod}}", ["preference.dpo.loss", "'sigmoid'", "did you mean sigmoid?"]),
    "a section left out": ("run: mine", ["paper", "missing"]),
    "a list": ("- a\n- b", ["expected `key: value` lines, found list"]),
    "empty": ("", ["expected `key: value` lines"]),
    "not YAML": ("corpus: [", ["not readable as YAML"]),
    "a key twice": ("extends: mini_llama\nseed: 1\nseed: 2", ["'seed' appears twice (line 3)"]),
    "a path for a run": ("extends: mini_llama\nrun: ../x", ["run", "plain name"]),
    "extends nothing": ("extends: mini_lama\nrun: mine", ["mini_lama.yaml", "no such file", "did you mean params/mini_llama.yaml?"]),
    "extends a path": ("extends: ../mini_llama", ["extends", "name of a file in params/"]),
    "shots not evaluated": ("extends: mini_llama\ncalibration: {shots: 3}", ["calibration.shots is 3", "evaluation.shots [0, 5]"]),
    "benchmark not built": ("extends: mini_llama\ncorpus: {benchmarks: [medqa]}", ["evaluation.benchmarks", "corpus.benchmarks"]),
    "heads do not divide": ("extends: mini_llama\npretraining: {architecture: {heads: 3}}", ["pretraining.architecture", "width 128", "heads 3"]),
    "two bases": ("extends: mini_llama\npretraining: {base: org/model}", ["pretraining", "either base", "or architecture"]),
    "a partition of two words": ("extends: mini_llama\ncluster: {stages: {02_pretraining: {partition: gpu big}}}", ["cluster.stages.02_pretraining.partition", "letters, digits", "'gpu big'"]),
    "an account with a script in it": ("extends: mini_llama\ncluster: {account: \"med\\ncurl x\"}", ["cluster.account", "letters, digits", "'med\\ncurl x'"]),
    "no option of sbatch": ("extends: mini_llama\ncluster: {options: [--exclusive, qos=long]}", ["cluster.options", "such as --qos=long", "'qos=long'"]),
    "two lines in an option": ("extends: mini_llama\ncluster: {options: [\"--qos=long\\ncurl x\"]}", ["cluster.options", "each on one line that begins with -"]),
    "base without tokenizer": ("extends: mini_llama\ncorpus: {vocabulary: null}", ["corpus.vocabulary", "pretraining.architecture"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_is_one_line_that_names_file_key_and_expectation(mistake, write):
    text, parts = MISTAKES[mistake]
    file = write(text)
    with pytest.raises(ParamsError) as caught:
        params.load(file)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in (*parts, "mini_lama" if mistake == "extends nothing" else file.name):
        assert part in sentence


@pytest.mark.parametrize("arguments, parts", [
    (["mine.yaml"], ["mine.yaml", "prefernce", "did you mean preference?"]),
    (["mini_lama"], ["mini_lama.yaml", "no such file", "did you mean params/mini_llama.yaml?"]),
    (["mini_llama", "--set", "preference.dpo.betta=1"], ["preference.dpo.betta", "did you mean beta?"]),
    (["mini_llama", "--set", "run=../x"], ["run", "plain name"]),
    (["mini_llama", "--set", "seed"], ["--set seed", "section.key=value"]),
    (["mini_llama", "--set", "seed=!!timestamp x"], ["--set seed", "not readable as YAML"]),
    (["mini_llama", "--set", "calibration.shots=3"], ["calibration.shots is 3", "evaluation.shots"]),
    (["mini_llama", "mini_llama"], ["mini_llama", "asked for twice"]),
    (["mini_llama", "--force", "09"], ["09", "no such stage", "01_corpus"]),
    (["mini_llama", "--from", "04"], ["--from 04", "01_corpus", "not done yet"]),
    (["mini_llama", "--jobs", "0"], ["--jobs 0"]),
])
def test_on_the_command_line_a_mistake_ends_with_code_2_and_writes_nothing(arguments, parts, home, tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: mini_llama\nprefernce: {}")
    process = subprocess.Popen([sys.executable, "-m", "hippo_utils.run", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, error = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:  # the mistake was not seen, and it trains: end it the way it ends its notebooks
        process.terminate()
        process.communicate(timeout=30)
        raise
    assert (process.returncode, out) == (2, "")
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not [part for part in parts if part not in error]
    assert not home.exists()


# --- any file at all -----------------------------------------------------------------------------------------------

BASE = LLAMA.model_dump()
WORDS = st.sampled_from(["run", "seed", "corpus", "extends", "preference", "dpo", "lora", "targets", "shots", "literal[", "list[str]", "a\nb", "<<", "..", ""]) | st.text(max_size=8)
LEAVES = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates()
          | st.sampled_from(["1e-4", "1e999", "nan", "mini_llama", "../x", "auto", "all-linear", -1, 0, 2**63, 10**400]))
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=8)
ODDITIES = ["seed: !!timestamp x", "seed: !!bool x", "seed: !!int ''", "seed: !!float x", "seed: *nowhere", "? [a, b]\n: 1", "<<: {seed: 3}",
            "<<: 3", "seed: 0x", "seed: 1:30", "seed: 1_000", "run: !!python/object/apply:os.getcwd []", "run: \"\\ud800\"", "run: \"a\\0b\"",
            "corpus: &c {documents: *c}", "corpus: &c [*c]", "\t- x", "a: b: c", "---\nseed: 1\n---\nseed: 2", "%YAML 9.9\n---\nseed: 1",
            "seed: 2024-13-45", "seed: " + "[" * 2000, "null: 1", "1: 2", "yes: no", "run: !!binary x", "seed: !!set {a, b}", "\ufeffseed: 1", "\x00", "run: mine\u2028seed: 1"]


@st.composite
def spoiled(draw):
    """A good file in which one value somewhere is replaced, or one key added."""
    content = json.loads(json.dumps(BASE))
    place = content
    while True:
        name = draw(st.sampled_from(sorted(place)))
        if not isinstance(place[name], dict) or not place[name] or draw(st.booleans()):
            break
        place = place[name]
    place[name if draw(st.booleans()) else draw(WORDS)] = draw(TREES)
    return yaml.dump(content, allow_unicode=True)


FUZZ = settings(max_examples=int(os.environ.get("HIPPO_FUZZ", 300)), deadline=None, suppress_health_check=list(HealthCheck))


def check(text: str, folder: Path) -> None:
    """Parameters or one sentence; whatever is accepted can be hashed, stored as JSON and comes back from it as it was."""
    file = folder / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = params.load(file)
    except ParamsError as error:
        assert len(str(error).splitlines()) == 1 and str(error).strip()
        return
    assert params.RUN_NAME.fullmatch(found.run) and found.seed >= 0
    assert all(math.isfinite(rate) and rate > 0 for rate in (found.preference.dpo.learning_rate, found.pretraining.cp.learning_rate))
    assert params.from_cell(json.loads(json.dumps(found.model_dump()))).hash() == found.hash()


@FUZZ
@given(text=spoiled())
def test_a_file_with_one_spoiled_value_is_read_or_refused_in_a_sentence(text, tmp_path_factory):
    check(text, tmp_path_factory.getbasetemp())


@FUZZ
@given(text=st.builds(lambda tree, oddity, extends: extends + oddity + "\n" + tree,
                      st.dictionaries(WORDS, TREES, max_size=3).map(lambda tree: yaml.dump(tree, allow_unicode=True)),
                      st.sampled_from(ODDITIES) | st.text(max_size=20), st.sampled_from(["", "extends: mini_llama\n"])))
@example(text="extends: mini_llama\n'literal[': 1")
@example(text="extends: mini_llama\n\"a\\nb\": 1")
def test_any_text_is_read_or_refused_in_a_sentence(text, tmp_path_factory):
    check(text, tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("oddity", ODDITIES)
def test_odd_yaml_alone_is_refused_in_a_sentence(oddity, tmp_path):
    check(oddity, tmp_path)
    check("extends: mini_llama\n" + oddity, tmp_path)


@FUZZ
@given(words=st.text(max_size=20) | st.builds("{}={}".format, st.sampled_from(["seed", "run", "corpus.documents", "preference.dpo.beta", "seed.x", "extends", ".", "a..b"]),
                                              st.text(max_size=12) | st.sampled_from(["!!bool x", "{", "1e-4", "[[", "&a [*a]", "2024-13-45"])))
def test_any_setting_is_taken_or_refused_in_a_sentence(words):
    try:
        params.load("mini_llama", [words])
    except ParamsError as error:
        assert len(str(error).splitlines()) == 1


# --- three routes, one meaning -------------------------------------------------------------------------------------

def cells(notebook: Path, tag: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if tag in cell["metadata"].get("tags", [])]


def test_all_notebooks_have_one_and_the_same_parameters_cell_with_every_section():
    found = {stage: cells(paths.notebook(stage), "parameters") for stage in manifest.STAGES}
    assert all(len(sources) == 1 for sources in found.values())
    assert len({sources[0] for sources in found.values()}) == 1
    namespace: dict = {}
    exec(found["01_corpus"][0], namespace)
    assert [name for name in namespace if not name.startswith("__")] == ["extends", *params.Params.model_fields]
    assert params.from_cell(namespace).hash() == LLAMA.hash(), "left as it is, the cell means mini_llama"


@pytest.mark.parametrize("name", FILES)
def test_runner_papermill_and_hand_agree(name, tmp_path, monkeypatch, caplog):
    """For every file and notebook: ./run_all.sh NAME, papermill -f params/NAME.yaml, and run = "NAME" in the cell."""
    from papermill.cli import papermill
    monkeypatch.chdir(tmp_path)
    expected = params.load(name).hash()
    for stage in manifest.STAGES:
        with caplog.at_level(logging.WARNING):
            done = CliRunner().invoke(papermill, [str(paths.notebook(stage)), "out.ipynb", "-f", str(ROOT / "params" / f"{name}.yaml"),
                                                  "-k", "python3", "--prepare-only", "--no-progress-bar"])
        assert done.exit_code == 0, done.output
        assert not caplog.records, f"papermill warns: {caplog.text}"
        namespace: dict = {}
        for source in cells(Path("out.ipynb"), "parameters") + cells(Path("out.ipynb"), "injected-parameters"):
            exec(source, namespace)
        assert params.from_cell(namespace).hash() == expected
    assert params.from_cell({"run": name}).hash() == expected


def test_papermill_by_itself_executes_with_the_same_hash_and_no_warning(tmp_path):
    notebook = write_notebook(tmp_path / "hash.ipynb", [("markdown", "hash"), ("code", "from hippo_utils import params\nprint(params.from_cell(globals()).hash())")])
    done = subprocess.run([sys.executable, "-m", "papermill", str(notebook), "out.ipynb", "-f", str(ROOT / "params" / "tiny.yaml")],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "unknown parameter" not in done.stderr and "Warning" not in done.stderr, done.stderr
    printed = json.loads((tmp_path / "out.ipynb").read_text())["cells"][-1]["outputs"][0]["text"]
    assert "".join(printed).strip() == params.load("tiny").hash()


def test_by_hand_one_value_changes_the_rest_stays():
    namespace: dict = {}
    exec("".join(parameters_cell()["source"]), namespace)
    changed = params.from_cell(namespace | {"run": "tiny", "seed": 7})
    assert changed.seed == 7 and changed.corpus == params.load("tiny").corpus
