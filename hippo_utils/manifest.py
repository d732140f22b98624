"""What a stage was made of: the chain from a table cell back to the data, and the only truth about "done".

A notebook opens its stage first and finishes it last:
    stage = manifest.begin("02_pretraining", settings)
    ...                                              # reads stage.input(...), writes into stage.folder
    stage.finish()                                   # writes manifest.json: no manifest, not done
A stage is up to date when its key is unchanged: its parameters, its notebook's code cells, the modules of hippo_utils that
they reach, the versions of the libraries those import, and the outputs of the stages before. Prose is not in the key, and
neither is the drawing of figures, which are redrawn from their CSV files without running a notebook.

    python -m hippo_utils.manifest why figures/mini_llama/table_stages.csv     the chain from a file back to the data
    python -m hippo_utils.manifest verify outputs/mini_llama                   read every file again and check its hash
"""

import argparse
import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO

from hippo_utils import paths
from hippo_utils.params import Params

# What each stage reads of the stages before, and which sections of the parameters its notebook uses.
NEEDS: dict[str, tuple[str, ...]] = {
    "01_corpus": (),
    "02_pretraining": ("01_corpus",),
    "03_instruction": ("01_corpus", "02_pretraining"),
    "04_preference": ("01_corpus", "02_pretraining", "03_instruction"),
    "05_evaluation": ("01_corpus", "02_pretraining", "03_instruction", "04_preference"),
    "06_ablations": ("01_corpus", "03_instruction", "05_evaluation"),  # Hypnos: what 03 found of its filter stands among the claims
    "07_calibration": ("01_corpus", "05_evaluation"),
}
STAGES = tuple(NEEDS)
COMMON = ("paper", "scale", "seed", "threads")
SECTIONS: dict[str, tuple[str, ...]] = {
    "01_corpus": (*COMMON, "corpus"),
    "02_pretraining": (*COMMON, "corpus", "pretraining"),  # the corpus section opens the mini world again
    "03_instruction": (*COMMON, "corpus", "pretraining", "instruction"),  # Hypnos: what is true of a generated row, and who wrote it
    "04_preference": (*COMMON, "corpus", "preference"),
    "05_evaluation": ("run", *COMMON, "corpus", "evaluation"),  # records from here on name the run
    "06_ablations": ("run", *COMMON, "corpus", "pretraining", "instruction", "ablations"),  # what was trained on, and which base this is
    "07_calibration": ("run", *COMMON, "calibration"),
}

DRAWING = ("hippo_utils.reporting.figures", "hippo_utils.reporting.captions", "hippo_utils.reporting.style")  # redrawn, never a reason to compute again
PICTURES = (".png", ".svg", ".pdf")
PREFLIGHT = "hippo_utils.training.preflight"  # says whether a run fits, and changes none of its results
KEPT = ("log.txt", "parameters.json", ".lock", "checkpoints")  # not made by the notebook, or, checkpoints, what a killed run continues from
DISTRIBUTIONS = {"sklearn": "scikit-learn", "lm_eval": "lm-eval", "yaml": "PyYAML"}  # where the import has another name
SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|_PAT)(_?\d+|_ID)?$", re.IGNORECASE)  # ends the names of variables that hold one
LARGE = 2**26     # bytes of a file from outside from which on it is told by its time, since the check of what is up to date takes seconds
PATIENCE = 20.0  # seconds that a stage waits for another process to let go of it
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class StageError(RuntimeError):
    """A stage cannot start or finish; the message says why and what to do."""


# --- the key of a stage --------------------------------------------------------------------------------------------

def _sha(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_cells(notebook: Path) -> list[str]:
    """The sources of a notebook's code cells, in order."""
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    except FileNotFoundError:
        raise StageError(f"{paths.shown(notebook)} does not exist; restore it from the repository") from None
    except (ValueError, KeyError, TypeError):
        raise StageError(f"{paths.shown(notebook)} is not a notebook; restore it from the repository") from None


def _imports(source: str) -> set[str]:
    """Names of the modules a piece of Python imports, at any depth (imports inside functions count)."""
    found = set()
    try:
        tree = ast.parse(source)
    except SyntaxError:  # running it will say where
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def _module(name: str) -> tuple[Path, str] | None:
    """File and source of one of our own modules, None when `name` is something else."""
    stem = paths.ROOT / Path(*name.split("."))
    for file in (stem.with_suffix(".py"), stem / "__init__.py"):
        if file.is_file():
            return file, file.read_text(encoding="utf-8")
    return None


@cache
def _reached(notebook: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Our modules that a notebook's code reaches, drawing and the preflight left out, and the foreign packages that it and they import."""
    ours, foreign = set(), set()
    waiting = set().union(*(_imports(_plain(cell)) for cell in code_cells(notebook)))
    while waiting:
        name = waiting.pop()
        if not name.startswith("hippo_utils"):
            foreign.add(name.split(".")[0])
        elif name not in ours and name not in (*DRAWING, PREFLIGHT) and _module(name):
            ours.add(name)
            waiting |= _imports(_module(name)[1]) | {name.rpartition(".")[0]} - {""}
    return tuple(sorted(ours)), tuple(sorted(foreign))


def _plain(cell: str) -> str:
    """A cell without the lines that only IPython understands."""
    if cell.lstrip().startswith("%%"):
        return ""
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in cell.splitlines())


def _data_files(module: str) -> list[Path]:
    """Tables and templates (CSV, YAML) in a package's folder, which belong to its source; those of packages inside it are theirs."""
    file = _module(module)[0]
    if file.name != "__init__.py":
        return []
    inner = {f.parent for f in file.parent.rglob("__init__.py")} - {file.parent}
    return sorted(f for f in file.parent.rglob("*") if f.suffix in {".csv", ".yaml"} and not inner & set(f.parents))


@cache
def _package_hash(notebook: Path) -> str:
    parts = []
    for name in _reached(notebook)[0]:
        parts.append(f"{name} {_sha(_module(name)[1])}")
        parts += [f"{file.relative_to(paths.ROOT)} {file_hash(file)}" for file in _data_files(name)]
    return _sha("\n".join(parts))


def drawing_hash() -> str:
    """Identifies the code that draws figures and the libraries it draws with."""
    versions = [importlib.metadata.version(name) for name in ("matplotlib", "seaborn")]
    return _sha("".join([*(_module(name)[1] for name in DRAWING), *versions]))


@cache
def _versions(notebook: Path) -> tuple[tuple[str, str], ...]:
    found = {"python": platform.python_version()}
    for name in _reached(notebook)[1]:
        try:
            found[name] = importlib.metadata.version(DISTRIBUTIONS.get(name, name))
        except importlib.metadata.PackageNotFoundError:  # the standard library
            pass
    return tuple(sorted(found.items()))


def plan(settings: Params, stage: str) -> dict[str, str]:
    """The part of a stage's key that is known before anything ran: parameters, code, package, versions, and the files from outside that it reads."""
    notebook = paths.notebook(stage)
    used = settings.model_dump(include=set(SECTIONS[stage]))
    return {
        "parameters": _sha(json.dumps(used, sort_keys=True)),
        "notebook": _sha("\0".join(code_cells(notebook))),
        "package": _package_hash(notebook),
        "versions": _sha(json.dumps(_versions(notebook))),
    } | {name: _state(place) for name, place in _from_outside(settings, stage).items()}


def _from_outside(settings: Params, stage: str) -> dict[str, Path]:
    """What no stage made and a stage reads: the mirror of the data sets, a hospital's cases, a base in a local folder."""
    if stage == "01_corpus":
        found = {} if settings.corpus.world else {"data": paths.mirror(settings.corpus.data_root)}
        return found | ({"cases": paths.home() / settings.corpus.private_cases} if settings.corpus.private_cases else {})
    base = paths.ROOT / (settings.pretraining.base or "")  # a hub id is no folder, and its revision is a parameter
    return {"base": base} if stage == "02_pretraining" and settings.pretraining.base and base.is_dir() else {}


def _state(place: Path) -> str:
    """What stands for files from outside: their lock, or where they have none their names, sizes and contents, of files too large to read each time the time."""
    if (place / paths.LOCK).is_file():
        return file_hash(place / paths.LOCK)
    files = [place] if place.is_file() else [file for file in sorted(place.rglob("*")) if file.is_file()]
    return _sha(json.dumps([(str(file.relative_to(place.parent)), size := file.stat().st_size, file_hash(file) if size <= LARGE else file.stat().st_mtime_ns) for file in files]))


def plan_key(settings: Params, stage: str) -> str:
    """One hash over the plans of a stage and of all stages before it: equal keys make equal results."""
    return _sha(json.dumps([plan(settings, stage), *(plan_key(settings, needed) for needed in NEEDS[stage])], sort_keys=True))


def key(settings: Params, stage: str) -> dict[str, str]:
    """The whole key of a stage: its plan and the output hashes of the stages before ('' where one is not done)."""
    return plan(settings, stage) | {f"outputs of {needed}": outputs_hash(settings.run, needed) for needed in NEEDS[stage]}


def before(stage: str) -> list[str]:
    """All stages that a stage rests on, in order."""
    return [earlier for earlier in STAGES if earlier in NEEDS[stage] or any(earlier in before(needed) for needed in NEEDS[stage])]


# --- reading manifests ---------------------------------------------------------------------------------------------

def read(run: str, stage: str) -> dict | None:
    """The manifest of a finished stage; None when there is none or it cannot be read (then the stage is not done)."""
    try:
        content = json.loads(paths.manifest(run, stage).read_text(encoding="utf-8"))
        whole = content["stage"] == stage and all(isinstance(content[part], dict) for part in ("key", "outputs", "figures")) and content["drawing"]
        return content if whole and all(_plain_name(name) for name in (*content["outputs"], *content["figures"])) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plain_name(name: str) -> bool:
    """Whether a manifest's file name stays inside its folder: an edited one must not make us read or delete elsewhere."""
    return bool(name) and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def _inside(file: Path, folder: Path) -> bool:
    """Whether a file really lies in a folder of the run, no link leading out of it. (The run's folder may itself be a link.)"""
    return file.resolve().is_relative_to(folder.parent.resolve() / folder.name)


def outputs_hash(run: str, stage: str) -> str:
    """One hash over what a stage hands on (its files below outputs/, not its tables and figures)."""
    made = read(run, stage)
    return _sha(json.dumps({name: entry["sha256"] for name, entry in made["outputs"].items()}, sort_keys=True)) if made else ""


def changed(folder: Path, entries: dict[str, dict]) -> list[str]:
    """Files that are gone or hold something else than the manifest says. Contents are read only where size or time differ."""
    wrong = []
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file() or not _inside(file, folder) or file.stat().st_size != entry["size"]:
            wrong.append(name)
        elif file.stat().st_mtime_ns != entry.get("time") and file_hash(file) != entry["sha256"]:
            wrong.append(name)
    return wrong


def reasons(settings: Params, stage: str) -> list[str]:
    """Why a stage is not up to date, in words; an empty list means that it is."""
    made = read(settings.run, stage)
    if made is None:
        return ["not done yet"]
    now, then = key(settings, stage), made["key"]
    words = {"parameters": "its parameters changed", "notebook": "its notebook's code changed",
             "package": "the package's code changed", "versions": "library versions changed",
             "data": "its data sets or their lock changed", "cases": "the private cases changed", "base": "the files of its base changed"}
    found = [words.get(part, f"the {part} changed") for part in now if now[part] != then.get(part)]
    tables = {name: entry for name, entry in made["figures"].items() if not name.endswith(PICTURES)}  # a picture is drawn again from its CSV
    folders = ((made["outputs"], paths.stage_folder(settings.run, stage)), (tables, paths.figures(settings.run)))
    for entries, folder in folders:
        if wrong := changed(folder, entries):
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            found.append(f"{paths.shown(folder / wrong[0])}{more} is missing or was changed")
    return found


def page_key(run: str) -> str:
    """Identifies what a run's page shows: the manifests of the run and the code that builds the page."""
    room = Path(__file__).parent / "reporting"
    files = [paths.manifest(run, stage) for stage in STAGES] + [room / "page.py", room / "notebooks.py", room / "captions.py", *sorted((room / "templates").glob("*"))]
    return _sha("".join(file_hash(file) if file.is_file() else "-" for file in files))


def page_due(run: str) -> bool:
    """Whether the page of a run is missing or shows something else than its manifests say."""
    try:
        with open(paths.figures(run) / "index.html", encoding="utf-8") as page:
            return page_key(run) not in page.read(1000) or not (paths.figures(run).parent / "index.html").is_file()
    except OSError:
        return True


def equal_run(settings: Params, stage: str) -> str | None:
    """Another run whose stage was made from an equal key and is still whole; None when there is none."""
    wanted = key(settings, stage)
    for file in sorted((paths.home() / "outputs").glob(f"*/{stage}/manifest.json")):
        run = file.parent.parent.name
        made = read(run, stage) if run != settings.run else None
        if made and made["key"] == wanted and not (changed(file.parent, made["outputs"]) or changed(paths.figures(run), made["figures"])):
            return run
    return None


def redacted(text: str) -> str:
    """A text without the values of this environment's keys, tokens and passwords: logs and executed notebooks are shown to others."""
    secrets = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= 8}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    return text


# --- a stage at work -----------------------------------------------------------------------------------------------

@dataclass
class Stage:
    """One stage of one run while its notebook works. Made by `begin`."""
    name: str
    settings: Params
    folder: Path      # outputs/<run>/<NN_stage>
    figures: Path     # figures/<run>
    key: dict[str, str]
    started: float
    figure_files: list[str] = field(default_factory=list)
    notes: dict = field(default_factory=dict)

    def __str__(self) -> str:
        """What a notebook shows first: run, seed, versions, and the stages it builds on."""
        s, versions = self.settings, dict(_versions(paths.notebook(self.name)))
        built_on = [f"{needed} ({outputs_hash(s.run, needed)[:10]})" for needed in NEEDS[self.name]]
        return "\n".join([
            f"{self.name} of run {s.run} ({s.scale} scale), seed {s.seed}, {s.threads} thread(s)",
            "versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
            "built on: " + (", ".join(built_on) or "nothing; this is the first stage"),
            f"makes:    {paths.shown(self.folder)} and {paths.shown(self.figures)}",
        ])

    def input(self, stage: str, name: str) -> Path:
        """A file that an earlier stage declared; StageError when it did not or when the file is not what it was."""
        made = read(self.settings.run, stage)
        if made is None:
            raise StageError(f"{self.name} reads {name} of {stage}, which is not done; run notebooks/{stage}.ipynb first")
        inside = {entry: value for entry, value in made["outputs"].items() if entry == name or entry.startswith(name + "/")}
        if not inside:
            raise StageError(f"{stage} made no {name}; it made {', '.join(sorted(made['outputs'])) or 'nothing'}")
        if wrong := changed(paths.stage_folder(self.settings.run, stage), inside):
            raise StageError(f"{wrong[0]} of {stage} is missing or was changed since it was made; run notebooks/{stage}.ipynb again")
        return paths.stage_folder(self.settings.run, stage) / name

    def has(self, stage: str, name: str) -> bool:
        """Whether an earlier stage made this file or folder."""
        made = read(self.settings.run, stage)
        return made is not None and any(entry == name or entry.startswith(name + "/") for entry in made["outputs"])

    def figure_path(self, name: str) -> Path:
        """A place in figures/<run> for a table or figure of this stage; it enters the manifest when the stage finishes."""
        if name not in self.figure_files:
            self.figure_files.append(name)
        self.figures.mkdir(parents=True, exist_ok=True)
        return self.figures / name

    def skip(self, words: str) -> None:
        """A part that only the other paper has: no cell does anything until one that begins with stage.go_on()."""
        from IPython import get_ipython
        print(f"{words}: the cells of this part are left out")
        if shell := get_ipython():
            shell.input_transformers_post.append(_left_out)

    def go_on(self) -> None:
        """The end of a part that may have been skipped."""
        from IPython import get_ipython
        if (shell := get_ipython()) and _left_out in shell.input_transformers_post:
            shell.input_transformers_post.remove(_left_out)

    def leave_out(self, words: str) -> None:
        """Finish the stage here: the rest of the notebook is no part of this run, and no further cell of this kernel does anything."""
        from IPython import get_ipython
        self.finish()
        print(f"{words}: the cells below are left out (to run them, restart the kernel with a run of the other paper)")
        if shell := get_ipython():
            shell.input_transformers_post.append(lambda lines: ["pass\n"])

    def finish(self) -> Path:
        """Hash what the stage made and write its manifest: from here on it is done."""
        now = key(self.settings, self.name)
        if now != self.key:
            parts = ", ".join(part for part in now if now[part] != self.key[part])
            raise StageError(f"{parts} changed while {self.name} ran; run the notebook again from the top")
        own = {f"{self.name}.ipynb", "manifest.json", *KEPT}
        files = [f for f in sorted(self.folder.rglob("*")) if f.is_file() and f.relative_to(self.folder).parts[0] not in own
                 and ".ipynb_checkpoints" not in f.parts]
        if outside := [f for f in (*self.folder.rglob("*"), *(self.figures / name for name in self.figure_files)) if not _inside(f, self.folder) and not _inside(f, self.figures)]:
            raise StageError(f"{paths.shown(outside[0])} is a link out of the run's folder; a stage hands on files of its own only: copy it there instead")
        manifest = {
            "stage": self.name, "run": self.settings.run, "paper": self.settings.paper, "scale": self.settings.scale,
            "seed": self.settings.seed, "threads": self.settings.threads,
            "key": self.key, "drawing": drawing_hash(),
            "parameters": self.settings.model_dump(include=set(SECTIONS[self.name])),
            "params_hash": self.settings.hash(),
            "inputs": {needed: {"manifest_sha256": file_hash(paths.manifest(self.settings.run, needed)),
                                "outputs_hash": outputs_hash(self.settings.run, needed)} for needed in NEEDS[self.name]},
            "outputs": {str(f.relative_to(self.folder)): entry(f) for f in files},
            "figures": {name: entry(self.figures / name) for name in sorted(self.figure_files)},
            "notes": self.notes,
            "git": _git(), "versions": dict(_versions(paths.notebook(self.name))),
            "device": _device(), "exact": _exact(), "platform": f"{platform.system()} {platform.machine()}",
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 1),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform != "darwin" else 2**20),
        }
        write_json(manifest, paths.manifest(self.settings.run, self.name))
        if claim := _claimed.pop(self.folder, None):  # None: the last cell was run a second time
            claim.close()
        return paths.manifest(self.settings.run, self.name)


def entry(file: Path) -> dict:
    """How a manifest holds a file: what it contains, and the size and time that spare reading it again."""
    return {"sha256": file_hash(file), "size": file.stat().st_size, "time": file.stat().st_mtime_ns}


def write_json(content: dict, path: Path) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    half.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    half.replace(path)


def _git() -> dict:
    """The commit the code was at, and whether the tree held changes beside it."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(paths.ROOT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""
    try:
        return {"commit": git("rev-parse", "HEAD") or None, "dirty": bool(git("status", "--porcelain"))}
    except OSError:  # no git on this machine
        return {"commit": None, "dirty": None}


def _device() -> str:
    """The device that the stage computed on; torch is asked only if the stage used it."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"


def _exact() -> bool:
    """Whether the same stage makes the same numbers again on this machine; kernels of a GPU may add in another order each time."""
    torch = sys.modules.get("torch")
    return not (torch and torch.cuda.is_available()) or torch.are_deterministic_algorithms_enabled()


def _limit_threads(threads: int) -> None:
    """Fix the CPU threads of this process, for libraries loaded already and for those still to come."""
    os.environ.update({variable: str(threads) for variable in THREAD_VARIABLES})
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    from threadpoolctl import threadpool_limits
    threadpool_limits(threads)


def begin(stage: str, settings: Params) -> Stage:
    """Open a stage: check that the stages before are done, take down its old manifest, empty its folder, fix the threads."""
    for needed in NEEDS[stage]:
        made = read(settings.run, needed)
        if made is None:
            raise StageError(f"{stage} needs {needed} of run {settings.run}, which is not done; run notebooks/{needed}.ipynb first")
        if made["key"].get("parameters") != plan(settings, needed)["parameters"]:
            raise StageError(f"{needed} of run {settings.run} was made with other parameters than this notebook has; run notebooks/{needed}.ipynb with these first, "
                             f"or give this notebook the parameters of {paths.shown(paths.stage_folder(settings.run, needed) / 'manifest.json')}")
    folder = paths.stage_folder(settings.run, stage)
    _claim(folder)
    take_down(settings.run, stage)
    for entry in folder.iterdir():
        if entry.name not in (f"{stage}.ipynb", *KEPT):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    _limit_threads(settings.threads)
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm asks for a widget that nobody needs
    return Stage(stage, settings, folder, paths.figures(settings.run), key(settings, stage), time.time())


_claimed: dict[Path, IO] = {}  # the stages that this process works on


def _claim(folder: Path) -> None:
    """Keep other processes out of a stage; the operating system lets go when this one ends, however it ends.

    Waits a little: a notebook whose runner was killed needs a moment to notice.
    """
    import fcntl
    folder.mkdir(parents=True, exist_ok=True)
    file, end = _claimed.get(folder) or open(folder / ".lock", "w"), time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _claimed[folder] = file
            return
        except BlockingIOError:
            if time.monotonic() > end:
                file.close()
                raise StageError(f"another process is working on {paths.shown(folder)} (a second run, or this notebook open in Jupyter); wait for it, or stop it") from None
            time.sleep(0.1)


def take_down(run: str, stage: str) -> None:
    """Remove a stage's manifest, so that it is no longer done, the tables and figures that it names, and the pages that show them."""
    before = read(run, stage)
    for page in (paths.figures(run) / "index.html", paths.figures(run) / f"{stage}.html", paths.figures(run).parent / "index.html"):
        page.unlink(missing_ok=True)
    paths.manifest(run, stage).unlink(missing_ok=True)
    for name in before["figures"] if before else ():
        (paths.figures(run) / name).unlink(missing_ok=True)


def adopt(settings: Params, stage: str, from_run: str) -> None:
    """Share a stage that another run made from an equal key: copy its files here and write the manifest last."""
    made = read(from_run, stage)
    folder, source = paths.stage_folder(settings.run, stage), paths.stage_folder(from_run, stage)
    take_down(settings.run, stage)
    names = [*made["outputs"], f"{stage}.ipynb", "log.txt"]
    pairs = [(source / name, folder / name) for name in names if (source / name).is_file()]
    pairs += [(paths.figures(from_run) / name, paths.figures(settings.run) / name) for name in made["figures"]]
    for original, copy in pairs:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        shutil.copy2(original, copy)
    write_json(made | {"run": settings.run, "shared_from": from_run, "params_hash": settings.hash()}, paths.manifest(settings.run, stage))


def _left_out(lines: list[str]) -> list[str]:
    """What a cell of a skipped part becomes."""
    return lines if lines and lines[0].startswith("stage.go_on()") else ["pass\n"]


# --- studies ---------------------------------------------------------------------------------------------------------

def made_from(runs: list[str]) -> dict[str, str]:
    """One hash per run over everything that its finished stages made: what a study of these runs was computed from."""
    found = {run: {stage: made for stage in STAGES if (made := read(run, stage))} for run in runs}
    return {run: _sha(json.dumps({stage: [made["outputs"], {name: entry for name, entry in made["figures"].items() if not name.endswith(PICTURES)}]
                                  for stage, made in manifests.items()}, sort_keys=True)) for run, manifests in found.items()}


def read_study(folder: Path) -> dict | None:
    """What figures/<study>/study.json says: the runs, what they were then, and a hash of each table and figure; None when there is none."""
    try:
        content = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        return content if isinstance(content["runs"], dict) and all(map(_plain_name, content["files"])) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def study_due(study: str, runs: list[str]) -> bool:
    """Whether a study's tables are missing, edited, or of other runs than are there now."""
    made = read_study(paths.figures(study))
    return made is None or made["drawing"] != drawing_hash() or made["runs"] != made_from(runs) or bool(changed(paths.figures(study), made["files"]))


def _why_study(file: Path, made: dict) -> int:
    """The chain from a study's table back to its runs; the rest of the chain is that of each run."""
    if file.name not in made["files"]:
        raise StageError(f"{paths.shown(file)} is not among the files of the study {file.parent.name}: nothing vouches for it, so it must not be believed")
    intact = file.is_file() and file_hash(file) == made["files"][file.name]["sha256"]
    print(f"{paths.shown(file)}: {'as it was made' if intact else 'CHANGED OR MISSING since it was made'}, sha256 {made['files'][file.name]['sha256']}")
    print(f"a study of {len(made['runs'])} runs, {made['scale']} scale. Not for clinical use.\n")
    now, whole = made_from(list(made["runs"])), intact
    for run, then in made["runs"].items():
        there = any(read(run, stage) for stage in STAGES)
        whole = whole and (not there or now[run] == then)
        print(f"  {run} ({then[:10]}): " + ("not on this machine" if not there else f"python -m hippo_utils.manifest why {paths.shown(paths.figures(run) / 'table_pooled.csv')}"
                                            if now[run] == then else "MADE AGAIN SINCE"))
    print(f"\n{'The chain holds as far as these runs.' if whole else 'The chain is broken; ./run_all.sh with the params file of the study makes it whole again.'}")
    return int(not whole)


# --- walking back ----------------------------------------------------------------------------------------------------

def behind(folder: Path) -> dict[str, dict]:
    """The manifests behind a folder of tables and figures, by stage: the run's own, or those that were kept beside a reference."""
    kept = folder / "provenance.json"
    if kept.is_file():
        try:
            return json.loads(kept.read_text(encoding="utf-8"))
        except ValueError:
            raise StageError(f"{paths.shown(kept)} cannot be read; get the committed file back, or make it again with `python -m hippo_utils.reporting keep {folder.name}`") from None
    return {stage: made for stage in STAGES if (made := read(folder.name, stage))}


def broken(manifests: dict[str, dict], stage: str) -> list[str]:
    """The stages that `stage` was made from and that have been made again with other outputs since (or are not done)."""
    def now(needed: str) -> str | None:
        outputs = manifests.get(needed, {}).get("outputs")
        return None if outputs is None else _sha(json.dumps({name: entry["sha256"] for name, entry in outputs.items()}, sort_keys=True))
    return [needed for needed, link in manifests[stage].get("inputs", {}).items() if now(needed) != link["outputs_hash"]]


def _owner(file: Path) -> tuple[Path, str, str]:
    """The folder that a file's manifests belong to, the stage that made the file, and the file's name in its manifest."""
    file = Path(os.path.abspath(file))
    for folder in (paths.figures(file.parent.name), paths.REFERENCE / file.parent.name):
        if file.parent == folder:
            stage = next((stage for stage, made in behind(folder).items() if file.name in made.get("figures", {})), None)
            if stage is None:
                raise StageError(f"{paths.shown(file)} is in no manifest of {folder.name}: no finished stage made it, so it must not be believed")
            return folder, stage, file.name
    if file.is_relative_to(paths.home() / "outputs") and len(parts := file.relative_to(paths.home() / "outputs").parts) > 2:
        run, stage, name = parts[0], parts[1], "/".join(parts[2:])
        if name not in ((read(run, stage) or {}).get("outputs", {}) if stage in STAGES else {}):
            raise StageError(f"{paths.shown(file)} is in no manifest of {run}: no finished stage made it, so it must not be believed")
        return paths.figures(run), stage, name
    raise StageError(f"{paths.shown(file)}: expected a file of figures/RUN, figures/reference/RUN or outputs/RUN/STAGE below {paths.shown(paths.home())}")


def described(manifests: dict[str, dict], stage: str) -> dict[str, str]:
    """One link of the chain in words: when and where, from which code and values, and what it read."""
    made, torn = manifests[stage], broken(manifests, stage)
    git = made.get("git") or {}
    shown = {"made": f"in {made['seconds']} s on {made['device']}{'' if made.get('exact', True) else ' (last digits may differ the next time)'}, finished {made['finished']}, seed {made['seed']}, {made['threads']} thread(s)"
             + (f", shared from run {made['shared_from']}" if made.get("shared_from") else "")}
    shown["code"] = f"notebooks/{stage}.ipynb at commit {(git.get('commit') or 'unknown')[:10]}{' with uncommitted changes' if git.get('dirty') else ''}"
    if "key" in made:
        shown["code"] += f", cells {made['key']['notebook'][:10]}, package {made['key']['package'][:10]}"
    shown["versions"] = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    section = made.get("parameters", {}).get(stage[3:], {})
    shown["values"] = _flat(section) if section else "not kept"
    if stage == STAGES[0]:
        facts = {"medicine": "facts", "anesthesia": "anesthesia/facts"}.get(section.get("world"))
        mini = f"the mini world in hippo_utils/miniworld/{facts} ({section.get('entities') or 'all'} entities)"
        hub = f"data sets from {paths.shown(paths.mirror(section.get('data_root')))}, their state {made.get('key', {}).get('data', '')[:10] or 'not kept'}"
        shown["read"] = "data whose source was not kept" if not section else mini if facts else hub
    else:
        links = {needed: made["inputs"][needed]["outputs_hash"][:10] if needed in made.get("inputs", {}) else "hash not kept" for needed in NEEDS[stage]}
        shown["read"] = ", ".join(f"{needed} ({link}{', MADE AGAIN SINCE' if needed in torn else ''})" for needed, link in links.items())
    return shown


def _flat(section: dict, before: str = "") -> str:
    """Nested values as `a.b=1, a.c=2`."""
    return ", ".join(_flat(value, f"{before}{name}.") if isinstance(value, dict) and value else f"{before}{name}={value}" for name, value in section.items())


def why(file: Path) -> int:
    """Print the chain from one file back to the data; 0 when every link holds, 1 when the file or a stage behind it changed since."""
    if study := read_study(Path(file).parent):
        return _why_study(Path(file), study)
    folder, stage, name = _owner(file)
    manifests = behind(folder)
    made, here, whole = manifests[stage], Path(file), True
    entry = made["figures"].get(name) or made["outputs"][name]
    intact = here.is_file() and file_hash(here) == entry["sha256"]
    print(f"{paths.shown(here)}: {'as it was made' if intact else 'CHANGED OR MISSING since it was made'}, sha256 {entry['sha256']}")
    print(f"{made['run']}, {made['scale']} scale, paper {made['paper']}. Not for clinical use." if "run" in made else f"{folder.name}. Not for clinical use.")
    waiting, seen = [stage], []
    while waiting:
        waiting = sorted({*waiting}, key=STAGES.index)
        seen.append(link := waiting.pop())
        if link not in manifests:
            print(f"\n{link}\n  no longer done; the chain ends here")
            continue
        print(f"\n{link}" + ("" if link == stage else f", read by {', '.join(later for later in reversed(seen[:-1]) if link in NEEDS[later])}"))
        for what, words in described(manifests, link).items():
            print(f"  {what:<9} {words}")
        wrong = [] if folder.parent == paths.REFERENCE else changed(paths.stage_folder(folder.name, link), manifests[link]["outputs"])
        if wrong:
            print(f"  CHANGED   {', '.join(wrong)} is missing or was changed since")
        whole = whole and not wrong and not broken(manifests, link)
        waiting += NEEDS[link]
    whole = whole and intact and set(seen) <= set(manifests)
    kept = all("inputs" in manifests.get(link, {}) for link in seen if NEEDS[link])
    print(f"\n{'The chain is broken; ./run_all.sh makes it whole again.' if not whole else 'The chain holds.' if kept else 'The file is what it was; the hashes between the stages were not kept.'}")
    return int(not whole)


def verify(folder: Path) -> int:
    """Read every file that the manifests of a run name, whatever its time says, and compare; 0 when all are what they were."""
    folder = Path(os.path.abspath(folder))
    places = {paths.outputs(folder.name): paths.figures(folder.name), paths.figures(folder.name): paths.figures(folder.name), paths.REFERENCE / folder.name: folder}
    if folder not in places:
        raise StageError(f"{paths.shown(folder)}: expected outputs/RUN, figures/RUN or figures/reference/RUN below {paths.shown(paths.home())}")
    figures = places[folder]
    if study := read_study(figures):
        wrong = [name for name, entry in study["files"].items() if not (figures / name).is_file() or file_hash(figures / name) != entry["sha256"]]
        print(f"[{'CHANGED' if wrong else 'OK'}] {folder.name}, a study of {len(study['runs'])} runs: " + (", ".join(wrong) + " is not what it was" if wrong else f"{len(study['files'])} files"))
        return int(bool(wrong))
    manifests = behind(figures)
    if not manifests:
        raise StageError(f"{paths.shown(folder)} holds no finished stage; run ./run_all.sh first")
    worst = 0
    for stage in STAGES:
        if stage not in manifests:
            print(f"[NOT DONE] {stage}")
            continue
        made, wrong = manifests[stage], []
        outputs = {} if figures.parent == paths.REFERENCE else made["outputs"]  # of a reference only tables and figures are kept
        for entries, place in ((outputs, paths.stage_folder(folder.name, stage)), (made.get("figures", {}), figures)):
            wrong += [f"{paths.shown(place / name)} is not what it was" for name, entry in entries.items()
                      if not (place / name).is_file() or not _inside(place / name, place) or file_hash(place / name) != entry["sha256"]]
        if outputs:
            wrong += [f"{needed} was made again since" for needed in broken(manifests, stage)]
        count = len(outputs) + len(made.get("figures", {}))
        print(f"[{'CHANGED' if wrong else 'OK'}] {stage}: " + ("; ".join(wrong) if wrong else f"{count} files"))
        worst = max(worst, int(bool(wrong)))
    print(f"{folder.name}: {'a file or a link of the chain changed; ./run_all.sh makes it again' if worst else 'every file is what its manifest says'}")
    return worst


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m hippo_utils.manifest", description="Where a file comes from, and whether a run is whole.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("why", help="the chain from a table, figure or output back to the data").add_argument("path", type=Path)
    commands.add_parser("verify", help="read every file of a run again and check its hash").add_argument("path", type=Path)
    options = parser.parse_args(arguments)
    try:
        return {"why": why, "verify": verify}[options.command](options.path)
    except BrokenPipeError:  # `why … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (StageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
