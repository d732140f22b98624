"""The notebooks on Google Colab: a badge, and one set-up cell that does nothing anywhere else."""

import json
import os
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

from hippo_utils import manifest, paths

ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def cells(stage: str) -> list[dict]:
    return json.loads(paths.notebook(stage).read_text(encoding="utf-8"))["cells"]


def setup_cell(stage: str = manifest.STAGES[0]) -> str:
    found = ["".join(cell["source"]) for cell in cells(stage) if "colab" in cell["metadata"].get("tags", [])]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("stage", manifest.STAGES)
def test_every_notebook_has_its_badge_and_the_same_cell_before_all_other_code(stage):
    first = "".join(cells(stage)[0]["source"])
    link = f"https://colab.research.google.com/github/{ADDRESS.removeprefix('https://github.com/')}/blob/main/notebooks/{stage}.ipynb"
    assert first.startswith("# ") and f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})" in first
    assert setup_cell(stage) == setup_cell() and "colab" in next(cell for cell in cells(stage) if cell["cell_type"] == "code")["metadata"]["tags"]
    assert f'"{ADDRESS}"' in setup_cell() and len(setup_cell().splitlines()) <= 25


@pytest.fixture
def machine(tmp_path):
    """Run the cell in a Python of its own; stand-ins for git, pip and google.colab write down what they are asked for."""
    tools, modules, note = tmp_path / "tools", tmp_path / "modules", tmp_path / "asked.txt"
    for folder in (tools, modules / "pip", modules / "google" / "colab"):
        folder.mkdir(parents=True)
    (tools / "git").write_text(f'#!/bin/sh\necho git "$@" >> {note}\nfor last; do :; done\nmkdir "$last" && ln -s {ROOT}/hippo_utils "$last/hippo_utils"\n')
    (tools / "git").chmod(0o755)
    (modules / "pip" / "__init__.py").write_text("")
    (modules / "pip" / "__main__.py").write_text(f"import sys\nopen({str(note)!r}, 'a').write('pip ' + ' '.join(sys.argv[1:]) + '\\n')\n")
    (modules / "google" / "__init__.py").write_text("")
    (modules / "google" / "colab" / "__init__.py").write_text("")
    (modules / "google" / "colab" / "drive.py").write_text(f"def mount(place):\n    open({str(note)!r}, 'a').write(f'mount {{place}}\\n')\n")
    without = ("import importlib.metadata as m, sys\nfound = m.distributions\nm.distributions = lambda: [d for d in found() if d.name != 'hippo-utils']\n"
               f"sys.path = [p for p in sys.path if p != {str(ROOT)!r}]\nsys.meta_path = [f for f in sys.meta_path if '__editable__' not in repr(f)]\n")

    def run(cell: str, colab: bool, installed: bool = True, after: str = "") -> tuple[list[str], str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("COLAB_RELEASE_TAG", "HIPPO_HOME")}
        environment |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": f"{modules}{os.pathsep}{os.environ['PYTHONPATH']}"}
        script = ("" if installed else without) + cell + "\n" + after
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
                              env=environment | ({"COLAB_RELEASE_TAG": "release-colab"} if colab else {}))
        assert done.returncode == 0, done.stderr
        return note.read_text().splitlines() if note.exists() else [], done.stdout

    return run


def test_elsewhere_it_does_nothing(machine):
    after = "import sys; assert not {'hippo_utils', 'google'} & sys.modules.keys()"
    for cell in (setup_cell(), setup_cell().replace("outputs_on_drive = False", "outputs_on_drive = True")):
        assert machine(cell, colab=False, installed=False, after=after) == ([], "")


def test_on_colab_it_fetches_the_project_and_leaves_torch_and_numpy_as_they_are(machine):
    from importlib.metadata import version
    asked, printed = machine(setup_cell(), colab=True, installed=False, after="import hippo_utils; print(hippo_utils.__file__)")
    assert asked == [f"git clone --quiet --depth 1 {ADDRESS} companion",
                     f"pip install --quiet --editable companion torch=={version('torch')} numpy=={version('numpy')}"]
    assert "/companion/hippo_utils/" in printed, "the kernel that is running finds it"


def test_where_installing_failed_the_next_try_installs_what_was_fetched(machine, tmp_path):
    (tmp_path / "companion").mkdir()
    (tmp_path / "companion" / "hippo_utils").symlink_to(ROOT / "hippo_utils")
    asked, _ = machine(setup_cell(), colab=True, installed=False, after="import hippo_utils")
    assert len(asked) == 1 and asked[0].startswith("pip install"), "git would refuse a folder that is there"


def test_a_second_time_nothing_is_fetched(machine):
    """As under papermill, whose kernel starts where the project is installed."""
    assert machine(setup_cell(), colab=True) == ([], "")


def test_outputs_go_to_drive_when_asked_for(machine):
    cell = setup_cell().replace("outputs_on_drive = False", "outputs_on_drive = True")
    asked, printed = machine(cell, colab=True, after="print(paths.outputs('x'))")
    assert asked == ["mount /content/drive"] and printed.split("go to ")[1].splitlines() == ["/content/drive/MyDrive/hippocrates", "/content/drive/MyDrive/hippocrates/outputs/x"]


def test_the_requirements_allow_what_colab_brings():
    """Colab's TensorFlow holds numpy at 2.0; a requirement above it could only be met by replacing numpy."""
    from packaging.requirements import Requirement
    needs = {need.name: need for need in map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])}
    assert needs["numpy"].specifier.contains("2.0.2") and needs["torch"].specifier.contains("2.9.0")
