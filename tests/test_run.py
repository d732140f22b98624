"""The runner: on toy notebooks what it does in every case, and on params/tiny.yaml that the real ones obey it."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, executed
from hippo_utils import manifest, params, records

STAGES = list(manifest.STAGES)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:  # a zombie that waits for its parent is not alive
        return open(f"/proc/{process}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def wait(what, seconds: float = 60) -> bool:
    end = time.time() + seconds
    while time.time() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


# --- the toy project -----------------------------------------------------------------------------------------------

def test_everything_is_executed_once_in_order(toy_done):
    assert executed(toy_done.printed) == STAGES
    assert "7 notebooks executed" in toy_done.printed
    made = (toy_done.outputs("07_calibration") / "made.txt").read_text()
    assert made.count("01_corpus seed 0") == 9, "each stage hands on what it was given: nine ways lead from 01 to 07"
    for stage in STAGES:
        cells = json.loads((toy_done.outputs(stage) / f"{stage}.ipynb").read_text())["cells"]
        assert cells[-1]["execution_count"], "the executed notebook is there to be read"
        assert f"{stage} of run toy" in (toy_done.outputs(stage) / "log.txt").read_text()


def test_again_nothing_is_executed(toy):
    before = {stage: toy.manifest(stage) for stage in STAGES}
    printed = toy("toy")
    assert executed(printed) == [] and "nothing was executed" in printed
    assert {stage: toy.manifest(stage) for stage in STAGES} == before
    assert all(line.endswith("up to date") for line in toy("toy", "--list").splitlines())
    assert "everything is up to date" in toy("toy", "--dry-run")


def test_prose_is_no_reason_and_a_caption_only_draws_again(toy):
    toy.edit("02_pretraining", "in prose", "in better prose", kind="markdown")
    (toy.root / "hippo_utils" / "reporting" / "captions.py").write_text("TITLE = 'new'\n")
    assert toy.due() == []
    printed = toy("toy")
    assert executed(printed) == [] and printed.count("figures drawn again") == 7
    assert "figures drawn again" not in toy("toy")


def test_a_changed_cell_executes_its_stage_and_equal_outputs_stop_there(toy):
    toy.edit("06_ablations", "work.write(stage)", "work.write(stage)  # the same")
    assert toy.due() == ["06_ablations"]
    toy.edit("05_evaluation", "work.write(stage)", "work.write(stage)  # the same")
    assert toy.due() == ["05_evaluation", "06_ablations", "07_calibration"]
    assert executed(toy("toy")) == ["05_evaluation", "06_ablations"], "05 made the same files again: 07 has no reason"


def test_set_makes_due_what_depends_on_it_and_writes_nothing_in_a_dry_run(toy):
    before = sorted((file, file.stat().st_mtime_ns) for file in toy.home.rglob("*"))
    assert toy.due("--set", "preference.dpo.beta=0.2") == STAGES[3:]
    assert toy.due("--set", "calibration.bins=5") == ["07_calibration"]
    assert toy.due("--set", "seed=1") == STAGES
    listed = toy("toy", "--list", "--set", "preference.dpo.beta=0.2").splitlines()
    assert listed[3] == "toy  04_preference   its parameters changed" and listed[4].endswith("up to date")
    assert sorted((file, file.stat().st_mtime_ns) for file in toy.home.rglob("*")) == before


def test_set_reaches_the_notebook(toy):
    assert executed(toy("toy", "--set", "calibration.bins=5")) == ["07_calibration"]
    assert "07_calibration seed 0 bins 5" in (toy.outputs("07_calibration") / "made.txt").read_text()
    assert toy.manifest("07_calibration")["parameters"]["calibration"]["bins"] == 5


def test_force_and_from(toy):
    assert toy.due("--force", "05") == STAGES[4:]
    assert toy.due("--force", "07", "--force", "06_ablations") == ["06_ablations", "07_calibration"]
    assert executed(toy("toy", "--force", "06")) == ["06_ablations"]
    toy.edit("07_calibration", "work.write(stage)", "work.write(stage)  # changed")
    assert executed(toy("toy", "--from", "07")) == ["07_calibration"]
    toy.edit("06_ablations", "work.write(stage)", "work.write(stage)  # changed")
    toy.edit("05_evaluation", "work.write(stage)", "work.write(stage)  # changed")
    assert "05_evaluation of toy is not up to date" in toy("toy", "--from", "06", code=2)
    assert toy.due("--from", "05") == ["05_evaluation", "06_ablations", "07_calibration"]


def test_a_deleted_file_is_noticed_and_made_again(toy):
    (toy.outputs("06_ablations") / "made.txt").unlink()
    assert "made.txt is missing or was changed" in toy("toy", "--list")
    assert executed(toy("toy")) == ["06_ablations"]
    assert (toy.outputs("06_ablations") / "made.txt").exists()


def test_two_runs_side_by_side_make_the_same_and_share_what_is_equal(toy_template, toy_done, tmp_path):
    project = toy_template.copy(tmp_path)
    printed = project("toy", "params/twin.yaml", "--jobs", "2")
    assert "10 notebooks executed" in printed and printed.count("shared with toy") == 4
    for stage in STAGES:
        alone, beside = toy_done.outputs(stage) / "made.txt", project.outputs(stage) / "made.txt"
        assert alone.read_bytes() == beside.read_bytes() == (project.outputs(stage, "twin") / "made.txt").read_bytes()
    assert "nothing was executed" in project("toy", "twin")


def test_a_failing_notebook_is_named_with_its_cell_and_last_error_line(toy):
    toy.edit("05_evaluation", "work.write(stage)", "print('no line end', end='')\nraise ValueError('first line\\nthe scores are gone')")
    printed = toy("toy", code=1)
    assert executed(printed) == ["05_evaluation"], "what depends on it does not start"
    assert "toy 05_evaluation failed in cell 4: the scores are gone" in printed  # counted from 0, as the injected cell counts too
    executed_notebook = toy.outputs("05_evaluation") / "05_evaluation.ipynb"
    assert str(executed_notebook) in printed and "the scores are gone" in executed_notebook.read_text()
    assert not (toy.outputs("05_evaluation") / "manifest.json").exists()
    assert toy("toy", "--list").count("up to date") == 4
    toy.edit("05_evaluation", "raise ValueError", "work.write(stage)\nValueError")
    assert executed(toy("toy")) == ["05_evaluation"], "mended, it continues there; 06 and 07 get what they had before"


@pytest.mark.parametrize("source, said", [
    ("import sys; sys.exit(0)", "the notebook ended early"),
    ("import os; os.kill(os.getpid(), 9)", "the kernel died"),
    ("stage.input('05_evaluation', 'nothing.txt')", "05_evaluation made no nothing.txt; it made made.txt"),
    ("stage.input('05_evaluation', 'made.txt').write_text('mine')\nwork.write(stage)", "05_evaluation is missing or was changed"),
], ids=["exit", "killed", "undeclared", "writes into an earlier stage"])
def test_a_notebook_that_ends_badly_is_not_done(toy, source, said):
    toy.edit("07_calibration", "work.write(stage)", source)
    printed = toy("toy", code=1)
    assert "toy 07_calibration failed" in printed and said in printed
    assert not (toy.outputs("07_calibration") / "manifest.json").exists()
    assert not (toy.figures() / "fig_07_calibration.csv").exists(), "nor do its old figures stay as if they were"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_cleanly_and_leaves_no_kernel(toy, number):
    note = toy.root / "note"
    toy.edit("06_ablations", "work.write(stage)", f"import os, pathlib, time\npathlib.Path({str(note)!r}).write_text(f'{{os.getpid()}} {{os.getppid()}}')\ntime.sleep(300)")
    process = toy.start("toy")
    assert wait(lambda: note.exists() and note.read_text().count(" ")), process.poll()
    kernel, parent = map(int, note.read_text().split())
    assert alive(kernel) and alive(parent)
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "Stopped." in out and "Traceback" not in out + error
    assert wait(lambda: not alive(kernel) and not alive(parent), 10), "a kernel was left behind"
    assert not (toy.outputs("06_ablations") / "manifest.json").exists()
    assert toy.due() == ["06_ablations"], "what was finished stays finished"


def test_a_second_runner_is_refused_with_a_sentence(toy):
    with open(toy.outputs("") / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "error: another ./run_all.sh is working on toy; wait for it" in toy("toy", code=2)
    assert "nothing was executed" in toy("toy")


def test_what_goes_wrong_outside_the_notebook_is_said_too(toy):
    """A redraw that fails, a full disk: exit code 1 and a line, never silence."""
    (toy.root / "hippo_utils" / "reporting" / "captions.py").write_text("TITLE = 'new'\n")
    (toy.root / "hippo_utils" / "reporting" / "__main__.py").write_text("raise SystemExit(3)")
    assert "toy 01_corpus failed: CalledProcessError" in toy("toy", code=1)


def test_a_relative_home_belongs_to_the_callers_folder_and_so_do_params(toy, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[tool.doit]\nnum_process = 'not for us'\n")
    (folder / "mine.yaml").write_text("extends: mini_llama\nrun: mine")
    toy.edit("01_corpus", "work.write(stage)", "raise KeyError('far enough')")
    done = subprocess.run([sys.executable, "-m", "hippo_utils.run", "mine.yaml"], cwd=folder, capture_output=True, text=True,
                          env=toy.environment() | {"HIPPO_HOME": "scratch"})
    assert done.returncode == 1 and "mine 01_corpus failed in cell" in done.stderr and "far enough" in done.stderr
    assert "far enough" in (folder / "scratch" / "outputs" / "mine" / "01_corpus" / "01_corpus.ipynb").read_text()
    assert not (toy.root / "scratch").exists()


def test_a_notebook_that_is_gone_is_said_before_anything_starts(toy):
    toy.notebook("07_calibration").unlink()
    toy.edit("01_corpus", "work.write(stage)", "work.write(stage)  # changed")
    printed = toy("toy", code=2)
    assert "07_calibration.ipynb does not exist" in printed and executed(printed) == []


@pytest.mark.parametrize("options, named", [(["--only", "03"], "--only"), (["--force", "03", "--list"], "--force, --list"), (["--dry-run", "--device", "t4"], "--dry-run")])
def test_preflight_refuses_the_options_that_it_would_not_heed(toy, options, named):
    assert f"--preflight takes the whole run and executes nothing here; leave {named} out" in toy("toy", "--preflight", *options, code=2)


def test_help_names_every_option():
    printed = subprocess.run([sys.executable, "-m", "hippo_utils.run", "--help"], capture_output=True, text=True, check=True).stdout
    assert not [option for option in ("--set", "--from", "--force", "--jobs", "--list", "--dry-run", "--test") if option not in printed]


# --- run_all.sh ----------------------------------------------------------------------------------------------------

def shell(*arguments: str, cwd, **environment) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV")}
    return subprocess.run([*arguments], cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=120)


def test_run_all_uses_the_active_environment_from_anywhere_and_through_a_link(tmp_path, home):
    (tmp_path / "mine.yaml").write_text("extends: mini_llama\nrun: mine")
    (tmp_path / "csv.py").write_text("raise SystemExit('the wrong module')")  # the caller's folder is no place to import from
    (tmp_path / "link").symlink_to(ROOT / "run_all.sh")
    done = shell("./link", "mine.yaml", "--list", cwd=tmp_path, VIRTUAL_ENV=sys.prefix)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mine  ") == 7 and done.stderr == f"using {sys.prefix}/bin/python\n"
    done = shell("./link", "none.yaml", cwd=tmp_path, VIRTUAL_ENV=sys.prefix)
    assert done.returncode == 2 and "none.yaml: no such file" in done.stderr


@pytest.fixture
def bare(tmp_path):
    """A project with run_all.sh, and a PATH with nothing but what the system has, no Python among it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "readlink", "cat", "cksum", "rm", "sed", "ls", "mkdir"):
        found = next(f"{folder}/{name}" for folder in ("/usr/bin", "/bin") if os.path.exists(f"{folder}/{name}"))
        (tools / name).symlink_to(found)
    root = tmp_path / "project"
    root.mkdir()
    for name in ("run_all.sh", "pyproject.toml", "constraints.txt"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "run_all.sh").chmod(0o755)
    return root, tools


def fake_python(tools, name: str, script: str) -> None:
    (tools / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
    (tools / name).chmod(0o755)


def test_without_a_new_enough_python_run_all_says_so_in_one_line(bare):
    root, tools = bare
    fake_python(tools, "python3", "exit 1")       # an old one answers the question for 3.11 with no
    fake_python(tools, "python3.13", "exit 127")  # a shim with nothing behind it
    done = shell("./run_all.sh", cwd=root, PATH=str(tools))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: no Python 3.11 or newer found")
    assert not (root / ".venv").exists()


def test_help_needs_no_environment(bare):
    root, tools = bare
    done = shell("./run_all.sh", "--help", cwd=root, PATH=str(tools))
    assert done.returncode == 0 and "--test" in done.stdout and not (root / ".venv").exists()


def make_fake_venv(tools, install: str) -> None:
    """A python3 that makes environments whose Python only knows how to note what it was asked, and to install as told."""
    fake_python(tools, "python3", r"""
case "$*" in
  *version_info*) exit 0 ;;
  "-m venv --clear "*) mkdir -p "$4/bin"; cat > "$4/bin/python" <<'INNER'
#!/usr/bin/env bash
here="$(dirname "$0")"
case "$*" in
  -c*) exit 0 ;;
  *"pip install"*) echo "pip $*" >> "$here/asked"; """ + install + r""" ;;
  "- "*) [ -e "$here/installed" ] || echo "everything" ;;
  *) echo "ran $*" ;;
esac
INNER
  chmod +x "$4/bin/python" 2>/dev/null || /bin/chmod +x "$4/bin/python" ;;
esac""")


def test_the_environment_is_made_once_and_again_when_the_requirements_change(bare):
    root, tools = bare
    make_fake_venv(tools, 'echo > "$here/installed"')
    asked = root / ".venv" / "bin" / "asked"
    first = shell("./run_all.sh", "--list", cwd=root, PATH=str(tools))
    assert first.returncode == 0 and first.stdout == "ran -P -m hippo_utils.run --list\n", first.stderr
    assert asked.read_text().count("\n") == 1 and "-c" in asked.read_text() and "constraints.txt" in asked.read_text()
    second = shell("./run_all.sh", cwd=root, PATH=str(tools))
    assert second.stderr == f"using {root}/.venv/bin/python\n" and asked.read_text().count("\n") == 1
    (root / "constraints.txt").write_text("numpy==1.0\n")
    (root / ".venv" / "bin" / "installed").unlink()  # what is there does not fit any more
    assert shell("./run_all.sh", cwd=root, PATH=str(tools)).returncode == 0
    assert asked.read_text().count("\n") == 2
    assert "[test]" not in asked.read_text()
    (root / ".venv" / "bin" / "installed").unlink()
    tested = shell("./run_all.sh", "--test", "tests/test_x.py", cwd=root, PATH=str(tools))
    assert "[test]" in asked.read_text() and tested.stdout == "ran -P -m pytest tests/test_x.py\n"
    assert "not slow" in shell("./run_all.sh", "--test", cwd=root, PATH=str(tools)).stdout
    assert shell("./run_all.sh", "--test", "--all", cwd=root, PATH=str(tools)).stdout == "ran -P -m pytest -n 2\n"
    assert asked.read_text().count("\n") == 3


def test_an_install_that_was_interrupted_is_taken_up_again(bare):
    root, tools = bare
    make_fake_venv(tools, "kill -INT $PPID; exit 1")
    assert shell("./run_all.sh", cwd=root, PATH=str(tools)).returncode != 0
    assert not (root / ".venv" / ".made-from").exists()
    make_fake_venv(tools, "exit 1")
    (root / ".venv" / "bin" / "python").unlink()
    done = shell("./run_all.sh", cwd=root, PATH=str(tools))
    assert done.returncode == 1 and "could not be installed" in done.stderr and not (root / ".venv" / ".made-from").exists()


def test_an_active_environment_that_lacks_something_is_left_alone(bare):
    root, tools = bare
    make_fake_venv(tools, 'echo > "$here/installed"')
    shell(str(tools / "python3"), "-m", "venv", "--clear", str(root / "active"), cwd=root, PATH=str(tools))
    done = shell("./run_all.sh", cwd=root, PATH=str(tools), VIRTUAL_ENV=str(root / "active"))
    assert "the active environment lacks everything; using the project's own .venv" in done.stderr
    assert done.stderr.endswith(f"using {root}/.venv/bin/python\n") and not (root / "active" / "bin" / "asked").exists()
    for base in ({"CONDA_DEFAULT_ENV": "base"}, {}):  # conda's base, with and without its name
        (root / "active" / "condabin").mkdir(exist_ok=True)
        done = shell("./run_all.sh", cwd=root, PATH=str(tools), CONDA_PREFIX=str(root / "active"), **base)
        assert done.stderr == f"using {root}/.venv/bin/python\n"


# --- the real notebooks, params/tiny.yaml --------------------------------------------------------------------------

COLUMNS = ["run", "stages", "benchmark", "group", "shots", "protocol", "n", "accuracy", "ci_low", "ci_high"]


def test_tiny_executes_all_seven_notebooks(tiny_run):
    assert executed(tiny_run.printed) == STAGES


def test_tiny_is_up_to_date_afterwards_in_under_three_seconds(tiny):
    """Seconds of the processor, which other work on the machine does not lengthen; it waits for nothing."""
    began = os.times()
    assert "nothing was executed" in tiny("tiny")
    ended = os.times()
    assert ended.children_user + ended.children_system - began.children_user - began.children_system < 3


def test_prose_in_a_real_notebook_retrains_nothing(tiny):
    tiny.edit("02_pretraining", "a", "a ", kind="markdown")
    tiny.edit("05_evaluation", "e", "e ", kind="markdown")
    assert tiny.due() == []


def test_a_caption_draws_again_and_executes_nothing(tiny):
    captions = tiny.root / "hippo_utils" / "reporting" / "captions.py"
    captions.write_text(captions.read_text().replace("What the corpus holds", "What was read"))
    assert "What was read" in captions.read_text() and tiny.due() == []
    printed = tiny("tiny")
    assert executed(printed) == [] and "nothing was executed" in printed
    assert "What was read" in (tiny.figures() / "fig_corpus.svg").read_text()
    assert "figures drawn again" not in tiny("tiny")


def test_a_changed_cell_of_07_executes_07_alone(tiny):
    tiny.edit("07_calibration", "print(stage)", "print(stage)  # changed")
    assert executed(tiny("tiny")) == ["07_calibration"]
    assert "nothing was executed" in tiny("tiny")


def test_a_preference_setting_makes_04_and_what_reads_it_due(tiny):
    assert tiny.due("--set", "preference.dpo.beta=0.2") == STAGES[3:]


def test_a_deleted_model_is_noticed(tiny):
    weights = sorted(tiny.outputs("03_instruction").rglob("*.safetensors"))
    assert weights, "03 stores its adapters"
    weights[0].unlink()
    assert tiny.due() == STAGES[2:]
    assert f"{weights[0].name} is missing or was changed" in tiny("tiny", "--list")


@pytest.mark.parametrize("name", ["table_main.csv", "table_stages.csv"])
def test_result_tables_are_tidy(tiny_run, name):
    with open(tiny_run.figures() / name, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    for row in rows:
        assert row["run"] == "tiny" and row["stages"] in records.STAGES
        assert row["benchmark"] in records.BENCHMARKS and row["group"] in records.GROUPS
        assert int(row["shots"]) >= 0 and int(row["n"]) > 0 and row["protocol"]
        assert 0 <= float(row["ci_low"]) <= float(row["accuracy"]) <= float(row["ci_high"]) <= 1
    keys = [tuple(row[column] for column in COLUMNS[:6]) for row in rows]
    assert len(keys) == len(set(keys)), "one row per number"
    assert {row["stages"] for row in rows} == {"base", "CP", "SFT", "CP+SFT", "CP+SFT+DPO"}
    assert {row["benchmark"] for row in rows} == set(params.load("tiny").corpus.benchmarks)


@pytest.mark.slow
def test_the_same_run_twice_gives_identical_csv_files_whatever_jobs_says_and_another_seed_does_not(tiny_run, tmp_path):
    def tables(project, run="tiny"):
        return {file.name: file.read_bytes() for file in sorted(project.figures(run).glob("*.csv"))}

    (again := tiny_run.copy(tmp_path / "again"))("tiny", "--force", "01")
    fresh = tiny_run.copy(tmp_path / "fresh")
    (fresh.root / "params" / "other.yaml").write_text("extends: tiny\nrun: other\nseed: 1\n")
    for stage in STAGES:
        (fresh.outputs(stage) / "manifest.json").unlink()
    fresh("tiny", "other", "--jobs", "2")
    assert tables(again) == tables(tiny_run) == tables(fresh)
    assert tables(fresh, "other")["table_stages.csv"].replace(b"other", b"tiny") != tables(tiny_run)["table_stages.csv"]
