"""What can be guessed without knowledge of an entity: the shortcut baseline that stands beside chance.

Two guessers. *frequency* picks the option that is most often the right one elsewhere; *ngrams* knows the seen entities'
facts and guesses from the letters of a name and the words of a value (-pril, an ACE inhibitor).
"""

import re
from collections import Counter

import numpy as np
import pandas as pd

from hippo_utils.chinese import HAN, ngrams
from hippo_utils.miniworld.exercises import wrong_of
from hippo_utils.miniworld.world import World, fact_id, generator, slug

FOLDS = 3


def shortcut_baseline(world: World, items: list[dict]) -> pd.DataFrame:
    """What each guesser makes of each item (development items among them: the guessers learn from those as well).

    One row per item: item, benchmark, split, group, cluster, chance (1 / options), and frequency and ngrams, each the
    probability that the guesser is right: 1 or 0, a fraction where it cannot decide between options.

    Frequencies come from development items and from the test items of *other* groups, other clusters therefore. Within a
    group a test split is balanced so exactly that leaving an item out would tell its answer: the value now too rare.
    """
    right: dict[tuple, Counter] = {}
    for item in items:
        counts = right.setdefault((item["benchmark"], item["split"], item["group"]), Counter())
        counts[_asked(item), item["options"][item["answer"]]] += 1
    ngrams = _ngram_scores(world, items)
    rows = []
    for item, scores in zip(items, ngrams):
        others = [counts for (benchmark, split, group), counts in right.items()
                  if (benchmark == "pubmedqa") == (item["benchmark"] == "pubmedqa")
                  and (split == "development" != item["split"] or group != item["group"])]
        seen = [sum(c[_asked(item), option] for c in others) for option in item["options"]]
        rows.append({"item": item["id"], "benchmark": item["benchmark"], "split": item["split"], "group": item["group"],
                     "cluster": item["cluster"], "chance": 1 / len(item["options"]),
                     "frequency": _right(seen, item["answer"]), "ngrams": _right(scores, item["answer"])})
    return pd.DataFrame(rows)


def _asked(item: dict) -> str:
    return "" if item["context"] else item["fact_ids"][-1].split("/")[1]


def _right(scores, answer: int) -> float:
    best = np.flatnonzero(np.isclose(scores, np.max(scores)))
    return float(answer in best) / len(best)


def _features(name: str, attribute: str, value: str) -> list[str]:
    """Character n-grams of the name crossed with the words of the value, and the letters that the two share. Of Chinese, which has
    no words between spaces and shorter names, pairs of characters."""
    chinese = re.search(f"[{HAN}]", name + value)
    name, value = f"^{name.lower()}$", value.lower()
    grams = {name[at:at + length] for length in ((2, 3) if chinese else (3, 4)) for at in range(len(name) - length + 1)}
    words = sorted("".join(pair) for pair in ngrams(value, 2)) if chinese else re.findall(r"\w+", value)
    shared = ["shared" for at in range(len(value) - 3) if value[at:at + 4] in name]
    return [f"{attribute}|{gram}|{word}" for gram in grams for word in words] + [f"{attribute}|{word}" for word in words] + shared


def _ngram_scores(world: World, items: list[dict]) -> list[list[float]]:
    """A score per option: a logistic model of true against false pairs of seen entities, each seen entity's own items
    scored by a model that has not read about it. PubMedQA: of the question's letters, without the context."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rng = generator(0, "shortcut")
    seen = sorted(name for name, group in world.groups.items() if group == "seen")
    fold = {slug(name): number % FOLDS for number, name in enumerate(seen)}
    models = []
    for left_out in range(FOLDS + 1):  # the last one has read about all of them
        # False pairs use the values of these entities only: else a left-out entity's own values would be known as wrong.
        read = [name for name in seen if fold[slug(name)] != left_out]
        pairs, truth = [], []
        for name in read:
            for attribute in world.profiles[name]:
                values = world.taught.get(fact_id(name, attribute), ())
                wrong = wrong_of(rng, world, name, read)(attribute, 3 * len(values))
                pairs += [_features(name, attribute, value) for value in (*values, *wrong)]
                truth += [1] * len(values) + [0] * len(wrong)
        models.append(make_pipeline(CountVectorizer(analyzer=list, min_df=2, dtype=float), LogisticRegression(solver="liblinear")).fit(pairs, truth))
    names = {slug(name): name for name in world.groups}
    reports = [item for item in items if item["context"] and item["split"] == "development"]
    reader = None
    if len({item["answer"] for item in reports}) > 1:
        reader = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)), LogisticRegression(C=1.0, max_iter=500))
        reader.fit([item["question"] for item in reports], [item["answer"] for item in reports])
    scores = []
    for item in items:
        if item["context"]:
            scores.append(list(reader.predict_proba([item["question"]])[0]) if reader is not None and item["split"] == "test" else [0.0] * 3)
            continue
        # Two steps: the disease is not named, so the letters are those of the findings.
        name = item["question"].split(". ")[0] if item["steps"] == 2 else names[item["cluster"]]
        model = models[fold.get(item["cluster"], FOLDS)]
        scores.append(list(model.decision_function([_features(name, _asked(item), option) for option in item["options"]])))
    return scores
