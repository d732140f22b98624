"""The page of a run: figures/<run>/index.html, one file to open after it, and figures/index.html over all runs.

Built read-only from manifests, tables and figures; what no manifest vouches for is not shown. One file holds all it needs:
pictures are embedded, nothing comes from the network, and a browser is told to refuse it if something asked. The executed
notebooks lie beside it as pages of their own.
"""

import base64
import csv
import hashlib
import json
import os
import re
from datetime import datetime
from pathlib import Path

import jinja2
from markupsafe import Markup

from hippo_utils import manifest, paths
from hippo_utils.records import BENCHMARKS
from hippo_utils.records import STAGES as MODELS
from hippo_utils.reporting import captions
from hippo_utils.run import PURPOSE

TEMPLATES = Path(__file__).parent / "templates"
LEDGERS = ("claims", "ledger", "published_hypnos", "statements", "uncertainty_statements", "arithmetic")  # tables of claims come first on the page
OPEN_ROWS = 30         # longer tables are folded


def environment() -> jinja2.Environment:
    """Templates that escape everything that is put into them."""
    found = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found.globals |= {"style": Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")), "script": Markup(script), "script_hash": digest}
    found.filters |= {"number": number, "duration": duration, "moment": moment, "slug": lambda text: re.sub(r"\W+", "-", str(text).lower()).strip("-")}
    return found


# --- words for people ------------------------------------------------------------------------------------------------

def number(text: str) -> str:
    """A cell of a CSV file for reading: three decimals at most, small numbers with two significant digits, all else as it is."""
    if not re.fullmatch(r"-?\d*\.\d+(e[+-]?\d+)?|-?\d+e[+-]?\d+", text):
        return text
    value = float(text)
    return f"{value:.2g}" if 0 < abs(value) < 0.0005 else f"{value:.3f}".rstrip("0").rstrip(".") or "0"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def moment(text: str) -> str:
    return text[:16].replace("T", " ") + " UTC" if text else ""


# --- what there is to show -------------------------------------------------------------------------------------------

def rows_of(file: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file."""
    with open(file, encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    return header, rows


def table(folder: Path, name: str) -> dict:
    """One table for the templates. The kind of a column says how it is set: n(umbers) at the right, status in colour, long texts with room."""
    header, rows = rows_of(folder / f"table_{name}.csv")
    for verdict in sorted({"status", "holds"} & set(header)):  # first, in words: on a phone the right end of a table is out of sight
        place = header.index(verdict)
        header = [header[place], *header[:place], *header[place + 1:]]
        rows = [[{"True": "holds", "False": "FAILS"}.get(row[place], row[place]), *row[:place], *row[place + 1:]] for row in rows]

    def kind(column: int) -> str:
        cells = [row[column] for row in rows]
        return "status" if header[column] in ("status", "holds") else "n" if all(re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?|", cell) for cell in cells) \
            else "long" if max(map(len, cells), default=0) > 40 else "text"
    return {"name": name, "title": captions.TABLES.get(name, ""), "columns": [{"name": title, "kind": kind(column)} for column, title in enumerate(header)],
            "rows": rows, "folded": len(rows) > OPEN_ROWS, "files": [f"table_{name}.{kind}" for kind in ("csv", "md") if (folder / f"table_{name}.{kind}").is_file()]}


def made_by(folder: Path, stage: str, made: dict) -> dict:
    """The tables and figures of one stage, read from the files that its manifest vouches for; what changed since is named, not shown."""
    changed = manifest.changed(folder, made.get("figures", {}))
    names = sorted(set(made.get("figures", {})) - set(changed))
    tables = [table(folder, name[6:-4]) for name in names if name.startswith("table_") and name.endswith(".csv")]
    figures = [{"name": name[4:-4], "title": captions.TITLES.get(name[4:-4], name[4:-4]), "picture": base64.b64encode((folder / name).read_bytes()).decode(),
                "files": [other for other in names if Path(other).stem == name[:-4]]} for name in names if name.startswith("fig_") and name.endswith(".png")]
    return {"stage": stage, "purpose": PURPOSE[stage], "tables": tables, "figures": figures, "changed": changed}


def beside_the_paper(folder: Path, parts: list[dict]) -> dict | None:
    """The paper's stage table and this run's in the same shape (percent; models down, benchmarks across); None when there is none."""
    found = {part["name"]: part for stage in parts for part in stage["tables"]}
    if not {"published_stages", "stages"} <= found.keys():
        return None
    def grid(rows: list[dict], cell) -> dict:
        models = [model for model in MODELS if any(row["stages"] == model for row in rows)]
        columns = [name for name in BENCHMARKS if any(row["benchmark"] == name for row in rows)]
        cells = {(row["stages"], row["benchmark"]): cell(row) for row in rows}
        return {"columns": columns, "rows": [(model, [cells.get((model, column), ("", "")) for column in columns]) for model in models]}
    paper, run = ([dict(zip((column["name"] for column in found[name]["columns"]), row)) for row in found[name]["rows"]] for name in ("published_stages", "stages"))
    own = [row for row in run if row["group"] == "all" and row["protocol"] == "option_text"]
    grids = {model: grid([row for row in paper if row["model"] == model], lambda row: (f"{float(row['value']):.1f}", ""))
             for model in dict.fromkeys(row["model"] for row in paper)}
    cell = lambda row: (f"{100 * float(row['accuracy']):.1f}", f"{100 * float(row['ci_low']):.0f}–{100 * float(row['ci_high']):.0f}, n = {row['n']}")
    return {"paper": grids, "run": grid(own, cell), "shots": (own or run)[0]["shots"]} if run and paper else None


def summary(folder: Path) -> dict:
    """What was run, from the manifests alone."""
    manifests = manifest.behind(folder)
    if not manifests:
        raise manifest.StageError(f"{paths.shown(folder)}: no finished stage, so there is nothing to show; run ./run_all.sh first")
    every, last = manifests.values(), max(manifests.values(), key=lambda made: made["finished"])
    status = {}
    for stage in manifest.STAGES:
        changed = manifest.changed(folder, manifests[stage]["figures"]) if stage in manifests else []
        torn = [again for link in (*manifest.before(stage), stage) if link in manifests for again in manifest.broken(manifests, link)] if stage in manifests else []
        status[stage] = "not done" if stage not in manifests else f"{changed[0]} was changed" if changed else f"{torn[0]} was made again" if torn else "done"
    return {
        "run": last["run"], "paper": last["paper"], "scale": last["scale"], "seed": last["seed"], "threads": last["threads"],
        "devices": sorted({made["device"] for made in every}), "seconds": sum(made["seconds"] for made in every), "finished": last["finished"],
        "commits": sorted({f"{(made['git']['commit'] or 'unknown')[:10]}{' with changes' if made['git']['dirty'] else ''}" for made in every}),
        "versions": dict(sorted({name: version for made in every for name, version in made["versions"].items()}.items())),
        "stages": [{"stage": stage, "purpose": PURPOSE[stage], "status": status[stage]}
                   | {what: manifests.get(stage, {}).get(what) for what in ("seconds", "peak_memory_mib", "finished", "shared_from")} for stage in manifest.STAGES],
        "chain": {stage: manifest.described(manifests, stage) for stage in reversed(manifests)},
    }


def results(folder: Path) -> dict:
    """The tables and figures of a run by the stage that made them, its ledgers of claims, and the paper beside it."""
    parts = [made_by(folder, stage, made) for stage, made in manifest.behind(folder).items()]
    beside = beside_the_paper(folder, parts)
    ledgers = sorted((part for stage in parts for part in stage["tables"] if part["name"] in LEDGERS), key=lambda part: LEDGERS.index(part["name"]))
    for stage in parts:
        stage["tables"] = [part for part in stage["tables"] if part not in ledgers]
    return {"parts": parts, "ledgers": ledgers, "beside": beside}


# --- executed notebooks ----------------------------------------------------------------------------------------------

def notebook(manifests: dict[str, dict], stage: str) -> dict | None:
    """An executed notebook's cells as HTML; None when there is no copy of the execution that the manifest is about.

    Rows of texts that belong to others are not handed on: for runs on such data only pictures are kept of the outputs.
    """
    made = manifests[stage]
    file = paths.executed_notebook(made["run"], stage)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        began, ended = (datetime.fromisoformat(content["metadata"]["papermill"][when]) for when in ("start_time", "end_time"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not began.timestamp() - 1 <= datetime.fromisoformat(made["finished"]).timestamp() <= ended.timestamp() + 1:
        return None  # the stage was made by hand later
    from hippo_utils.reporting import notebooks
    corpus = manifests.get("01_corpus", {"parameters": {"corpus": {"world": None}}})["parameters"]["corpus"]
    ours = corpus["world"] is not None and not corpus.get("private_cases")
    return {"stage": stage, "cells": [notebooks.cell(each, texts=ours) for each in content["cells"]], "texts": ours}


# --- writing ---------------------------------------------------------------------------------------------------------

def _save(text: str, file: Path) -> None:
    """Write a page whole or not at all; two runs may write the page over all at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f"{file.name}.{os.getpid()}.part")
    half.write_text(text, encoding="utf-8")
    half.replace(file)


def write(folder: Path) -> Path:
    """Write index.html of one run's folder (or a reference's), and its executed notebooks beside it."""
    templates, shown, reference = environment(), summary(folder), folder.parent == paths.REFERENCE
    key, manifests, copies = "" if reference else manifest.page_key(folder.name), manifest.behind(folder), {}
    for stage in () if reference else manifests:
        file = folder / f"{stage}.html"
        if found := notebook(manifests, stage):
            _save(templates.get_template("notebook.html").render(shown | found), file)
            copies[stage] = file.name
        else:
            file.unlink(missing_ok=True)
    _save(templates.get_template("run.html").render(shown | results(folder) | {"reference": reference, "key": key, "notebooks": copies}), folder / "index.html")
    return folder / "index.html"


def overview(folder: Path) -> Path:
    """Write the index.html over all pages of a folder: figures/ (with the reference runs below) or figures/reference/."""
    places = sorted(folder.glob("*/index.html")) + (sorted(paths.REFERENCE.glob("*/index.html")) if folder != paths.REFERENCE else [])
    rows = [summary(page.parent) | {"link": os.path.relpath(page, folder), "reference": page.parent.parent == paths.REFERENCE}
            for page in places if page.parent != paths.REFERENCE and manifest.behind(page.parent)]  # outputs/ of a run may be gone, to free a disk
    found = sorted(folder.glob("*/study.json")) + (sorted(paths.REFERENCE.glob("*/study.json")) if folder != paths.REFERENCE else [])
    studies = [{"name": file.parent.name, "link": os.path.relpath(file.parent, folder), "reference": file.parent.parent == paths.REFERENCE} | made
               for file in found if file.parent != paths.REFERENCE and (made := manifest.read_study(file.parent))]
    _save(environment().get_template("overview.html").render(rows=rows, studies=studies), folder / "index.html")
    return folder / "index.html"


def write_all(runs: list[str]) -> None:
    """The pages of these runs (of the reference without names), and the pages over all."""
    for folder in [paths.figures(run) for run in runs] or sorted(file.parent for file in paths.REFERENCE.glob("*/provenance.json")):
        print(paths.shown(write(folder)))
    print(paths.shown(overview(paths.home() / "figures" if runs else paths.REFERENCE)))
