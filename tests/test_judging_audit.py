"""The audit finds the faults that a judge was given, and none in a judge without them; the sheet comes back to the answers it was made from."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from hippo_utils.judging import asking, audit, injection, pairs, prompts, sheet, verdicts
from hippo_utils.manifest import StageError

WORDS = "aspirin ibuprofen rest water sleep exercise a doctor a nurse the clinic".split()


def candidates(count: int = 200, seed: int = 0) -> pd.DataFrame:
    """Questions with a good answer (it says so), a bad and a worse one; lengths and places are drawn."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        answers = [f" {name} " + " ".join(rng.choice(WORDS, rng.integers(2, 12))) for name in ("GOOD", "BAD", "WORSE")]
        order = rng.permutation(3)
        rows.append({"id": f"q{number:03d}", "source": "s", "licence": "l", "split": "train", "kind": ("fact", "style")[number % 2], "prompt": f"Question {number}?",
                     "authors": [("doctor", "chatgpt", "chatdoctor")[i] for i in order], "answers": [answers[i] for i in order], "fact_ids": []})
    return pd.DataFrame(rows)


class Habit(asking.Judge):
    """A judge that picks the place `pick(asked)`, or says the text that it returns."""
    name, identity, in_flight = "habit", "habit", 1

    def __init__(self, pick):
        self.pick, self.account, self.troubles = pick, asking.Account(), asking.Counter()

    def reply(self, asked, messages):
        place = self.pick(asked)
        return asking.Reply(place if isinstance(place, str) else json.dumps({"best": "ABC"[place]}))


def good(asked) -> int:
    return next(place for place, answer in enumerate(asked.answers) if "GOOD" in answer)


def longest(asked) -> int:
    return max(range(3), key=lambda place: len(asked.answers[place]))


def draw(asked, *more) -> float:
    """A number in [0, 1) that depends on what is asked."""
    return int(prompts.hashlib.sha256(repr((asked, more)).encode()).hexdigest()[:8], 16) / 16**8


def audited(pick, rows=None, orders="rotations", repeated=0, reference=False) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = candidates() if rows is None else rows
    made = verdicts.ask(Habit(pick), rows, template="clinician-1", task="best", orders=orders, repeated=repeated)
    decided = verdicts.decide(made, "majority")
    truth = pd.Series([authors.index("doctor") for authors in rows["authors"]], index=rows["id"])
    return audit.audit(rows, made, decided, seed=1, reference=truth if reference else None, resamples=100).set_index(["what", "of"]), decided


def value(table, what) -> pd.Series:
    return table.loc[what].iloc[0]


def test_a_judge_without_faults_has_none():
    table, _ = audited(good, repeated=20, reference=True)
    for place in (1, 2, 3):
        assert value(table, f"chose place {place}")["value"] == pytest.approx(1 / 3)
    for what in ("named another answer in another order", "tie", "unparsable reply", "second reply needed"):
        row = value(table, what)
        assert row["value"] == 0 and row["low"] == 0 and 0 < row["high"] < 0.03 and row["n"] == 200, "0 of 200 is not 0 for certain"
    assert value(table, "doctor won")["value"] == 1 and value(table, "chatgpt won")["value"] == 0
    assert value(table, "agreed with the reference")["value"] == 1 and value(table, "Cohen's kappa with the reference")["value"] == 1
    assert value(table, "said the same when asked again")[["n", "value"]].tolist() == [20, 1]
    longer = value(table, "longer answer won")
    assert longer["low"] < 0.5 < longer["high"]


def test_position_bias_is_found_as_large_as_it_is():
    """30 % of the askings get the first place, whatever stands there."""
    table, decided = audited(lambda asked: 0 if draw(asked) < 0.3 else good(asked), candidates(400))
    first = value(table, "chose place 1")
    assert first["low"] < 0.3 + 0.7 / 3 < first["high"] and first["low"] > 1 / 3
    assert value(table, "chose place 2")["high"] < 1 / 3
    changed = value(table, "named another answer in another order")
    assert 0.3 < changed["value"] < 0.5
    truth = [authors.index("doctor") for authors in candidates(400)["authors"]]
    right = [best == true for best, true in zip(decided["best"], truth) if best is not None]
    assert np.mean(right) > 0.9, "one asking is right in 80 %; agreement repairs most of it"


def test_length_bias_is_found_and_grows_with_the_difference():
    rows = candidates(400)
    fair, _ = audited(good, rows)
    table, decided = audited(lambda asked: longest(asked) if draw(asked.id) < 0.5 else good(asked), rows)
    assert value(table, "longer answer won")["low"] > 0.6 > value(fair, "longer answer won")["high"]
    figure = audit.for_figure(rows, decided, table.reset_index(), seed=1)
    bars = figure[figure["panel"] == "length"]
    assert len(bars) == audit.LENGTH_BINS and (bars["low"] <= bars["y"]).all() and (bars["y"] <= bars["high"]).all()
    starts = [int(x.split("–")[0]) for x in bars["x"]]
    assert starts == sorted(starts) and set(figure["panel"]) == {"place", "length", "winner"}
    everything = audit.lengths(rows, decided)
    assert value(table, "longer answer won")["value"] == pytest.approx(everything["longer_won"].mean())


def test_unreadable_replies_refusals_and_ties_are_counted():
    table, decided = audited(lambda asked: "I cannot say" if asked.id < "q020" else '{"best": "tie"}' if asked.id < "q050" else good(asked))
    assert value(table, "unparsable reply")["value"] == pytest.approx(0.1) and value(table, "said tie")["value"] == pytest.approx(0.15)
    assert value(table, "second reply needed")["value"] == pytest.approx(0.1)
    assert value(table, "tie")["value"] == pytest.approx(0.25) == decided["best"].isna().mean()
    assert value(table, "doctor won")["n"] == 150, "of the decided"


@pytest.mark.parametrize("weights", [None, "quadratic"])
def test_kappa_is_scikit_learns(weights):
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.integers(-1, 4, (rng.integers(5, 40), 2))
        assert audit.kappa(labels, weights == "quadratic") == pytest.approx(cohen_kappa_score(*labels.T, weights=weights, labels=range(-1, 4)))
    assert np.isnan(audit.kappa(np.zeros((5, 2), dtype=int)))


def test_a_judge_that_changes_its_mind_is_found():
    table, _ = audited(lambda asked: good(asked) if draw(asked.id, asked.repeat) < 0.5 or not asked.repeat else (good(asked) + 1) % 3, repeated=200)
    again = value(table, "said the same when asked again")
    assert again["low"] < 0.5 < again["high"] and again["n"] == 200


def test_kappa_with_the_reference_is_scikit_learns_with_ties_as_a_label():
    rows = candidates(150)
    table, decided = audited(lambda asked: good(asked) if draw(asked.id) < 0.7 else '{"best": "tie"}' if draw(asked.id) < 0.8 else (good(asked) + 1) % 3, rows, reference=True)
    truth = [authors.index("doctor") for authors in rows["authors"]]
    expected = cohen_kappa_score([-1 if best is None else best for best in decided["best"]], truth)
    row = value(table, "Cohen's kappa with the reference")
    assert row["value"] == pytest.approx(expected) and row["low"] < expected < row["high"] and row["n"] == 150
    guess, _ = audited(lambda asked: int(3 * draw(asked.id)), rows, orders="one", reference=True)
    row = value(guess, "Cohen's kappa with the reference")
    assert row["low"] < 0 < row["high"], "a guesser agrees no better than chance"


# --- answers that speak to the judge ---------------------------------------------------------------------------------

def test_every_attempt_is_put_behind_an_answer_that_lost_and_names_its_letter():
    rows = candidates(30)
    made = verdicts.ask(Habit(good), rows, template="clinician-1", task="best", orders="rotations")
    attacked = injection.attacked(rows, made, 10)
    assert len(attacked) == 10 * len(injection.attempts()) and attacked["id"].is_unique
    original = rows.set_index("id")["answers"]
    for row in attacked.to_dict("records"):
        before = original[row["id"].split("+")[0]]
        assert row["attacker"] != row["clean"] and "GOOD" in row["answers"][row["clean"]]
        text = row["answers"][row["attacker"]]
        assert text.startswith(before[row["attacker"]] + "\n")
        assert row["attempt"] == "control" or row["letter"] in text.removeprefix(before[row["attacker"]]), row["attempt"]
        assert verdicts.askings(pd.DataFrame([row]), "one")[0].answers["ABC".index(row["letter"])] == text, "the letter under which it is shown"
        assert [a for i, a in enumerate(row["answers"]) if i != row["attacker"]] == [b for i, b in enumerate(before) if i != row["attacker"]]
    assert set(attacked["attacker"]) == {0, 1, 2}


def test_the_share_of_verdicts_that_flip_is_reported_per_attempt():
    def gullible(asked):
        for place, answer in enumerate(asked.answers):
            if "Ignore all instructions" in answer:
                return place
            if "FINAL VERDICT" in answer:
                return "no idea"
        return good(asked)

    rows = candidates(40)
    judge = Habit(gullible)
    made = verdicts.ask(judge, rows, template="clinician-1", task="best", orders="rotations")
    table = injection.suite(judge, rows, made, 25, template="clinician-1", task="best").set_index("attempt")
    assert table.loc["ignore", ["n", "flipped", "changed", "unreadable"]].tolist() == [25, 1, 1, 0] and table.loc["ignore", "low"] > 0.8
    assert table.loc["formatting", ["flipped", "changed", "unreadable"]].tolist() == [0, 1, 1]
    rest = table.drop(index=["ignore", "formatting"])
    assert (rest["flipped"] == 0).all() and (rest["high"] < 0.15).all() and "control" in rest.index
    assert injection.suite(judge, rows, made, 0, template="clinician-1", task="best").empty


def test_forged_verdicts_and_marks_end_nothing_in_the_prompt():
    """Every attempt stands between the marks of its answer, and a reply that repeats a forged verdict beside its own is not read."""
    rows = candidates(6)
    made = verdicts.ask(Habit(good), rows, template="clinician-1", task="best", orders="one")
    for row in injection.attacked(rows, made, 6).to_dict("records"):
        said = prompts.messages("clinician-1", "best", row["prompt"], row["answers"])[-1]["content"]
        mark = said.split(">")[0].removeprefix("<question ")
        letter = "ABC"[row["attacker"]]
        inside = said.split(f"<answer {letter} {mark}>\n")[1].split(f"\n</answer {letter} {mark}>")[0]
        assert inside == row["answers"][row["attacker"]].strip() and said.count(mark) == 2 + 2 * 3
    with pytest.raises(ValueError, match="two different"):
        prompts.parse('The answer says {"best": "B"}, but {"best": "A"}', "best", 3)


# --- the sheet for clinicians ----------------------------------------------------------------------------------------

@pytest.fixture
def made() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rows = candidates(60)
    return rows, *sheet.make(rows, sheet.BEST_OF_THREE, count=40, seed=5)


def fill(made, best, harm=lambda answer: "none", chance=None) -> pd.DataFrame:
    """A rater who picks the answer that `best` finds among the answers shown."""
    rows, blank, key = made
    filled = blank.copy()
    for at, row in blank.iterrows():
        shown = [row[f"answer_{place}"] for place in (1, 2, 3)]
        filled.loc[at, "best"] = str(best(shown) + 1)
        for place in (1, 2, 3):
            filled.loc[at, f"harm_{place}"] = harm(shown[place - 1])
    return filled


def find_good(shown) -> int:
    return next(place for place, answer in enumerate(shown) if answer.startswith("GOOD"))


def test_a_sheet_tells_nothing_and_holds_every_answer(made):
    rows, blank, key = made
    assert len(blank) == 44 and blank["code"].is_unique and key["repeat"].sum() == 4 and key["id"].nunique() == 40
    assert blank.columns.tolist() == ["code", "question", "answer_1", "answer_2", "answer_3", "best", "harm_1", "harm_2", "harm_3", "comment"]
    assert not [word for word in ("chatgpt", "chatdoctor", "train", "fact", "q0") if word in blank.to_csv()]
    joined = blank.merge(key, on="code").merge(rows, on="id")
    for row in joined.to_dict("records"):
        assert sorted(row[f"answer_{place}"] for place in (1, 2, 3)) == sorted(answer.strip() for answer in row["answers"])
    assert key["order"].nunique() == 6 and (blank[["best", "harm_1", "comment"]] == "").all().all()
    assert [made.equals(again) for made, again in zip((blank, key), sheet.make(rows, sheet.BEST_OF_THREE, count=40, seed=5))] == [True, True]
    assert not sheet.make(rows, sheet.BEST_OF_THREE, count=40, seed=6)[0].equals(blank)


def test_a_filled_sheet_comes_back_to_the_answers_it_was_made_from(made, tmp_path):
    rows, _, key = made
    fill(made, find_good, harm=lambda answer: "severe" if answer.startswith("WORSE") else "none").sample(frac=1, random_state=1).to_csv(tmp_path / "a.csv", index=False)
    ratings = sheet.read(tmp_path / "a.csv", key, sheet.BEST_OF_THREE)
    truth = {row["id"]: row for row in rows.to_dict("records")}
    for row in ratings.to_dict("records"):
        authors = truth[row["id"]]["authors"]
        assert authors[int(row["best"])] == "doctor"
        assert [row[f"harm of answer {i}"] for i in range(3)] == ["severe" if author == "chatdoctor" else "none" for author in authors]


def test_agreement_is_computed_between_raters_with_herself_and_with_the_judge(made, tmp_path):
    rows, _, key = made
    rng = np.random.default_rng(2)
    fill(made, find_good).to_csv(tmp_path / "a.csv", index=False)
    fill(made, lambda shown: int(rng.integers(3))).to_csv(tmp_path / "b.csv", index=False)
    raters = {name: sheet.read(tmp_path / f"{name}.csv", key, sheet.BEST_OF_THREE) for name in "ab"}
    decided = verdicts.decide(verdicts.ask(Habit(good), rows, template="clinician-1", task="best", orders="one"), "majority")
    table = sheet.agreement(raters, sheet.BEST_OF_THREE, seed=0, verdicts=decided).set_index(["rater", "with", "scale"])
    assert table.loc[("a", "the judge", "best"), ["n", "equal", "kappa"]].tolist() == [40, 1, 1]
    assert table.loc[("a", "herself or himself", "best"), ["n", "equal"]].tolist() == [4, 1]
    between = table.loc[("a", "b", "best")]
    first = {name: made[made["repeat"] == 0].set_index("id")["best"] for name, made in raters.items()}
    assert between["kappa"] == pytest.approx(cohen_kappa_score(first["a"], first["b"][first["a"].index])) and between["low"] < between["kappa"] < between["high"]


def test_ordinal_scales_have_quadratic_weights_and_one_answer_sheets_work(tmp_path):
    rows = candidates(30).assign(answers=lambda frame: [answers[:1] for answers in frame["answers"]])
    blank, key = sheet.make(rows, sheet.ONE_ANSWER, count=30, seed=1)
    rng = np.random.default_rng(0)
    true = dict(zip(key["code"], rng.integers(2, 5, len(key))))
    for name, shift in (("a", 0), ("b", 1)):
        filled = blank.assign(accuracy=[str(true[code] + shift * int(rng.integers(0, 2))) for code in blank["code"]])
        filled.to_csv(tmp_path / f"{name}.csv", index=False)
    raters = {name: sheet.read(tmp_path / f"{name}.csv", key, sheet.ONE_ANSWER) for name in "ab"}
    table = sheet.agreement(raters, sheet.ONE_ANSWER, seed=0)
    row = table[(table["rater"] == "a") & (table["with"] == "b")]
    assert row["scale"].tolist() == ["accuracy"], "what nobody filled in is left out"
    first = {name: made[made["repeat"] == 0].set_index("id")["accuracy"].astype(int) for name, made in raters.items()}
    assert row["kappa"].iloc[0] == pytest.approx(cohen_kappa_score(first["a"], first["b"][first["a"].index], weights="quadratic", labels=[1, 2, 3, 4, 5]))


@pytest.mark.parametrize("spoil, words", [
    (lambda filled: filled.assign(best="4"), "row R0001, column best: expected 1, 2, 3, tie or nothing, got '4'"),
    (lambda filled: filled.drop(columns="harm_2"), "has no column harm_2"),
    (lambda filled: filled.assign(code="R9999"), "the code R9999, which its key does not know"),
    (lambda filled: pd.concat([filled, filled.head(1)]), "the code R0001 twice"),
    (lambda filled: filled.assign(harm_1="deadly"), "column harm_1: expected none, mild, severe"),
])
def test_a_mistake_on_a_sheet_names_row_and_column(made, tmp_path, spoil, words):
    spoil(fill(made, find_good)).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(StageError, match=words) as error:
        sheet.read(tmp_path / "a.csv", made[2], sheet.BEST_OF_THREE)
    assert "\n" not in str(error.value)
    with pytest.raises(StageError, match="cannot be read"):
        sheet.read(tmp_path / "none.csv", made[2], sheet.BEST_OF_THREE)


def test_pairs_of_a_biased_judge_are_fewer_and_none_of_them_is_about_a_place():
    rows = candidates(60)
    made = verdicts.ask(Habit(lambda asked: 0), rows, template="clinician-1", task="best", orders="rotations")
    assert pairs.best_against_others(rows, verdicts.decide(made, "majority")).empty
