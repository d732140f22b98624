"""Self-Instruct (Wang et al., arXiv 2212.10560) in Chinese: generators grow a seed set of tasks, topic by topic.

The topic list and the form are ours, not the paper's, which names its generators only. A local model continues
"主题：…\\n问：" and writes question and answer; an endpoint gets `request` and answers in the same form. Every row keeps where it
came from: generator, topic, number of the draw.

    written = sample_locally(model, tokenizer, drawn, seed=seed)                      # drawn: draw_topics(topics, count, seed)
    written = ask(open_endpoints(how)["qwen"], drawn, seeds, examples=3, seed=seed)   # the same behind an endpoint
"""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from hippo_utils import paths
from hippo_utils.chinese import ngrams, normalise
from hippo_utils.corpus import contamination
from hippo_utils.judging import asking
from hippo_utils.judging.asking import Asked, Judge
from hippo_utils.judging.endpoint import EndpointJudge
from hippo_utils.judging.store import Store
from hippo_utils.manifest import StageError
from hippo_utils.params import Corpus, SelfInstruct

OPEN = "主题：{topic}\n问："
UNFINISHED = "【未写完】"  # before a reply that was cut off, refused or rejected: kept, and not in form
# An answer may take several lines; it begins with a letter or a digit, whatever opens before it.
REPLY = re.compile(rf"^(?!{UNFINISHED})(?P<question>[^\n]+)\n+答：\s*(?P<answer>[（(“\"《【*\- ]*[^\W_].*?)(?=\n\s*(?:主题|问|答)：|\Z)", re.DOTALL)
COLUMNS = ["id", "generator", "topic", "raw", "prompt", "completion"]
FEWEST = 10  # rows of a generator that count; ours


def as_tasks(seeds: pd.DataFrame, topics: list[str]) -> pd.DataFrame:
    """Seed tasks (instruction records) as a local generator learns them: prompt (the topic that the question names, and the
    opening of a question) and completion (question and answer)."""
    made = []
    for prompt, completion in seeds[["prompt", "completion"]].itertuples(index=False):
        named = max((topic for topic in topics if topic in prompt), key=len, default="麻醉学")
        made.append((OPEN.format(topic=named), f"{prompt.removeprefix('问：')}{completion}"))
    return pd.DataFrame(made, columns=["prompt", "completion"])


def request(topic: str, examples: list[str]) -> str:
    """What an endpoint is asked for: one new task on a topic, in the form of the examples."""
    shown = "\n\n".join(examples)
    return (f"下面是几道麻醉学问答题：\n\n{shown}\n\n请就给定主题再出一道不同的题，并给出正确、简洁的答案。只按下面的格式输出：\n"
            f"{OPEN.format(topic=topic)}…\n答：…\n\n主题：{topic}")


def draw_topics(topics: list[str], count: int, seed: int) -> list[str]:
    """`count` topics in random order; how often two of them come differs by one at most."""
    rng = np.random.default_rng(seed)
    rounds = -(-count // len(topics))
    return [topics[i] for _ in range(rounds) for i in rng.permutation(len(topics))][:count]


def sample_locally(model, tokenizer, topics: list[str], *, seed: int, temperature: float = 1.0, tokens: int = 64, batch: int = 64) -> list[str]:
    """What a local model writes behind each topic's opening, drawn at `temperature` up to its end mark."""
    import torch
    torch.manual_seed(seed)
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    written = []
    for start in range(0, len(topics), batch):
        inputs = tokenizer([OPEN.format(topic=topic) for topic in topics[start:start + batch]], return_tensors="pt", padding=True).to(model.device)
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=tokens, do_sample=True, temperature=temperature, top_k=0,
                                 pad_token_id=tokenizer.pad_token_id)
        written += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
    tokenizer.padding_side = side
    return written


def open_endpoints(how: SelfInstruct) -> dict[str, EndpointJudge]:
    """The generators behind endpoints by their names; none where they are local. StageError when a key is missing."""
    return {name: EndpointJudge(endpoint.asked(how.temperature, how.tokens), "Self-Instruct") for name, endpoint in how.endpoints.items()}


def ask(generator: Judge, topics: list[str], seeds: pd.DataFrame, *, examples: int, seed: int, store: Path | None = None) -> list[str]:
    """What an endpoint writes on each topic, as it came. Each request shows `examples` seed tasks (instruction records) drawn by the seed.

    Every reply is stored as it arrives and asked for once, whatever happens on the way. One that is not in form is asked for
    once more, with the reason; if that is not either, it stays as it is (behind UNFINISHED where its end is missing), and `rows`
    counts it as unread.
    """
    tasks = as_tasks(seeds, sorted(set(topics))).sum(axis=1).tolist()
    rng, times, asks = np.random.default_rng(seed), Counter(), []
    for number, topic in enumerate(topics):
        shown = [tasks[i] for i in rng.choice(len(tasks), min(examples, len(tasks)), replace=False)]
        asks.append(Asked(f"{number:05d}", request(topic, shown), (topic,), repeat=times[topic]))  # a topic comes often: each time it is a new asking
        times[topic] += 1

    def render(asked: Asked, complaint: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": asked.question + (f"\n\n上一次的回答不合要求（{asking.in_chinese(complaint)}），请重新出题。" if complaint else "")}]

    def parse(asked: Asked, text: str) -> str:
        if not _read(asked.answers[0], text):
            raise ValueError("没有按“问：…答：…”的格式输出")
        return text

    with Store(store or paths.replies(generator.identity[:16])) as opened:
        made = asking.ask_all(generator, asks, render, parse, opened)
    return [("" if judgement.outcome in ("verdict", "unparsable") else UNFINISHED) + judgement.replies[-1] for judgement in made]


def _read(topic: str, raw: str) -> tuple[str, str] | None:
    """Question and answer of a reply, None when it is not in form. An endpoint may repeat the opening; what follows the answer is ignored."""
    found = REPLY.match(normalise(raw).strip().removeprefix(OPEN.format(topic=topic)).removeprefix("问："))
    pair = (found["question"].strip(), found["answer"].strip()) if found else ("", "")
    return pair if all(pair) else None


def rows(generator: str, topics: list[str], written: list[str]) -> pd.DataFrame:
    """Replies as rows; prompt and completion are empty where a reply is not in form: such rows are counted and dropped later."""
    made = []
    for number, (topic, raw) in enumerate(zip(topics, written, strict=True)):
        question, answer = _read(topic, raw) or ("", "")
        made.append((f"{generator}-{number:05d}", generator, topic, raw, f"问：{question}\n答：" if question else "", answer))
    return pd.DataFrame(made, columns=COLUMNS)


def in_the_exams(made: pd.DataFrame, items: pd.DataFrame, questions: pd.DataFrame, corpus: Corpus) -> pd.DataFrame:
    """Which rows (prompt, completion) hold a test item or a question of the benchmarks, by the rule and threshold of 01's audit:
    (source, text_id, item), one row per pair."""
    asked = pd.concat([items[items["split"] == "test"], questions.assign(question=questions["prompt"], context="", options=[[] for _ in range(len(questions))])])
    texts = pd.DataFrame({"id": made["id"], "source": made["generator"], "text": made["prompt"] + made["completion"]})
    return contamination.compare(texts, contamination.index(asked, corpus.contamination_ngram), corpus.contamination_threshold)[1]


def account(made: pd.DataFrame, leaked: set[str]) -> pd.DataFrame:
    """Where every reply went (generated records): generator, topics, written, not_in_form, not_new, kept, how many of the kept ones are
    `leaked` (ids; in_the_exams), and what the fact tables say of them (right, wrong, undecided, and unreadable: the question asks for
    nothing in the tables)."""
    verdicts = ("right", "wrong", "undecided", "unreadable")
    return pd.DataFrame([{"generator": name, "topics": part["topic"].nunique(), "written": len(part), "not_in_form": int((part["prompt"] == "").sum()),
                          "not_new": int((~part["novel"] & (part["prompt"] != "")).sum()), "kept": int(part["novel"].sum()),
                          "in_the_exams": int(part["id"].isin(leaked).sum())}
                         | {verdict: int((part["novel"] & (part["truth"] == verdict)).sum()) for verdict in verdicts}
                         for name, part in made.groupby("generator", sort=True)])


def check(fresh: pd.DataFrame, generators: list[str]) -> None:
    """StageError when a generator wrote too few rows that count for a filter to choose from."""
    counts = fresh.groupby("generator").size().reindex(generators, fill_value=0)
    if counts.min() < FEWEST:
        raise StageError(f"{counts.idxmin()} wrote {counts.min()} new rows in form, and a filter needs {FEWEST} to choose from; raise instruction.selfinstruct.draws, "
                         "or what the generator reads (pretraining.generators)")


def as_instructions(made: pd.DataFrame, licence: str, about: dict[str, list[str]]) -> pd.DataFrame:
    """Generated records as instruction records; `source` names the generator, `about` gives the fact ids that a row (by id) asks for."""
    return pd.DataFrame({"id": list(made["id"]), "source": [f"generated_{name}" for name in made["generator"]], "licence": licence, "prompt": list(made["prompt"]),
                         "completion": list(made["completion"]), "fact_ids": [about.get(identity, []) for identity in made["id"]]},
                        columns=["id", "source", "licence", "prompt", "completion", "fact_ids"])


def novel(made: pd.DataFrame, known: list[str], threshold: float = 0.7) -> pd.DataFrame:
    """For each row whether its question is new: the Jaccard similarity of character pairs with every known question and
    every earlier row that was kept is below `threshold`.

    Columns: novel (bool), similarity (the highest), nearest (what it resembles). Rows without a question are not novel.
    Self-Instruct uses ROUGE-L below 0.7 on words, of which Chinese has none between spaces.
    """
    index: dict[tuple, set[int]] = defaultdict(set)
    kept: list[tuple[str, set]] = []

    def keep(name: str, grams: set) -> None:
        for gram in grams:
            index[gram].add(len(kept))
        kept.append((name, grams))

    for question in known:
        keep("known", ngrams(question, 2))
    found = []
    for identity, prompt in made[["id", "prompt"]].itertuples(index=False):
        grams = ngrams(prompt, 2)
        if not prompt or not grams:
            found.append((False, np.nan, ""))
            continue
        shared = Counter(number for gram in grams for number in index[gram])
        best, nearest = max(((count / len(grams | kept[number][1]), kept[number][0]) for number, count in shared.items()), default=(0.0, ""))
        found.append((best < threshold, best, nearest))
        if best < threshold:
            keep(identity, grams)
    return pd.DataFrame(found, columns=["novel", "similarity", "nearest"], index=made.index)
