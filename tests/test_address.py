"""The address of the published repository: one place, and one command that changes it everywhere."""

import re
import shutil
import subprocess
import tomllib

from conftest import ROOT

HERE = re.compile(r"github\.com/(?:github/)?([\w.-]+/[\w.-]+?)(?:\.git)?(?=/blob/[^)\s]*\.ipynb|\\?[\"'])")  # links to notebooks, and what is cloned
TEXTS = ("pyproject.toml", "README.md", "CONTRIBUTING.md", "CITATION.cff", "notebooks/*.ipynb", "hippo_utils/**/*.html", "hippo_utils/**/*.py", "params/*.yaml")


def addresses(root) -> dict[str, set[str]]:
    """The repositories that the badges, set-up cells and metadata of a checkout name, by file."""
    found = {file: set(HERE.findall(file.read_text(encoding="utf-8"))) for pattern in TEXTS for file in root.glob(pattern)}
    return {str(file.relative_to(root)): names for file, names in found.items() if names}


def own(root) -> str:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"].removeprefix("https://github.com/")


def test_every_badge_and_every_link_to_a_notebook_names_the_address_of_pyproject():
    found = addresses(ROOT)
    assert {name for name in found if name.endswith(".ipynb")} == {f"notebooks/{file.name}" for file in (ROOT / "notebooks").glob("*.ipynb")}
    assert {name for names in found.values() for name in names} == {own(ROOT)}


def test_the_command_of_contributing_changes_it_everywhere(tmp_path):
    command = re.search(r"^git grep -l .*perl.*$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)[0].replace("OWNER/REPOSITORY", own(ROOT))
    for part in ("pyproject.toml", "notebooks"):
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, tmp_path / part)
    subprocess.run("git init --quiet . && git add --all && " + command, shell=True, cwd=tmp_path, check=True)
    assert own(tmp_path) == "someone/companion" and {name for names in addresses(tmp_path).values() for name in names} == {"someone/companion"}
    left = [file for file in tmp_path.rglob("*") if file.is_file() and ".git" not in file.parts and own(ROOT) in file.read_text(encoding="utf-8", errors="replace")]
    assert not left
