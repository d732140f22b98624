"""Asking a judge: what a judge is, and one loop for all of them that stores, counts, bounds and can be interrupted.

    with Store(place) as store:
        judgements = asking.ask_all(judge, asks, render, parse, store)

Judges differ in how they come to a reply (an endpoint, a local model, a rubric); everything else is here.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from hippo_utils.judging.store import Store, key_of
from hippo_utils.manifest import StageError

BYTES_PER_TOKEN = 4  # for estimates made before anything is asked; ours, right for English within a fifth or so


class Asked(NamedTuple):
    """One asking: a question and its answers in the order shown (`order[i]` is where the answer at place i comes from)."""
    id: str
    question: str
    answers: tuple[str, ...]
    fact_ids: tuple[str, ...] = ()  # for a judge that looks things up
    order: tuple[int, ...] = ()
    repeat: int = 0                 # the same asking again, to see whether the judge agrees with itself


class Reply(NamedTuple):
    """What came back. A reply that is refused, rejected (the server calls the request bad) or cut off holds no verdict."""
    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    trouble: str = ""  # refused, rejected, cut off


class Judgement(NamedTuple):
    """One asking and what came of it: a verdict, or the reason why there is none; every reply is kept."""
    asked: Asked
    verdict: Any       # what `parse` returns; None when no reply could be read
    outcome: str       # verdict, unparsable, refused, rejected, cut off
    replies: tuple[str, ...]
    tokens_in: int
    tokens_out: int


class Account:
    """What asking costs, in the currency of the prices (per million tokens); an asking that could break the budget is not made."""

    def __init__(self, price_in: float = 0.0, price_out: float = 0.0, budget: float | None = None, most_out: int = 0):
        self.price_in, self.price_out, self.budget, self.most_out = price_in, price_out, budget, most_out
        self.spent, self._held, self._lock = 0.0, 0.0, threading.Lock()

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def hold(self, size: int) -> float:
        """Set aside the most that a request of `size` bytes can cost; StageError when the budget does not hold it."""
        most = self.cost(size, self.most_out)  # no tokenizer makes more tokens than there are bytes
        with self._lock:
            if self.budget is not None and self.spent + self._held + most > self.budget:
                raise BudgetSpent(f"the budget of {self.budget:g} is spent: {self.spent:.4g} for the verdicts so far, and the next request could go beyond it. "
                                  "Every reply is stored; raise the endpoint's budget and start again, and only the rest is asked for")
            self._held += most
        return most

    def settle(self, held: float, reply: Reply | None) -> None:
        with self._lock:
            self._held -= held
            self.spent += self.cost(reply.tokens_in, reply.tokens_out) if reply else 0.0


class BudgetSpent(StageError):
    """The next request could cost more than the budget has left."""


class Judge(Protocol):
    """Whoever turns a question and its answers into a reply that holds a verdict as JSON."""
    name: str                   # says what it is, in every verdict and pair
    identity: str               # everything that decides what it would say, besides the messages
    in_flight: int = 1          # requests at the same time
    account: Account            # what it may cost
    troubles: Counter           # what went wrong on the way and was tried again, by kind

    def reply(self, asked: Asked, messages: list[dict[str, str]]) -> Reply: ...


TROUBLES = {"it was cut off": "没有写完，请写短些", "it was refused": "被拒绝", "it was rejected": "服务器未接受"}
Render = Callable[[Asked, str], list[dict[str, str]]]  # the messages, given why an earlier reply was not readable
Parse = Callable[[Asked, str], Any]                    # the verdict in a text, or ValueError


@dataclass
class _Progress:
    """Counts, and about ten lines of them on the way."""
    total: int
    started: float = field(default_factory=time.time)
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, judge: Judge) -> None:
        with self.lock:
            self.done += 1
            if self.done % max(1, self.total // 10) == 0 and self.total >= 100:
                rate = self.done / max(1e-9, time.time() - self.started)
                print(f"  {self.done} of {self.total} asked, {rate:.0f}/s{_money(judge)}", flush=True)


def ask_all(judge: Judge, asks: list[Asked], render: Render, parse: Parse, store: Store | None = None) -> list[Judgement]:
    """Ask the judge everything that is not stored yet, `judge.in_flight` at a time; judgements in the order of `asks`.

    A reply that cannot be read is kept, counted and asked for once more, then dropped. Interrupted at any moment (a signal,
    SIGKILL, a full budget, an endpoint that stays silent), the same call continues with what is missing.
    """
    if store:
        missing = _open(judge, asks, render, store)
        progress = _Progress(missing)
    stop = threading.Event()

    def reply_to(asked: Asked, complaint: str) -> Reply:
        messages = render(asked, complaint)
        if not store:
            return judge.reply(asked, messages)
        key = key_of(judge.identity, messages, asked.repeat)
        if entry := store.get(key):
            if complaint:  # first replies were counted before anything was asked
                judge.account.settle(0.0, Reply(**entry))
            return Reply(**entry)
        held, reply = judge.account.hold(_size(messages)), None
        try:
            reply = judge.reply(asked, messages)
        finally:
            judge.account.settle(held, reply)
        if reply.trouble != "rejected":  # costs nothing, and another day the server may take it
            store.put(key, reply._asdict())
        if not complaint:
            progress.count(judge)
        return reply

    def one(asked: Asked) -> Judgement | None:
        if stop.is_set():
            return None
        replies, complaint = [], ""
        try:
            for _ in range(2):
                replies.append(reply := reply_to(asked, complaint))
                try:
                    if reply.trouble:
                        raise ValueError(f"it was {reply.trouble}")
                    return _judgement(asked, parse(asked, reply.text), "verdict", replies)
                except ValueError as error:
                    complaint = str(error)
            return _judgement(asked, None, replies[-1].trouble or "unparsable", replies)
        except BaseException:
            stop.set()
            raise

    if judge.in_flight == 1:
        made = [one(asked) for asked in asks]
    else:
        with ThreadPoolExecutor(judge.in_flight) as pool:
            try:
                made = list(pool.map(one, asks))
            except BaseException:  # Ctrl-C too: the requests in flight end, and no other begins
                stop.set()
                raise
    if asks and not any(judgement.verdict is not None for judgement in made):
        first = made[0]
        raise StageError(f"none of the {len(made)} replies of {judge.name} could be read as a verdict; the first is {first.outcome}: {first.replies[-1][:200]!r}")
    if store:
        print(report(judge, made), flush=True)
    return made


def in_chinese(complaint: str) -> str:
    """A complaint for a request in Chinese."""
    return TROUBLES.get(complaint, complaint)


def _open(judge: Judge, asks: list[Asked], render: Render, store: Store) -> int:
    """Say what is stored, what is still to be asked and what that may cost; the number of askings that are missing."""
    missing, size = 0, 0
    for asked in asks:
        messages = render(asked, "")
        if entry := store.get(key_of(judge.identity, messages, asked.repeat)):
            judge.account.settle(0.0, Reply(**entry))
        else:
            missing, size = missing + 1, size + _size(messages)
    tokens = size / BYTES_PER_TOKEN
    most = judge.account.cost(tokens, missing * judge.account.most_out)
    print(f"{judge.name}: {len(asks)} askings, {len(asks) - missing} stored, {missing} to ask; about {tokens:,.0f} tokens in, at most {missing * judge.account.most_out:,} out"
          + (f", at most {most:.4g} in the currency of the prices" if most else ""), flush=True)
    return missing


def _size(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"].encode()) for message in messages)


def _judgement(asked: Asked, verdict: Any, outcome: str, replies: list[Reply]) -> Judgement:
    return Judgement(asked, verdict, outcome, tuple(reply.text for reply in replies), sum(r.tokens_in for r in replies), sum(r.tokens_out for r in replies))


def _money(judge: Judge) -> str:
    return f", {judge.account.spent:.4g} spent" if judge.account.spent else ""


def report(judge: Judge, judgements: list[Judgement]) -> str:
    """What came of it, in two lines: verdicts and what is missing; tokens, money, and what had to be tried again."""
    outcomes = Counter(judgement.outcome for judgement in judgements)
    again = sum(len(judgement.replies) > 1 for judgement in judgements)
    tokens = [sum(getattr(judgement, side) for judgement in judgements) for side in ("tokens_in", "tokens_out")]
    troubles = ", ".join(f"{kind} {count}" for kind, count in sorted(judge.troubles.items()))
    return (f"{', '.join(f'{kind} {count}' for kind, count in sorted(outcomes.items()))}; {again} askings needed a second reply\n"
            f"{tokens[0]:,} tokens in, {tokens[1]:,} out{_money(judge)}" + (f"; tried again after: {troubles}" if troubles else ""))
