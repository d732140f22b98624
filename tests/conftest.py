"""What the tests share: no network, a home of their own, a toy project for the spine, and one real run of params/tiny.yaml."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GUARD = TESTS / "network_guard"

# Before anything else is imported: this process, its children and their kernels stay on this machine.
os.environ["HIPPO_TEST_REFUSED"] = str(Path(tempfile.mkdtemp(prefix="hippo-tests-")) / "refused.txt")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD), str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several workers share the cores
os.environ.pop("HIPPO_HOME", None)
if getattr(sys.modules.get("sitecustomize"), "__file__", None) != str(GUARD / "sitecustomize.py"):  # a worker was started with it
    _spec = importlib.util.spec_from_file_location("network_guard", GUARD / "sitecustomize.py")
    _spec.loader.exec_module(importlib.util.module_from_spec(_spec))

COSTLY = ("tiny_run", "hypnos_run", "toy_template", "one_thread")  # fixtures of the tests that take longest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """For several workers (-n 2): what takes long starts first, and tests that share what was costly to make stay together."""
    items.sort(key=lambda item: next((rank for rank, name in enumerate(COSTLY) if name in item.fixturenames), len(COSTLY)))
    for item in items:
        whole_run = next((name for name in item.fixturenames if name.endswith("_run")), None)
        item.add_marker(pytest.mark.xdist_group(whole_run or item.path.stem))


def pytest_unconfigure(config):
    shutil.rmtree(Path(os.environ["HIPPO_TEST_REFUSED"]).parent, ignore_errors=True)


@pytest.fixture(autouse=True)
def refused():
    """The list of refused connections; a test during which one was tried fails, even if the library did not mind."""
    log = Path(os.environ["HIPPO_TEST_REFUSED"])
    log.write_text("")
    yield log
    assert not log.read_text(), f"the network was asked for: {log.read_text()}"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder that takes the place of the project for outputs/ and figures/. It does not exist until something is written."""
    folder = tmp_path / "home"
    monkeypatch.setenv("HIPPO_HOME", str(folder))
    return folder


# --- projects of the tests' own: a copy of the code, to edit and to run --------------------------------------------------

@dataclasses.dataclass
class Project:
    """A checkout in a temporary folder, with a home beside it."""
    root: Path
    home: Path
    run: str
    printed: str = ""  # what the run said that finished it

    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": os.pathsep.join([str(GUARD), str(self.root)]), "HIPPO_HOME": str(self.home)}

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        # The tests may themselves run under nohup, whose ignored SIGHUP would be inherited.
        return subprocess.Popen([sys.executable, "-m", "hippo_utils.run", *arguments], cwd=self.root, env=self.environment(),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL), **options)

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run the runner; what it printed (both streams), after checking its exit code."""
        process = self.start(*arguments)
        try:
            out, error = process.communicate(timeout=800)  # a whole tiny run takes two minutes where nothing else runs
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its notebooks
            process.communicate()
            raise
        assert process.returncode == code, f"exit code {process.returncode} instead of {code}\n{out}\n{error}"
        return out + error

    def notebook(self, stage: str) -> Path:
        return self.root / "notebooks" / f"{stage}.ipynb"

    def edit(self, stage: str, old: str, new: str, kind: str = "code") -> None:
        """Replace text in the cells of one kind of a notebook."""
        content = json.loads(self.notebook(stage).read_text(encoding="utf-8"))
        sources = [("".join(cell["source"]), cell) for cell in content["cells"] if cell["cell_type"] == kind]
        assert any(old in source for source, _ in sources), f"no {kind} cell of {stage} holds {old!r}"
        for source, cell in sources:
            cell["source"] = source.replace(old, new)
        self.notebook(stage).write_text(json.dumps(content), encoding="utf-8")

    def outputs(self, stage: str, run: str = "") -> Path:
        return self.home / "outputs" / (run or self.run) / stage

    def figures(self, run: str = "") -> Path:
        return self.home / "figures" / (run or self.run)

    def manifest(self, stage: str, run: str = "") -> dict:
        return json.loads((self.outputs(stage, run) / "manifest.json").read_text(encoding="utf-8"))

    def due(self, *arguments: str) -> list[str]:
        """The stages that a dry run would execute."""
        return re.findall(r"^\S+ +(\d\d_\w+) +would be executed", self(self.run, "--dry-run", *arguments), re.M)

    def copy(self, folder: Path) -> "Project":
        """The same project and home again, times of files included, so that all that was up to date still is."""
        shutil.copytree(self.root, folder / "project")
        if self.home.exists():
            shutil.copytree(self.home, folder / "home")
        return Project(folder / "project", folder / "home", self.run)


def executed(printed: str) -> list[str]:
    """The stages that a run executed, in the order of their starting."""
    return re.findall(r"^\[[\d:]+\] \S+ +(\d\d_\w+) +(?! |done|FAILED|shared|figures)", printed, re.M)


def checkout(folder: Path, parts: tuple[str, ...]) -> Path:
    """Copies of parts of the project in an empty folder."""
    for part in parts:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        elif source.exists():
            shutil.copy2(source, target)
    return folder


TOY_WORK = '''
"""What the toy stages do: hand on a line for themselves and all that they were given."""
from hippo_utils import manifest

MARK = "one"


def write(stage):
    lines = [f"{stage.name} seed {stage.settings.seed} bins {stage.settings.calibration.bins if stage.name == '07_calibration' else '-'}"]
    lines += [stage.input(needed, "made.txt").read_text() for needed in manifest.NEEDS[stage.name]]
    (stage.folder / "made.txt").write_text("\\n".join(lines))
    stage.figure_path(f"fig_{stage.name}.csv").write_text(lines[0])
'''
TOY_REDRAW = '''
import sys
from hippo_utils import manifest, paths
if sys.argv[1] == "page":
    for run in sys.argv[2:]:
        (paths.figures(run) / "index.html").write_text(manifest.page_key(run))
        (paths.figures(run).parent / "index.html").write_text("all runs")
    sys.exit()
run, stage = sys.argv[2:]
manifest.write_json(manifest.read(run, stage) | {"drawing": manifest.drawing_hash()}, paths.manifest(run, stage))
'''


def parameters_cell() -> dict:
    """The parameters cell of a real notebook."""
    content = json.loads((ROOT / "notebooks" / "01_corpus.ipynb").read_text(encoding="utf-8"))
    return next(cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", []))


def write_notebook(path: Path, cells: list[tuple[str, str]]) -> Path:
    """A notebook with the real parameters cell behind its first cell. Cells are (kind, source)."""
    made = [{"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
            | ({"outputs": [], "execution_count": None} if kind == "code" else {}) for number, (kind, source) in enumerate(cells)]
    made.insert(1, parameters_cell())
    content = {"cells": made, "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
               "nbformat": 4, "nbformat_minor": 5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def one_thread():
    """For tests that compute: sums in one order, whatever the machine."""
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The small world's tokenizer, as Transformers loads it."""
    from small import make_tokenizer
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "t")


@pytest.fixture(scope="session")
def toy_template(tmp_path_factory) -> Project:
    """The real spine under seven notebooks that do next to nothing; nothing has run yet."""
    from hippo_utils import manifest
    folder = tmp_path_factory.mktemp("toy")
    root = checkout(folder / "project", ("params", *(f"hippo_utils/{name}.py" for name in (
        "__init__", "params", "paths", "manifest", "run", *(f"training/{name}" for name in ("__init__", "checkpoints", "memory", "preflight", "slurm", "trainer"))))))
    (root / "params" / "toy.yaml").write_text("extends: mini_llama\nrun: toy\n")
    (root / "params" / "twin.yaml").write_text("extends: mini_llama\nrun: twin\n")
    for name, source in {"toys/__init__": "", "toys/work": TOY_WORK, "reporting/__init__": "", "reporting/figures": "DPI = 1\n", "reporting/style": "STYLE = 1\n",
                         "reporting/captions": "TITLE = 'old'\n", "reporting/__main__": TOY_REDRAW}.items():
        file = root / "hippo_utils" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
    for stage in manifest.STAGES:
        write_notebook(root / "notebooks" / f"{stage}.ipynb", [
            ("markdown", f"# {stage}, in prose"),
            ("code", f"from hippo_utils import manifest, params\nfrom hippo_utils.toys import work\n\nsettings = params.from_cell(globals())\n"
                     f"stage = manifest.begin('{stage}', settings)\nprint(stage)"),
            ("code", "work.write(stage)"),
            ("code", "stage.finish()")])
    return Project(root, folder / "home", "toy")


@pytest.fixture(scope="session")
def toy_done(toy_template, tmp_path_factory) -> Project:
    """The toy project with its run finished. Do not edit it: take `toy`."""
    project = toy_template.copy(tmp_path_factory.mktemp("toy-done"))
    project.printed = project("toy")
    return project


@pytest.fixture
def toy(toy_done, tmp_path) -> Project:
    """A finished toy project of the test's own."""
    return toy_done.copy(tmp_path / "toy")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Project:
    """The real notebooks with params/tiny.yaml, executed once for the whole session (about two minutes). Do not edit it: take `tiny`."""
    folder = tmp_path_factory.mktemp("tiny-run")
    project = Project(checkout(folder / "project", ("hippo_utils", "notebooks", "params", "figures/reference")), folder / "home", "tiny")
    project.printed = project("tiny")
    return project


@pytest.fixture(scope="session")
def hypnos_run(tmp_path_factory) -> Project:
    """01 to 04 of params/tiny_hypnos.yaml: the second paper, in Chinese (about a minute). Do not edit it: take a copy."""
    folder = tmp_path_factory.mktemp("hypnos-run")
    project = Project(checkout(folder / "project", ("hippo_utils", "notebooks", "params", "figures/reference")), folder / "home", "tiny_hypnos")
    project.printed = "".join(project("tiny_hypnos", "--only", stage) for stage in ("01", "02", "03", "04"))
    return project


@pytest.fixture
def tiny(tiny_run, tmp_path) -> Project:
    """The finished tiny run in a project of the test's own."""
    return tiny_run.copy(tmp_path / "tiny")
