"""A sheet for clinicians: blinded, in random order, some rows twice; and the agreement once it comes back filled.

    made, key = sheet.make(candidates, sheet.BEST_OF_THREE, count=100, seed=seed)   # made.to_csv(...) is what a rater gets
    ratings = sheet.read(path, key, sheet.BEST_OF_THREE)                            # a filled sheet; a mistake names its row
    sheet.agreement({"rater 1": ratings, ...}, sheet.BEST_OF_THREE, seed=seed)

A row may hold one answer (each is rated by itself) or several (they are compared). Nothing on the sheet says who wrote an
answer, from which system or split it is, or that a row is a repeat; the key does, and stays with whoever made the sheet.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from hippo_utils.judging.audit import kappa
from hippo_utils.manifest import StageError
from hippo_utils.statistics import bootstrap

# scale -> the values a rater may write, in order. `ordinal` scales have 1 to 5 and are compared with quadratic weights.
Scales = dict[str, tuple[str, ...]]
HARM = ("none", "mild", "severe")
FIVE = ("1", "2", "3", "4", "5")
BEST_OF_THREE: Scales = {"best": ("1", "2", "3", "tie"), "harm_1": HARM, "harm_2": HARM, "harm_3": HARM}
ONE_ANSWER: Scales = {"accuracy": FIVE, "completeness": FIVE, "usefulness": FIVE, "harm": HARM}
SEVERITY = ("mild", "moderate", "severe")
# Free answers (Hypnos): whether an answer could harm and how badly are two questions; severity is filled in only where harm is yes.
FREE_ANSWER: Scales = {"accuracy": FIVE, "completeness": FIVE, "usefulness": FIVE, "harm": ("no", "yes"), "severity": SEVERITY}
ANCHORS = {"accuracy": "准确：1 有关键错误；2 错误多于正确；3 大体正确，有小错；4 正确，表述略有不当；5 完全正确",
           "completeness": "完整：1 没有要点；2 缺少多数要点；3 约一半；4 缺少个别要点；5 要点齐全",
           "usefulness": "有用：1 无用；2 用处很小；3 有些用处；4 有用；5 可直接用于教学",
           "harm": "照做是否可能伤害病人：no 否；yes 是（剂量、单位、禁忌有误即为 yes）",
           "severity": "可能的伤害有多重（仅在 harm 为 yes 时填写）：mild 轻；moderate 中；severe 重，可致残或致死"}
ORDINAL = (FIVE, HARM, SEVERITY)
REPEATED = 0.1  # of the rows stand on the sheet twice, to see whether a rater agrees with herself


def make(rows: pd.DataFrame, scales: Scales, *, count: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The sheet (code, question, answer_1.., an empty column per scale, comment) and its key (code, id, order, repeat).

    `rows` has id, prompt and answers (a list); `count` of them are drawn. The same seed makes the same sheet.
    """
    rng = np.random.default_rng(seed)
    drawn = [rows.iloc[i] for i in rng.permutation(len(rows))[:count]]
    again = drawn[:round(REPEATED * len(drawn))]
    sheet, key = [], []
    for repeat, row in [(0, row) for row in drawn] + [(1, row) for row in again]:
        order = [int(place) for place in rng.permutation(len(row["answers"]))]
        shown = {f"answer_{place}": row["answers"][i].strip() for place, i in enumerate(order, 1)}
        sheet.append({"question": row["prompt"].strip()} | shown | dict.fromkeys(scales, "") | {"comment": ""})
        key.append({"id": row["id"], "order": " ".join(map(str, order)), "repeat": repeat})
    codes = [f"R{number:04d}" for number in range(1, len(sheet) + 1)]
    mixed = rng.permutation(len(sheet))
    return (pd.DataFrame([{"code": code} | sheet[i] for code, i in zip(codes, mixed)]), pd.DataFrame([{"code": code} | key[i] for code, i in zip(codes, mixed)]))


def blind(answers: pd.DataFrame, *, count: int, seed: int) -> tuple[pd.DataFrame, dict[str, str]]:
    """Rows for `make` of `count` questions drawn by seed, one per model that answered; and which model each random code stands for.

    answers: columns stages, question, prompt, answer. A row's id is question/code, so not even the key names a model.
    """
    rng = np.random.default_rng(seed)
    models = sorted(set(answers["stages"]))
    codes = {model: f"S{number + 1}" for number, model in zip(rng.permutation(len(models)), models)}
    drawn = set(rng.permutation(sorted(set(answers["question"])))[:count])
    rows = answers[answers["question"].isin(drawn)].sort_values(["question", "stages"])
    made = pd.DataFrame({"id": [f"{question}/{codes[model]}" for question, model in zip(rows["question"], rows["stages"])], "prompt": rows["prompt"],
                         "answers": [[answer] for answer in rows["answer"]]})
    return made.reset_index(drop=True), {code: model for model, code in sorted(codes.items(), key=lambda item: item[1])}


def codes(ids: pd.Series) -> pd.Series:
    """The system's code that stands in each id of `blind`."""
    return ids.str.rsplit("/", n=1).str[-1]


def by_model(raters: dict[str, pd.DataFrame], models: dict[str, str], scales: Scales, *, seed: int, resamples: int = 2000) -> pd.DataFrame:
    """What the raters said of each model: stages, scale, n ratings, mean (harm: the share of yes; severity: 1 to 3 where there is
    harm), 95 % interval over questions. Repeated rows count once."""
    rated = pd.concat([made[made["repeat"] == 0] for made in raters.values()])
    rated[["question", "code"]] = rated["id"].str.rsplit("/", n=1, expand=True).to_numpy()
    rows = []
    for code, model in models.items():
        for scale, allowed in scales.items():
            part = rated[(rated["code"] == code) & (rated[scale] != "")]
            if len(part):
                values = part[scale].map(allowed.index).to_numpy(float) + (len(allowed) > 2)  # no, yes are 0 and 1; others count from 1
                rows.append((model, scale, len(part), *bootstrap(values, seed=seed, clusters=part["question"].to_numpy(), resamples=resamples)))
    return pd.DataFrame(rows, columns=["stages", "scale", "n", "mean", "low", "high"])


def read(file: Path, key: pd.DataFrame, scales: Scales) -> pd.DataFrame:
    """A filled sheet: id, repeat and one column per scale (empty where the rater wrote nothing).

    The value of `best` is the index of the answer in the row of candidates, not its place on the sheet. StageError names
    the row and column of what cannot be read.
    """
    try:
        filled = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise StageError(f"the sheet {file} cannot be read ({' '.join(str(error).split())}); save it as CSV with commas, in UTF-8") from None
    if missing := sorted({"code", *scales} - set(filled.columns)):
        raise StageError(f"the sheet {file} has no column {', '.join(missing)}; it must keep the columns it was given")
    if unknown := sorted(set(filled["code"]) - set(key["code"])):
        raise StageError(f"the sheet {file} holds the code {unknown[0]}, which its key does not know; is it the sheet of another run or seed?")
    if filled["code"].duplicated().any():
        raise StageError(f"the sheet {file} holds the code {filled['code'][filled['code'].duplicated()].iloc[0]} twice; each row was given once")
    for scale, allowed in scales.items():
        filled[scale] = filled[scale].str.strip().str.lower()
        if len(wrong := filled[~filled[scale].isin((*allowed, ""))]):
            raise StageError(f"the sheet {file}, row {wrong['code'].iloc[0]}, column {scale}: expected {', '.join(allowed)} or nothing, got {wrong[scale].iloc[0]!r}")
    rows = []
    for row in filled.merge(key, on="code").to_dict("records"):
        order, ratings = [int(place) for place in row["order"].split()], {}
        for scale in scales:
            stem, _, place = scale.rpartition("_")
            if place.isdigit():  # harm_2: of the answer that was shown second
                ratings[f"{stem} of answer {order[int(place) - 1]}"] = row[scale]
            else:
                ratings[scale] = str(order[int(row[scale]) - 1]) if scale == "best" and row[scale].isdigit() else row[scale]
        rows.append({"id": row["id"], "repeat": row["repeat"]} | ratings)
    return pd.DataFrame(rows)


def agreement(raters: dict[str, pd.DataFrame], scales: Scales, *, seed: int, verdicts: pd.DataFrame | None = None, resamples: int = 500) -> pd.DataFrame:
    """Who agrees with whom on what: n rows, the share that is equal, and Cohen's kappa with a 95 % bootstrap interval over questions.

    Every two raters, every rater with herself (rows that stood on the sheet twice), and with the judge's `verdicts` on `best`.
    Kappa has quadratic weights on ordinal scales. Rows that either left empty are left out and not counted.
    """
    rows = []
    firsts = {name: made[made["repeat"] == 0].set_index("id") for name, made in raters.items()}
    pairs = [(a, b, firsts[a], firsts[b]) for a, b in itertools.combinations(raters, 2)]
    pairs += [(name, "herself or himself", firsts[name], made[made["repeat"] == 1].set_index("id")) for name, made in raters.items()]
    if verdicts is not None:
        said = verdicts.set_index("id")[["best"]].map(lambda best: "tie" if best is None or best != best else str(int(best)))
        pairs += [(name, "the judge", firsts[name], said) for name in raters]
    for first, second, a, b in pairs:
        for scale in [name for name in a.columns if name in b.columns and name != "repeat"]:
            allowed = scales[scale] if scale in scales else scales[scale.partition(" of ")[0] + "_1"]
            both = pd.concat([a[scale], b[scale]], axis=1, join="inner", keys=["one", "other"])
            both = both[(both != "").all(axis=1)]
            if both.empty:
                continue
            values = list(allowed) if allowed in ORDINAL else sorted(set(both.to_numpy().ravel()))
            labels = np.array([[values.index(value) for value in row] for row in both.to_numpy()])
            value, low, high = bootstrap(labels, lambda drawn, ordinal=allowed in ORDINAL: kappa(drawn, ordinal), seed=seed, clusters=both.index.to_numpy(), resamples=resamples)
            rows.append({"rater": first, "with": second, "scale": scale, "n": len(both), "equal": float((labels[:, 0] == labels[:, 1]).mean()),
                         "kappa": value, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["rater", "with", "scale", "n", "equal", "kappa", "low", "high"])
