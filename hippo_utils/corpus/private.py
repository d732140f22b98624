"""A hospital's own cases as a benchmark: read from a local folder, asked like AneRC, and shown nowhere.

The paper's AneRC holds 50 real cases that are not public. `corpus.private_cases` names a folder (or one file) of JSONL or CSV
files with the columns case and reference, and optionally question. They are evaluated on and never trained on; their
text is in no figure, page, notebook or datasheet (hippo_utils.corpus.licences), and no endpoint is asked about them.
Take names, dates and numbers that identify a patient out before: nothing here does.
"""

from hippo_utils import paths
from hippo_utils.chinese import normalise
from hippo_utils.corpus import hub
from hippo_utils.manifest import StageError
from hippo_utils.params import Corpus
from hippo_utils.records import item_prompt

ASKED = "请写出麻醉方案、主要风险和用药剂量。"  # where a row has no question of its own; ours, not the paper's
SOURCE = hub.Source(name=hub.PRIVATE, kind="question", reader="", hub="", revision="", files=["*.jsonl", "*.csv"],
                    columns={"case": "text", "reference": "text", "question": "optional"}, licence="none",
                    rights="Cases of a hospital's own patients: they stay on this machine.", redistribute=False, holds={},
                    known="the columns that this project asks for", citation="", language="zh")


def cases(corpus: Corpus, quarantine: list[dict] | None = None) -> list[dict]:
    """Question records of the benchmark private_cases; none when the parameters name no folder.

    A row without a case or a reference goes to `quarantine` with the reason and without its text. StageError when there is no
    such folder, no file in it, or no row that can be used.
    """
    if corpus.private_cases is None:
        return []
    place = paths.home() / corpus.private_cases
    files = [place] if place.is_file() else sorted(file for pattern in SOURCE.files for file in place.glob(pattern))
    if not files:
        raise StageError(f"corpus.private_cases: {paths.shown(place)} is no file, and no folder that holds a JSONL or CSV file with the columns case and reference")
    made = []
    for file in files:
        for number, row in hub.rows(SOURCE, file):
            try:
                if isinstance(row, str):
                    raise ValueError(row)
                made.append(_record(hub.fitting(SOURCE, row), len(made)))
            except ValueError as error:
                if quarantine is not None:
                    quarantine.append({"source": SOURCE.name, "file": file.name, "row": number, "reason": str(error).split(": ")[0], "held": ""})
    if not made:
        raise StageError(f"corpus.private_cases: no row of {', '.join(paths.shown(file) for file in files)} holds a case and a reference")
    return made


def _record(row: dict, number: int) -> dict:
    if empty := [name for name in ("case", "reference") if not row[name].strip()]:
        raise ValueError(f"{empty[0]} is empty")
    name = f"{SOURCE.name}-{number:04d}"  # not the row's own id, which may be a patient's
    prompt = item_prompt(f"病例：{normalise(row['case'].strip())}\n{normalise(row['question'].strip()) or ASKED}", [], language="zh")
    return {"id": name, "benchmark": SOURCE.name, "group": "all", "subject": "", "cluster": name, "fact_ids": [], "prompt": prompt,
            "references": [normalise(row["reference"].strip())]}

