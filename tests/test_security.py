"""What this project never does: run what it read, trust what it loaded, write where it was not told to, show a key."""

import ast
import json
import re
import subprocess

import pytest
from conftest import ROOT
from hippo_utils import manifest, paths
from hippo_utils.params import ParamsError, load, resolve

SOURCES = sorted(file for part in ("hippo_utils", "benchmarks") for file in (ROOT / part).rglob("*.py"))
CODE = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in SOURCES}
CODE |= {f"notebooks/{stage}.ipynb": "\n".join(map(manifest._plain, manifest.code_cells(paths.notebook(stage)))) for stage in manifest.STAGES}

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "imp", "pty", "telnetlib"}
FORBIDDEN_CALLS = {"eval": "runs text", "exec": "runs text", "compile": "makes code of text", "__import__": "imports by text", "torch.load": "reads pickles; use safetensors",
                   "pandas.read_pickle": "reads pickles", "pd.read_pickle": "reads pickles", "yaml.unsafe_load": "builds any object", "yaml.full_load": "builds objects",
                   "os.system": "runs a shell", "os.popen": "runs a shell", "torch.save": "writes pickles; use safetensors", "extractall": "writes outside", "tempfile.mktemp": "can be taken by another"}
FORBIDDEN_WORDS = {("trust_remote_code", True): "runs code of a download", ("allow_pickle", True): "reads pickles", ("shell", True): "runs a shell", ("weights_only", False): "reads pickles",
                   ("safe_serialization", False): "writes pickles", ("use_safetensors", False): "reads pickles", ("autoescape", False): "lets markup through", ("verify", False): "trusts any server"}


def dotted(node: ast.AST) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def offences(source: str) -> list[str]:
    """What a piece of Python does that none here may do."""
    found, tree = [], ast.parse(source)
    imported = {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"line {node.lineno}: imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            called = {name, imported.get(name, name), name.rpartition(".")[2] if name.endswith(".extractall") else name}
            found += [f"line {node.lineno}: {name} {FORBIDDEN_CALLS[each]}" for each in called & FORBIDDEN_CALLS.keys()]
            if name == "yaml.load" and not any(word.arg == "Loader" and ("Safe" in dotted(word.value) or dotted(word.value) == "_Loader") for word in node.keywords):
                found.append(f"line {node.lineno}: yaml.load without a safe loader")
            for word in node.keywords:
                if isinstance(word.value, ast.Constant) and (word.arg, word.value.value) in FORBIDDEN_WORDS and isinstance(word.value.value, bool):
                    found.append(f"line {node.lineno}: {word.arg}={word.value.value} {FORBIDDEN_WORDS[word.arg, word.value.value]}")
    return found


@pytest.mark.parametrize("file", sorted(CODE))
def test_no_code_runs_or_trusts_what_it_read(file):
    assert not offences(CODE[file])


@pytest.mark.parametrize("source", ["import pickle", "from joblib import load", "x = eval('1')", "torch.load(f)", "f(trust_remote_code=True)", "yaml.load(t)", "yaml.load(t, Loader=yaml.Loader)",
                                    "subprocess.run('ls', shell=True)", "np.load(f, allow_pickle=True)", "model.save_pretrained(f, safe_serialization=False)", "import numpy\ndef f():\n    import pickle as p",
                                    "from torch import load\nload(f)", "zipfile.ZipFile(f).extractall(g)", "archive.extractall()"])
def test_the_search_finds_what_it_is_for(source):
    assert offences(source)


def test_our_yaml_loader_is_a_safe_one():
    from hippo_utils import params
    import yaml
    assert issubclass(params._Loader, yaml.SafeLoader)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b", "..", ".", "", "a\nb", "-rf", "$(id)", "x" * 65, "CON:", "run;ls"])
def test_a_run_cannot_name_a_folder_elsewhere(name):
    with pytest.raises(ParamsError, match="run"):
        resolve({"extends": "mini_llama", "run": name} if name else {"extends": "mini_llama", "run": ""})
    with pytest.raises(ParamsError):
        resolve({"extends": name or "../x", "run": "mine"})


def test_a_params_file_is_data(tmp_path):
    note = tmp_path / "note"
    for text in (f"run: !!python/object/apply:os.system ['touch {note}']", f"run: !!python/name:os.system\nseed: !!python/object/new:os.system ['touch {note}']", f"extends: '$(touch {note})'"):
        (tmp_path / "evil.yaml").write_text(text)
        with pytest.raises(ParamsError):
            load(tmp_path / "evil.yaml")
    assert not note.exists()


def test_weights_are_stored_as_safetensors_only(tiny_run):
    files = [file.name for file in tiny_run.home.rglob("*") if file.is_file() and "checkpoints" not in file.parts]  # the Trainer's own, for itself
    assert any(name.endswith(".safetensors") for name in files)
    assert not [name for name in files if re.search(r"\.(bin|pt|pth|pkl|pickle|ckpt|joblib)$", name)]


def test_a_run_writes_into_its_own_folders_only(tiny_run):
    """The project's own files are what they were, and nothing new lies among them."""
    for folder in ("hippo_utils", "notebooks", "params"):
        there = {file.relative_to(tiny_run.root): file.read_bytes() for file in (tiny_run.root / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts}
        assert there == {file.relative_to(ROOT): file.read_bytes() for file in (ROOT / folder).rglob("*")
                         if file.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(file.parts)}
    assert {folder.name for folder in tiny_run.home.iterdir()} == {"outputs", "figures"}


@pytest.mark.parametrize("name, secret", [("OPENAI_API_KEY", True), ("HF_TOKEN", True), ("my_password", True), ("AWS_SECRET_ACCESS_KEY", True), ("HOME_DIRECTORY", False), ("KEYBOARD", False)])
def test_values_of_keys_are_taken_out_of_texts(name, secret, monkeypatch):
    monkeypatch.setenv(name, "planted-value-123")
    assert ("planted-value-123" not in manifest.redacted("before planted-value-123 after")) == secret
    monkeypatch.setenv(name, "1")
    assert manifest.redacted("1 of 10") == "1 of 10", "what is too short to be a key is left alone"


def test_no_key_and_no_private_path_is_committed():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    looks_like_a_key = re.compile(r"(?<![\w-])(sk-(?!planted)[A-Za-z0-9_-]{20,}|hf_[A-Za-z]{30,}|ghp_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY)")
    for name in listed.stdout.splitlines():
        file = ROOT / name
        if file.suffix in {".py", ".md", ".yaml", ".yml", ".json", ".ipynb", ".toml", ".sh", ".txt", ".csv", ".html"} and file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            assert not looks_like_a_key.search(text), name
            assert not file.suffix == ".ipynb" or not re.search(r"/(home|Users)/\w+", json.dumps(json.loads(text)["cells"])), name
