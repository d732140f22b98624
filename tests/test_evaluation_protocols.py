"""The protocols beside the paper's: each shows what it says, and what a model answers is counted as the item's own option."""

import json

import numpy as np
import pandas as pd
import pytest
from lm_eval.api.model import LM
from small import TINY, items, make_model

from hippo_utils import records
from hippo_utils.evaluation import extraction, harness
from hippo_utils.evaluation.responses import Recorded
from hippo_utils.manifest import StageError

BENCHMARKS = list(TINY.corpus.benchmarks)
RECORD = {"run": "r", "seed": 0, "stages": "base"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(tokenizer, context=2048)


@pytest.fixture(scope="module")
def exam() -> pd.DataFrame:
    test = items()[items()["split"] == "test"].groupby(["benchmark", "group", "steps"]).head(2)
    return pd.concat([test, items()[items()["split"] == "development"]], ignore_index=True)


class Scripted(LM):
    """A model that answers by a rule: `likes(prompt, continuation)` is its log-likelihood, `says(prompt)` its reply."""

    max_length, max_gen_toks = 10**6, 64

    def __init__(self, likes=lambda prompt, text: 0.0, says=lambda prompt: ""):
        super().__init__()
        self.likes, self.says, self.asked = likes, says, []
        self.tokenizer = type("Plain", (), {"chat_template": None, "apply_chat_template": self.render})()

    def render(self, messages, **_):
        return "".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>"

    def apply_chat_template(self, messages, add_generation_prompt=True):
        return self.render(messages)

    tokenizer_name = "scripted"

    def tok_encode(self, text):
        return text.split()

    def _encode_pair(self, context, continuation):
        return context.split(), continuation.split()

    def loglikelihood(self, requests, disable_tqdm=False):
        self.asked += [request.args for request in requests]
        return [(self.likes(*request.args), False) for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise AssertionError("no task here asks for rolling log-likelihoods")

    def generate_until(self, requests, disable_tqdm=False):
        self.asked += [request.args for request in requests]
        return [self.says(request.args[0]) for request in requests]


def asked(exam: pd.DataFrame, protocol: str, lm: Scripted | None = None, *, shots: int = 0, benchmarks=BENCHMARKS, limit=None, **more):
    """(answers, requests) of a scripted model under a protocol."""
    lm = lm or Scripted()
    with harness.tasks(exam, benchmarks, protocol, 0, limit) as tasks:
        made = harness.answers(Recorded(lm), tasks, shots=shots, protocol=protocol, **RECORD, **more)
    return made, lm.asked


# --- letters ---------------------------------------------------------------------------------------------------------

def test_letters_are_scored_behind_the_listed_options(exam, tmp_path):
    made, requests = asked(exam, "letter", Scripted(likes=lambda prompt, text: float(text == " B")))
    assert records.write("prediction", made, tmp_path / "p.parquet") == len(made)
    by_id = exam.set_index("id")
    assert (made["prediction"] == 1).all() and made["correct"].tolist() == (by_id.loc[made["item"], "answer"] == 1).tolist()
    assert {text for _, text in requests} <= {f" {letter}" for letter in "ABCDEFGHIJ"}
    for row in made.to_dict("records"):
        assert len(row["log_likelihoods"]) == len(by_id.loc[row["item"], "options"]) and set(row["option_bytes"]) == {1}
    pubmedqa = next(prompt for prompt, _ in requests if prompt.startswith("Abstract:"))
    assert "(A) yes (B) no (C) maybe\nAnswer:" in pubmedqa, "a letter means nothing where its option is not shown"


def test_letters_of_the_examples_are_letters(exam):
    _, requests = asked(exam, "letter", shots=2, benchmarks=["medmcqa"])
    shown = [block.rpartition("Answer:")[2] for block in requests[0][0].split("\n\n")[:2]]
    assert all(text in {" A", " B", " C", " D"} for text in shown)


# --- permuted options ------------------------------------------------------------------------------------------------

def test_permuting_moves_every_item_s_options_and_keeps_what_is_right(exam):
    moved = harness.permuted(exam, 3)
    for before, after in zip(exam.to_dict("records"), moved.to_dict("records")):
        assert after["options"] != before["options"] and sorted(after["options"]) == sorted(before["options"])
        assert after["options"][after["answer"]] == before["options"][before["answer"]]
        assert [before["options"][place] for place in after["order"]] == after["options"]
    shuffled = exam.sample(frac=1, random_state=1)
    again = harness.permuted(shuffled, 3).set_index("id")["order"]
    assert again.loc[moved["id"]].tolist() == moved["order"].tolist(), "an item's order depends on the seed and its id alone"
    assert harness.permuted(exam, 4)["order"].tolist() != moved["order"].tolist()


def test_a_model_that_knows_is_the_same_under_permuted_options_and_one_that_takes_the_first_is_not(exam):
    by_id = exam.set_index("id")
    texts = {option: float(len(option)) + number / 97 for number, option in enumerate(sorted({o for options in exam["options"] for o in options}))}
    knows = Scripted(likes=lambda prompt, text: texts[text.strip()])
    straight, _ = asked(exam, "option_text", knows)
    moved, requests = asked(exam, "option_text+permuted", knows)
    assert moved["prediction"].tolist() == straight["prediction"].tolist() and moved["correct"].tolist() == straight["correct"].tolist()
    assert moved["log_likelihoods"].tolist() == straight["log_likelihoods"].tolist() and moved["option_bytes"].tolist() == straight["option_bytes"].tolist()
    assert set(moved["protocol"]) == {"option_text+permuted"}
    first, _ = asked(exam, "letter+permuted", Scripted(likes=lambda prompt, text: float(text == " A")))
    assert not (first["prediction"] == 0).any(), "the first that was shown is never the first of the item"
    order = harness.permuted(exam[exam["split"] == "test"], 0).set_index("id")["order"]
    assert first["prediction"].tolist() == [order[item][0] for item in first["item"]]
    assert first["correct"].tolist() == [order[item][0] == by_id.loc[item, "answer"] for item in first["item"]]


# --- writing ---------------------------------------------------------------------------------------------------------

def test_generate_reads_the_reply_and_counts_the_unread_as_wrong(exam):
    by_prompt = {}
    for row in exam[exam["benchmark"] == "medmcqa"].to_dict("records"):
        by_prompt[row["question"]] = row["options"][row["answer"]]
    made, requests = asked(exam, "generate", Scripted(says=lambda prompt: next(right for question, right in by_prompt.items() if question in prompt)), benchmarks=["medmcqa"])
    assert made["correct"].all() and all(kwargs["until"] == ["\n"] and kwargs["max_gen_toks"] == 64 for _, kwargs in requests)
    for says in ("I am not sure.", "", "(J)"):
        unread, _ = asked(exam, "generate", Scripted(says=lambda prompt: says), benchmarks=["medmcqa", "pubmedqa"])
        assert (unread["prediction"] == harness.NO_ANSWER).all() and not unread["correct"].any() and (unread["generated_text"] == says).all()
    letters, _ = asked(exam, "generate+permuted", Scripted(says=lambda prompt: " (A)"), benchmarks=["medmcqa"])
    assert not (letters["prediction"] == 0).any()


def test_self_consistency_is_a_vote_over_the_samples(exam, tmp_path):
    replies = iter(["Answer: (B)", "no idea", "Answer: (A)", "Answer: (A)", "Answer: (C)"] * 1000)
    made, requests = asked(exam, "self_consistency", Scripted(says=lambda prompt: next(replies)), benchmarks=["medmcqa"], limit=3, samples=5, temperature=0.9, new_tokens=7)
    assert len(requests) == 15 and all(kwargs["do_sample"] and kwargs["temperature"] == 0.9 and kwargs["max_gen_toks"] == 7 for _, kwargs in requests)
    assert (made["prediction"] == 0).all() and [len(json.loads(text)) for text in made["generated_text"]] == [5, 5, 5]
    assert records.write("prediction", made, tmp_path / "p.parquet") == 3
    unread, _ = asked(exam, "self_consistency", Scripted(says=lambda prompt: "?"), benchmarks=["medmcqa"], limit=2, samples=3)
    assert (unread["prediction"] == harness.NO_ANSWER).all()


def test_samples_differ_from_each_other_and_come_back_with_the_seed(exam, model, tokenizer):
    def sampled(seed):
        with harness.tasks(exam, ["medmcqa"], "self_consistency", 0, 2) as tasks:
            lm = harness.language_model(model, tokenizer, batch_tokens=4096)
            return harness.answers(lm, tasks, shots=0, protocol="self_consistency", samples=3, temperature=1.0, new_tokens=8, sampling_seed=seed, **RECORD)["generated_text"].tolist()
    one = sampled(1)
    assert all(len(set(json.loads(text))) > 1 for text in one) and one == sampled(1) != sampled(2)


@pytest.mark.parametrize("choices, winner", [([0, 1, 1], 1), ([2, 0], 2), ([-1, -1, 3], 3), ([-1, -1], -1), ([], -1)])
def test_the_vote(choices, winner):
    assert extraction.vote(choices) == winner


@pytest.mark.parametrize("text, option", [
    ("The correct answer is (B).", 1), ("the answer is: beta blocker", 1), ("I think the answer is **B**", 1), ("The answer is B) beta blocker, because it slows the heart.", 1),
    ("answer is none of these", -1), ("The answer is beta blockers and statins", -1), ("Answer: beta blocker, which slows the heart", 1), ("Answer: statin (HMG-CoA)", 0),
    ("Answer: **(C)**", 2), ("Answer: option B", 1), ("The answer is A. Answer: C", 2), ("statin", -1)])
def test_what_a_rationale_s_reply_names(text, option):
    assert extraction.parse_answer(text, ["statin", "beta blocker", "5 mg a.m."]) == option


@pytest.mark.parametrize("text, option", [
    (" statin", 0), (" B", 1), ("(b) beta blocker\nQuestion: (A)", 1), ("**5 mg a.m.**", 2), ("a", 0), ("a statin", -1), ("because of A", -1), ("statin or beta blocker", -1),
    ("\n\n", -1), ("maybe", -1), ("The answer is C", 2)])
def test_what_a_direct_reply_names(text, option):
    assert extraction.parse_answer(text, ["statin", "beta blocker", "5 mg a.m."], direct=True) == option


# --- chat template and the paper's examples --------------------------------------------------------------------------

def test_a_chat_template_wraps_the_prompt_and_goes_away_again(exam, model, tokenizer):
    assert tokenizer.chat_template is None
    with harness.tasks(exam, ["medmcqa"], "option_text+chat", 0, 3) as tasks:
        lm = harness.language_model(model, tokenizer, batch_tokens=4096)
        made = harness.answers(lm, tasks, shots=0, protocol="option_text+chat", **RECORD)
        prompt, said = tasks[0].instances[0].args
    item = exam.set_index("id").loc[made["item"].iloc[0]]
    assert prompt == f"### User:\n{records.item_prompt(item['question'], item['options'])}\n\n### Assistant:\n" and said == item["options"][0]
    assert tokenizer.chat_template is None
    with harness.tasks(exam, ["medmcqa"], "option_text", 0, 3) as tasks:
        plain = harness.answers(lm, tasks, shots=0, **RECORD)
    assert np.abs(np.concatenate(plain["log_likelihoods"].tolist()) - np.concatenate(made["log_likelihoods"].tolist())).max() > 0.1


def test_the_papers_examples_are_new_for_every_item_and_never_the_item_itself(exam):
    made, requests = asked(exam, "option_text+paper_examples", shots=2, sampling_seed=5)
    again, same = asked(exam, "option_text+paper_examples", shots=2, sampling_seed=5)
    other = asked(exam, "option_text+paper_examples", shots=2, sampling_seed=6)[1]
    assert requests == same and requests != other
    development, test = (exam[exam["split"] == split] for split in ("development", "test"))
    drawn: dict[str, set] = {name: set() for name in BENCHMARKS}
    for item, (prompt, _) in zip(made["item"].repeat(made["log_likelihoods"].map(len)), requests):
        row = exam.set_index("id").loc[item]
        *shown, last = prompt.split("\n\n")
        assert len(shown) == 2 and last == records.item_prompt(row["question"], row["options"], row["context"])
        pool = development if row["benchmark"] in harness.TRAINING_SPLIT else test
        blocks = {f"{records.item_prompt(r['question'], r['options'], r['context'])} {r['options'][r['answer']]}" for r in pool[pool["benchmark"] == row["benchmark"]].to_dict("records")}
        assert set(shown) <= blocks
        if row["benchmark"] not in harness.TRAINING_SPLIT:
            assert not any(block.startswith(last) for block in shown), "an item must not be its own example"
        drawn[row["benchmark"]].add(tuple(shown))
    assert all(len(sets) > 1 for sets in drawn.values())


def test_benchmarks_without_a_training_split_borrow_or_set_aside(exam):
    """USMLE shows MedQA's examples; PubMedQA some of its own items, which are then not scored; zero-shot scores all."""
    bare = exam[(exam["split"] == "test") | exam["benchmark"].isin(harness.TRAINING_SPLIT)].assign(group="all")
    pool = harness.few_shot_examples(bare, 0)
    assert set(pool[pool["benchmark"] == "usmle_step1"]["id"]) == set(bare[(bare["benchmark"] == "medqa") & (bare["split"] == "development")]["id"])
    made, requests = asked(bare, "option_text", shots=2)
    test = bare[bare["split"] == "test"].set_index("id")
    shown = pool[pool["benchmark"] == "pubmedqa"]["id"].head(2).tolist()
    assert set(test.index) - set(made["item"]) == set(shown) and set(test.loc[shown, "benchmark"]) == {"pubmedqa"}
    everyone = [prompt for prompt, _ in requests if prompt.startswith("Abstract:")]
    assert sum(prompt.split("\nQuestion:")[0] == everyone[0].split("\nQuestion:")[0] for prompt in everyone) >= 3 * (test["benchmark"].eq("pubmedqa").sum() - 2)
    assert set(asked(bare, "option_text")[0]["item"]) == set(test.index)


def test_too_few_examples_are_a_sentence(exam):
    with pytest.raises(StageError, match="hippo_medqa_option_text: 9 examples are to be shown and 2 are there; 01_corpus makes them"):
        few = exam[(exam["split"] == "test") | (exam.groupby(["benchmark", "split"]).cumcount() < 2)]
        asked(few, "option_text", shots=9, benchmarks=["medqa"])


@pytest.mark.parametrize("protocol", ["lettr", "letter+shuffled", "option_text+"])
def test_an_unknown_protocol_is_a_sentence(exam, protocol):
    with pytest.raises(ValueError, match="no such protocol; expected one of generate, letter, option_text"):
        asked(exam, protocol)


# --- responses are kept ----------------------------------------------------------------------------------------------

class Dies(Scripted):
    """Answers so many requests, then is killed."""

    def __init__(self, after: int, **more):
        super().__init__(**more)
        self.after = after

    def loglikelihood(self, requests, disable_tqdm=False):
        done = []
        for request in requests:
            if len(self.asked) == self.after:
                raise KeyboardInterrupt
            done += super().loglikelihood([request])
            self.cache_hook.add_partial("loglikelihood", request.args, done[-1])
        return done


def likes(prompt: str, text: str) -> float:
    return -1 / (1 + len(prompt) + 7 * len(text))


def with_file(exam, lm, file, protocol: str = "option_text"):
    with harness.tasks(exam, ["medqa", "medmcqa"], protocol, 0) as tasks:
        return harness.answers(Recorded(lm, file), tasks, shots=0, protocol=protocol, **RECORD)


def test_a_stopped_evaluation_asks_only_for_what_is_missing(exam, tmp_path):
    whole, file = Scripted(likes=likes), tmp_path / "responses.jsonl"
    expected = with_file(exam, whole, None)
    with pytest.raises(KeyboardInterrupt):
        with_file(exam, Dies(17, likes=likes), file)
    assert len(file.read_text().splitlines()) == 17
    with file.open("a") as torn:
        torn.write('["half a li')  # the kill came in the middle of a line
    rest = Scripted(likes=likes)
    assert with_file(exam, rest, file).equals(expected)
    assert len(rest.asked) == len(whole.asked) - 17 and rest.asked == whole.asked[17:]
    nothing = Scripted(likes=likes)
    assert with_file(exam, nothing, file).equals(expected) and nothing.asked == []


def test_stored_log_likelihoods_come_back_to_the_last_digit(exam, model, tokenizer, tmp_path):
    made = []
    for _ in range(2):
        with harness.tasks(exam, ["medqa"], "option_text", 0) as tasks:
            made.append(harness.answers(harness.language_model(model, tokenizer, batch_tokens=4096, responses=tmp_path / "r.jsonl"), tasks, shots=0, **RECORD))
    assert made[0]["log_likelihoods"].tolist() == made[1]["log_likelihoods"].tolist()


def test_written_replies_are_kept_and_sampled_ones_only_whole(exam, tmp_path):
    file, says = tmp_path / "r.jsonl", iter(f"Answer: {n}" for n in range(10**6))
    one = with_file(exam, Scripted(says=lambda prompt: next(says)), file, "rationale")
    two = with_file(exam, Scripted(says=lambda prompt: "something else"), file, "rationale")
    assert one["generated_text"].tolist() == two["generated_text"].tolist()
    first, file = Scripted(says=lambda prompt: next(says)), tmp_path / "s.jsonl"
    with harness.tasks(exam, ["medqa"], "self_consistency", 0, 2) as tasks:
        sampled = harness.answers(Recorded(first, file), tasks, shots=0, protocol="self_consistency", samples=3, **RECORD)
    lines = file.read_text().splitlines()
    assert len(lines) == 6 and len(set(sampled["generated_text"])) == 2
    file.write_text("\n".join(lines[:4]) + "\n")
    again = Scripted(says=lambda prompt: "Answer: x")
    with harness.tasks(exam, ["medqa"], "self_consistency", 0, 2) as tasks:
        harness.answers(Recorded(again, file), tasks, shots=0, protocol="self_consistency", samples=3, **RECORD)
    assert len(again.asked) == 6, "all are drawn again, or the seed would mean nothing"


def test_prompts_that_do_not_fit_are_refused_or_counted_for_what_is_written_too(exam, tokenizer):
    short = make_model(tokenizer, context=128)
    with harness.tasks(exam, ["pubmedqa"], "rationale", 0, limit=3) as tasks:
        with pytest.raises(StageError, match=r"base, 0-shot, rationale: 3 of 3 prompts exceed the model's context of 128 tokens, by up to \d+: evaluation.allow_truncation cuts"):
            harness.answers(harness.language_model(short, tokenizer, batch_tokens=4096), tasks, shots=0, protocol="rationale", new_tokens=8, **RECORD)
        cut = harness.answers(harness.language_model(short, tokenizer, batch_tokens=4096, allow_truncation=True), tasks, shots=0, protocol="rationale", new_tokens=8, **RECORD)
    assert (cut["tokens_cut"] > 0).all()


@pytest.mark.parametrize("backend", ["auto", "hflm"])
def test_allowed_cuts_are_counted_and_the_back_ends_agree(exam, tokenizer, backend, tmp_path):
    short = make_model(tokenizer, context=128)
    made = {}
    for name in ("auto", backend):
        with harness.tasks(exam, ["pubmedqa"], "option_text", 0, limit=4) as tasks:
            lm = harness.language_model(short, tokenizer, batch_tokens=4096, backend=name, allow_truncation=True, responses=tmp_path / f"{name}.jsonl")
            made[name] = harness.answers(lm, tasks, shots=0, **RECORD)
    assert (made[backend]["tokens_cut"] > 0).all() and made[backend]["tokens_cut"].tolist() == made["auto"]["tokens_cut"].tolist()
    assert np.concatenate(made[backend]["log_likelihoods"].tolist()) == pytest.approx(np.concatenate(made["auto"]["log_likelihoods"].tolist()), abs=1e-3)
    with pytest.raises(StageError, match="exceed the model's context of 128 tokens"):
        with harness.tasks(exam, ["pubmedqa"], "option_text", 0, limit=4) as tasks:
            harness.answers(harness.language_model(short, tokenizer, batch_tokens=4096, backend=backend), tasks, shots=0, **RECORD)


def test_vllm_that_is_not_installed_is_a_sentence():
    with pytest.raises(StageError, match="evaluation.backend is vllm, which is not installed"):
        harness.language_model("some/folder", None, batch_tokens=1, backend="vllm")
