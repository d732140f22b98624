"""`why` walks from a file back to the data, `verify` reads every file again, and no name in a manifest leads out of the run."""

import json
import os
import sys

import pytest
from conftest import ROOT
from hippo_utils import manifest, params, paths
from hippo_utils.manifest import StageError, main
from hippo_utils.reporting import comparison

LLAMA = params.load("mini_llama")
FIRST, SECOND, LAST = manifest.STAGES[:3]


def work(stage: str, made: str = "made") -> manifest.Stage:
    opened = manifest.begin(stage, LLAMA)
    (opened.folder / "model").mkdir()
    (opened.folder / "model" / "weights").write_text(made)
    opened.figure_path(f"table_{stage}.csv").write_text("x\n1\n")
    opened.finish()
    return opened


@pytest.fixture
def done(home, monkeypatch):
    """Three finished stages of mini_llama."""
    monkeypatch.setattr(manifest, "_limit_threads", lambda threads: None)
    for stage in (FIRST, SECOND, LAST):
        work(stage)
    return home


def said(capsys, *words, code: int = 0) -> str:
    assert main([str(word) for word in words]) == code
    return "".join(capsys.readouterr())


@pytest.mark.parametrize("file", [f"figures/mini_llama/table_{LAST}.csv", f"outputs/mini_llama/{LAST}/model/weights"])
def test_why_walks_back_to_the_data(done, capsys, file):
    text = said(capsys, "why", done / file)
    assert "as it was made" in text and manifest.file_hash(done / file) in text and "The chain holds." in text
    places = [text.index(f"\n{stage}") for stage in (LAST, SECOND, FIRST)]
    assert places == sorted(places) and "the mini world in hippo_utils/miniworld/facts (94 entities)" in text
    assert "mixture.mini_flashcards=1.0" in text and "finished 20" in text and f"{SECOND} ({manifest.outputs_hash('mini_llama', SECOND)[:10]})" in text
    assert "Not for clinical use" in text


def test_why_says_where_the_chain_breaks(done, capsys):
    (done / "figures" / "mini_llama" / f"table_{LAST}.csv").write_text("x\n2\n")
    assert "CHANGED OR MISSING" in said(capsys, "why", done / "figures" / "mini_llama" / f"table_{LAST}.csv", code=1)
    work(FIRST, "something else")
    text = said(capsys, "why", done / "outputs" / "mini_llama" / LAST / "model" / "weights", code=1)
    assert "MADE AGAIN SINCE" in text and "The chain is broken" in text
    (done / "outputs" / "mini_llama" / SECOND / "manifest.json").unlink()
    assert f"{SECOND}\n  no longer done" in said(capsys, "why", done / "outputs" / "mini_llama" / LAST / "model" / "weights", code=1)


def test_an_edited_output_behind_the_table_breaks_the_chain(done, capsys):
    (done / "outputs" / "mini_llama" / FIRST / "model" / "weights").write_text("fake")
    assert "CHANGED   model/weights" in said(capsys, "why", done / "figures" / "mini_llama" / f"table_{LAST}.csv", code=1)


def test_why_of_the_committed_reference_says_what_was_kept(capsys):
    for run in comparison.references():
        text = said(capsys, "why", paths.REFERENCE / run / "table_stages.csv")
        assert "as it was made" in text and "06_ablations" in text and "01_corpus" in text and "the mini world" in text
        assert "every file is what its manifest says" in said(capsys, "verify", paths.REFERENCE / run)


def test_verify_reads_every_byte_whatever_size_and_time_say(done, capsys):
    assert said(capsys, "verify", done / "outputs" / "mini_llama").count("[OK]") == 3
    weights = done / "outputs" / "mini_llama" / SECOND / "model" / "weights"
    time = weights.stat().st_mtime_ns
    weights.write_text("fake")
    os.utime(weights, ns=(time, time))
    assert manifest.reasons(LLAMA, SECOND) == [], "size and time are the same, so nothing is read on an ordinary run"
    text = said(capsys, "verify", done / "outputs" / "mini_llama", code=1)
    assert f"[CHANGED] {SECOND}" in text and "weights is not what it was" in text and text.count("[OK]") == 2 and text.count("[NOT DONE]") == 4


@pytest.mark.parametrize("words, expected", [
    (("why", ROOT / "README.md"), "expected a file of figures/RUN"),
    (("why", "figures/mini_llama/stray.csv"), "is in no manifest of mini_llama"),
    (("why", "outputs/mini_llama/01_corpus/stray"), "is in no manifest of mini_llama"),
    (("why", "outputs/mini_llama/99_nothing/stray"), "is in no manifest of mini_llama"),
    (("why", "outputs/../../etc/passwd"), "expected a file of figures/RUN"),
    (("verify", ROOT), "expected outputs/RUN"), (("verify", "outputs/nobody"), "holds no finished stage")])
def test_a_question_about_something_else_is_answered_in_one_line(done, capsys, monkeypatch, words, expected):
    monkeypatch.chdir(done)
    text = said(capsys, *words, code=2)
    assert text.startswith("error: ") and text.count("\n") == 1 and expected in text


# --- names and links -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["../../precious", "/etc/passwd", "a/../../precious", ""])
@pytest.mark.parametrize("part", ["outputs", "figures"])
def test_a_manifest_that_names_files_elsewhere_is_none(done, name, part):
    precious = done / "precious"
    precious.write_text("precious")
    file = paths.manifest("mini_llama", SECOND)
    made = json.loads(file.read_text())
    made[part][name] = manifest.entry(precious)
    file.write_text(json.dumps(made))
    assert manifest.read("mini_llama", SECOND) is None
    manifest.take_down("mini_llama", SECOND)
    assert precious.read_text() == "precious", "and nothing outside is deleted on its word"


def test_a_link_out_of_the_run_is_no_output(done):
    weights, elsewhere = done / "outputs" / "mini_llama" / SECOND / "model" / "weights", done / "elsewhere"
    weights.rename(elsewhere)
    weights.symlink_to(elsewhere)
    assert "model/weights is missing or was changed" in manifest.reasons(LLAMA, SECOND)[0]
    with pytest.raises(StageError, match="missing or was changed"):
        manifest.begin(LAST, LLAMA).input(SECOND, "model")


@pytest.mark.parametrize("place", ["folder", "file", "figure"])
def test_a_stage_does_not_finish_with_a_link_out_of_the_run(done, place):
    (done / "elsewhere").mkdir()
    (done / "elsewhere" / "file").write_text("made elsewhere")
    opened = manifest.begin(LAST, LLAMA)
    if place == "figure":
        opened.figure_path("table_x.csv").symlink_to(done / "elsewhere" / "file")
    else:
        (opened.folder / "link").symlink_to(done / "elsewhere" / ("file" if place == "file" else ""))
    with pytest.raises(StageError, match="is a link out of the run's folder"):
        opened.finish()
    assert manifest.read("mini_llama", LAST) is None
    manifest.begin(LAST, LLAMA)
    assert (done / "elsewhere" / "file").read_text() == "made elsewhere", "tidying up removes the link, not what it leads to"


def test_the_folder_of_all_outputs_may_be_a_link_to_another_disk(done, tmp_path):
    (done / "outputs").rename(tmp_path / "disk")
    (done / "outputs").symlink_to(tmp_path / "disk")
    assert manifest.reasons(LLAMA, LAST) == [] and work(LAST)


# --- what repeats its numbers ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("gpu, deterministic, exact", [(False, False, True), (True, False, False), (True, True, True)])
def test_a_device_that_does_not_repeat_the_last_digit_says_so(done, capsys, monkeypatch, gpu, deterministic, exact):
    class torch:
        class cuda:
            is_available = staticmethod(lambda: gpu)
            get_device_name = staticmethod(lambda: "a GPU")
        are_deterministic_algorithms_enabled = staticmethod(lambda: deterministic)
        set_num_threads = staticmethod(lambda threads: None)
    monkeypatch.setitem(sys.modules, "torch", torch)
    work(LAST)
    assert manifest.read("mini_llama", LAST)["exact"] == exact
    assert ("last digits may differ the next time" in said(capsys, "why", done / "figures" / "mini_llama" / f"table_{LAST}.csv")) != exact


def test_the_order_of_a_params_file_is_no_reason():
    def turned(tree):
        return {name: turned(tree[name]) for name in reversed(tree)} if isinstance(tree, dict) else tree
    other = params.resolve(turned(LLAMA.model_dump()))
    assert list(other.corpus.documents) == list(reversed(LLAMA.corpus.documents)) and other.hash() == LLAMA.hash()
    assert [manifest.plan(other, stage) for stage in manifest.STAGES] == [manifest.plan(LLAMA, stage) for stage in manifest.STAGES]


@pytest.mark.parametrize("run", comparison.references())
def test_the_committed_results_are_of_the_committed_parameters(run):
    """When it fails: run it again, then `python -m hippo_utils.reporting keep`."""
    settings = json.loads(json.dumps(params.load(run).model_dump()))
    for stage, made in manifest.behind(paths.REFERENCE / run).items():
        assert made["parameters"] == {section: settings[section] for section in made["parameters"]}, stage
