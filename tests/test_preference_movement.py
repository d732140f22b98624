"""How far DPO moved a policy: divergence, lengths, margins; and the study of how good a judge must be."""

import numpy as np
import pandas as pd
import pytest
from small import TINY, make_model, make_tokenizer, world

from hippo_utils import manifest, paths
from hippo_utils.corpus import sources
from hippo_utils.evaluation import preferences
from hippo_utils.judging import audit, pairs, rubric, verdicts
from hippo_utils.params import load_runs
from hippo_utils.reporting import studies
from hippo_utils.training import preference

PROMPTS = ["Question: What is it?\nAnswer:", "A?", "Question: Which of these drugs is an antibiotic?\nAnswer:"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_a_policy_that_did_not_move_has_not_drifted(tokenizer):
    model = make_model(tokenizer)
    moved = preference.drift(model, model, tokenizer, PROMPTS, seed=1, tokens=12)
    assert moved["kl"].tolist() == [0, 0, 0] and moved["tokens_before"].equals(moved["tokens_after"]) and moved["tokens_after"].between(1, 12).all()


def test_drift_is_the_divergence_along_the_policys_own_answer(tokenizer):
    """Against a sum over the vocabulary, token by token, without batches or padding."""
    import torch
    policy, reference = make_model(tokenizer, 0), make_model(tokenizer, 1)
    moved = preference.drift(policy, reference, tokenizer, PROMPTS, seed=1, tokens=12, batch=1)
    for prompt, row in zip(PROMPTS, moved.itertuples()):
        number = PROMPTS.index(prompt)
        mask, inputs = preference._sampled(policy, tokenizer, [prompt], 1 + number, 12)
        ids, start, total = inputs["input_ids"][0], len(tokenizer(prompt)["input_ids"]), 0.0
        answer = ids[start:].tolist()
        length = answer.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in answer else len(answer)
        for at in range(length):
            with torch.no_grad():
                p, q = (torch.log_softmax(model(ids[None, :start + at]).logits[0, -1], -1).double() for model in (policy, reference))
            total += float((p.exp() * (p - q)).sum())
        assert row.tokens_after == length == int(mask.sum()) and row.kl == pytest.approx(total, rel=1e-3) and total > 0
    together = preference.drift(policy, reference, tokenizer, PROMPTS, seed=1, tokens=12)
    assert together["kl"][0] > 0 and together.equals(preference.drift(policy, reference, tokenizer, PROMPTS, seed=1, tokens=12)), "the seed decides"


def test_margins_lengths_and_divergence_stand_in_one_table_with_intervals():
    pairs = pd.DataFrame({"prompt": ["a", "a", "b", "b"], "kind": ["fact", "fact", "style", "style"]})
    before, after = pd.DataFrame({"margin": [0.0, 1.0, 2.0, 3.0]}), pd.DataFrame({"margin": [1.0, 1.0, 6.0, 2.0]})
    drift = pd.DataFrame({"tokens_before": [10, 20], "tokens_after": [12, 28], "kl": [1.0, 3.0]})
    table = preferences.movement(before, after, pairs, drift, beta=0.1, seed=0).set_index(["what", "of"])
    value = lambda what, of: table.loc[(what, of), "value"]  # noqa: E731
    assert value("reward margin (nats)", "held-out pairs, all") == pytest.approx(0.1 * (1 + 0 + 4 - 1) / 4)
    assert value("reward accuracy", "held-out pairs, fact") == 0.75, "a margin of 0 is half a success"
    assert value("length drift (tokens)", "sampled answers") == 5
    assert value("KL to the reference (nats per answer)", "sampled answers") == 2 and value("KL to the reference (nats per token)", "sampled answers") == pytest.approx(4 / 40)
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all() and table.loc[("reward accuracy", "held-out pairs, all"), "n"] == 4


def test_the_judge_noise_study_differs_by_the_error_rate_alone():
    runs = load_runs("study_judge_noise")
    assert [settings.preference.error_rate for settings in runs] == [0, 0.1, 0.2, 0.3, 0.4]
    same = {settings.model_copy(update={"run": "", "preference": settings.preference.model_copy(update={"error_rate": 0.0})}).hash() for settings in runs}
    assert len(same) == 1
    assert len({manifest.plan_key(settings, "03_instruction") for settings in runs}) == 1, "all before the judge is made once"
    assert len({studies.setting_of(settings.run, "study_judge_noise") for settings in runs}) == 5, "five settings, not five seeds of one"


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4])
def test_a_worse_judge_teaches_as_many_wrong_pairs_as_its_rate_says_and_tests_with_none(rate):
    """The mechanism on the small world: what DPO trains on is wrong, what it is measured with is not, and the audit sees it."""
    rows = sources.build_candidates(TINY.corpus.model_copy(update={"candidates": {"mini_consultations": 180}}), world(), 0)
    judgements = verdicts.ask(verdicts.open_judge(TINY.preference, world()), rows, template="clinician-1", task="best", orders="one")
    decided = pairs.with_errors(rows, verdicts.decide(judgements, "majority"), rate, seed=4)
    table = audit.audit(rows, judgements, decided, seed=0, reference=rubric.truth(rows), resamples=100).set_index(["what", "of"])["value"]
    assert abs(1 - table["agreed with the reference", "questions, train"] - rate) < 0.1 and table["agreed with the reference", "questions, test"] == 1
    made = pairs.best_against_others(rows, decided)
    best = {row["id"]: row["answers"][row["authors"].index("clinician")] for row in rows.to_dict("records")}
    taught_wrong = made["chosen"] != made["id"].str.rsplit("-", n=1).str[0].map(best)
    assert abs(taught_wrong[made["split"] == "train"].mean() - rate) < 0.1 and not taught_wrong[made["split"] == "test"].any() and len(made) == 360


def test_a_study_of_judges_draws_their_errors_against_what_was_gained(home):
    runs = ["s-errors_00pc", "s-errors_40pc"]
    for run, right, gain in zip(runs, (1.0, 0.6), (0.2, 0.05)):
        folder = paths.figures(run)
        folder.mkdir(parents=True)
        pd.DataFrame([{"what": "agreed with the reference", "of": of, "value": value} for of, value in (("questions, all", 0.9), ("questions, train", right))]).to_csv(
            folder / "table_audit.csv", index=False)
        pd.DataFrame([{"kind": kind, "measure": measure, "difference": gain, "difference_low": gain - 0.1, "difference_high": gain + 0.1}
                      for kind in ("all", "fact") for measure in ("summed", "normalised")]).to_csv(folder / "table_preferences.csv", index=False)
    noise = studies.judge_noise("s", runs)
    assert noise[["run", "series"]].values.tolist() == [[run, kind] for run in runs for kind in ("all", "fact")]
    assert np.allclose(noise["x"], [0, 0, 0.4, 0.4]) and np.allclose(noise["y"], [0.2, 0.2, 0.05, 0.05])
    assert studies.judge_noise("s", runs[:1]).empty and studies.judge_noise("s", ["s-none"]).empty, "judges that do not differ make no figure"
    from hippo_utils.reporting import figures
    noise.to_csv(paths.figures("s-errors_00pc") / "fig_judge_noise.csv", index=False)
    figures.draw("judge_noise", paths.figures("s-errors_00pc"), "mini")
    assert (paths.figures("s-errors_00pc") / "fig_judge_noise.png").stat().st_size > 5000
