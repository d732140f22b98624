"""Manifests: what makes a stage due again, what does not, and what is never believed."""

import json
import os
import sys

import pytest
from conftest import write_notebook
from hippo_utils import manifest, params, paths
from hippo_utils.manifest import StageError

FIRST, SECOND, LAST = "01_corpus", "02_pretraining", "03_instruction"
LLAMA = params.load("mini_llama")


def forget() -> None:
    """What a new process would not know."""
    for function in (manifest._module, manifest._reached, manifest._package_hash, manifest._versions):
        function.cache_clear()


@pytest.fixture
def root(tmp_path, monkeypatch, home):
    """A project of three stages around the real manifest.py, in this process; nothing is executed in it."""
    root = tmp_path / "project"
    for name, source in {"__init__": "", "inner": "VALUE = 1\n", "room/__init__": "", "room/work": "def work():\n    from hippo_utils import inner\n",
                         "room/other": "", "reporting/__init__": "", "reporting/tables": "", "reporting/captions": "TITLE = 1\n", "reporting/style": "WIDTH = 1\n",
                         "reporting/figures": "from hippo_utils.reporting import captions, tables\n"}.items():
        file = root / "hippo_utils" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    (root / "hippo_utils" / "room" / "facts.csv").write_text("a,b\n")
    for stage in manifest.STAGES:
        write_notebook(root / "notebooks" / f"{stage}.ipynb", [
            ("markdown", "prose"), ("code", "%matplotlib inline\nfrom hippo_utils.room import work\nfrom hippo_utils.reporting import figures"), ("code", "!ls\nx = 1")])
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "NOTEBOOKS", root / "notebooks")
    monkeypatch.setattr(manifest, "_limit_threads", lambda threads: None)
    forget()
    yield root
    forget()


def work(stage: str, content: str = "made", settings=LLAMA) -> manifest.Stage:
    """What a notebook does: begin, read, write, finish."""
    opened = manifest.begin(stage, settings)
    (opened.folder / "model").mkdir()
    (opened.folder / "model" / "weights").write_text(content)
    opened.figure_path(f"fig_{stage}.csv").write_text("x\n1\n")
    opened.finish()
    return opened


@pytest.fixture
def done(root):
    """Three stages, made and up to date."""
    for stage in (FIRST, SECOND, LAST):
        work(stage)
    assert [why(stage) for stage in (FIRST, SECOND, LAST)] == [[], [], []]
    return root


def why(stage: str, settings=LLAMA) -> list[str]:
    forget()
    return manifest.reasons(settings, stage)


def changed(*settings: str) -> params.Params:
    """mini_llama with other values. (The toy project has no params files; the real ones are read.)"""
    return params.load("mini_llama", list(settings))


def edit_notebook(root, stage: str, change) -> None:
    file = root / "notebooks" / f"{stage}.ipynb"
    content = json.loads(file.read_text())
    change(content["cells"])
    file.write_text(json.dumps(content, indent=2))


# --- what makes a stage due ----------------------------------------------------------------------------------------

def test_without_a_manifest_a_stage_is_not_done_whatever_lies_in_its_folder(done):
    paths.manifest("mini_llama", SECOND).unlink()
    assert why(SECOND) == ["not done yet"]
    assert why(LAST) == [f"the outputs of {SECOND} changed"]


def test_a_stages_own_parameters_make_it_due_and_others_do_not(done):
    settings = changed("pretraining.cp.learning_rate=1e-3")
    assert (why(FIRST, settings), why(SECOND, settings), why(LAST, settings)) == ([], ["its parameters changed"], ["its parameters changed"])
    settings = changed("instruction.sft.learning_rate=2e-3")
    assert (why(FIRST, settings), why(SECOND, settings), why(LAST, settings)) == ([], [], ["its parameters changed"])
    assert [why(stage, changed("seed=1")) for stage in (FIRST, SECOND, LAST)] == [["its parameters changed"]] * 3


def test_a_changed_code_cell_makes_its_own_stage_due(done):
    edit_notebook(done, SECOND, lambda cells: cells[3].update(source="x = 2"))
    assert (why(FIRST), why(SECOND), why(LAST)) == ([], ["its notebook's code changed"], [])


@pytest.mark.parametrize("file", ["room/work.py", "room/__init__.py", "inner.py", "room/facts.csv"])
def test_a_changed_module_or_table_that_the_notebook_reaches_makes_it_due(done, file):
    """Also at second hand, imported inside a function, and the data beside the code."""
    path = done / "hippo_utils" / file
    path.write_text(path.read_text() + "# changed\n")
    assert why(SECOND) == ["the package's code changed"]


def test_changed_outputs_of_an_earlier_stage_make_a_stage_due_and_equal_ones_do_not(done):
    work(FIRST, "made")
    assert (why(SECOND), why(LAST)) == ([], [])
    work(FIRST, "something else")
    assert why(SECOND) == [f"the outputs of {FIRST} changed"]


def test_another_library_version_makes_a_stage_due(done, monkeypatch):
    edit_notebook(done, SECOND, lambda cells: cells[3].update(source="import yaml"))
    forget()
    work(SECOND)
    assert why(SECOND) == []
    monkeypatch.setattr(manifest.importlib.metadata, "version", lambda name: "0.0")
    assert why(SECOND) == ["library versions changed"]


def test_a_deleted_or_edited_output_is_noticed(done):
    weights = paths.stage_folder("mini_llama", SECOND) / "model" / "weights"
    weights.write_text("fake")  # as long as before
    assert "model/weights is missing or was changed" in why(SECOND)[0]
    weights.unlink()
    assert "model/weights is missing or was changed" in why(SECOND)[0]
    (paths.figures("mini_llama") / f"fig_{FIRST}.csv").unlink()
    assert f"fig_{FIRST}.csv is missing" in why(FIRST)[0]


# --- what does not -------------------------------------------------------------------------------------------------

def test_prose_outputs_and_metadata_of_a_notebook_change_nothing(done):
    def touch_up(cells):
        cells[0]["source"] = "better prose"
        cells.append({"cell_type": "markdown", "id": "new", "metadata": {}, "source": "and more of it"})
        cells[3] |= {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}], "metadata": {"collapsed": True}}
        cells[3]["source"] = cells[3]["source"].splitlines(keepends=True)  # Jupyter stores lines, others one text
    edit_notebook(done, SECOND, touch_up)
    assert why(SECOND) == []


@pytest.mark.parametrize("file", ["reporting/captions.py", "reporting/figures.py", "room/other.py"])
def test_drawing_and_modules_that_are_not_reached_change_nothing(done, file):
    before = manifest.drawing_hash()
    (done / "hippo_utils" / file).write_text("NEW = 2\n")
    assert [why(stage) for stage in (FIRST, SECOND, LAST)] == [[], [], []]
    assert (manifest.drawing_hash() != before) == file.startswith("reporting"), "a change of the drawing is known, to draw again"


def test_a_file_that_is_only_touched_changes_nothing(done):
    for file in [*paths.stage_folder("mini_llama", SECOND).rglob("*"), *(done / "hippo_utils").rglob("*.py")]:
        os.utime(file)
    assert why(SECOND) == []


def test_files_that_the_stage_did_not_declare_change_nothing(done):
    folder = paths.stage_folder("mini_llama", SECOND)
    (folder / "log.txt").write_text("more")
    (folder / f"{SECOND}.ipynb").write_text("{}")
    assert why(SECOND) == [] and why(LAST) == []


def test_a_cell_that_is_no_python_is_left_to_the_execution(done):
    """%%bash cells and a typing error in the middle of an edit must not stop --list."""
    edit_notebook(done, SECOND, lambda cells: cells[3].update(source="%%bash\nfor x in 1 2; do echo; done"))
    assert why(SECOND) == ["its notebook's code changed"]
    edit_notebook(done, SECOND, lambda cells: cells[3].update(source="def broken(:"))
    assert why(SECOND) == ["its notebook's code changed"]


# --- what is not believed ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", [
    lambda text: text[:len(text) // 2], lambda text: "", lambda text: "[]", lambda text: "null", lambda text: "{}", lambda text: "\xff",
    lambda text: json.dumps({name: value for name, value in json.loads(text).items() if name != "key"}),
    lambda text: json.dumps({name: value for name, value in json.loads(text).items() if name != "figures"}),
    lambda text: json.dumps(json.loads(text) | {"outputs": None}),
    lambda text: json.dumps(json.loads(text) | {"stage": LAST}),
])
def test_half_a_manifest_is_none(done, damage):
    file = paths.manifest("mini_llama", SECOND)
    file.write_text(damage(file.read_text()), encoding="latin-1")
    assert why(SECOND) == ["not done yet"]
    with pytest.raises(StageError, match=f"needs {SECOND}"):
        manifest.begin(LAST, LLAMA)


def test_a_manifest_that_was_being_written_is_none(done):
    file = paths.manifest("mini_llama", SECOND)
    file.rename(file.with_name(file.name + ".part"))
    assert why(SECOND) == ["not done yet"]


def test_begin_takes_the_old_manifest_its_files_and_its_figures_down_first(done):
    old = paths.stage_folder("mini_llama", SECOND) / "model" / "weights"
    opened = manifest.begin(SECOND, LLAMA)
    assert not paths.manifest("mini_llama", SECOND).exists() and not old.exists()
    assert not (opened.figures / f"fig_{SECOND}.csv").exists() and (opened.figures / f"fig_{FIRST}.csv").exists()
    assert why(SECOND) == ["not done yet"]


def test_begin_wants_the_stages_before(root):
    with pytest.raises(StageError, match=f"{SECOND} needs {FIRST} of run mini_llama, which is not done"):
        manifest.begin(SECOND, LLAMA)


def test_begin_refuses_a_stage_before_that_was_made_with_other_parameters(done):
    with pytest.raises(StageError, match=f"{FIRST} of run mini_llama was made with other parameters"):
        manifest.begin(SECOND, changed("seed=7"))


def test_a_lost_picture_is_drawn_again_and_makes_nothing_due(done):
    made, folder = manifest.read("mini_llama", SECOND), paths.figures("mini_llama")
    for ending in manifest.PICTURES:
        (folder / f"fig_x{ending}").write_text("a picture")
    pictures = {f"fig_x{ending}": manifest.entry(folder / f"fig_x{ending}") for ending in manifest.PICTURES}
    manifest.write_json(made | {"figures": made["figures"] | pictures}, paths.manifest("mini_llama", SECOND))
    (folder / "fig_x.pdf").unlink()
    (folder / "fig_x.png").write_text("another")
    assert why(SECOND) == []
    assert manifest.changed(folder, manifest.read("mini_llama", SECOND)["figures"]) == ["fig_x.pdf", "fig_x.png"]


def test_a_stage_that_changed_under_its_own_feet_does_not_finish(done):
    opened = manifest.begin(SECOND, LLAMA)
    edit_notebook(done, SECOND, lambda cells: cells[3].update(source="x = 3"))
    with pytest.raises(StageError, match="notebook changed while"):
        opened.finish()
    assert why(SECOND) == ["not done yet"]


def test_input_gives_only_what_was_declared_and_is_unchanged(done):
    opened = manifest.begin(LAST, LLAMA)
    folder = paths.stage_folder("mini_llama", SECOND)
    assert opened.input(SECOND, "model") == folder / "model"
    assert opened.input(SECOND, "model/weights").read_text() == "made"
    assert opened.has(SECOND, "model") and not opened.has(SECOND, "mod")
    (folder / "undeclared").write_text("x")
    with pytest.raises(StageError, match=f"{SECOND} made no undeclared; it made model/weights"):
        opened.input(SECOND, "undeclared")
    (folder / "model" / "weights").write_text("fake")
    with pytest.raises(StageError, match="model/weights of 02_pretraining is missing or was changed"):
        opened.input(SECOND, "model")
    paths.manifest("mini_llama", SECOND).unlink()
    with pytest.raises(StageError, match="02_pretraining, which is not done"):
        opened.input(SECOND, "model")


def test_a_missing_or_broken_notebook_is_said_so(done):
    (done / "notebooks" / f"{SECOND}.ipynb").write_text("{")
    with pytest.raises(StageError, match="is not a notebook"):
        why(SECOND)
    (done / "notebooks" / f"{SECOND}.ipynb").unlink()
    with pytest.raises(StageError, match="does not exist"):
        why(SECOND)


# --- sharing, and walking back -------------------------------------------------------------------------------------

def test_a_shared_stage_is_a_copy_of_its_own_and_up_to_date(done):
    twin = changed("run=twin")
    assert manifest.plan_key(twin, SECOND) == manifest.plan_key(LLAMA, SECOND), "the run's name is no reason to train again"
    assert manifest.plan_key(twin, "05_evaluation") != manifest.plan_key(LLAMA, "05_evaluation"), "but predictions carry it"
    for stage in (FIRST, SECOND):
        manifest.adopt(twin, stage, "mini_llama")
    assert (why(FIRST, twin), why(SECOND, twin)) == ([], [])
    assert manifest.read("twin", SECOND)["run"] == "twin" and manifest.read("twin", SECOND)["shared_from"] == "mini_llama"
    (paths.stage_folder("mini_llama", SECOND) / "model" / "weights").write_text("fake")
    assert why(SECOND, twin) == [], "what happens to the original does not touch the copy"
    assert why(SECOND) != []


def test_a_manifest_can_be_walked_back_to_the_data(done):
    made = manifest.read("mini_llama", LAST)
    for needed in (FIRST, SECOND):
        assert made["inputs"][needed]["outputs_hash"] == manifest.outputs_hash("mini_llama", needed)
        assert made["inputs"][needed]["manifest_sha256"] == manifest.file_hash(paths.manifest("mini_llama", needed))
    assert made["params_hash"] == LLAMA.hash() and made["seed"] == LLAMA.seed
    assert made["parameters"]["instruction"] == LLAMA.model_dump()["instruction"] and "evaluation" not in made["parameters"]
    assert made["outputs"]["model/weights"]["sha256"] == manifest.file_hash(paths.stage_folder("mini_llama", LAST) / "model" / "weights")
    assert made["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"git", "device", "platform", "finished", "seconds", "peak_memory_mib", "threads"} <= made.keys()
