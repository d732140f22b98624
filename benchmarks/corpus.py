"""How long does 01's work on text take, and how much memory, as the corpus grows? What would the paper's 1.1 GB take?

    python benchmarks/corpus.py [--sizes 50 100 200] [--processes 2] [--base FOLDER]

Generated text (prose-like, with planted dirt, copies and leaks; three quarters documents, a quarter questions with answers, about
the paper's shares) is written as a mirror of the hub: a file of JSON lines and a JSON array. Then the clock starts, and it goes
through the steps of 01_corpus: streaming from the mirror into records, cleaning, deduplication, the contamination audit against as
many items as the paper's six benchmarks have (6,781 with questions and abstracts of like length), splitting, and counting tokens.
Each size runs in a process of its own, whose peak memory (the largest of its workers added per worker) is reported. Cost is linear if the CPU time per MB does not rise; the last lines say so,
extrapolate to 1.1 GB, and measure what the up-to-date check of a finished stage with that many files of that size costs.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

WORDS = 30_000        # size of the lexicon; drawn by Zipf's law, as in prose
BENCHMARKS = {"medmcqa": (4183, 13, 0), "medqa": (1273, 115, 0), "pubmedqa": (1000, 14, 200), "usmle": (325, 110, 0)}  # items, words of question, of abstract
WORDS_OF = (1500, 400, 200)   # words per document of the paper's three corpora, about
DOCUMENTS, INSTRUCTIONS, SHARE = "guidelines", "medical_flashcards", 0.25   # whose files and columns are imitated; instructions' share of the text
PAPER = 1100          # MB


class Prose:
    """Endless text over an invented lexicon, with the function words of English in their usual share."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        letters = list("etaoinshrdlucmfwypvbgk")
        self.lexicon = np.array(["the", "of", "and", "to", "is", "with", "in", "a", "for", "was"]
                                + ["".join(self.rng.choice(letters, self.rng.integers(3, 11))) for _ in range(WORDS)])
        weights = 1 / np.arange(1, len(self.lexicon) + 1)
        self.cumulative = np.cumsum(weights / weights.sum())

    def text(self, words: int) -> str:
        drawn = self.lexicon[np.minimum(np.searchsorted(self.cumulative, self.rng.random(max(8, words))), WORDS)].tolist()
        return " ".join(word + "." if number % 17 == 16 else word for number, word in enumerate(drawn))


def generate(mirror: Path, megabytes: int, asked: list[str]) -> int:
    """Write a mirror with about `megabytes` of text; returns the bytes of text. One row in 50 is a copy, one in 500 holds a test item,
    one in 1,000 does not fit."""
    from hippo_utils.corpus import hub

    prose, made, number, before = Prose(megabytes), 0, 0, "x"
    documents, instructions = (mirror / hub.catalogue()[name].hub / hub.catalogue()[name].files[0] for name in (DOCUMENTS, INSTRUCTIONS))
    for file in (documents, instructions):
        file.parent.mkdir(parents=True)
    with open(documents, "w", encoding="utf-8") as out:
        while made < (1 - SHARE) * megabytes * 10**6:
            text = prose.text(int(WORDS_OF[number % 3] * prose.rng.uniform(0.5, 1.5)))
            if number % 50 == 7:
                text = before if number % 100 == 7 else before.replace(" the ", " of ", 2)
            elif number % 500 == 11:
                text += " " + asked[number % len(asked)] + " " + prose.text(50)
            elif number % 25 == 3:
                text += " See https://www.example.org/x now.\u200b All rights reserved."
            out.write(json.dumps({"clean_text": None if number % 1000 == 999 else text, "url": "https://www.example.org"}, ensure_ascii=False) + "\n")
            made, number, before = made + len(text), number + 1, text
    with open(instructions, "w", encoding="utf-8") as out:
        while made < megabytes * 10**6:
            question = asked[number % len(asked)] if number % 500 == 11 else before if number % 50 == 7 else prose.text(20)
            row = {"instruction": "Answer this question truthfully", "input": question, "output": "" if number % 1000 == 999 else prose.text(50)}
            out.write(("[" if out.tell() == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
            made, number, before = made + sum(map(len, row.values())), number + 1, question
        out.write("]\n")
    return made


def exam() -> pd.DataFrame:
    prose = Prose(1)
    rows = [{"id": f"{name}-{number}", "benchmark": name, "group": "all", "question": prose.text(words), "context": prose.text(abstract) if abstract else "",
             "options": [prose.text(8)[:20] for _ in range(4)], "split": "test"} for name, (count, words, abstract) in BENCHMARKS.items() for number in range(count)]
    return pd.DataFrame(rows)


def one(megabytes: int, processes: int, base: str, folder: Path) -> dict:
    """All steps on one size: seconds of each, and the peak memory in MiB."""
    from hippo_utils import params
    from hippo_utils.corpus import accounts, cleaning, contamination, deduplication, sources, streams

    items = exam()
    made = generate(folder / "mirror", megabytes, items["question"].tolist())
    corpus = params.load("hippo_llama").corpus.model_copy(update={"data_root": str(folder / "mirror"), "documents": {DOCUMENTS: None}, "instructions": {INSTRUCTIONS: None}})
    generated = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, started, computed, quarantine = {}, time.time(), _cpu_seconds(), []

    def lap(name: str) -> None:
        nonlocal started
        seconds[name], started = round(time.time() - started, 1), time.time()
        print(f"{megabytes} MB: {name} {seconds[name]} s", file=sys.stderr, flush=True)

    raw, documents = folder / "raw.parquet", folder / "documents.parquet"
    asked, instructions = folder / "asked.parquet", folder / "instructions.parquet"
    sources.write("document", corpus, None, 0, raw, quarantine)
    sources.write("instruction", corpus, None, 0, asked, quarantine)
    lap("streaming")
    how = dict(minimum_words=20, language="en", processes=processes)
    cleaning.clean_file(raw, folder / "cleaned.parquet", folder / "log.parquet", kind="document", **how)
    cleaning.clean_file(asked, instructions, folder / "log_instructions.parquet", kind="instruction", **how)
    lap("cleaning")
    dropped = deduplication.deduplicate_file(folder / "cleaned.parquet", documents, threshold=0.9, seed=0, processes=processes)
    copies = deduplication.instructions_file(instructions, threshold=0.9, seed=0, processes=processes)
    lap("deduplication")
    found, leaked = contamination.audit_files([documents, instructions], items, 8, threshold=0.8, processes=processes, decontaminate=[INSTRUCTIONS])
    lap("contamination")
    ids = streams.columns(documents, ["id", "source"])
    kept, held_out = accounts.split_held_out(ids, 0.002, 0)
    streams.select(documents, folder / "kept.parquet", accounts.mixture(kept, {}, 0))
    streams.select(instructions, folder / "taught.parquet", dict.fromkeys(leaked["text_id"], 0), otherwise=1)
    lap("splitting")
    account = pd.concat([accounts.account_file(folder / f"{name}.parquet", base, name, processes) for name in ("kept", "taught")])
    lap("counting")
    mine, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"MB": round(made / 1e6), "documents": len(ids) + len(dropped), "instructions": len(streams.columns(asked, ["id"])), "unusable": len(quarantine),
            "copies": len(dropped) + int((copies["kind"] == "exact").sum()), "leaks removed": leaked["text_id"].nunique(), "tokens": int(account["tokens"].sum()), **seconds,
            "seconds": round(sum(seconds.values()), 1), "CPU seconds": round(_cpu_seconds() - computed, 1), "MB/s": round(made / 1e6 / sum(seconds.values()), 2),
            "peak MiB": round((mine + (workers * processes if processes > 1 else 0)) / 1024), "of it generating": round(generated / 1024)}


def _cpu_seconds() -> float:
    """CPU time of this process and its finished workers: what a busy machine does not change much."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def check_seconds(megabytes: int, folder: Path) -> float:
    """What `up to date?` costs for files of this size whose size and time are unchanged, and once more when the times are not."""
    from hippo_utils import manifest
    file = folder / "large.bin"
    with open(file, "wb") as out:
        for _ in range(megabytes):
            out.write(b"x" * 10**6)
    entries = {"large.bin": manifest.entry(file)}
    started = time.time()
    assert not manifest.changed(folder, entries)
    unchanged = time.time() - started
    file.touch()
    started = time.time()
    assert not manifest.changed(folder, entries)
    print(f"up-to-date check over {megabytes} MB: {unchanged * 1000:.1f} ms; {time.time() - started:.1f} s where the times differ (copied files) and contents are hashed again")
    return unchanged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200], help="MB of text")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--base", help="folder whose tokenizer counts (default: a byte-level BPE of 32,000 entries, trained here)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.one:
            print(json.dumps(one(options.one, options.processes, options.base, Path(folder))))
            return
        if not options.base:
            from hippo_utils.corpus import tokenizer
            prose = Prose(0)
            options.base = str(tokenizer.train((prose.text(300) for _ in range(6000)), 32_000, Path(folder) / "tokenizer"))
        rows = []
        for size in options.sizes:
            command = [sys.executable, __file__, "--one", str(size), "--processes", str(options.processes), "--base", options.base]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
            print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
        table = pd.DataFrame(rows)
        print("\n" + table.T.to_string(header=False))
        def at(column: str) -> float:
            slope, start = np.polyfit(table["MB"], table[column], 1) if len(table) > 1 else (table[column].iloc[0] / table["MB"].iloc[0], 0)
            return start + slope * PAPER
        per_mb = table["CPU seconds"] / table["MB"]
        print(f"\nCPU seconds per MB at the largest size over those at the smallest: {per_mb.iloc[-1] / per_mb.iloc[0]:.2f} (1 is linear)")
        print(f"{PAPER} MB, straight line through the sizes: {at('seconds') / 60:.1f} minutes with {options.processes} processes ({at('CPU seconds') / 60:.1f} minutes of CPU), "
              f"{at('peak MiB') / 1024:.1f} GiB")
        check_seconds(min(PAPER, 2 * max(options.sizes)), Path(folder))


if __name__ == "__main__":
    main()
