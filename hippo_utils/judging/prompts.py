"""What a judge is asked, and how its reply is read: a versioned template on one side, validated JSON on the other.

The answers are untrusted text. They stand between marks that their author could not know, and a reply is read only if it
holds exactly one verdict.
"""

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Literal

import jinja2
import yaml
from pydantic import BaseModel, ValidationError, ValidationInfo, field_validator

from hippo_utils.manifest import StageError

TEMPLATES = Path(__file__).with_name("templates")
LETTERS = "ABCDEFGHIJ"
THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)  # what reasoning models write first is no reply
Task = Literal["best", "ranking"]


@cache
def template(name: str) -> tuple[jinja2.Template, jinja2.Template]:
    """The system and user templates of judging/templates/<name>.yaml."""
    file = TEMPLATES / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in TEMPLATES.glob("*.yaml")))
        raise StageError(f"preference.template: there is no template {name}; there are {known}")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(content["system"]), environment.from_string(content["user"])


def messages(name: str, task: Task, question: str, answers: list[str], complaint: str = "") -> list[dict[str, str]]:
    """The chat messages that ask for a verdict on `answers`, in this order; `complaint` says why an earlier reply was not readable.

    The mark between which texts stand is derived from all of them, so that no author of one can close it: it is the same
    for the same texts, and a text that holds it (it cannot, unless it was searched for) would change it.
    """
    system, user = template(name)
    mark = hashlib.sha256("\0".join([question, *answers]).encode()).hexdigest()[:12]
    labels = LETTERS[:len(answers)]
    said = user.render(task=task, mark=mark, question=question.strip(), answers=list(zip(labels, (a.strip() for a in answers))),
                       labels=", ".join(labels), complaint=complaint)
    return [{"role": "system", "content": system.render(task=task).strip()}, {"role": "user", "content": said.strip()}]


class Best(BaseModel):
    """A verdict that names the best answer, or a tie."""
    notes: dict[str, str] = {}
    best: str

    @field_validator("best")
    @classmethod
    def _known(cls, best: str, info: ValidationInfo) -> str:
        if best not in (*info.context["labels"], "tie"):
            raise ValueError(f"best must be one of {', '.join(info.context['labels'])} or tie")
        return best

    def order(self) -> list[str]:
        return [] if self.best == "tie" else [self.best]


class Ranking(BaseModel):
    """A verdict that puts all answers in order, best first."""
    notes: dict[str, str] = {}
    ranking: list[str]

    @field_validator("ranking")
    @classmethod
    def _whole(cls, ranking: list[str], info: ValidationInfo) -> list[str]:
        if sorted(ranking) != list(info.context["labels"]):
            raise ValueError(f"ranking must hold each of {', '.join(info.context['labels'])} once")
        return ranking

    def order(self) -> list[str]:
        return self.ranking


SHAPES: dict[str, type[BaseModel]] = {"best": Best, "ranking": Ranking}


def parse(text: str, task: Task, answers: int) -> tuple[list[int], dict[int, str]]:
    """The verdict in a reply: places of the answers from the best on (one, all, or none for a tie), and the notes per place.

    ValueError when it holds none, or two different ones: a verdict is never guessed.
    """
    labels = LETTERS[:answers]
    found, wrong = [], "it holds no JSON object"
    for content in objects(THOUGHT.sub("", text)):
        try:
            verdict = SHAPES[task].model_validate(content, context={"labels": labels})
        except ValidationError as error:
            wrong = error.errors()[0]["msg"].removeprefix("Value error, ")
            continue
        if verdict.order() not in [other.order() for other in found]:
            found.append(verdict)
    if len(found) != 1:
        raise ValueError("it holds two different verdicts" if found else wrong)
    return [labels.index(label) for label in found[0].order()], {labels.index(key): note for key, note in found[0].notes.items() if key in [*labels]}


def objects(text: str) -> list[dict]:
    """The outermost JSON objects in a text, prose and code fences around them left aside."""
    def once(pairs):
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    decoder, found, at = json.JSONDecoder(object_pairs_hook=once), [], text.find("{")
    while at >= 0:
        try:
            content, end = decoder.raw_decode(text, at)
            found.append(content)
        except (ValueError, RecursionError):
            end = at + 1
        at = text.find("{", end)
    return found
