"""A model's responses, written to a file as they come: an evaluation that was stopped asks only for what is missing.

`Recorded` stands between lm-eval and its model, as lm-eval's own CachingLM does, with a text file that survives a kill at any
moment in the place of its database. The file belongs to one model with its weights; who calls sees to that.
"""

import hashlib
import json
import shutil
from pathlib import Path

from hippo_utils.manifest import Stage


class Recorded:
    """An lm-eval model (`lm`) whose responses to log-likelihood and generation requests go to `file`, one line each.

    Requests that the file answers are not asked again. Sampled replies are written only when all of a call are there: drawn in
    two parts they would be others than those of a run that nobody stopped. A prompt that exceeds the model's context is a
    ValueError, or with `allow_truncation` is cut on the left and counted (`tokens_cut`).
    """

    def __init__(self, lm, file: Path | None = None, allow_truncation: bool = False):
        self.lm, self.allow_truncation = lm, allow_truncation
        self.known: dict[str, tuple] = _read(file) if file else {}  # key -> (response, tokens cut)
        self.file = open(file, "a", encoding="utf-8", buffering=1) if file else None  # a line at a time
        self.cut: dict[str, int] = {}
        self.sampling = False
        lm.set_cache_hook(self)

    def __getattr__(self, name):
        return getattr(self.lm, name)

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        return self._answered("loglikelihood", requests, [_key("loglikelihood", request.args) for request in requests])

    def generate_until(self, requests) -> list[str]:
        keys = [_key("generate_until", request.args) for request in requests]
        self.sampling = any(request.args[1].get("do_sample") for request in requests)
        if self.sampling:  # the copies of a request are told apart by their number
            seen: dict[str, int] = {}
            for place, key in enumerate(keys):
                seen[key] = seen.get(key, -1) + 1
                keys[place] = f"{key} {seen[key]}"
        return self._answered("generate_until", requests, keys)

    def tokens_cut(self, kind: str, arguments) -> int:
        """How many tokens a request lost on the left because its prompt exceeded the model's context."""
        return self.known.get(_key(kind, arguments), (None, 0))[1]

    def add_partial(self, kind: str, arguments, response) -> None:
        """What lm-eval's models call for every response as soon as they have it."""
        if not self.sampling:
            shared = getattr(self.lm, "tokens_cut", {}) if kind == "loglikelihood" else {}
            self._record(_key(kind, arguments), response, shared.get(tuple(arguments), 0) if shared else self.cut.get(_key(kind, arguments), 0))

    def _record(self, key: str, response, cut: int) -> None:
        self.known[key] = (response, cut)
        if self.file:
            self.file.write(json.dumps([key, response, cut]) + "\n")

    def _answered(self, kind: str, requests, keys: list[str]) -> list:
        missing = [place for place, key in enumerate(keys) if key not in self.known]
        if self.sampling and missing:
            missing = list(range(len(keys)))
        if missing:
            asked = [requests[place] for place in missing]
            self._check_lengths(kind, asked)
            for place, response in zip(missing, getattr(self.lm, kind)(asked, disable_tqdm=True), strict=True):
                if self.sampling or keys[place] not in self.known:
                    self._record(keys[place], response, self.cut.get(keys[place].split()[0], 0))
        return [self.known[key][0] for key in keys]

    def _check_lengths(self, kind: str, requests) -> None:
        """Count the tokens that lm-eval's models would cut without a word; ValueError unless that is allowed."""
        if kind == "loglikelihood" and hasattr(self.lm, "tokens_per_batch"):
            return  # SharedContextLM refuses and counts by itself
        self.cut = {}
        for request in requests:
            if kind == "loglikelihood":
                tokens = sum(map(len, self.lm._encode_pair(*request.args))) - 1  # the last token is predicted, not read
            else:
                tokens = len(self.lm.tok_encode(request.args[0])) + request.args[1].get("max_gen_toks", self.lm.max_gen_toks)
            if tokens > self.lm.max_length:
                self.cut[_key(kind, request.args)] = tokens - self.lm.max_length
        if self.cut and not self.allow_truncation:
            raise ValueError(f"{len(self.cut)} of {len(requests)} prompts exceed the model's context of {self.lm.max_length} tokens, by up to "
                             f"{max(self.cut.values())}: evaluation.allow_truncation cuts and counts")


def _key(kind: str, arguments) -> str:
    first, second = arguments
    text = f"{kind}\0{first}\0{second if isinstance(second, str) else json.dumps(second, sort_keys=True)}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _read(file: Path) -> dict[str, tuple]:
    """The responses that a file holds; a last line that a kill left unfinished is dropped, and taken off the file."""
    known, whole = {}, 0
    if file.is_file():
        with open(file, "rb+") as lines:
            for line in lines:
                try:
                    key, response, cut = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                known[key] = (tuple(response) if isinstance(response, list) else response, cut)
                whole += len(line)
            lines.truncate(whole)
    return known


def folder(stage: Stage) -> Path:
    """Where a stage keeps responses while it is not finished; those of another key (other weights, other parameters) are removed."""
    wanted = stage.folder / "checkpoints" / hashlib.sha256(json.dumps(stage.key, sort_keys=True).encode()).hexdigest()[:16]
    for other in wanted.parent.glob("*"):
        if other != wanted:
            shutil.rmtree(other)
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted


def forget(stage: Stage) -> None:
    """Remove the kept responses: the predictions made of them are stored."""
    shutil.rmtree(stage.folder / "checkpoints", ignore_errors=True)
