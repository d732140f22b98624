"""The papers' data sets, as sources.yaml describes them: found in a mirror or fetched from the hub, checked, turned into records.

A mirror is a folder laid out by hub id (<mirror>/qiaojin/PubMedQA/pqa_labeled/train-00000-of-00001.parquet): corpus.data_root, or
data/ beside outputs/ when that is null. `fetch` fills it on a machine with network and writes lock.json (revision, size and
sha256 of every file); a run reads the mirror only and verifies what the lock names. No loading script is ever executed.
"""

import csv
import fnmatch
import hashlib
import heapq
import json
import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from hippo_utils import paths
from hippo_utils.manifest import StageError, file_hash, write_json
from hippo_utils.params import Corpus, derive_seed
from hippo_utils.records import item_prompt

CATALOGUE = Path(__file__).parent / "sources.yaml"
LOCK = paths.LOCK
BATCH = 1000          # rows in memory at a time, of each process
EXAMPLES = 200        # train rows that become development items, for few-shot prompts (ours)
TEST_SHARE = 0.1      # of the consultations, kept from DPO to measure preference accuracy on (ours)
EXCERPT = 300         # characters of a row that the quarantine keeps
BENCHMARK = ("item", "question")  # kinds of record that are asked and not trained on
PRIVATE = "private_cases"         # the benchmark that corpus.private_cases brings
YES_NO_MAYBE = ["yes", "no", "maybe"]
SEPARATOR = re.compile(r"[\s,]*")  # between the rows of a JSON array
# A question that cannot be answered without its picture names one and says that it is there; laboratory values "shown below" are text.
_SEEN = r"(?:image|figure|photo|picture|illustration|diagram)s?"
_TAKEN = rf"(?:{_SEEN}|(?:photograph|photomicrograph|tracing|slide|graph|pedigree|specimen|strip|ECG|EKG|electrocardiogram|x-?ray|radiograph|scan|smear|MRI|CT)s?)"
PICTURE = re.compile(rf"\bphoto(?:micro)?graphs?\b|\b{_TAKEN}\b(?:(?! and )[^.?!,;]){{0,40}} shown\b|\bshown (?:in|on|by) (?:the|this) (?:\w+ ){{0,2}}{_TAKEN}\b"
                     rf"|\b{_SEEN} (?:below|above)\b|\bsee (?:the )?(?:attached |accompanying |following )?{_SEEN}\b|\b(?:the|this) (?:\w+ )?{_SEEN} (?:shows?|depicts?|demonstrates?)\b",
                     re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One entry of sources.yaml; the file explains the fields."""
    name: str
    kind: str
    reader: str
    hub: str
    revision: str
    files: list[str]
    columns: dict[str, str]
    licence: str
    rights: str
    redistribute: bool
    holds: dict
    known: str
    citation: str
    examples: list[str] = field(default_factory=list)
    where: dict[str, str] = field(default_factory=dict)
    tolerated: float | None = None
    text: str = ""
    question: str = ""
    completion: str = ""
    instruction: str = ""
    language: str = "en"
    drawn: tuple[float, float] = (0.0, 1.0)


@cache
def catalogue() -> dict[str, Source]:
    """Every source of sources.yaml by its name."""
    entries = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    return {name: Source(name=name, **entry | {"drawn": tuple(entry.get("drawn", (0.0, 1.0)))}) for name, entry in entries.items()}


def used(corpus: Corpus) -> list[Source]:
    """The sources that a run reads, in the order of its parameters; StageError for a name that the catalogue does not have."""
    asked = {("document",): corpus.documents, ("instruction",): corpus.instructions, ("candidates",): corpus.candidates, BENCHMARK: corpus.benchmarks}
    return [source(name, *kinds) for kinds, names in asked.items() for name in names if name != PRIVATE]


def source(name: str, *kinds: str) -> Source:
    """One source of a kind, or of one of several; StageError names the ones there are."""
    found = catalogue().get(name)
    if found is None or found.kind not in kinds:
        known = [entry.name for entry in catalogue().values() if entry.kind in kinds]
        raise StageError(f"the parameters name {name} among the {' and '.join(kinds)} sources, and hippo_utils/corpus/sources.yaml has no such source; it has {', '.join(known)}")
    return found


# --- files: the mirror, the hub, the lock ------------------------------------------------------------------------------------

def mirror(corpus: Corpus) -> Path:
    """The folder that holds the data sets, laid out by hub id."""
    return paths.mirror(corpus.data_root)


def files(source: Source, corpus: Corpus, patterns: list[str]) -> list[Path]:
    """The files of a source in the mirror: where the lock names its data set, exactly those that it names. StageError says what is
    missing and how to get it."""
    folder = mirror(corpus) / source.hub
    found = _there(folder, patterns)
    if not found:
        raise StageError(f"{source.name}: {paths.shown(folder)} has no file {' or '.join(patterns)}; on a machine that reaches the hub, run "
                         "`python -m hippo_utils.corpus fetch PARAMS`, or let corpus.data_root name a folder that mirrors the hub by data set id")
    lock = _lock(mirror(corpus))
    if source.hub in lock:
        _verify(source, folder, found, {name: locked for name, locked in lock[source.hub]["files"].items() if _matches(name, patterns)})
    return list(found.values())


def unlocked(corpus: Corpus) -> list[str]:
    """The data sets of a run that the lock of its mirror does not name: nothing says whether their files are the right ones."""
    return sorted({source.hub for source in used(corpus)} - set(_lock(mirror(corpus)))) if corpus.world is None else []


def revision(source: Source, corpus: Corpus) -> str:
    """The commit that a source's files are of, as far as the lock of the mirror knows it."""
    entry = _lock(mirror(corpus)).get(source.hub)
    return f"{source.revision} (not verified)" if entry is None else entry["revision"] or "unknown, files as locked"


def _there(folder: Path, patterns: list[str]) -> dict[str, Path]:
    names = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: file for name, file in names.items() if _matches(name, patterns)}


def _matches(name: str, patterns: list[str]) -> bool:
    return not any(part.startswith(".") for part in Path(name).parts) and any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _lock(folder: Path) -> dict:
    file = folder / LOCK
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise StageError(f"{paths.shown(file)} is not readable as JSON; delete it and run `python -m hippo_utils.corpus fetch PARAMS` again") from None


def _verify(source: Source, folder: Path, found: dict[str, Path], locked: dict[str, dict | None]) -> None:
    missing, new = sorted(set(locked) - set(found)), [name for name in found if not locked.get(name)]
    if missing or new:
        differ = [f"{', '.join(names[:3])}{' and others' * (len(names) > 3)} {what}" for names, what in ((missing, "is missing"), (new, "is not locked")) if names]
        raise StageError(f"{source.name}: {paths.shown(folder)} does not hold what {LOCK} names ({'; '.join(differ)}); run `python -m hippo_utils.corpus "
                         "fetch PARAMS`, which brings what is missing and locks what is new, or delete a file that does not belong there")
    for name, file in found.items():
        if file.stat().st_size != locked[name]["size"] or file_hash(file) != locked[name]["sha256"]:
            raise StageError(f"{source.name}: {paths.shown(file)} is not the file that {LOCK} names (its sha256 differs); delete it and run "
                             "`python -m hippo_utils.corpus fetch PARAMS`, or delete its entry in the lock and run that if the change is meant")


def fetch(corpus: Corpus, say=print) -> Path:
    """Bring every file that a run reads into the mirror and write the lock; files that are there already are only locked.

    Needs the network for what is missing. The lock is written after every set, and before a download with the names that will
    come: what breaks off is known to be missing, and the next call goes on with it at the same commit.
    """
    folder = mirror(corpus)
    lock = _lock(folder)
    for source in used(corpus):
        here = folder / source.hub
        for patterns in filter(None, (source.files, source.examples)):
            found = _there(here, patterns)
            named = {name for name in lock.get(source.hub, {}).get("files", {}) if _matches(name, patterns)}
            if not found or named - set(found):
                _download(source, here, patterns, lock, folder, say)
            entry = lock.setdefault(source.hub, {"revision": None, "files": {}})  # revision null: it was there already, from somewhere
            for name, file in _there(here, patterns).items():
                entry["files"][name] = entry["files"].get(name) or {"size": file.stat().st_size, "sha256": file_hash(file)}
                say(f"{source.name:<28} {name}  {entry['files'][name]['sha256'][:12]}  revision {entry['revision'] or 'unknown (not fetched by this command)'}")
            write_json(lock, folder / LOCK)
            files(source, corpus, patterns)  # now the mirror holds what the lock names, or this says what differs
    return folder / LOCK


def _download(source: Source, here: Path, patterns: list[str], lock: dict, folder: Path, say) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    def asked(call, *arguments, **named):
        try:
            return call(*arguments, **named)
        except Exception as error:  # of a dozen kinds, from several libraries
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StageError(f"{source.name}: {source.hub} cannot be fetched from the hub ({reason}); run this on a machine that reaches it, "
                             "or let corpus.data_root name a folder that mirrors it") from None

    revision = asked(HfApi().dataset_info, source.hub, revision=lock.get(source.hub, {}).get("revision") or source.revision).sha
    held = asked(HfApi().list_repo_files, source.hub, repo_type="dataset", revision=revision)
    names = [name for name in held if _matches(name, patterns)]
    if not names:
        raise StageError(f"{source.name}: {source.hub} at {revision} has no file {' or '.join(patterns)}; it has {', '.join(held[:10]) or 'none'}. "
                         "Correct files or revision of its entry in hippo_utils/corpus/sources.yaml")
    entry = lock.setdefault(source.hub, {"revision": None, "files": {}})
    entry["revision"], entry["files"] = revision, dict.fromkeys(names) | entry["files"]
    write_json(lock, folder / LOCK)
    for name in names:
        say(f"{source.name:<28} fetching {source.hub}/{name} at {revision[:12]}")
        asked(hf_hub_download, source.hub, name, repo_type="dataset", revision=revision, local_dir=here)


# --- rows of a file, whatever its format -------------------------------------------------------------------------------------

def rows(source: Source, file: Path) -> Iterator[tuple[int, dict | str]]:
    """(number, row) of every row, or (number, reason) where a row cannot be read; StageError when the file as a whole is no good."""
    readers = {".parquet": _parquet, ".json": _json, ".jsonl": _jsonl, ".csv": _csv}
    if file.suffix not in readers:
        raise StageError(f"{source.name}: {paths.shown(file)} is no Parquet, JSON, JSONL or CSV file")
    with open(file, "rb") as opened:
        start = opened.read(200).lstrip(b"\xef\xbb\xbf \r\n\t")
    if not start:
        raise _broken(source, file, "is empty")
    if start.startswith(b"<"):
        raise _broken(source, file, "holds a web page (HTML) instead of data, perhaps a proxy's or a login page")
    if start.startswith(b"version https://git-lfs"):
        raise _broken(source, file, "holds only a pointer to large file storage instead of data")
    yield from readers[file.suffix](source, file)


def _broken(source: Source, file: Path, what: str) -> StageError:
    return StageError(f"{source.name}: {paths.shown(file)} {what}; delete it and get it again (`python -m hippo_utils.corpus fetch PARAMS`)")


def _parquet(source: Source, file: Path) -> Iterator[tuple[int, dict | str]]:
    fits = {"text": (pa.types.is_string, pa.types.is_large_string), "optional": (pa.types.is_string, pa.types.is_large_string, pa.types.is_null),
            "integer": (pa.types.is_integer,), "struct": (pa.types.is_struct,), "list": (pa.types.is_list, pa.types.is_large_list)}
    try:
        opened = pq.ParquetFile(file)
        _columns(source, file, opened.schema_arrow.names)
        there = [name for name in source.columns if name in opened.schema_arrow.names]
        for name in there:
            wanted, kind = source.columns[name], opened.schema_arrow.field(name).type
            if not any(fit(kind) for fit in fits[wanted]):
                raise StageError(f"{source.name}: column {name} of {paths.shown(file)} must be {wanted} and is {kind}; the data set has changed, "
                                 "pin the revision that hippo_utils/corpus/sources.yaml describes or correct the entry there")
        number = 0
        for batch in opened.iter_batches(BATCH, columns=there):
            for row in batch.to_pylist():
                yield number, row
                number += 1
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise _broken(source, file, f"is damaged or cut off ({str(error).splitlines()[0]})") from None


def _jsonl(source: Source, file: Path) -> Iterator[tuple[int, dict | str]]:
    checked, last = False, None
    with open(file, encoding="utf-8-sig", errors="replace") as opened:
        for number, line in enumerate(opened):
            last = line
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                if not line.endswith("\n"):
                    raise _broken(source, file, f"is cut off in line {number + 1}") from None
                yield number, f"not readable as JSON: {line.strip()[:EXCERPT]}"
                continue
            if isinstance(row, dict) and not checked:
                _columns(source, file, list(row))
                checked = True
            yield number, row if isinstance(row, dict) else f"no JSON object: {line.strip()[:EXCERPT]}"
    if last is None or not checked:
        raise _broken(source, file, "holds no row")


def _json(source: Source, file: Path) -> Iterator[tuple[int, dict | str]]:
    """The objects of a JSON array, read piece by piece: release.json alone has 700 MB. A file of JSON lines is read as such."""
    decoder, buffer, number, started = json.JSONDecoder(), "", 0, False
    with open(file, encoding="utf-8-sig", errors="replace") as opened:
        while True:
            piece = opened.read(1 << 20)
            buffer += piece
            place = SEPARATOR.match(buffer).end()
            if not started:
                if buffer[place] == "{":
                    if not buffer[place:].split("\n", 1)[0].rstrip().endswith("}") and "\n" in buffer[place:]:
                        raise _broken(source, file, "holds one JSON object over several lines, expected an array of rows, or JSON lines")
                    yield from _jsonl(source, file)
                    return
                if buffer[place] != "[":
                    raise _broken(source, file, "is no JSON array of rows")
                place, started = SEPARATOR.match(buffer, place + 1).end(), True
            while place < len(buffer) and buffer[place] != "]":
                try:
                    row, place = decoder.raw_decode(buffer, place)
                except ValueError:
                    break  # the rest of this row is in the next piece
                if not number:
                    _columns(source, file, list(row) if isinstance(row, dict) else [])
                yield number, row if isinstance(row, dict) else f"no JSON object: {str(row)[:EXCERPT]}"
                number, place = number + 1, SEPARATOR.match(buffer, place).end()
            buffer = buffer[place:]
            if buffer.startswith("]"):
                break
            if not piece:
                raise _broken(source, file, f"is cut off or no JSON behind row {number}")
    if not number:
        raise _broken(source, file, "holds no row")


def _csv(source: Source, file: Path) -> Iterator[tuple[int, dict | str]]:
    csv.field_size_limit(1 << 27)
    with open(file, "rb") as opened:
        opened.seek(-1, os.SEEK_END)
        ended, short = opened.read() in b"\r\n", -1
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as opened:
        reader = csv.DictReader(opened, strict=True)
        try:
            _columns(source, file, reader.fieldnames or [])
            number = -1
            for number, row in enumerate(reader):
                if None in row or None in row.values():
                    short = number
                    yield number, f"not as many fields as the header names: {str(row)[:EXCERPT]}"
                    continue
                yield number, row
        except csv.Error as error:
            raise _broken(source, file, f"is cut off or no CSV near line {reader.line_num} ({error})") from None
        if number < 0:
            raise _broken(source, file, "holds no row")
        if short == number and not ended:
            raise _broken(source, file, f"is cut off in row {number}")


def _columns(source: Source, file: Path, there: list[str]) -> None:
    missing = [name for name, wanted in source.columns.items() if name not in there and wanted != "optional"]
    if missing:
        raise StageError(f"{source.name}: {paths.shown(file)} has no column {', '.join(missing)}; it has {', '.join(map(str, there)) or 'none'}. "
                         "Pin the revision that hippo_utils/corpus/sources.yaml describes, or correct the entry there")


# --- rows into records: a function per reader; ValueError says why a row is unusable -----------------------------------------

def _texts(source: Source, row: dict) -> dict:
    return {"text": _said(row[source.text], source.text)}


def _contexts(source: Source, row: dict) -> dict:
    return {"text": _abstract(row)}


def _alpaca(source: Source, row: dict) -> dict:
    if source.columns["input"] == "text":  # the instruction is the same in every row: without an input nothing is asked
        _said(row["input"], "input")
    asked = "\n".join(part.strip() for part in (row["instruction"], row["input"]) if part.strip())
    return {"prompt": f"{_said(asked, 'instruction')}\nAnswer:", "completion": " " + _said(row["output"], "output")}


def _question_answer(source: Source, row: dict) -> dict:
    if source.language == "zh":
        return _pair(row[source.question], row[source.completion])
    return {"prompt": f"{source.instruction}\n{_said(row[source.question], source.question)}\nAnswer:",
            "completion": " " + _said(row[source.completion], source.completion)}


def _pair(question: str, answer: str) -> dict:
    """A Chinese question with its answer, which follows the prompt without a space."""
    return {"prompt": item_prompt(_said(question, "the question"), [], language="zh"), "completion": _said(answer, "the answer")}


def _dialogue(source: Source, row: dict) -> dict:
    """The first question and answer of ["问：…", "答：…", …]; what a longer talk goes on with would have to be read with all before it."""
    turns = row["data"]
    if len(turns) < 2 or not all(isinstance(turn, str) for turn in turns[:2]):
        raise ValueError("data holds no question with an answer")
    return _pair(*(turn.strip().removeprefix(mark) for turn, mark in zip(turns, ("问：", "答："))))


def _encyclopedia(source: Source, row: dict) -> dict:
    """The first of several wordings of a question, and the first answer."""
    return _pair(_first(row["questions"]), _first(row["answers"]))


def _first(value) -> str:
    """The first text in lists of lists; empty when there is none."""
    while isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""


def _anesbench(source: Source, row: dict) -> dict:
    letters = "ABCDEFGHI"[:row["choice_num"]]
    if len(row["target"]) != 1 or row["target"] not in letters:
        raise ValueError(f"target is {_brief(row['target'])}, expected one of {', '.join(letters)}")
    return _exam(source, row["question"], [row[letter] for letter in letters], letters.index(row["target"]), subject=LEVELS.get(row["category"], ""))


def _medmcqa(source: Source, row: dict) -> dict:
    if row["cop"] not in range(4):
        raise ValueError(f"cop is {row['cop']}, expected 0 to 3 (its test split hides the answers)")
    return _exam(source, row["question"], [row[name] for name in ("opa", "opb", "opc", "opd")], row["cop"], subject=row["subject_name"] or "")


def _medqa(source: Source, row: dict) -> dict:
    return _exam(source, row["question"], *_lettered(row))


def _usmle(source: Source, row: dict) -> dict:
    return _exam(source, row["question"], *_lettered(row), subject="needs a picture" if PICTURE.search(row["question"]) else "text alone")


def _pubmedqa(source: Source, row: dict) -> dict:
    answer = row["final_decision"].strip().lower()
    if answer not in YES_NO_MAYBE:
        raise ValueError(f"final_decision is {_brief(answer)}, expected yes, no or maybe")
    return _exam(source, row["question"], YES_NO_MAYBE, YES_NO_MAYBE.index(answer), context=_abstract(row)) | {"key": str(row["pubid"])}


def _icliniq(source: Source, row: dict) -> dict:
    answers = [" " + _said(row[name], name) for name in ("answer_icliniq", "answer_chatgpt", "answer_chatdoctor")]
    return {"prompt": f"Patient: {_said(row['input'], 'input')}\nDoctor:", "authors": ["clinician", "chatgpt", "chatdoctor"], "answers": answers}


def _brief(value) -> str:
    """A value as a reason may name it: reasons are shown, and a text that slipped into the wrong column may not be."""
    return repr(value) if len(repr(value)) <= 12 else f"a text of {len(str(value))} characters"


def _said(text: str, name: str) -> str:
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text.strip()


def _abstract(row: dict) -> str:
    parts = row["context"].get("contexts")
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts) or not "".join(parts).strip():
        raise ValueError("context.contexts holds no text")
    return " ".join(part.strip() for part in parts if part.strip())


def _lettered(row: dict) -> tuple[list[str], int]:
    """Options behind letters, those that are None dropped, and the place of the right one."""
    there = {letter: text for letter, text in sorted(row["options"].items()) if text is not None}
    if row["answer_idx"] not in there:
        raise ValueError(f"answer_idx is {_brief(row['answer_idx'])}, which is none of the options {', '.join(there) or '(there are none)'}")
    return list(there.values()), list(there).index(row["answer_idx"])


def _exam(source: Source, question: str, options: list, answer: int, context: str = "", subject: str = "") -> dict:
    """What an item and an instruction have in common."""
    if not all(isinstance(option, str) and option.strip() for option in options) or len(options) < 2:
        raise ValueError("an option is empty")
    return {"question": _said(question, "question"), "context": context, "options": [option.strip() for option in options], "answer": answer, "subject": subject}


READERS = {"text": _texts, "contexts": _contexts, "alpaca": _alpaca, "question_answer": _question_answer, "medmcqa": _medmcqa, "medqa": _medqa,
           "usmle": _usmle, "pubmedqa": _pubmedqa, "icliniq": _icliniq, "dialogue": _dialogue, "encyclopedia": _encyclopedia, "anesbench": _anesbench}
LEVELS = {1: "system 1: recall", 2: "system 1.x: hybrid", 3: "system 2: decision"}  # AnesBench's three levels of cognitive demand
TYPES = {"text": str, "integer": int, "struct": dict, "list": list}


def fitting(source: Source, row: dict) -> dict:
    """The row with every value of the type that the contract asks for; ValueError where one is not."""
    fitted = {}
    for name, wanted in source.columns.items():
        value = row.get(name)
        if wanted == "optional":
            value = "" if value is None else value
        if wanted == "integer" and isinstance(value, str) and value.strip().lstrip("-").isdigit():  # CSV knows texts only
            value = int(value)
        if value is None:
            raise ValueError(f"{name} is missing")
        if not isinstance(value, TYPES.get(wanted, str)) or isinstance(value, bool):
            raise ValueError(f"{name} must be {wanted} and is {type(value).__name__}")
        fitted[name] = value
    return fitted


# --- records ------------------------------------------------------------------------------------------------------------------

def stream(source: Source, corpus: Corpus, count: int | None, seed: int, quarantine: list[dict] | None) -> Iterator[dict]:
    """The records of a source in the order of its files, all or a seeded draw of `count` (a file may be sorted: Open-Platypus begins
    with mathematics); rows that do not fit are appended to `quarantine` with the reason.

    StageError when more than the tolerated share of the rows does not fit.
    """
    if count is None:
        yield from _whole(source, corpus, seed, quarantine, source.files)
        return
    names = (row["id"] for row in _whole(source, corpus, seed, None, source.files))  # read twice, so that no more than the ids is held
    drawn = set(heapq.nsmallest(count, names, key=lambda name: _draw(seed, name)))
    yield from (row for row in _whole(source, corpus, seed, quarantine, source.files) if row["id"] in drawn)


def _printable(text: str) -> str:
    """`text` in one line that every file and terminal takes: a row may hold line ends and halves of characters, in its keys too."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _whole(source: Source, corpus: Corpus, seed: int, quarantine: list[dict] | None, patterns: list[str]) -> Iterator[dict]:
    made, bad, others, quarantine = 0, 0, 0, [] if quarantine is None else quarantine
    for file in files(source, corpus, patterns):
        for number, row in rows(source, file):
            if isinstance(row, dict) and any(row.get(name) != value for name, value in source.where.items()):
                continue
            try:
                if isinstance(row, str):
                    raise ValueError(row)
                fields = READERS[source.reader](source, fitting(source, row))
            except ValueError as error:
                bad += 1
                quarantine.append({"source": source.name, "file": file.name, "row": number, "reason": _printable(str(error).split(": ")[0])[:EXCERPT],
                                   "held": _printable(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str))[:EXCERPT]})
                continue
            if source.drawn != (0.0, 1.0) and not source.drawn[0] <= _draw(seed, fields["prompt"]) < source.drawn[1]:
                others += 1
                continue
            made += 1
            yield _record(source, fields, f"{source.name}-{made - 1:06d}", seed)
    tolerated = corpus.quarantine_share if source.tolerated is None else source.tolerated
    if not made or bad > tolerated * (made + others + bad):
        worst = pd.Series([row["reason"] for row in quarantine if row["source"] == source.name]).mode()
        raise StageError(f"{source.name}: {bad} of {made + others + bad} rows do not fit ({'most often: ' + worst[0] if len(worst) else 'none passes the filter ' + str(source.where)}); "
                         f"at most a share of {tolerated:g} may (corpus.quarantine_share): look at the file, or pin the revision that sources.yaml describes")


def _draw(seed: int, question: str) -> float:
    """A number from 0 to 1 for a question (its copies fall on one side of every border) or an id."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{question}".encode()).digest()[:6], "big") / 2**48


def _record(source: Source, fields: dict, name: str, seed: int) -> dict:
    common = {"id": name, "source": source.name, "licence": source.licence, "fact_ids": []}
    if source.kind == "instruction" and "question" in fields:
        prompt = item_prompt(fields["question"], fields["options"], fields["context"])
        return common | {"prompt": f"{source.instruction}\n{prompt}", "completion": " " + fields["options"][fields["answer"]]}
    if source.kind == "candidates":
        drawn = hashlib.sha256(f"{seed}/{fields['prompt']}".encode()).digest()[0] / 256  # by the question: its copies fall on one side
        return common | {"split": "test" if drawn < TEST_SHARE else "train", "kind": "consultation"} | fields
    if source.kind == "question":
        return {"id": name, "benchmark": source.name, "group": "all", "subject": "", "cluster": name, "fact_ids": [], "prompt": fields["prompt"],
                "references": [fields["completion"]]}
    if source.kind == "item":
        key = fields.pop("key", name)
        return {"id": name, "benchmark": source.name, "split": "test", "group": "all", "cluster": key, "fact_ids": [], "steps": 1} | fields
    return common | fields


def items(source: Source, corpus: Corpus, seed: int, quarantine: list[dict] | None) -> list[dict]:
    """The items of one benchmark: its test items, and for few-shot prompts a seeded draw of train rows as development items.

    PubMedQA: all items are test items, as in the paper; with corpus.pubmedqa_test the ids in that file are, and the rest is development.
    """
    made = list(stream(source, corpus, None, seed, quarantine))
    if source.examples:
        pool = list(_whole(source, corpus, seed, quarantine, source.examples))
        rng = pd.Series(range(len(pool))).sample(min(EXAMPLES, len(pool)), random_state=derive_seed(seed, source.name))
        made += [pool[number] | {"id": f"{source.name}-development-{number:06d}", "split": "development", "cluster": f"development-{number}"} for number in sorted(rng)]
    if source.name == "pubmedqa" and corpus.pubmedqa_test:
        chosen = _official(paths.home() / corpus.pubmedqa_test)
        lacking = chosen - {row["cluster"] for row in made}
        if lacking:
            raise StageError(f"corpus.pubmedqa_test names {len(lacking)} ids that pubmedqa does not have, the first is {min(lacking)}")
        made = [row | {"split": "test" if row["cluster"] in chosen else "development"} for row in made]
    return made


def questions(source: Source, corpus: Corpus, seed: int, quarantine: list[dict] | None) -> list[dict]:
    """The question records of one benchmark that is answered in free text, with reference answers."""
    return list(stream(source, corpus, None, seed, quarantine))


def _official(file: Path) -> set[str]:
    """The ids of PubMedQA's official test items: the keys of test_ground_truth.json of the authors' repository."""
    try:
        return {str(key) for key in json.loads(file.read_text(encoding="utf-8"))}
    except (OSError, ValueError):
        raise StageError(f"corpus.pubmedqa_test: {paths.shown(file)} cannot be read as JSON; it is test_ground_truth.json of the repository pubmedqa/pubmedqa") from None
