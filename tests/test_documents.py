"""CONTRIBUTING's worked examples are done as written, in a copy of the project, and work; its commands and paths exist."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, checkout, executed, parameters_cell, write_notebook
from hippo_utils import params

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def blocks(section: str) -> list[tuple[str, str, str]]:
    """The edits of one section: (file, what to do with it, content)."""
    part = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)[1]
    return re.findall(r"^```\w+\n# (\S+): ([^\n]+)\n(.*?)^```$", part, re.M | re.S)


def follow(section: str, root: Path) -> None:
    """Do what a section says, in a copy of the project."""
    cells: dict[str, list] = {}
    for name, what, content in blocks(section):
        file = root / name
        if what == "a cell":
            cells.setdefault(name, []).append(("code", content.strip()))
        elif what == "new":
            assert not file.exists()
            file.write_text(content, encoding="utf-8")
        elif what == "at the end":
            file.write_text(file.read_text(encoding="utf-8").rstrip("\n") + "\n\n" + content, encoding="utf-8")
        else:
            add_to(file, re.fullmatch(r"to (\w+)", what)[1], content)
    for name, made in cells.items():
        write_notebook(root / name, [("markdown", "# prose"), *made])


def add_to(file: Path, name: str, content: str) -> None:
    """Add entries to the tuple, Literal or dictionary that is assigned to a name."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if re.match(rf"{name}\b.*=", line))
    if re.search(r"[\])]$", lines[start].rstrip()):
        line = lines[start].rstrip()
        lines[start] = f"{line[:-1]}, {content.strip().rstrip(',')}{line[-1]}\n"
    else:
        end = next(number for number in range(start, len(lines)) if lines[number].startswith("}"))
        lines[end:end] = [f"    {line}\n" for line in content.strip().splitlines()]
    file.write_text("".join(lines), encoding="utf-8")


def python(root: Path, code: str, home: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "network_guard"), str(root)]), "HIPPO_HOME": str(home)})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def root(tmp_path) -> Path:
    return checkout(tmp_path / "project", ("hippo_utils", "params"))


def test_a_source_is_added_as_written(root, tmp_path):
    follow("Add a source", root)
    folder = tmp_path / "my_data" / "example" / "ward-rounds"
    folder.mkdir(parents=True)
    (folder / "rounds.jsonl").write_text("".join(json.dumps({"note": f"On day {day} the patient was better."}) + "\n" for day in (1, 2, 3)))
    printed = python(root, "from hippo_utils import params, records\nfrom hippo_utils.corpus import hub\nsettings = params.load('with_rounds')\n"
                     "rows = list(hub.stream(hub.source('ward_rounds', 'document'), settings.corpus, None, 0, []))\n"
                     "records.to_table('document', rows)\nprint(len(rows), rows[2]['text'], 'guidelines' in settings.corpus.documents)", tmp_path)
    assert printed == "3 On day 3 the patient was better. True\n"


def test_a_benchmark_is_added_as_written(root, tmp_path):
    follow("Add a benchmark", root)
    folder = tmp_path / "my_data" / "example" / "anatomy"
    folder.mkdir(parents=True)
    for part, name in (("train", "humerus"), ("test", "femur")):
        rows = [{"question": f"Which bone is this, number {n}?", "options": {"A": name, "B": "tibia", "C": "ulna", "D": "radius"}, "answer_idx": "A"} for n in range(2)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = "['corpus.benchmarks=[medqa, anatomy]', 'evaluation.benchmarks=[medqa, anatomy]', 'corpus.data_root=my_data']"
    printed = python(root, f"import pandas as pd\nfrom hippo_utils import params, records\nfrom hippo_utils.corpus import hub\nfrom hippo_utils.evaluation import harness\n"
                     f"settings = params.load('hippo_llama', {settings})\nitems = pd.DataFrame(hub.items(hub.source('anatomy', 'item'), settings.corpus, 0, []))\nrecords.to_table('item', items)\n"
                     "with harness.tasks(items, ['anatomy'], 'option_text', 0) as (task,):\n    doc = task.test_docs()[0]\n    print(task.config.task, task.doc_to_text(doc), task.doc_to_choice(doc))", tmp_path)
    assert printed.splitlines() == ["hippo_anatomy_option_text Question: Which bone is this, number 0?", "(A) femur (B) tibia (C) ulna (D) radius", "Answer: ['femur', 'tibia', 'ulna', 'radius']"]


def test_a_base_model_is_added_as_written(root, tmp_path, monkeypatch):
    from hippo_utils.training import models
    from small import make_model, make_tokenizer
    follow("Add a base model", root)
    settings = params.load(root / "params" / "my_base.yaml")
    folder = tmp_path / settings.pretraining.base
    tokenizer = make_tokenizer(folder)
    make_model(tokenizer).save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    model, loaded = models.load_pretrained(settings.pretraining.base, settings.pretraining.revision)
    assert len(loaded) == len(tokenizer) and sum(weight.numel() for weight in model.parameters()) > 0


AS_THEY_ARE = """
from hippo_utils import manifest, params, paths
for stage in manifest.STAGES[:-1]:
    manifest.write_json(manifest.read("tiny", stage) | {"key": manifest.key(params.load("tiny"), stage)}, paths.manifest("tiny", stage))
"""


def test_a_stage_is_added_as_written(tiny):
    follow("Add a stage", tiny.root)
    assert parameters_cell()["source"] in [cell["source"] for cell in json.loads(tiny.notebook("08_errors").read_text())["cells"]]
    assert len(tiny.due()) == 8, "the others reach manifest.py, which changed"
    python(tiny.root, AS_THEY_ARE, tiny.home)  # they would make the same files again, in minutes
    assert executed(tiny("tiny")) == ["08_errors"]
    assert (tiny.figures() / "table_errors.csv").read_text().startswith("benchmark,item\n")
    assert 'id="table_errors"' in (tiny.figures() / "index.html").read_text()
    assert "nothing was executed" in tiny("tiny")


def test_every_path_and_link_of_contributing_exists():
    made = {name for name, what, _ in re.findall(r"^# (\S+): (new|a cell)()$", TEXT, re.M)}
    named = set(re.findall(r"(?<![\w/<>.])((?:params|notebooks|hippo_utils|tests|benchmarks)/[\w./*-]*\w)", TEXT))
    assert not [name for name in named - made if not list(ROOT.glob(name))]
    assert not [target for target in re.findall(r"\]\(([^)#:]+)\)", TEXT) if not (ROOT / target).exists()]


def test_every_command_of_contributing_exists():
    known = subprocess.run([sys.executable, "-m", "hippo_utils.run", "--help"], capture_output=True, text=True, cwd=ROOT).stdout + (ROOT / "run_all.sh").read_text()
    assert not [flag for flag in re.findall(r"run_all\.sh[^`\n#]*?(--[a-z-]+)", TEXT) if flag not in known]
    for module, command in set(re.findall(r"python -m (hippo_utils\.\w+) (\w+)", TEXT)):
        done = subprocess.run([sys.executable, "-m", module, command, "--help"], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr


def test_the_changelog_names_the_version_of_the_package():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert f"## {version}\n" in CHANGELOG and CHANGELOG.index("## Unreleased") < CHANGELOG.index(f"## {version}")
    assert "not for clinical use" in TEXT


def test_the_table_of_slow_tests_names_them_all_and_says_which_ci_runs():
    slow, tail = set(), set()
    for file in (ROOT / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            marks = " ".join(map(ast.unparse, node.decorator_list)) if isinstance(node, ast.FunctionDef) else ""
            slow |= {node.name} if "mark.slow" in marks else set()
            tail |= {node.name} if "mark.tail" in marks else set()
    rows = dict(re.findall(r"^\| `(test_\w+)` \|.*\| (yes|no) \|$", TEXT, re.M))
    assert set(rows) == slow and {name for name, runs in rows.items() if runs == "yes"} == tail <= slow
    assert "-m tail" in (ROOT / ".ci" / "run").read_text()
