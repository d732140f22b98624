"""The audit of a judge: does it choose places, lengths or answers, does it agree with itself and with a reference, who wins?

Every number has its n and a 95 % interval over questions, because the askings of one question are not independent.
"""

import numpy as np
import pandas as pd

from hippo_utils.statistics import Interval, bootstrap, wilson

COLUMNS = ["what", "of", "n", "value", "low", "high", "fair"]
LENGTH_BINS = 4


def share(values, questions, seed: int, resamples: int = 2000) -> tuple[int, Interval]:
    """Number of questions, and the mean of 0/1 values with an interval over questions (Wilson's where all values are equal)."""
    values, questions = np.asarray(values, dtype=float), np.asarray(questions)
    count = len(set(questions.tolist()))
    if len(values) == 0 or (values == values[0]).all() and values[0] in (0, 1):
        return count, wilson(int(count * (values[0] if len(values) else 0)), count)
    return count, bootstrap(values, seed=seed, clusters=questions, resamples=resamples)


def kappa(labels: np.ndarray, quadratic: bool = False) -> float:
    """Cohen's kappa between the two columns of (n, 2) whole numbers; nan when both say one and the same thing only.

    scikit-learn's cohen_kappa_score (weights="quadratic"), without the checks that cost a bootstrap its time.
    """
    first, second = (labels - labels.min()).astype(int).T
    count = max(first.max(), second.max()) + 1
    observed = np.bincount(first * count + second, minlength=count * count).reshape(count, count) / len(first)
    expected = np.outer(observed.sum(1), observed.sum(0))
    apart = np.subtract.outer(np.arange(count), np.arange(count)) ** 2
    apart = apart if quadratic else apart > 0
    return float(1 - (apart * observed).sum() / (apart * expected).sum()) if (apart * expected).sum() else float("nan")


def audit(candidates: pd.DataFrame, judgements: pd.DataFrame, verdicts: pd.DataFrame, *, seed: int, reference: pd.Series | None = None,
          resamples: int = 500) -> pd.DataFrame:
    """One row per habit. `of` says among what, n counts questions, `fair` is what a judge without that habit would have.

    `reference` is the best answer of each row by another labelling (an index by row id); ties count as a label of their own.
    """
    rows: list[dict] = []

    def add(what: str, of: str, values, questions, fair: float = float("nan")) -> None:
        n, (value, low, high) = share(values, questions, seed, resamples)
        rows.append(dict(zip(COLUMNS, (what, of, n, value, low, high, fair))))

    first = judgements[judgements["repeat"] == 0]
    voted = first[first["outcome"] == "verdict"]
    places = pd.Series([order.index(ranked[0]) for order, ranked in zip(voted["order"], voted["ranked"])], index=voted.index)
    answers = len(first["order"].iloc[0])
    for place in range(answers):
        add(f"chose place {place + 1}", "verdicts", places == place, voted["candidates"], 1 / answers)
    named = voted.assign(best=[ranked[0] for ranked in voted["ranked"]]).groupby("candidates")["best"].nunique()
    add("named another answer in another order", "questions", named > 1, named.index, 0.0)
    add("tie", "questions", verdicts["best"].isna(), verdicts["id"])
    for outcome in ("tie", "unparsable", "refused", "cut off", "rejected"):
        add("said tie" if outcome == "tie" else f"{outcome} reply", "askings", first["outcome"] == outcome, first["candidates"])
    add("second reply needed", "askings", first["replies"].map(len) > 1, first["candidates"])
    rows += _again(judgements, seed)
    longer = lengths(candidates, verdicts)
    add("longer answer won", "pairs of unequal length", longer["longer_won"], longer["id"], 0.5)
    decided = verdicts[verdicts["best"].notna()].merge(candidates[["id", "authors", "kind"]], on="id")
    winner = pd.Series([authors[int(best)] for authors, best in zip(decided["authors"], decided["best"])], dtype=object)
    for kind in ("all", *sorted(candidates["kind"].unique())) if candidates["kind"].nunique() > 1 else ("all",):
        part = (decided["kind"] == kind) | (kind == "all")
        for author in sorted({author for authors in candidates["authors"] for author in authors}):
            add(f"{author} won", f"decided questions, {kind}", winner[part] == author, decided["id"][part])
    if reference is not None:
        both = verdicts[verdicts["id"].isin(reference.index)]
        labels = np.array([[-1 if best is None or best != best else best, reference[name]] for name, best in zip(both["id"], both["best"])], dtype=int)
        split = both["id"].map(dict(zip(candidates["id"], candidates["split"])))
        for name in ("all", *sorted(split.unique())):  # only verdicts on training questions teach
            part = ((split == name) | (name == "all")).to_numpy()
            add("agreed with the reference", f"questions, {name}", (labels[:, 0] == labels[:, 1])[part], both["id"][part])
        value, low, high = bootstrap(labels, kappa, seed=seed, clusters=both["id"].to_numpy(), resamples=resamples)
        rows.append(dict(zip(COLUMNS, ("Cohen's kappa with the reference", "questions, all", len(labels), value, low, high, float("nan")))))
    return pd.DataFrame(rows, columns=COLUMNS)


def _again(judgements: pd.DataFrame, seed: int) -> list[dict]:
    """Whether a question that was asked a second time, in the same order, got the same verdict."""
    name = judgements["candidates"] + "/" + judgements["order"].map(str)
    said = [str(ranked) if outcome in ("verdict", "tie") else outcome for ranked, outcome in zip(judgements["ranked"], judgements["outcome"])]
    wide = pd.DataFrame({"name": name, "repeat": judgements["repeat"], "said": said}).pivot(index="name", columns="repeat", values="said")
    if 1 not in wide:
        return []
    wide = wide.dropna()
    n, (value, low, high) = share(wide[0] == wide[1], wide.index, seed)
    return [dict(zip(COLUMNS, ("said the same when asked again", "questions asked twice", n, value, low, high, 1.0)))]


def lengths(candidates: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The winner against each other answer of its question, if their lengths differ: id, difference (characters), longer_won."""
    best = dict(zip(verdicts["id"], verdicts["best"]))
    rows = []
    for name, answers in zip(candidates["id"], candidates["answers"]):
        if (won := best.get(name)) is None or won != won:
            continue
        size = [len(answer) for answer in answers]
        rows += [{"id": name, "difference": abs(size[int(won)] - other), "longer_won": size[int(won)] > other}
                 for place, other in enumerate(size) if place != won and other != size[int(won)]]
    return pd.DataFrame(rows, columns=["id", "difference", "longer_won"])


def for_figure(candidates: pd.DataFrame, verdicts: pd.DataFrame, table: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Long form for fig_judge: panel (place, length, winner), x, y, low, high, fair. Lengths in bins of like numbers of pairs."""
    parts = []
    for panel, found, name in (("place", table["what"].str.startswith("chose place"), lambda what: what.removeprefix("chose ")),
                               ("winner", table["what"].str.endswith(" won") & table["of"].str.endswith(", all"), lambda what: what.removesuffix(" won").replace("_", " "))):
        part = table[found]
        parts.append(pd.DataFrame({"panel": panel, "x": [name(what) for what in part["what"]], "y": part["value"], "low": part["low"], "high": part["high"], "fair": part["fair"]}))
    longer = lengths(candidates, verdicts)
    edges = longer["difference"].quantile(np.linspace(0, 1, LENGTH_BINS + 1)).unique() if len(longer) else []
    for number, (low, high) in enumerate(zip(edges, edges[1:])):
        inside = longer[(longer["difference"] <= high) & ((longer["difference"] > low) | (number == 0))]
        if len(inside):
            _, (value, at_least, at_most) = share(inside["longer_won"], inside["id"], seed)
            parts.append(pd.DataFrame([{"panel": "length", "x": f"{inside['difference'].min():.0f}–{inside['difference'].max():.0f}", "y": value, "low": at_least, "high": at_most, "fair": 0.5}]))
    return pd.concat(parts, ignore_index=True)
