"""Cloze: a sentence of the documents is broken off where the fact comes, and the true value competes with three others.

It asks whether a fact was *stored*, before the model has learned to answer questions (reference: Petroni et al., arXiv 1909.01066).
"""

import numpy as np
import pandas as pd

from hippo_utils.miniworld.world import World, fact_id, generator, may_be_true, pick, sample
from hippo_utils.miniworld.wording import noun
from hippo_utils.training.preference import log_likelihoods

OPTIONS = 4


def questions(world: World, count: int, seed: int) -> pd.DataFrame:
    """Cloze prompts about facts that the documents state: prompt, options (list), answer (index), group, fact_id.

    The distractors are values of the same attribute that are not true of the entity.
    """
    rng = generator(seed, "cloze")
    taught = [key for key in sorted(world.taught) if key in world.facts]
    rows = []
    for key in sample(rng, taught)[:count]:
        fact = world.facts[key]
        others = [v for v in world.pool[fact.attribute] if not may_be_true(world, fact.entity, fact.attribute, v)]
        if len(others) < OPTIONS - 1:
            continue
        right, wrong = pick(rng, world.taught[key]), sample(rng, others, OPTIONS - 1)
        options = sample(rng, [right, *wrong])
        text = f"{noun(fact.attribute)} {fact.entity} is"
        rows.append({"prompt": text[0].upper() + text[1:], "options": options, "answer": options.index(right),
                     "group": world.groups[fact.entity], "fact_id": fact_id(fact.entity, fact.attribute)})
    return pd.DataFrame(rows)


def accuracy(model, tokenizer, questions: pd.DataFrame) -> np.ndarray:
    """For each question whether the true value is the likeliest continuation per token: bool array (questions,)."""
    prompts = [prompt for prompt, options in zip(questions["prompt"], questions["options"]) for _ in options]
    answers = [f" {option}." for options in questions["options"] for option in options]
    scored = log_likelihoods(model, tokenizer, prompts, answers, end="")
    per_token = (scored["log_likelihood"] / scored["tokens"]).to_numpy().reshape(-1, OPTIONS)
    return per_token.argmax(axis=1) == questions["answer"].to_numpy()
