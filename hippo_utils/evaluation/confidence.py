"""The confidence of stored predictions: the paper's figure 3 and the tables of 07. Metrics live in calibration.py; no torch."""

import numpy as np
import pandas as pd

from hippo_utils.evaluation import calibration
from hippo_utils.evaluation.scoring import in_order

GRID = np.linspace(0.0, 1.0, 101)
FEW = 5  # fewer predictions of one outcome than this have no density worth drawing


def of_predictions(joined: pd.DataFrame, *, shots: int, protocol: str = "option_text") -> pd.DataFrame:
    """Predictions under one protocol with their `confidence`: the softmax over the options' log-likelihoods, at its largest."""
    chosen = joined[(joined["protocol"] == protocol) & (joined["shots"] == shots)].reset_index(drop=True)
    probabilities = calibration.option_probabilities(list(chosen["log_likelihoods"]))
    return in_order(chosen.assign(confidence=np.nanmax(probabilities, axis=1)))


def densities(answered: pd.DataFrame, benchmarks: list[str], stages: list[str]) -> pd.DataFrame:
    """Kernel densities of confidence, right and wrong apart but normalised together: the data of the paper's figure 3.

    Columns: benchmark, stages, outcome, probability, density, mean (of the outcome), n.
    """
    from scipy.stats import gaussian_kde
    rows = []
    for benchmark in benchmarks:
        for stage in stages:
            cell = answered[(answered["benchmark"] == benchmark) & (answered["stages"] == stage)]
            for outcome, correct in (("correct", True), ("incorrect", False)):
                values = cell.loc[cell["correct"] == correct, "confidence"].to_numpy()
                drawn = len(values) >= FEW and np.ptp(values) > 1e-9
                density = gaussian_kde(values)(GRID) * len(values) / len(cell) if drawn else np.zeros_like(GRID)
                rows.append(pd.DataFrame({"benchmark": benchmark, "stages": stage, "outcome": outcome, "probability": GRID, "density": density,
                                          "mean": values.mean() if len(values) else np.nan, "n": len(values)}))
    return pd.concat(rows, ignore_index=True)


def means(answered: pd.DataFrame, benchmarks: list[str], stages: list[str]) -> pd.DataFrame:
    """Mean confidence where right and where wrong: the numbers beside the dashed lines. Columns: ..., n, mean_confidence."""
    chosen = answered[answered["benchmark"].isin(benchmarks) & answered["stages"].isin(stages)]
    chosen = chosen.assign(outcome=np.where(chosen["correct"], "correct", "incorrect"))
    table = chosen.groupby(["benchmark", "stages", "outcome"], sort=False)["confidence"].agg(n="size", mean_confidence="mean").reset_index()
    return in_order(table)


def table(answered: pd.DataFrame, *, bins: int, resamples: int, seed: int) -> pd.DataFrame:
    """calibration.calibration_row for every benchmark and stage, with all benchmarks together as `all`."""
    rows = []
    for (benchmark, stage), part in _cells(answered):
        row = calibration.calibration_row(calibration.option_probabilities(list(part["log_likelihoods"])), list(part["answer"]), seed=seed,
                                          clusters=part["cluster"].to_numpy(), bins=bins, resamples=resamples)
        rows.append({"benchmark": benchmark, "stages": stage, "shots": int(part["shots"].iloc[0]), "protocol": part["protocol"].iloc[0]} | row)
    return pd.DataFrame(rows)


def _cells(answered: pd.DataFrame):
    together = pd.concat([answered, answered.assign(benchmark="all")], ignore_index=True)
    return together.groupby(["benchmark", "stages"], sort=False)


def reliability(answered: pd.DataFrame, bins: int) -> pd.DataFrame:
    """Per stage and bin of confidence, all benchmarks together: bin_low, bin_high, n, confidence, accuracy, low, high, ece."""
    rows = []
    for stage, part in answered.groupby("stages", sort=False):
        sure, right = part["confidence"].to_numpy(), part["correct"].to_numpy(bool)
        found = calibration.reliability_table(sure, right, bins=bins)
        found = found.rename(columns={"lower": "bin_low", "upper": "bin_high", "mean_confidence": "confidence", "accuracy_low": "low", "accuracy_high": "high"})
        rows.append(found.assign(stages=stage, ece=calibration.expected_calibration_error(sure, right, bins=bins)))
    columns = ["stages", "bin_low", "bin_high", "n", "confidence", "accuracy", "low", "high", "ece"]
    return pd.concat(rows, ignore_index=True)[columns]


def risk(answered: pd.DataFrame, points: int = 100) -> pd.DataFrame:
    """Error rate among the most confident share of the items, per stage, all benchmarks together: stages, coverage, risk."""
    rows = []
    for stage, part in answered.groupby("stages", sort=False):
        curve = calibration.risk_coverage(part["confidence"].to_numpy(), part["correct"].to_numpy(bool))
        kept = np.unique(np.linspace(max(0, len(curve) // 50), len(curve) - 1, points).round().astype(int))
        rows.append(curve.iloc[kept].assign(stages=stage))
    return pd.concat(rows, ignore_index=True)[["stages", "coverage", "risk"]]


def recalibrated(answered: pd.DataFrame, *, seed: int, bins: int) -> pd.DataFrame:
    """Temperature scaling by cross-fitting, per stage, all benchmarks together: ECE and NLL before and after, the temperature."""
    rows = []
    for stage, part in answered.groupby("stages", sort=False):
        scores, right = list(part["log_likelihoods"]), list(part["answer"])
        fitted = calibration.cross_fitted_temperature(scores, right, seed=seed, clusters=part["cluster"].to_numpy())
        row = {"stages": stage, "n": len(part), "temperature": float(fitted.temperature.mean())}
        for when, probabilities in (("before", calibration.option_probabilities(scores)), ("after", fitted.probabilities)):
            of = calibration.predicted(probabilities, right)
            row |= {f"ece_{when}": calibration.expected_calibration_error(of.confidence, of.correct, bins=bins),
                    f"nll_{when}": calibration.negative_log_likelihood(probabilities, right)}
        rows.append(row)
    return pd.DataFrame(rows)


def conclusions(table: pd.DataFrame, means: pd.DataFrame) -> list[str]:
    """What this run says about the paper's statements on uncertainty, each as one sentence with its numbers."""
    said = []
    wide = means.pivot_table(index=["benchmark", "stages"], columns="outcome", values="mean_confidence", sort=False)
    if {"correct", "incorrect"} <= set(wide):
        more = wide["correct"] > wide["incorrect"]
        said.append(f"\"More confident where it is right\": true in {int(more.sum())} of {len(more)} cells of the figure "
                    f"(mean difference {float((wide['correct'] - wide['incorrect']).mean()):+.3f}).")
    overall = table[table["benchmark"] == "all"].set_index("stages")
    for stage, row in overall.iterrows():
        calibrated = row["ece"] <= row["ece_if_calibrated_high"]
        said.append(f"{stage}: says {row['mean_confidence']:.0%} on average and is right in {row['accuracy']:.0%}; ECE {row['ece']:.3f} "
                    f"({row['ece_low']:.3f} to {row['ece_high']:.3f}), {'no more than a calibrated model of this n would show' if calibrated else f'a calibrated model of this n would show about {row.ece_if_calibrated:.3f}'}; "
                    f"AUROC {row['auroc']:.2f}, so confidence {'separates right from wrong' if row['auroc_low'] > 0.5 else 'does not reliably separate right from wrong'}.")
    cells = table[table["benchmark"].isin(means["benchmark"])].groupby("benchmark", sort=False)["mean_confidence"].mean()
    if len(cells) > 1:
        said.append(f"Confidence is highest on {cells.idxmax()} and lowest on {cells.idxmin()} here. (The paper's text names MedMCQA as highest; its figure shows PubMedQA.)")
    return said
