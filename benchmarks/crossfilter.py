"""What cross-filtering does in the Chinese mini world: two local models trained apart generate, and score each other's rows.

    python benchmarks/crossfilter.py [--entities 40] [--exposures 75] [--share 0.7] [--keep 0.5] [--seed 0]
                                     [--students 1] [--out FOLDER]

Each model (one LLaMA, one Mistral, other seeds) learns from scratch what it has read: a share of the facts, as short questions.
Then both write tasks on every topic; what no form can be read from, or is not new, is dropped and counted; each row is scored
by both. Whether it is right is decided from the fact tables. Prints table_crossfilter and the arms, with seconds of CPU time.
With --students N models of a third kind learn from the rows of each arm alone (N seeds, as many row visits in every arm) and are
asked for every fact of the topics, one of four (a small world leaves AneCQ too few items): log-likelihood per token of the option's
text behind the bare question.
Not for clinical use.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from hippo_utils.chinese import amounts
from hippo_utils.corpus import tokenizer as byte_pairs
from hippo_utils.judging import crossfilter, selfinstruct
from hippo_utils.miniworld.anesthesia import pairs, truth, wording
from hippo_utils.miniworld.anesthesia.world import load_world
from hippo_utils.miniworld.world import fact_id, generator, pick, sample
from hippo_utils.params import Architecture, derive_seed
from hippo_utils.statistics import paired_difference
from hippo_utils.training import models, preference

RATE, BATCH = 3e-3, 32
VISITS = 20  # each arm's student sees as many rows in all: twenty times the whole pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("entities", 40), ("exposures", 75), ("draws", 20), ("seed", 0), ("layers", 2), ("width", 128), ("vocabulary", 900)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--students", type=int, default=0, help="seeds of the models that are tuned on each arm")
    parser.add_argument("--share", type=float, default=0.7, help="of the facts that each generator has read")
    parser.add_argument("--keep", type=float, default=0.5, help="of each generator's rows that the filters keep")
    parser.add_argument("--out", type=Path, help="folder for generated.csv, scores.csv and the two tables")
    given = parser.parse_args()
    import torch
    from transformers import AutoTokenizer
    torch.set_num_threads(1)

    world = load_world(derive_seed(given.seed, "world"), given.entities)
    topics = sorted(name for name, group in world.groups.items() if group != "control")
    facts = sum(key in world.facts for key in world.taught)
    reading = {f"generator_{letter}": pd.DataFrame(pairs.generator_reading(
        world, given.share, round(given.share * facts * given.exposures), derive_seed(given.seed, letter))) for letter in "ab"}
    made, judges = [], {}
    with TemporaryDirectory() as folder:
        tasks = {name: selfinstruct.as_tasks(rows, topics) for name, rows in reading.items()}
        tokenizer = AutoTokenizer.from_pretrained(byte_pairs.train(pd.concat(tasks.values()).sum(axis=1), given.vocabulary, Path(folder)))
        print(f"{len(topics)} topics, {facts} facts", {name: f"{rows['fact_ids'].map(lambda keys: keys[0]).nunique()} read" for name, rows in reading.items()})
        for (name, part), family in zip(tasks.items(), ("llama", "mistral")):
            started, seed = time.process_time(), derive_seed(given.seed, name)
            judges[name] = learn(family, tokenizer, part, len(part), given, seed)
            drawn = selfinstruct.draw_topics(topics, len(topics) * given.draws, seed)
            trained = time.process_time() - started
            made.append(selfinstruct.rows(name, drawn, selfinstruct.sample_locally(judges[name], tokenizer, drawn, seed=seed, tokens=40)))
            print(f"{name} ({family}): trained in {trained:.0f} s, wrote {len(drawn)} rows in {time.process_time() - started - trained:.0f} s of CPU time")
    rows = pd.concat(made, ignore_index=True)
    rows["novel"] = pd.concat([selfinstruct.novel(part, []) for _, part in rows.groupby("generator", sort=False)])["novel"]
    rows["verdict"] = [truth.verdict(world, p, c) if p else "not in form" for p, c in zip(rows["prompt"], rows["completion"])]
    print(pd.crosstab(rows["generator"], rows["verdict"], margins=True), "\n", pd.crosstab(rows["generator"], rows["novel"]))
    kept = rows[rows["novel"]]
    if kept.groupby("generator").size().reindex(list(judges), fill_value=0).min() < 20:
        raise SystemExit("a generator wrote fewer than 20 new rows in form: it has not learned enough; raise --exposures")
    formulary = {fact.entity: {amount for value in fact.values for amount in amounts(value)} for fact in world.facts.values() if fact.attribute == "dose"}
    scores = pd.concat([crossfilter.local_scores(kept, name, lambda p, a, model=model: preference.log_likelihoods(model, tokenizer, p, a), formulary)
                        for name, model in judges.items()], ignore_index=True)
    known = {identity: truth.GOOD[verdict] for identity, verdict in zip(kept["id"], kept["verdict"])}
    table = crossfilter.table(scores, known, given.keep, given.seed)
    chosen = crossfilter.select(scores, given.keep, given.seed)
    tables = {"generated": rows, "scores": scores, "table_crossfilter": table, "table_arms": crossfilter.arms_table(chosen, known, given.seed),
              "fig_crossfilter": crossfilter.figure_frame(scores, table, known)}
    print(table.round(3).T.to_string(), "\n", tables["table_arms"].round(3).to_string(), flush=True)
    if given.students:
        tables["table_students"] = students(world, kept, chosen, tokenizer, given)
        print(tables["table_students"].round(3).to_string())
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        for name, frame in tables.items():
            frame.to_csv(given.out / f"{name}.csv", index=False)


def learn(family: str, tokenizer, tasks: pd.DataFrame, visits: int, given, seed: int):
    """A model of this family from scratch, trained on the completions of `visits` rows drawn at random (AdamW, cosine).

    A bare loop: the SFTTrainer's batches of equal length hold the same few facts over and over here, and little is learned.
    """
    import torch
    shape = Architecture(family=family, layers=given.layers, width=given.width, feed_forward=3 * given.width, heads=4, key_value_heads=4,
                         context=128, sliding_window=128 if family == "mistral" else None)
    model, end, rng = models.build(shape, len(tokenizer), tokenizer.eos_token_id, seed), tokenizer.eos_token_id, np.random.default_rng(seed)
    starts = [len(ids) for ids in tokenizer(list(tasks["prompt"]))["input_ids"]]
    texts = [ids + [end] for ids in tokenizer(list(tasks["prompt"] + tasks["completion"]))["input_ids"]]
    steps = max(visits // BATCH, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 30, 0.5 * (1 + np.cos(np.pi * step / steps)) + 0.02))
    for _ in range(steps):
        drawn = rng.integers(len(texts), size=BATCH)
        inputs = torch.full((BATCH, max(len(texts[i]) for i in drawn)), end)
        labels = torch.full_like(inputs, -100)
        for row, i in enumerate(drawn):
            inputs[row, :len(texts[i])] = torch.tensor(texts[i])
            labels[row, starts[i]:len(texts[i])] = inputs[row, starts[i]:len(texts[i])]
        model(input_ids=inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(), schedule.step(), optimizer.zero_grad()
    return model.eval()


def students(world, rows: pd.DataFrame, chosen: pd.DataFrame, tokenizer, given) -> pd.DataFrame:
    """Accuracy of the students of each arm, and the paired difference to those of the random arm (entities as clusters)."""
    rng, made = generator(given.seed, "student questions"), []
    topics = sorted(name for name, group in world.groups.items() if group != "control")
    for fact in [world.facts[key] for key in sorted(world.taught) if key in world.facts]:
        value = pick(rng, world.taught[fact_id(fact.entity, fact.attribute)])
        wrong = pairs.wrong_values(rng, world, fact.entity, fact.attribute, topics)
        if len(wrong) == pairs.OPTIONS - 1:
            options = sample(rng, [value, *wrong])
            made.append({"question": wording.question(rng, world, fact.entity, fact.attribute, wording.OPEN_QUESTIONS), "options": options,
                         "answer": options.index(value), "cluster": fact.entity})
    items = pd.DataFrame(made)
    prompts = [wording.prompt(text) for text, options in zip(items["question"], items["options"]) for _ in options]
    options = [option + "。" for part in items["options"] for option in part]
    right: dict[str, list] = {}
    for arm in crossfilter.ARMS:
        told = rows[rows["id"].isin(chosen[chosen["arm"] == arm]["id"])]
        for number in range(given.students):
            started, seed = time.process_time(), derive_seed(given.seed, f"student {number}")  # the same start in every arm
            model = learn("llama", tokenizer, told, VISITS * len(rows), given, seed)
            scored = preference.log_likelihoods(model, tokenizer, prompts, options, end="")
            best = (scored["log_likelihood"] / scored["tokens"]).to_numpy().reshape(len(items), -1).argmax(axis=1)
            right.setdefault(arm, []).append(best == items["answer"].to_numpy())
            print(f"student of {arm}: {time.process_time() - started:.0f} s of CPU time, accuracy {right[arm][-1].mean():.3f}", flush=True)
    made = []
    for arm, answers in right.items():
        here, there = (np.mean(right[name], axis=0) for name in (arm, "random"))
        made.append({"arm": arm, "rows": int((chosen["arm"] == arm).sum()), "seeds": len(answers), "n": len(items), "accuracy": here.mean(),
                     **dict(zip(("minus_random", "low", "high"), paired_difference(here, there, seed=given.seed, clusters=items["cluster"].to_numpy())))})
    return pd.DataFrame(made)


if __name__ == "__main__":
    main()
