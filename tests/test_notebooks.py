"""The notebooks as they are committed, and the README: what they promise is there."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hippo_utils import manifest, params, paths, reporting, run

WITHOUT_TORCH = ("01_corpus", "06_ablations", "07_calibration")
PLACES = re.compile(r"^(/|~|\.{1,2}/)|(^|[\s'\"])(outputs|figures|params|notebooks|hippo_utils)/")
README = (paths.ROOT / "README.md").read_text(encoding="utf-8")

every_notebook = pytest.mark.parametrize("stage", manifest.STAGES)


def cells(stage: str, kind: str = "") -> list[dict]:
    content = json.loads(paths.notebook(stage).read_text(encoding="utf-8"))
    return [cell | {"source": "".join(cell["source"])} for cell in content["cells"] if kind in ("", cell["cell_type"])]


def is_parameters(cell: dict) -> bool:
    return "parameters" in cell["metadata"].get("tags", [])


def is_colab(cell: dict) -> bool:
    return "colab" in cell["metadata"].get("tags", [])


def code(stage: str) -> list[str]:
    """The code cells below the parameters cell; the set-up cell for Colab above it is looked at in test_colab.py."""
    return [cell["source"] for cell in cells(stage, "code") if not is_parameters(cell) and not is_colab(cell)]


def tree(stage: str) -> ast.Module:
    return ast.parse("\n".join(code(stage)))


# --- as committed ----------------------------------------------------------------------------------------------------

def test_there_is_one_notebook_per_stage_and_no_other():
    assert sorted(file.stem for file in paths.NOTEBOOKS.glob("*.ipynb")) == sorted(manifest.STAGES)


@every_notebook
def test_notebooks_are_committed_without_outputs(stage):
    """An output that is committed is a number that no run made, and a conflict at every change."""
    for number, cell in enumerate(cells(stage, "code")):
        assert cell["outputs"] == [] and cell["execution_count"] is None, f"cell {number} was committed as executed; strip it"
        assert not {"papermill", "execution"} & cell["metadata"].keys()
    content = json.loads(paths.notebook(stage).read_text(encoding="utf-8"))
    assert content["metadata"]["kernelspec"]["name"] == "python3" and not {"papermill", "widgets"} & content["metadata"].keys()


def test_all_have_the_same_parameters_cell_that_papermill_can_read():
    found = {stage: [cell["source"] for cell in cells(stage) if is_parameters(cell)] for stage in manifest.STAGES}
    assert all(len(sources) == 1 for sources in found.values()) and len({sources[0] for sources in found.values()}) == 1
    lines = next(iter(found.values()))[0].splitlines()
    assert all(re.fullmatch(r"\w+: \w+ = \S+( *# .+)?", line) for line in lines), "papermill reads `name: type = literal  # help`, line by line"
    namespace: dict = {}
    exec("\n".join(lines), namespace)
    assert [line.partition(":")[0] for line in lines] == ["extends", *params.Params.model_fields]
    assert params.from_cell(namespace) == params.load("mini_llama"), "left as it is, the cell means mini_llama"


@every_notebook
def test_a_notebook_explains_and_calls(stage):
    prose = "\n".join(cell["source"] for cell in cells(stage, "markdown"))
    assert len(re.findall(r"\w+", prose)) >= 300
    assert "Not for clinical use" in prose
    assert cells(stage)[0]["cell_type"] == "markdown" and cells(stage)[0]["source"].startswith("# ")
    for source in code(stage):
        assert len(source.splitlines()) <= 25, f"longer than 25 lines:\n{source}"
    assert not [node for node in ast.walk(tree(stage)) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))], "functions live in hippo_utils"


@every_notebook
def test_a_notebook_opens_its_stage_first_and_finishes_it_last(stage):
    first, last = code(stage)[0], code(stage)[-1]
    assert "settings = params.from_cell(globals())" in first and f'manifest.begin("{stage}", settings)' in first
    assert "stage.finish()" in last.splitlines()[-1]
    assert sum(source.count("stage.finish()") for source in code(stage)) == 1


@pytest.mark.parametrize("stage", ["02_pretraining", "03_instruction", "04_preference"])
def test_a_notebook_that_trains_asks_first_whether_it_fits(stage):
    """Also under papermill, in Jupyter and on Colab, and before the results of an earlier run are taken down."""
    first = code(stage)[0]
    assert 0 < first.find(f'preflight.check(settings, preflight.this_device(settings.threads), ("{stage}",))') < first.find("manifest.begin(")
    assert "hippo_utils.training.preflight" not in manifest._reached(paths.notebook(stage))[0], "and a device more in its table trains nothing again"


def test_scoring_holds_one_model_at_a_time():
    """On the right of an assignment the next model is loaded while the name still holds the one before."""
    for source in code("05_evaluation"):
        loads = re.findall(r"^(.*)\n.*models\.load(?:_pretrained)?\(", source, re.M)
        assert all(re.match(r" *lm = (model = )?None", line) for line in loads)


@every_notebook
def test_no_path_is_written_into_a_cell(stage):
    """The working directory is the caller's, and outputs move with HIPPO_HOME."""
    texts = [node.value for node in ast.walk(tree(stage)) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in texts if PLACES.search(text)]


@every_notebook
def test_a_notebook_uses_only_the_sections_that_make_its_key(stage):
    """A section that is read and not declared would change the results of a stage that counts as up to date."""
    allowed = {*manifest.SECTIONS[stage], "seed_for"}
    used = {node.attr for node in ast.walk(tree(stage)) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "settings"}
    assert used <= allowed, f"add {sorted(used - allowed)} to manifest.SECTIONS"
    text = "\n".join(code(stage)).replace("preflight.check(settings, ", "")  # which says whether it fits, and changes no result
    whole = re.findall(r"(?<![\w.])settings(?!\w|\.)", text)
    assert len(whole) == 2 and "stage.settings" not in "\n".join(code(stage)), "passed on as a whole only to manifest.begin"


@every_notebook
def test_a_notebook_reads_only_from_the_stages_that_it_needs(stage):
    read = set(re.findall(r"stage\.(?:input|has)\(\s*\"(\w+)\"", "\n".join(code(stage))))
    assert read <= set(manifest.NEEDS[stage])


@every_notebook
def test_every_table_and_figure_of_a_notebook_has_a_name_of_its_own(stage):
    made = re.findall(r"(tables\.write|figures\.show)\(stage, \"(\w+)\"", "\n".join(code(stage)))
    others = [name for other in manifest.STAGES if other != stage for name in re.findall(r"(tables\.write|figures\.show)\(stage, \"(\w+)\"", "\n".join(code(other)))]
    assert made and len(set(made)) == len(made) and not set(made) & set(others)


def test_the_notebooks_that_train_nothing_do_not_import_torch():
    """Importing torch, transformers and trl takes longer than these notebooks do."""
    script = ["import sys"]
    for stage in WITHOUT_TORCH:
        statements = [ast.unparse(node) for node in ast.walk(tree(stage)) if isinstance(node, (ast.Import, ast.ImportFrom))]
        script += [*statements, *(f"import {name}" for name in manifest._reached(paths.notebook(stage))[0]),
                   f"assert not {{'torch', 'transformers', 'trl', 'lm_eval'}} & sys.modules.keys(), '{stage} imports torch'"]
    done = subprocess.run([sys.executable, "-c", "\n".join(script)], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stderr


# --- the README ------------------------------------------------------------------------------------------------------

def blocks(language: str = "") -> list[str]:
    """The README's code blocks of one language."""
    return [text for kind, text in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S) if kind == language]


def commands() -> list[str]:
    """The lines of the README's code blocks that are commands, their explanations taken off."""
    lines = [line for block in blocks() + blocks("bash") for line in block.splitlines()]
    return [re.split(r"\s+#|\s{3,}", line)[0] for line in lines if re.match(r"(\./|python |papermill )", line)]


def links(text: str) -> list[str]:
    return [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?://|#", target)]


@pytest.mark.parametrize("target", sorted(set(links(README))))
def test_every_link_of_the_readme_leads_somewhere(target):
    assert (paths.ROOT / target).exists()


def test_every_path_that_the_readme_names_exists():
    named = set(re.findall(r"(?<![\w/<>.])((?:params|notebooks|hippo_utils|tests|benchmarks)/[\w./*-]*\w)", README))
    assert {"params/mini_mistral.yaml", "notebooks/01_corpus.ipynb"} <= named
    assert not [name for name in named if not list(paths.ROOT.glob(name))]


def test_the_map_names_the_rooms_that_there_are():
    block = next(block for block in blocks() if block.startswith("hippo_utils/"))
    rooms = set(re.findall(r"^  (\w+)/", block, re.M))
    assert rooms == {folder.name for folder in (paths.ROOT / "hippo_utils").iterdir() if (folder / "__init__.py").is_file()}
    spine = re.search(r"^  ([\w, ]+?)  +the spine", block, re.M)[1].split(", ")
    assert set(spine) == {file.stem for file in (paths.ROOT / "hippo_utils").glob("*.py")} - {"__init__"}


@every_notebook
def test_the_map_names_tables_and_figures_that_the_notebook_makes(stage):
    row = re.search(rf"^\| \[{stage}\].*\| ([^|]+) \|$", README, re.M)
    made = set(re.findall(r"(?:tables\.write|figures\.show)\(stage, \"(\w+)\"", "\n".join(code(stage))))
    assert set(row[1].split(", ")) <= made


def test_the_flags_in_the_readme_are_flags_of_the_runner():
    asked = [shlex.split(command)[1:] for command in commands() if command.startswith("./run_all.sh") and "--test" not in command]
    assert len(asked) >= 5
    for arguments in asked:
        options = run.parse(arguments)  # an unknown flag exits
        for file in options.params:
            params.load(file if file.endswith(".yaml") and Path(file).is_absolute() else paths.ROOT / file if "/" in file else file, options.set)
        assert not options.force or run.selected(options.force)
    assert "--test" in (paths.ROOT / "run_all.sh").read_text()


def test_the_other_commands_in_the_readme_exist():
    rest = [shlex.split(command) for command in commands() if not command.startswith("./run_all.sh")]
    assert rest
    for words in rest:
        if words[0] == "papermill":
            assert (paths.ROOT / words[1]).exists() and (paths.ROOT / words[words.index("-f") + 1]).exists()
        else:
            assert words[:2] == ["python", "-m"]
            assert not [word for word in words[3:] if "/" in word and not ((paths.ROOT / word).exists() or (paths.REFERENCE / word.partition("/")[2]).exists())], words
            done = subprocess.run([sys.executable, *words[1:], "--help"], capture_output=True, text=True, cwd=paths.ROOT)
            assert done.returncode == 0, done.stderr


def test_a_file_that_the_readme_prints_whole_is_that_file():
    block = re.search(r"this is all of `([\w/.]+)`:\n\n```yaml\n(.*?)```", README, re.S)
    assert yaml.safe_load(block[2]) == yaml.safe_load((paths.ROOT / block[1]).read_text(encoding="utf-8"))


def test_every_flag_named_in_the_readmes_prose_exists():
    known = "".join(file.read_text() for file in (paths.ROOT / "run_all.sh", Path(run.__file__), Path(reporting.__file__).parent / "__main__.py"))
    assert not [flag for flag in set(re.findall(r"(?<![\w-])--[a-z][\w-]+", README)) if f'"{flag}"' not in known and flag not in known]


def test_limits_and_licence_stand_in_the_readme():
    assert "Not for clinical use" in README and "## Limits" in README and "## Licence and citation" in README
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert "2404.16621" in str(citation) and "2403.02742" in str(citation)
