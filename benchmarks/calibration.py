"""How long does 07 compute, and how does the time grow with the number of items?

    python benchmarks/calibration.py [--items 100 300 1000 3000 10000] [--resamples 1000]    invented items
    python benchmarks/calibration.py --run mini_llama                                        everything 07 computes for a finished run

Seconds are of this process's own CPU time (one thread), which other work on the machine does not lengthen; wall time stands
beside the total. `row` is one line of table_calibration with its bootstrap, `temperature` and `conformal` are cross-fitted.
"""

import argparse
import os
import time

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from hippo_utils import params, paths, records
from hippo_utils.evaluation import calibration, confidence, scoring


def seconds(work) -> tuple[float, object]:
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


def growth(sizes: list[int], resamples: int) -> None:
    rng = np.random.default_rng(0)
    print(f"{'items':>7} {'row':>8} {'in clusters of 4':>17} {'temperature':>12} {'conformal':>10}   seconds, {resamples} resamples")
    for n in sizes:
        logits, answers = rng.normal(size=(n, 4)), rng.integers(0, 4, n)
        p = calibration.option_probabilities(logits)
        works = (lambda: calibration.calibration_row(p, answers, seed=0, resamples=resamples),
                 lambda: calibration.calibration_row(p, answers, seed=0, clusters=np.arange(n) // 4, resamples=resamples),
                 lambda: calibration.cross_fitted_temperature(logits, answers, seed=0),
                 lambda: calibration.cross_fitted_conformal(p, answers, seed=0))
        print(f"{n:7} {{:8.3f}} {{:17.3f}} {{:12.3f}} {{:10.3f}}".format(*(min(seconds(work)[0] for _ in range(3)) for work in works)))


def whole(run: str) -> None:
    settings = params.load(run)
    chosen = settings.calibration
    options = {"resamples": chosen.resamples, "seed": 0}
    start = time.perf_counter()
    spent = {}

    def timed(name, work):
        spent[name], made = seconds(work)
        return made

    def everything():
        predictions = records.read("prediction", paths.stage_folder(run, "05_evaluation") / "predictions.parquet")
        return confidence.under_all_settings(scoring.join(predictions, records.read("item", paths.stage_folder(run, "01_corpus") / "items.parquet")))

    found = timed("reading", everything)
    answered = confidence.main_setting(found, shots=chosen.shots)
    stages, benchmarks = confidence.there(chosen.stages, answered["stages"]), confidence.there(chosen.benchmarks, answered["benchmark"])
    timed("densities and means", lambda: (confidence.densities(answered, benchmarks, stages), confidence.means(answered, benchmarks, stages, **options)))
    table = timed("table_calibration", lambda: confidence.table(found, bins=chosen.bins, **options))
    timed("reliability and risk", lambda: (confidence.reliability(answered, bins=chosen.bins, **options), confidence.risk(answered)))
    timed("by subject and group", lambda: [confidence.by(answered, column, **options) for column in ("subject", "group")])
    timed("recalibration", lambda: confidence.recalibrated(answered, table, bins=chosen.bins, **options))
    timed("conformal sets", lambda: confidence.conformal(confidence.sets(answered, chosen.coverages, seed=0), **options))
    for name, value in spent.items():
        print(f"{value:8.2f} s  {name}")
    print(f"{sum(spent.values()):8.2f} s  together: {len(found)} predictions, {len(table)} rows, {chosen.resamples} resamples; {time.perf_counter() - start:.1f} s by the clock")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--run")
    arguments = parser.parse_args()
    whole(arguments.run) if arguments.run else growth(arguments.items, arguments.resamples)
