"""How long does 01's work on text take, and how much memory, as the corpus grows? What would the paper's 1.1 GB take?

    python benchmarks/corpus.py [--sizes 50 100 200] [--processes 2] [--base FOLDER]

Generated documents (three sources, prose-like, with planted dirt, copies and leaks) go through the steps of 01_corpus: streaming
into records, cleaning, deduplication, the contamination audit against as many items as the paper's six benchmarks have (7,681 with
questions and abstracts of like length), splitting, and counting tokens. Each size runs in a process of its own, whose peak memory
(the largest of its workers added per worker) is reported. Cost is linear if the CPU time per MB does not rise; the last lines say so,
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
SOURCES = {"guidelines": 1500, "pmc_patients": 400, "pubmedqa_contexts": 200}   # words per document, about
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


def generate(path: Path, megabytes: int, asked: list[str]) -> int:
    """Write document records of about `megabytes`; returns the bytes of text. One in 50 is a copy, one in 500 holds a test item."""
    from hippo_utils.corpus import hub, streams
    from hippo_utils.records import SCHEMAS

    prose, made, number, before = Prose(megabytes), 0, 0, "x"
    with streams.Writer(path, SCHEMAS["document"]) as out:
        while made < megabytes * 10**6:
            rows = []
            for _ in range(hub.BATCH):
                source, words = list(SOURCES.items())[number % 3]
                text = prose.text(int(words * prose.rng.uniform(0.5, 1.5)))
                if number % 50 == 7:
                    text = before if number % 100 == 7 else before.replace(" the ", " of ", 2)
                elif number % 500 == 11:
                    text += " " + asked[number % len(asked)] + " " + prose.text(50)
                elif number % 25 == 3:
                    text += " See https://www.example.org/x now.\u200b All rights reserved."
                rows.append({"id": f"{source}-{number:07d}", "source": source, "licence": "none", "text": text, "fact_ids": []})
                made, number, before = made + len(text), number + 1, text
            out.write(pd.DataFrame(rows))
    return made


def exam() -> pd.DataFrame:
    prose = Prose(1)
    rows = [{"id": f"{name}-{number}", "benchmark": name, "group": "all", "question": prose.text(words), "context": prose.text(abstract) if abstract else "",
             "options": [prose.text(8)[:20] for _ in range(4)], "split": "test"} for name, (count, words, abstract) in BENCHMARKS.items() for number in range(count)]
    return pd.DataFrame(rows)


def one(megabytes: int, processes: int, base: str, folder: Path) -> dict:
    """All steps on one size: seconds of each, and the peak memory in MiB."""
    from hippo_utils.corpus import accounts, cleaning, contamination, deduplication, streams

    items = exam()
    made = generate(folder / "raw.parquet", megabytes, items["question"].tolist())
    generated = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, started, computed = {}, time.time(), _cpu_seconds()

    def lap(name: str) -> None:
        nonlocal started
        seconds[name], started = round(time.time() - started, 1), time.time()

    cleaning.clean_file(folder / "raw.parquet", folder / "cleaned.parquet", folder / "log.parquet", kind="document", minimum_words=20, language="en", processes=processes)
    lap("cleaning")
    dropped = deduplication.deduplicate_file(folder / "cleaned.parquet", folder / "documents.parquet", threshold=0.9, seed=0, processes=processes)
    lap("deduplication")
    found, leaked = contamination.audit_files([folder / "documents.parquet"], items, 8, threshold=0.8, processes=processes, decontaminate=SOURCES)
    lap("contamination")
    ids = streams.columns(folder / "documents.parquet", ["id", "source"])
    kept, held_out = accounts.split_held_out(ids[~ids["id"].isin(leaked["text_id"])], 0.002, 0)
    streams.select(folder / "documents.parquet", folder / "kept.parquet", accounts.mixture(kept, {}, 0))
    lap("splitting")
    account = accounts.account_file(folder / "kept.parquet", base, "document", processes)
    lap("counting")
    mine, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"MB": round(made / 1e6), "documents": len(ids) + len(dropped), "copies": len(dropped), "leaks removed": leaked["text_id"].nunique(),
            "tokens": int(account["tokens"].sum()), **seconds, "seconds": round(sum(seconds.values()), 1), "CPU seconds": round(_cpu_seconds() - computed, 1), "MB/s": round(made / 1e6 / sum(seconds.values()), 2),
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
