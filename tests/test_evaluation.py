"""The evaluation room: prompts are the paper's, examples never leak, every answer counts once, and comparisons pair the same items."""

import numpy as np
import pandas as pd
import pytest
import torch
from small import TINY, items, make_model, world

from hippo_utils import records
from hippo_utils.evaluation import confidence, extraction, harness, preferences, scoring
from hippo_utils.manifest import StageError
from hippo_utils.miniworld.exercises import step_by_step_prompt
from hippo_utils.statistics import wilson

BENCHMARKS = list(TINY.corpus.benchmarks)
HOSTILE = {"id": "medqa-test-hostile", "benchmark": "medqa", "split": "test", "group": "seen", "subject": "s", "cluster": "c", "fact_ids": [], "steps": 1,
           "question": 'Is "{{7 * 7}}" {% raw %} <b>5 µg</b>\\n ≥ 3?\n二者皆可 ', "context": "", "options": ["{{options}}", "a|b", "½ tablet", "n/a"], "answer": 2}
RECORD = {"run": "r", "seed": 0, "stages": "base"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(tokenizer, context=2048)


@pytest.fixture(scope="module")
def exam() -> pd.DataFrame:
    """Some test items of each benchmark, all development items, and one item full of template signs."""
    test = items()[items()["split"] == "test"].groupby(["benchmark", "group", "steps"]).head(2)
    return pd.concat([test, items()[items()["split"] == "development"], pd.DataFrame([HOSTILE])], ignore_index=True)


def prompt_of(item) -> str:
    return records.item_prompt(item["question"], list(item["options"]), item["context"])


def requests(task, shots: int) -> list:
    """What lm-eval will ask of the model: (item, prompt, continuation)."""
    task.set_config("num_fewshot", shots)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    return [(instance.doc, *instance.arguments) for instance in task.instances]


# --- prompts ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", ["option_text", "step_by_step", "rationale"])
def test_lm_eval_renders_the_prompt_that_training_used(exam, protocol):
    """The Jinja of tasks/*.yaml and records.item_prompt say the same thing twice; a space of difference costs accuracy."""
    by_id = exam.set_index("id")
    with harness.tasks(exam, BENCHMARKS, protocol, 0) as tasks:
        assert [task.config.task for task in tasks] == [f"hippo_{name}_{protocol}" for name in BENCHMARKS]
        for task in tasks:
            asked = requests(task, 0)
            for doc, prompt, said in asked:
                plain = prompt_of(by_id.loc[doc["id"]])
                assert prompt == (plain if protocol == "option_text" else step_by_step_prompt(plain))
                assert said["until"] == ["\n\n", "\nQuestion:"] if protocol == "rationale" else said in [" " + option for option in doc["options"]]
            if protocol != "rationale":
                scored = {}
                for doc, _, said in asked:
                    scored.setdefault(doc["id"], []).append(said)
                for item, texts in scored.items():
                    assert texts == [" " + option for option in by_id.loc[item, "options"]], "each option once, in order"
            assert {doc["id"] for doc, *_ in asked} == set(exam["id"][(exam["benchmark"] == task.config.task.removeprefix("hippo_").removesuffix(f"_{protocol}")) & (exam["split"] == "test")])


def test_few_shot_examples_come_from_seen_development_items_only(exam):
    exam = exam.copy()
    development = exam.index[exam["split"] == "development"]
    exam.loc[development[::5], "group"], exam.loc[development[2::5], "group"] = "held_out", "control"
    pool = harness.few_shot_examples(exam, 3)
    assert set(pool["split"]) == {"development"} and set(pool["group"]) == {"seen"}
    assert pool["id"].tolist() == harness.few_shot_examples(exam.sample(frac=1, random_state=1), 3)["id"].tolist() != harness.few_shot_examples(exam, 4)["id"].tolist()
    with harness.tasks(exam, BENCHMARKS, "option_text", 3) as tasks:
        for benchmark, task in zip(BENCHMARKS, tasks):
            shown = pool[pool["benchmark"] == benchmark].head(5)
            blocks = [f"{prompt_of(row)} {row['options'][row['answer']]}\n\n" for _, row in shown.iterrows()]
            for doc, prompt, _ in requests(task, 5):
                assert prompt == "".join(blocks) + prompt_of(doc), "the same five examples, in order, then the question"


def test_real_data_without_groups_has_few_shot_examples_too(exam):
    assert len(harness.few_shot_examples(exam.assign(group="all"), 0)) == (exam["split"] == "development").sum()


def test_limit_takes_the_first_test_items_of_each_benchmark(exam):
    with harness.tasks(exam, ["pubmedqa", "medqa"], "option_text", 0, limit=2) as tasks:
        for benchmark, task in zip(("pubmedqa", "medqa"), tasks):
            expected = exam[(exam["benchmark"] == benchmark) & (exam["split"] == "test")]["id"].head(2)
            assert [doc["id"] for doc in task.test_docs()] == expected.tolist()


def test_a_benchmark_without_items_is_a_sentence(exam):
    with pytest.raises(StageError, match="usmle_step3 has no test items; 01_corpus must build it"):
        with harness.tasks(exam[exam["benchmark"] != "usmle_step3"], BENCHMARKS, "option_text", 0):
            pass


# --- answers ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def answered(exam, model, tokenizer) -> dict:
    with harness.tasks(exam, ["medqa", "pubmedqa"], "option_text", 0) as tasks:
        return {(shots, tokens): harness.answers(harness.language_model(model, tokenizer, batch_tokens=tokens), tasks, shots=shots, **RECORD)
                for shots, tokens in ((0, 4096), (0, 300), (2, 4096))}


def test_answers_are_prediction_records_of_every_item(answered, exam, tmp_path):
    made = answered[0, 4096]
    assert records.write("prediction", made, tmp_path / "p.parquet") == len(made)
    assert sorted(made["item"]) == sorted(exam["id"][exam["benchmark"].isin(["medqa", "pubmedqa"]) & (exam["split"] == "test")])
    options = exam.set_index("id").loc[made["item"]]
    assert [len(scores) for scores in made["log_likelihoods"]] == [len(names) for names in options["options"]]
    assert made["option_bytes"].tolist() == [[len(name.encode()) for name in names] for names in options["options"]]
    assert made["prediction"].tolist() == [int(np.argmax(scores)) for scores in made["log_likelihoods"]]
    assert made["correct"].tolist() == (made["prediction"].to_numpy() == options["answer"].to_numpy()).tolist()
    assert (made["tokens_cut"] == 0).all() and (answered[2, 4096]["shots"] == 2).all()
    assert set(made["prompt_hash"]).isdisjoint(answered[2, 4096]["prompt_hash"])


def test_answers_do_not_depend_on_the_size_of_batches(answered):
    one, other = answered[0, 4096], answered[0, 300]
    same = ["item", "benchmark", "prompt_hash", "prediction", "correct", "option_bytes"]
    assert one[same].equals(other[same])
    assert np.concatenate(one["log_likelihoods"].tolist()) == pytest.approx(np.concatenate(other["log_likelihoods"].tolist()), abs=1e-3)


def test_the_score_is_the_log_likelihood_of_the_option_behind_the_prompt(answered, exam, model, tokenizer):
    from hippo_utils.training.preference import log_likelihoods
    by_id = exam.set_index("id")
    for row in answered[0, 4096].to_dict("records")[::5]:
        item = by_id.loc[row["item"]]
        alone = log_likelihoods(model, tokenizer, [prompt_of(item)] * len(item["options"]), [" " + option for option in item["options"]], end="")
        assert row["log_likelihoods"] == pytest.approx(alone["log_likelihood"].tolist(), abs=1e-3)


def test_examples_change_the_answer(answered):
    one, other = (np.concatenate(answered[shots, 4096]["log_likelihoods"].tolist()) for shots in (0, 2))
    assert np.abs(one - other).max() > 0.1


def test_a_prompt_that_does_not_fit_stops_the_run_instead_of_being_cut(exam, tokenizer):
    with harness.tasks(exam, ["medqa"], "option_text", 0, limit=2) as tasks:
        with pytest.raises(StageError, match="base, 5-shot, option_text: .*tokens"):
            harness.answers(harness.language_model(make_model(tokenizer, context=128), tokenizer, batch_tokens=4096), tasks, shots=5, **RECORD)


def test_a_broken_model_stops_the_run_instead_of_answering(exam, tokenizer):
    """argmax of nan is the first option: a broken model would answer A and score what A is worth."""
    broken = make_model(tokenizer, context=2048)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with harness.tasks(exam, ["medqa"], "option_text", 0, limit=1) as tasks:
        with pytest.raises(StageError, match="log-likelihoods are not numbers"):
            harness.answers(harness.language_model(broken, tokenizer, batch_tokens=4096), tasks, shots=0, **RECORD)


def test_an_unread_rationale_counts_as_wrong(exam, model, tokenizer, tmp_path):
    with harness.tasks(exam, ["medqa"], "rationale", 0, limit=4) as tasks:
        written = harness.answers(harness.language_model(model, tokenizer, batch_tokens=4096), tasks, shots=0, protocol="rationale", new_tokens=8, **RECORD)
    assert records.write("prediction", written, tmp_path / "p.parquet") == 4
    assert (written["prediction"] == harness.NO_ANSWER).all() and not written["correct"].any()
    assert all(isinstance(text, str) and text for text in written["generated_text"])


@pytest.mark.parametrize("text, option", [
    (" It is X. Answer: beta blocker", 1), ("Answer: Beta Blocker.", 1), ("Answer: (b)", 1), ("Answer: B", 1), ("Answer: b) beta blocker", 1), ("Answer: C. 5 mg", 2),
    ("Answer: 5 mg a.m.", 2), ("Answer: statin\nso Answer: beta blocker", 1), ("answer unknown", -1), ("Answer:", -1), ("Answer: none of them", -1), ("", -1),
    ("Answer: a beta blocker or a statin", -1), ("Answer: (j)", -1), ("Answer: d", -1), ("Answer: because of the heart", -1)])
def test_a_reply_is_read_or_it_is_no_answer(text, option):
    assert extraction.parse_answer(text, ["statin", "beta blocker", "5 mg a.m."]) == option


def test_predictions_have_one_order(answered):
    made = pd.concat([answered[0, 4096].assign(stages=stages, shots=shots) for stages in ("SFT", "base", "CP+SFT+DPO") for shots in (5, 0)])
    ordered = harness.order(made)
    assert ordered.equals(harness.order(made.sample(frac=1, random_state=0)))
    assert list(dict.fromkeys(ordered["stages"])) == ["base", "SFT", "CP+SFT+DPO"] and len(ordered) == len(made)


# --- scoring ---------------------------------------------------------------------------------------------------------

def answers(stages: str, correct: list[bool], benchmark: str = "medqa", group: str = "held_out", steps: int = 1, protocol: str = "option_text", shots: int = 0):
    return pd.DataFrame({"run": "r", "seed": 0, "stages": stages, "item": [f"{benchmark}-{group}-{steps}-{n}" for n in range(len(correct))], "benchmark": benchmark,
                         "protocol": protocol, "shots": shots, "correct": correct, "group": group, "steps": steps, "cluster": [f"c{n // 2}" for n in range(len(correct))]})


def test_accuracies_have_known_answers():
    table = scoring.accuracies(pd.concat([answers("CP", [True] * 3 + [False]), answers("base", [False] * 4), answers("CP", [True] * 2, group="control")]))
    assert table.columns.tolist() == scoring.COLUMNS
    cell = table.set_index(["stages", "group"])
    assert cell.loc[("CP", "held_out"), ["n", "accuracy", "ci_low", "ci_high"]].tolist() == [4, 0.75, wilson(3, 4).low, wilson(3, 4).high]
    assert cell.loc[("CP", "all"), ["n", "accuracy"]].tolist() == [6, pytest.approx(5 / 6)]
    assert table["stages"].iloc[0] == "base", "the paper's order of stages"


def test_data_without_groups_is_not_counted_twice():
    assert len(scoring.accuracies(answers("CP", [True, False], group="all"))) == 1


def test_pools_hold_one_step_knowledge_items_and_two_steps_stand_apart():
    joined = pd.concat([answers("CP", [True] * 4, "medmcqa"), answers("CP", [False] * 3, "medqa"), answers("CP", [True] * 2, "medqa", steps=2),
                        answers("CP", [False] * 5, "pubmedqa"), answers("CP", [True], "usmle_step1")])
    table = scoring.accuracies(scoring.with_pools(joined))
    n = table[table["group"] == "held_out"].set_index("benchmark")[["n", "accuracy"]]
    assert n.loc["knowledge"].tolist() == [8, pytest.approx(5 / 8)], "no PubMedQA, whose answer stands in its context"
    assert n.loc["two_step"].tolist() == [2, 1.0] and n.loc["medqa"].tolist() == [5, 0.4]


def test_a_prediction_without_its_item_is_an_error(answered):
    with pytest.raises(ValueError, match="predictions answer items that are not there.*run 05_evaluation again"):
        scoring.join(answered[0, 4096], items().head(1))
    assert len(scoring.join(answered[0, 4096].iloc[:-1], pd.concat([items(), pd.DataFrame([HOSTILE])]))) == len(answered[0, 4096]) - 1


RESULTS = pd.concat([answers("base", [True] * 4 + [False] * 16), answers("CP", [True] * 4 + [True] * 6 + [False] * 10),
                     answers("base", [True, False] * 10, "medmcqa"), answers("CP", [False, True] * 10, "medmcqa"),
                     answers("CP", [True] * 20, protocol="step_by_step"), answers("CP", [True] * 20, "medmcqa", protocol="step_by_step")], ignore_index=True)
ROWS = [("CP", "option_text", "base"), ("CP", "step_by_step", "CP")]


def ladder(joined: pd.DataFrame) -> pd.DataFrame:
    table = scoring.ladder(joined, ROWS, shots=0, seed=1, resamples=200)
    return table.sort_values(["protocol", "benchmark", "group"]).reset_index(drop=True)


def test_the_ladder_compares_the_same_items():
    """Six items gained and none lost is p = 2 / 2^6; the same totals unpaired would say something else."""
    row = ladder(RESULTS).set_index(["protocol", "benchmark", "group"]).loc[("option_text", "medqa", "held_out")]
    assert (row["n"], row["difference"], row["p_mcnemar"]) == (20, pytest.approx(0.3), pytest.approx(2 / 2**6))
    assert 0 <= row["difference_low"] < 0.3 < row["difference_high"]
    other = ladder(RESULTS).set_index(["protocol", "benchmark", "group"]).loc[("option_text", "medmcqa", "held_out")]
    assert (other["difference"], other["p_mcnemar"]) == (0.0, 1.0)
    assert row["p_holm"] == pytest.approx(2 * row["p_mcnemar"]), "two benchmarks make a family of two; the pools none"


def test_the_ladder_does_not_depend_on_the_order_of_rows():
    pd.testing.assert_frame_equal(ladder(RESULTS), ladder(RESULTS.sample(frac=1, random_state=3).reset_index(drop=True)))


def test_the_ladder_leaves_out_what_was_not_evaluated():
    only = RESULTS[~((RESULTS["stages"] == "base") & (RESULTS["benchmark"] == "medmcqa"))]
    assert not ((ladder(only)["benchmark"] == "medmcqa") & (ladder(only)["compared_with"] == "base")).any()
    assert set(ladder(RESULTS[RESULTS["stages"] == "CP"])["compared_with"]) == {"CP"}


def test_select_takes_zero_shot_for_prompts_and_the_asked_shots_for_the_rest():
    joined = pd.concat([RESULTS, RESULTS.assign(shots=5)])
    chosen = scoring.select(joined, [("CP", "option_text"), ("CP", "step_by_step")], 5)
    assert set(zip(chosen["protocol"], chosen["shots"])) == {("option_text", 5), ("step_by_step", 0)} and set(chosen["stages"]) == {"CP"}


@pytest.fixture(scope="module")
def guessers() -> pd.DataFrame:
    return scoring.shortcut(world(), items())


def control_answers(guessers: pd.DataFrame, stages: str, accuracy: float, seed: int) -> pd.DataFrame:
    test = guessers[(guessers["group"] == "control") & guessers["benchmark"].isin(scoring.KNOWLEDGE)].reset_index(drop=True)
    right = np.random.default_rng(seed).permutation(len(test)) < accuracy * len(test)
    return test[["benchmark", "group", "cluster", "steps", "item"]].assign(run="r", stages=stages, protocol="option_text", shots=0, correct=right)


def test_a_planted_leak_raises_the_alarm_and_guessing_does_not(guessers):
    fair = pd.concat([control_answers(guessers, "base", 0.25, 1), control_answers(guessers, "CP", 0.25, 2)])
    quiet = scoring.control_test(fair, guessers)
    assert (quiet["p_holm"] > 0.05).all() and quiet["n"].iloc[0] == (fair[fair["stages"] == "CP"]["steps"] == 1).sum() > 30
    from scipy.stats import binom
    for row in quiet.to_dict("records"):  # one item less would pass unnoticed
        noticed, p = round(row["noticed_from"] * row["n"]), lambda right: len(quiet) * binom.sf(right - 1, row["n"], row["guess"])
        assert p(noticed) <= 0.05 < p(noticed - 1) and row["noticed_from"] > row["guess"]
    leak = scoring.control_test(pd.concat([fair, control_answers(guessers, "CP+SFT", 0.6, 3)]), guessers).set_index("stages")
    assert leak.loc["CP+SFT", "p_holm"] < 0.01 and (leak.loc[["base", "CP"], "p_holm"] > 0.05).all()
    assert 0.2 < leak["guess"].iloc[0] < 0.5


def test_the_guessers_know_their_chance(guessers):
    table = scoring.shortcut_accuracies(guessers).set_index(["benchmark", "group", "guesser"])["accuracy"]
    assert table[("medmcqa", "control", "chance")] == pytest.approx(1 / 4) and table[("pubmedqa", "seen", "chance")] == pytest.approx(1 / 3)
    with_bar = scoring.with_shortcut(scoring.accuracies(control_answers(guessers, "CP", 0.3, 0)), guessers)
    assert with_bar["shortcut"].between(0.15, 0.7).all()


@pytest.mark.parametrize("low, high, smallest, words", [
    (0.1, 0.3, 0.2, "+20.0 points (+10.0 to +30.0, n = 90): better; the interval excludes 0."),
    (-0.3, -0.1, 0.2, "-20.0 points (-30.0 to -10.0, n = 90): worse; the interval excludes 0."),
    (-0.1, 0.1, 0.17, "+0.0 points (-10.0 to +10.0, n = 90): no difference shown (one of 17 points would have been seen 8 times in 10)."),
    (0.0, 0.0, float("nan"), "+0.0 points (+0.0 to +0.0, n = 90): no difference shown (too few items are answered differently for any to be seen)."),
])
def test_conclusions_say_what_the_interval_allows(low, high, smallest, words):
    row = {"stages": "CP", "protocol": "step_by_step", "compared_with": "base", "n": 90, "difference": (low + high) / 2, "difference_low": low, "difference_high": high,
           "smallest_detectable": smallest}
    assert scoring.conclusions(pd.DataFrame([row])) == [f"CP with the step-by-step prompt against base: {words}"]


def test_prompting_shows_a_rationale_only_for_two_steps():
    joined = pd.concat([answers("CP", [True] * 4), answers("CP", [True] * 4, steps=2), answers("CP", [False] * 4, protocol="rationale"),
                        answers("CP", [True] * 4, steps=2, protocol="rationale"), answers("base", [True] * 4)])
    table = scoring.prompting(joined, "CP")
    assert set(table["stages"]) == {"CP"} and set(table[table["prompting"] == "written rationale"]["benchmark"]) == {"two_step"}


# --- preferences and confidence --------------------------------------------------------------------------------------

def test_preference_accuracy_before_and_after_with_paired_intervals():
    pairs = pd.DataFrame({"prompt": [f"q{n // 2}" for n in range(40)], "kind": ["fact", "fact", "style", "style"] * 10})
    before = pd.DataFrame({"summed": [0.0, 1.0] * 20, "normalised": 0.5})
    after = pd.DataFrame({"summed": 1.0, "normalised": [1.0, 0.0] * 20})
    table = preferences.before_and_after(before, after, pairs, seed=1, resamples=200).set_index(["kind", "measure"])
    assert table.index.tolist() == [(kind, measure) for kind in ("all", "fact", "style") for measure in ("summed", "normalised")]
    assert table.loc[("all", "summed"), ["n", "before", "after", "difference"]].tolist() == [40, 0.5, 1.0, 0.5]
    assert table.loc[("all", "normalised"), ["before", "after", "difference"]].tolist() == [0.5, 0.5, 0.0]
    assert table.loc[("fact", "summed"), "n"] == 20
    assert table.loc[("all", "summed"), ["difference_low", "difference_high"]].tolist() == [0.5, 0.5], "every question has one pair won and one lost"
    bars = preferences.for_figure(table.reset_index())
    assert bars["series"].unique().tolist() == ["CP+SFT", "CP+SFT+DPO"] and len(bars) == 6


def test_confidence_is_the_softmax_at_the_prediction_and_densities_share_one_area(answered, exam):
    joined = scoring.join(answered[0, 4096], exam)
    sure = confidence.of_predictions(joined, shots=0)
    scores = sure["log_likelihoods"].iloc[0]
    assert sure["confidence"].iloc[0] == pytest.approx(np.exp(max(scores)) / np.exp(scores).sum())
    assert len(sure) == len(joined)
    rng = np.random.default_rng(0)
    many = pd.DataFrame({"benchmark": "medqa", "stages": "CP", "correct": rng.random(400) < 0.3, "confidence": rng.beta(8, 8, 400)})
    drawn = confidence.densities(many, ["medqa"], ["CP"])
    assert drawn["density"].sum() / 100 == pytest.approx(1, abs=0.02)
    area = drawn.groupby("outcome")["density"].sum() / 100
    assert area["correct"] == pytest.approx(many["correct"].mean(), abs=0.02)
