"""What a pipeline of hours must survive: other runs beside it, kills, full disks, folders that cannot be written, damaged files, clocks, a second runner.

The toy runs here execute their notebooks without a kernel (a papermill of a few lines stands in for the real one), so that a
whole run takes seconds; what belongs to the kernel is tested with the real one.
"""

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import executed
from hippo_utils import manifest, params, paths, records
from hippo_utils.manifest import StageError

STAGES = list(manifest.STAGES)
LLAMA = params.load("mini_llama")
PAPERMILL = '''
import json
from datetime import datetime, timezone


def execute_notebook(source, target, parameters, **options):
    """The code cells in this process, then the notebook as it is."""
    began, content, names = datetime.now(timezone.utc), json.load(open(source)), {}
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            names.update(parameters if "parameters" in cell["metadata"].get("tags", []) else {})
    content["metadata"]["papermill"] = {"start_time": began.isoformat(), "end_time": datetime.now(timezone.utc).isoformat()}
    with open(target, "w") as file:
        json.dump(content, file)
'''
SLOW_WORK = '''
import time
from hippo_utils import manifest


def write(stage):
    lines = [f"{stage.name} seed {stage.settings.seed}"] + [stage.input(needed, "made.txt").read_text() for needed in manifest.NEEDS[stage.name]]
    with open(stage.folder / "made.txt", "w") as made, open(stage.figure_path(f"table_{stage.name}.csv"), "w") as table:
        for line in lines:  # in pieces, so that a kill can fall between two of them
            for file in (made, table):
                print(line, file=file, flush=True)
            time.sleep(0.03)
'''


@pytest.fixture(scope="module")
def quick_template(toy_template, tmp_path_factory):
    """The toy project with the quick papermill; nothing has run yet."""
    project = toy_template.copy(tmp_path_factory.mktemp("quick"))
    for name, source in {"__init__": PAPERMILL, "exceptions": "class PapermillExecutionError(Exception): pass\n"}.items():
        (project.root / "papermill").mkdir(exist_ok=True)
        (project.root / "papermill" / f"{name}.py").write_text(source)
    (project.root / "hippo_utils" / "toys" / "work.py").write_text(SLOW_WORK)
    return project


@pytest.fixture
def quick(quick_template, tmp_path):
    return quick_template.copy(tmp_path / "quick")


@pytest.fixture(scope="module")
def quick_done(quick_template, tmp_path_factory):
    """The quick toy with its run finished by nothing disturbed; `seconds` is what a stage takes on this machine now."""
    project, began = quick_template.copy(tmp_path_factory.mktemp("undisturbed")), time.monotonic()
    project("toy")
    project.seconds = (time.monotonic() - began) / len(STAGES)
    return project


@pytest.fixture
def finished(quick_done, tmp_path):
    """A finished quick toy of the test's own."""
    return quick_done.copy(tmp_path / "finished")


@pytest.fixture
def undisturbed(quick_done) -> dict[str, bytes]:
    return results(quick_done)


def results(project) -> dict[str, bytes]:
    """The tables of a run and the files that its stages handed on."""
    made = [*project.figures().glob("*.csv"), *(project.outputs(stage) / "made.txt" for stage in STAGES)]
    return {str(file.relative_to(project.home)): file.read_bytes() for file in made if file.exists()}


def believed(project) -> list[str]:
    """The stages whose manifest says that they are done, after reading every file that it names."""
    done = []
    for stage in STAGES:
        if (project.outputs(stage) / "manifest.json").exists():
            made = project.manifest(stage)  # never half a manifest
            for entries, folder in ((made["outputs"], project.outputs(stage)), (made["figures"], project.figures())):
                for name, entry in entries.items():
                    assert manifest.file_hash(folder / name) == entry["sha256"], f"{stage} is called done, but {name} is not whole"
            done.append(stage)
    return done


def test_three_runs_go_forward_together(quick):
    """With one place less than runs, no run waits for another's end: on two cores three mini runs keep both busy."""
    for number, name in enumerate(("first", "second", "third")):
        (quick.root / "params" / f"{name}.yaml").write_text(f"extends: mini_llama\nrun: {name}\nseed: {number}\n")
    assert executed(quick("first", "second", "third", "--jobs", "1", "--set", "calibration.resamples=100")) == [stage for stage in STAGES for _ in range(3)]


# --- kills -----------------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.tail
def test_twenty_kills_at_random_moments_and_the_numbers_are_the_same(quick, quick_done, undisturbed):
    chance, killed, tried = random.Random(20), 0, 0
    while killed < 20:
        tried += 1
        assert tried < 80, "the kills come too late to test anything"
        process = quick.start("toy")
        try:
            process.communicate(timeout=quick_done.seconds * chance.uniform(0.1, 2))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
        else:  # all was done before the kill came: from the start again
            shutil.rmtree(quick.home)
        done = believed(quick)
        assert done == STAGES[:len(done)]
    quick("toy")
    assert results(quick) == undisturbed and believed(quick) == STAGES
    assert "nothing was executed" in quick("toy")


def test_a_notebook_whose_runner_was_killed_ends_too_and_the_next_run_waits_for_it(toy):
    """With the real kernel: the orphan must not write into the folder of its successor."""
    note = toy.root / "note"
    toy.edit("07_calibration", "work.write(stage)", f"import os, pathlib, time\nfirst = not pathlib.Path({str(note)!r}).exists()\n"
             f"pathlib.Path({str(note)!r}).write_text(str(os.getpid()))\nif first:\n    time.sleep(300)\nwork.write(stage)")
    process = toy.start("toy")
    end = time.time() + 60
    while not (note.exists() and note.read_text()) and time.time() < end:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert executed(toy("toy")) == ["07_calibration"]
    assert not os.path.exists(f"/proc/{note.read_text()}") and believed(toy) == STAGES


@pytest.mark.slow
@pytest.mark.tail
def test_the_real_run_killed_five_times_gives_the_same_tables(tiny_run, tmp_path):
    project, chance = tiny_run.copy(tmp_path), random.Random(5)
    undisturbed = {file.name: file.read_bytes() for file in project.figures().glob("*.csv")}
    shutil.rmtree(project.home)
    killed, moments = 0, []
    while killed < 5:
        process = project.start("tiny")
        try:
            process.communicate(timeout=chance.uniform(5, 40))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            moments.append(len(believed(project)))
        else:  # all was done before the kill came: from the start again
            shutil.rmtree(project.home)
    project("tiny")
    assert {file.name: file.read_bytes() for file in project.figures().glob("*.csv")} == undisturbed and believed(project) == STAGES
    assert len(set(moments)) > 1, "all kills hit the same stage"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_is_answered_with_a_message(quick, quick_done, undisturbed, number):
    chance = random.Random(number)
    for _ in range(3):
        process = quick.start("toy")
        time.sleep(quick_done.seconds * chance.uniform(0.5, 3))
        process.send_signal(number)
        out, error = process.communicate(timeout=30)
        believed(quick)
        if process.returncode == 130:
            assert "Stopped. Finished stages are kept" in out and "Traceback" not in out + error
        else:  # before the handler was there, or after the work was done
            assert process.returncode in (0, -number) and "error" not in error.replace("KeyboardInterrupt", "")
    quick("toy")
    assert results(quick) == undisturbed


# --- disks and folders -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("limit", [1_000, 12_000], ids=["the runner's own file", "a file of the stage"])
def test_a_disk_that_takes_no_more_is_said_and_nothing_half_written_is_believed(quick, undisturbed, limit):
    """A limit on the size of files stands in for the full disk: writing fails in the same place, with OSError."""
    quick.edit("03_instruction", "work.write(stage)", "(stage.folder / 'large.bin').write_bytes(bytes(20_000))\nwork.write(stage)")
    process = subprocess.Popen([sys.executable, "-m", "hippo_utils.run", "toy"], cwd=quick.root, env=quick.environment(), text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    out, error = process.communicate(timeout=120)
    assert process.returncode == 1 and "File too large" in error and "Traceback" not in error
    assert believed(quick) == ([] if limit == 1_000 else STAGES[:2])
    quick("toy")
    assert results(quick) == undisturbed


@pytest.fixture
def full_disk(monkeypatch):
    """Every write to a path that holds a word fails as on a full disk, after half of the bytes."""
    def fill(word: str):
        write = type(paths.ROOT).write_text

        def write_text(self, data, *rest, **options):
            if word in self.name:
                write(self, data[:len(data) // 2], *rest, **options)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
            return write(self, data, *rest, **options)
        monkeypatch.setattr(type(paths.ROOT), "write_text", write_text)
    return fill


def test_a_manifest_that_finds_no_room_leaves_the_stage_undone(home, full_disk, monkeypatch):
    monkeypatch.setattr(manifest, "_limit_threads", lambda threads: None)
    opened = manifest.begin("01_corpus", LLAMA)
    (opened.folder / "made").write_bytes(b"made")
    full_disk("manifest")
    with pytest.raises(OSError, match="No space left"):
        opened.finish()
    assert manifest.read("mini_llama", "01_corpus") is None and manifest.reasons(LLAMA, "01_corpus") == ["not done yet"]


def test_records_that_find_no_room_leave_the_old_file(tmp_path, monkeypatch):
    rows = [{"id": "a", "judge": "b", "best": 0, "scores": [1.0], "reason": ""}]
    records.write("verdict", rows, tmp_path / "verdicts.parquet")
    before = (tmp_path / "verdicts.parquet").read_bytes()

    def no_room(table, where, **options):
        where.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(records.pq, "write_table", no_room)
    with pytest.raises(OSError, match="No space left"):
        records.write("verdict", rows * 1, tmp_path / "verdicts.parquet")
    assert (tmp_path / "verdicts.parquet").read_bytes() == before


def test_a_page_that_finds_no_room_leaves_none(home, full_disk, monkeypatch, capsys):
    from hippo_utils.reporting import __main__ as reporting
    monkeypatch.setattr(manifest, "_limit_threads", lambda threads: None)
    manifest.begin("01_corpus", LLAMA).finish()
    full_disk("index.html")
    assert reporting.main(["page", "mini_llama"]) == 2
    assert re.fullmatch(r"error: .*No space left on device.*\n", capsys.readouterr().err)
    assert not (paths.figures("mini_llama") / "index.html").exists()


@pytest.mark.parametrize("obstacle", ["a file in its place", "no permission"])
def test_a_folder_that_cannot_be_written_is_one_line(quick, obstacle):
    if obstacle == "no permission" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    if obstacle == "no permission":
        quick.home.mkdir(mode=0o500)
    else:
        quick.home.write_text("no folder")
    printed = quick("toy", code=2)
    assert re.search(r"^error: (Not a directory|Permission denied): \S+$", printed, re.M) and "Traceback" not in printed


# --- damaged files ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", [lambda data: data[:len(data) // 2], lambda data: b"", lambda data: data.replace(b"seed 0", b"seed 1"), None],
                         ids=["truncated", "emptied", "edited", "deleted"])
def test_a_damaged_file_is_noticed_and_made_again(finished, undisturbed, damage):
    victims = [finished.outputs("02_pretraining") / "made.txt", finished.figures() / "table_05_evaluation.csv", finished.outputs("06_ablations") / "manifest.json"]
    for file in victims:
        file.unlink() if damage is None else file.write_bytes(damage(file.read_bytes()) + (b"" if "manifest" not in file.name else b"}"))
    assert finished.due()[:1] == ["02_pretraining"]
    assert set(executed(finished("toy"))) == {"02_pretraining", "05_evaluation", "06_ablations"}, "equal outputs stop there"
    assert results(finished) == undisturbed


@pytest.mark.parametrize("damage", [lambda data: data[:len(data) // 2], lambda data: b"", lambda data: b"PAR1" + data[4:-8] + b"\0\0\0\0PAR1"])
def test_a_damaged_parquet_file_is_refused_with_a_sentence(tmp_path, damage):
    file = tmp_path / "verdicts.parquet"
    records.write("verdict", [{"id": "a", "judge": "b", "best": 0, "scores": [1.0], "reason": ""}], file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="cannot be read as Parquet .*; delete it and run the stage that makes it again"):
        records.read("verdict", file)


def test_an_executed_notebook_that_is_damaged_costs_its_copy_and_nothing_else(home, monkeypatch):
    from hippo_utils.reporting import page
    monkeypatch.setattr(manifest, "_limit_threads", lambda threads: None)
    manifest.begin("01_corpus", LLAMA).finish()
    for text in ("{", "[]", "{}", '{"metadata": {"papermill": {"start_time": "yesterday", "end_time": null}}}', "\xff"):
        paths.executed_notebook("mini_llama", "01_corpus").write_text(text, encoding="latin-1")
        assert "01_corpus" in page.write(paths.figures("mini_llama")).read_text()


# --- two at once, and time -------------------------------------------------------------------------------------------

def test_of_two_runs_of_the_same_params_one_is_refused_and_the_result_is_the_same(quick, undisturbed):
    processes = [quick.start("toy") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes in ([0, 2], [0, 0]), said  # both only if one had ended before the other began
    if codes == [0, 2]:
        assert sum("another ./run_all.sh is working on toy" in error for _, error in said) == 1
    assert results(quick) == undisturbed and believed(quick) == STAGES


def test_a_stage_that_another_process_works_on_is_refused(home, monkeypatch):
    """By hand in Jupyter and headless at once: the second one waits a little, then says so."""
    monkeypatch.setattr(manifest, "_limit_threads", lambda threads: None)
    monkeypatch.setattr(manifest, "PATIENCE", 0.2)
    script = ("import sys; from hippo_utils import manifest, params; manifest._limit_threads = lambda n: None\n"
              "stage = manifest.begin('01_corpus', params.load('mini_llama')); print('begun', flush=True); sys.stdin.read()")
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "begun\n"
    with pytest.raises(StageError, match="another process is working on .*01_corpus"):
        manifest.begin("01_corpus", LLAMA)
    other.kill()
    other.communicate()
    manifest.begin("01_corpus", LLAMA)
    manifest.begin("01_corpus", LLAMA).finish(), "this process may begin again as often as it likes"


def test_touched_files_and_changed_clocks_are_no_reason_to_compute(finished):
    for moment in (0, time.time(), time.time() + 10 * 365 * 86400):
        for folder in (finished.home, finished.root):
            for file in folder.rglob("*"):
                os.utime(file, (moment, moment))
        assert finished.due() == []
    made = finished.manifest("03_instruction")
    made["finished"] = "1999-12-31T23:59:59+00:00"
    (finished.outputs("03_instruction") / "manifest.json").write_text(json.dumps(made))
    assert finished.due() == [], "the clock of the machine that made it says nothing"


def test_keys_of_the_environment_stand_in_no_log_and_no_notebook(toy):
    """With the real kernel, which knows the environment as well as we do."""
    assert all(manifest.SECRET.search(name) for name in ("OPENAI_API_KEY", "OPENAI_API_KEY_2", "DASHSCOPE_API_KEY1", "AWS_ACCESS_KEY_ID", "GITHUB_PAT", "HF_TOKEN"))
    assert not any(manifest.SECRET.search(name) for name in ("PATH", "HOME", "KEYBOARD", "TOKENIZERS_PARALLELISM"))
    secret = "sk-planted-0123456789"
    toy.edit("07_calibration", "work.write(stage)", "import os\nprint('the key is', os.environ['SOME_API_KEY'])\nwork.write(stage)")
    process = subprocess.run([sys.executable, "-m", "hippo_utils.run", "toy"], cwd=toy.root, env=toy.environment() | {"SOME_API_KEY": secret}, capture_output=True, text=True)
    assert process.returncode == 0 and "the key is [redacted]" in process.stdout
    assert not [file for file in toy.home.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]
