"""Every place the project reads from or writes to, resolved from this file and never from the working directory."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params"
REFERENCE = ROOT / "figures" / "reference"  # committed results of the reference machine
LOCK = "lock.json"  # in a mirror of data sets: revision, size and sha256 of every file


def home() -> Path:
    """The folder that receives outputs/ and figures/: the project, or $HIPPO_HOME (a scratch disk, a mounted drive)."""
    return Path(os.environ.get("HIPPO_HOME") or ROOT).resolve()


def use_drive() -> Path:
    """On Google Colab: let outputs/ and figures/ go to Google Drive, where they outlive the session; returns the folder there."""
    drive = Path("/content/drive")
    if not drive.is_mount():
        from google.colab import drive as google_drive
        google_drive.mount(str(drive))
    os.environ["HIPPO_HOME"] = str(drive / "MyDrive" / "hippocrates")
    return home()


def outputs(run: str) -> Path:
    """outputs/<run>: everything a run makes except its tables and figures."""
    return home() / "outputs" / run


def stage_folder(run: str, stage: str) -> Path:
    """outputs/<run>/<NN_stage>: records, models and the manifest of one stage."""
    return outputs(run) / stage


def manifest(run: str, stage: str) -> Path:
    """The file whose presence says that the stage is done."""
    return stage_folder(run, stage) / "manifest.json"


def executed_notebook(run: str, stage: str) -> Path:
    """The notebook as a headless run executed it, outputs included."""
    return stage_folder(run, stage) / f"{stage}.ipynb"


def log(run: str, stage: str) -> Path:
    """What the notebook printed while it ran headless."""
    return stage_folder(run, stage) / "log.txt"


def mirror(data_root: str | None) -> Path:
    """The folder that holds the data sets of a run, laid out by hub id: corpus.data_root, or data/ beside outputs/."""
    return (home() / (data_root or "data")).resolve()


def figures(run: str) -> Path:
    """figures/<run>: every table and figure of a run."""
    return home() / "figures" / run


def replies(judge: str) -> Path:
    """The replies of one judge as they arrived. Runs share them, and no stage empties the folder: what is stored is not asked again."""
    return home() / "outputs" / "_replies" / f"{judge}.jsonl"


def notebook(stage: str) -> Path:
    """The notebook of a stage, as committed."""
    return NOTEBOOKS / f"{stage}.ipynb"


def params_files() -> list[Path]:
    """The files of params/ that describe one run, in alphabetical order."""
    return sorted(file for file in PARAMS.glob("*.yaml") if not file.stem.startswith("study_"))


def study_files() -> list[Path]:
    """The files of params/ that describe a study, which is several runs."""
    return sorted(PARAMS.glob("study_*.yaml"))


def shown(path: Path) -> str:
    """A path as people want to read it: relative to the working directory when it lies below it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
