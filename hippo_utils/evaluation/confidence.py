"""The confidence of stored predictions: the paper's figure 3 and the tables of 07. Metrics live in calibration.py; no torch.

Predictions come in *settings* (protocol, shots, scoring): the paper's is five-shot option text, raw. Everything that is fitted
(a temperature, a conformal threshold) is fitted on other clusters of the same benchmark than the ones it is reported on.
Intervals are a bootstrap over clusters, because several questions are about one drug or disease.
"""

import numpy as np
import pandas as pd

from hippo_utils.evaluation import calibration
from hippo_utils.evaluation.scoring import final, in_order
from hippo_utils.statistics import Interval, bootstrap, cluster_codes, percentile_ends, resample_counts, wilson

GRID = np.linspace(0.0, 1.0, 101)
FEW = 5  # fewer predictions of one outcome than this have no density worth drawing
SETTING = ["protocol", "shots", "scoring"]
BEFORE_AND_AFTER = ("ece", "nll", "brier", "mean_confidence")


# --- from predictions to confidence ------------------------------------------------------------------------------------

def under_all_settings(joined: pd.DataFrame) -> pd.DataFrame:
    """Every stored prediction that has log-likelihoods, with its `confidence`, once per `scoring`.

    `raw` is the paper's: the softmax over the options' summed log-likelihoods. `per_byte` divides each by the length of its
    option first (lm-eval's acc_norm); log_likelihoods, prediction and correct are then those of the divided ones. It is left
    out where all options of an item are equally long (letters), since it is then only a temperature. Answers that were
    generated and parsed have no probabilities and are not in the result.
    """
    scored = joined[joined["log_likelihoods"].str.len() > 1]
    if not len(scored):
        raise ValueError(f"none of the {len(joined)} predictions has log-likelihoods; have 05_evaluation score a protocol that compares options")
    lengths = scored["option_bytes"].map(set).str.len() > 1
    per_byte = scored[lengths.groupby([scored["protocol"], scored["shots"]]).transform("any")]
    divided = [np.divide(one, other).tolist() for one, other in zip(per_byte["log_likelihoods"], per_byte["option_bytes"])]
    best = [max(scores) == scores[place] for scores, place in zip(scored["log_likelihoods"], scored["prediction"])]
    if not all(best):
        row = scored.iloc[best.index(False)]
        raise ValueError(f"{row['item']} under {row['protocol']}: the stored prediction {row['prediction']} is not the most likely of its options "
                         f"{row['log_likelihoods']}; log-likelihoods must stand in the order of the item's options")
    new = np.array([int(np.argmax(scores)) for scores in divided], dtype=int)
    per_byte = per_byte.assign(log_likelihoods=pd.Series(divided, index=per_byte.index, dtype=object), prediction=new, correct=new == per_byte["answer"])
    both = [part.assign(scoring=scoring) for part, scoring in ((scored, "raw"), (per_byte, "per_byte")) if len(part)]
    return in_order(_with_confidence(pd.concat(both, ignore_index=True)))


def of_predictions(joined: pd.DataFrame, *, shots: int, protocol: str = "option_text") -> pd.DataFrame:
    """Predictions under one protocol, raw, with their `confidence`: the softmax over the options' log-likelihoods, at its largest."""
    chosen = joined[(joined["protocol"] == protocol) & (joined["shots"] == shots)].reset_index(drop=True)
    return in_order(_with_confidence(chosen))


def _with_confidence(scored: pd.DataFrame) -> pd.DataFrame:
    probabilities = calibration.option_probabilities(list(scored["log_likelihoods"]))
    return scored.assign(confidence=np.nanmax(probabilities, axis=1))


def main_setting(rows: pd.DataFrame, *, shots: int) -> pd.DataFrame:
    """The rows (predictions, or lines of `table`) in the paper's setting: option text, raw, with so many examples."""
    return rows[(rows["protocol"] == "option_text") & (rows["scoring"] == "raw") & (rows["shots"] == shots)].reset_index(drop=True)


def probabilities(row: pd.Series) -> np.ndarray:
    """(options,) the probabilities of one prediction."""
    return calibration.option_probabilities([row["log_likelihoods"]])[0]


def there(wanted: list[str], column: pd.Series) -> list[str]:
    """Those of the wanted stages or benchmarks that were evaluated; all that were evaluated when none of them was."""
    evaluated = list(dict.fromkeys(column))
    return [name for name in wanted if name in evaluated] or evaluated


def _cells(answered: pd.DataFrame, *more: str):
    """Groups by benchmark and stage (and more), with all benchmarks together as `all`."""
    together = pd.concat([answered, answered.assign(benchmark="all")], ignore_index=True)
    return together.groupby([*more, "benchmark", "stages"], sort=False)


# --- the paper's figure ------------------------------------------------------------------------------------------------

def densities(answered: pd.DataFrame, benchmarks: list[str], stages: list[str]) -> pd.DataFrame:
    """Kernel densities of confidence, right and wrong apart but normalised together: the data of the paper's figure 3.

    What the kernel smears beyond a probability of 1 is folded back, so that the two areas add up to 1.
    Columns: benchmark, stages, outcome, probability, density, mean (of the outcome), n.
    """
    from scipy.stats import gaussian_kde
    rows = []
    for benchmark in benchmarks:
        for stage in stages:
            cell = answered[(answered["benchmark"] == benchmark) & (answered["stages"] == stage)]
            for outcome, correct in (("correct", True), ("incorrect", False)):
                values = cell.loc[cell["correct"] == correct, "confidence"].to_numpy()
                density = np.zeros_like(GRID)
                if len(values) >= FEW and np.ptp(values) > 1e-9:
                    kernel = gaussian_kde(values)
                    density = (kernel(GRID) + kernel(2 - GRID)) * len(values) / len(cell)
                rows.append(pd.DataFrame({"benchmark": benchmark, "stages": stage, "outcome": outcome, "probability": GRID, "density": density,
                                          "mean": values.mean() if len(values) else np.nan, "n": len(values)}))
    return pd.concat(rows, ignore_index=True)


def means(answered: pd.DataFrame, benchmarks: list[str], stages: list[str], *, resamples: int = 1000, seed: int) -> pd.DataFrame:
    """Mean confidence where right, where wrong, and their difference: the dashed lines of the figure, with 95 % intervals.

    Columns: benchmark, stages, outcome (correct, incorrect, difference), n, mean_confidence, low, high.
    """
    rows = []
    for stage in stages:
        for benchmark in benchmarks:
            cell = answered[(answered["benchmark"] == benchmark) & (answered["stages"] == stage)]
            if not len(cell):
                continue
            sure, right = cell["confidence"].to_numpy(), cell["correct"].to_numpy(float)
            ends = _resampled(np.column_stack([right, right * sure, 1 - right, (1 - right) * sure]), cell["cluster"], _three_means, resamples, seed)
            for outcome, n, (estimate, low, high) in zip(("correct", "incorrect", "difference"), (right.sum(), (1 - right).sum(), len(cell)), ends):
                rows.append((benchmark, stage, outcome, int(n), estimate, low, high))
    return pd.DataFrame(rows, columns=["benchmark", "stages", "outcome", "n", "mean_confidence", "low", "high"])


def _three_means(sums: np.ndarray) -> np.ndarray:
    """sums (..., 4) -> (..., 3): mean confidence where right, where wrong, and the difference; nan where there is none."""
    n_right, right, n_wrong, wrong = np.moveaxis(sums, -1, 0)
    right, wrong = right / np.where(n_right > 0, n_right, np.nan), wrong / np.where(n_wrong > 0, n_wrong, np.nan)
    return np.stack([right, wrong, right - wrong], axis=-1)


def _resampled(per_item: np.ndarray, clusters: pd.Series, statistic, resamples: int, seed: int) -> list[Interval]:
    """Percentile bootstrap of statistics that depend on sums over items: per_item (n, k), statistic (..., k) -> (..., statistics)."""
    codes, groups = cluster_codes(clusters.to_numpy(), len(per_item))
    per_cluster = np.zeros((groups, per_item.shape[1]))
    np.add.at(per_cluster, codes, per_item)
    drawn = np.concatenate([statistic(counts @ per_cluster) for counts in resample_counts(groups, resamples, seed=seed)])
    return [Interval(float(estimate), *percentile_ends(column, 0.95)) for estimate, column in zip(statistic(per_item.sum(axis=0)), drawn.T)]


# --- calibration, cell by cell -----------------------------------------------------------------------------------------

def table(answered: pd.DataFrame, *, bins: int, resamples: int, seed: int) -> pd.DataFrame:
    """calibration.calibration_row for every setting, benchmark and stage, with all benchmarks together as `all`."""
    rows = []
    for (protocol, shots, scoring, benchmark, stage), part in _cells(answered, *SETTING):
        row = calibration.calibration_row(calibration.option_probabilities(list(part["log_likelihoods"])), list(part["answer"]), seed=seed,
                                          clusters=part["cluster"].to_numpy(), bins=bins, resamples=resamples)
        rows.append({"benchmark": benchmark, "stages": stage, "shots": shots, "protocol": protocol, "scoring": scoring} | row)
    return in_order(pd.DataFrame(rows))


def reliability(answered: pd.DataFrame, *, bins: int, resamples: int, seed: int) -> pd.DataFrame:
    """Per stage and bin of confidence, all benchmarks together: bin_low, bin_high, n, confidence, accuracy, low, high, ece.

    The band (low, high) is the wider of Wilson's and of a bootstrap over clusters.
    """
    rows = []
    for stage, part in answered.groupby("stages", sort=False):
        sure, right = part["confidence"].to_numpy(), part["correct"].to_numpy(bool)
        found = calibration.reliability_table(sure, right, bins=bins)
        found = found.rename(columns={"lower": "bin_low", "upper": "bin_high", "mean_confidence": "confidence", "accuracy_low": "low", "accuracy_high": "high"})
        inside = np.searchsorted(found["bin_high"].to_numpy()[:-1], sure)[:, None] == np.arange(len(found))
        ends = _resampled(np.hstack([inside, inside * right[:, None]]).astype(float), part["cluster"], _shares, resamples, seed)
        found["low"], found["high"] = np.fmin(found["low"], [end.low for end in ends]), np.fmax(found["high"], [end.high for end in ends])
        rows.append(found.assign(stages=stage, ece=calibration.expected_calibration_error(sure, right, bins=bins)))
    columns = ["stages", "bin_low", "bin_high", "n", "confidence", "accuracy", "low", "high", "ece"]
    return pd.concat(rows, ignore_index=True)[columns]


def _shares(sums: np.ndarray) -> np.ndarray:
    """sums (..., 2 k) of k counts and k counts of right ones -> (..., k) shares; nan where there is none."""
    n, right = np.split(sums, 2, axis=-1)
    return right / np.where(n > 0, n, np.nan)


def risk(answered: pd.DataFrame, points: int = 100) -> pd.DataFrame:
    """Error rate among the most confident share of the items, per stage, all benchmarks together: stages, coverage, risk, aurc."""
    rows = []
    for stage, part in answered.groupby("stages", sort=False):
        sure, right = part["confidence"].to_numpy(), part["correct"].to_numpy(bool)
        curve = calibration.risk_coverage(sure, right)
        kept = np.unique(np.linspace(max(0, len(curve) // 50), len(curve) - 1, points).round().astype(int))
        rows.append(curve.iloc[kept].assign(stages=stage, aurc=calibration.aurc(sure, right)))
    return pd.concat(rows, ignore_index=True)[["stages", "coverage", "risk", "aurc"]]


def by(answered: pd.DataFrame, column: str, *, resamples: int, seed: int) -> pd.DataFrame:
    """Confidence beside accuracy for each value of a column of the items (subject, group), per stage, all benchmarks together.

    Columns: stages, <column>, n, clusters, accuracy, mean_confidence and over_confidence (each with _low, _high). The interval
    of accuracy is the wider of the bootstrap's and Wilson's, as few clusters may all be right. Items without a value are left out.
    """
    rows = []
    for (stage, name), part in answered[answered[column] != ""].groupby(["stages", column], sort=True):
        sure, right = part["confidence"].to_numpy(), part["correct"].to_numpy(float)
        ends = _resampled(np.column_stack([np.ones(len(part)), right, sure]), part["cluster"], _share_and_gap, resamples, seed)
        row = {"stages": stage, column: name, "n": len(part), "clusters": part["cluster"].nunique()}
        for measure, (estimate, low, high) in zip(("accuracy", "mean_confidence", "over_confidence"), ends):
            row |= {measure: estimate, f"{measure}_low": low, f"{measure}_high": high}
        alone = wilson(int(right.sum()), len(part))
        rows.append(row | {"accuracy_low": min(row["accuracy_low"], alone.low), "accuracy_high": max(row["accuracy_high"], alone.high)})
    return in_order(pd.DataFrame(rows))


def _share_and_gap(sums: np.ndarray) -> np.ndarray:
    """sums (..., 3) of ones, right, confidence -> (..., 3): accuracy, mean confidence, over-confidence."""
    n, right, sure = np.moveaxis(sums, -1, 0)
    return np.stack([right / n, sure / n, (sure - right) / n], axis=-1)


# --- repairs -----------------------------------------------------------------------------------------------------------

def recalibrated(answered: pd.DataFrame, before: pd.DataFrame, *, bins: int, resamples: int, seed: int) -> pd.DataFrame:
    """Temperature scaling by cross-fitting over each benchmark's items (and over all together): before and after.

    `before` is `table` of the same predictions. Columns: benchmark, stages, n, temperature with its smallest and largest over
    the folds, then ece, nll, brier and mean_confidence before and after with 95 % intervals, and nll_change with the interval
    of the paired difference. A benchmark with fewer clusters than folds is left out.
    """
    rows = []
    before = before.set_index(["benchmark", "stages", *SETTING])
    for (benchmark, stage), part in _cells(answered):
        clusters, scores, right = part["cluster"].to_numpy(), list(part["log_likelihoods"]), list(part["answer"])
        if len(set(clusters)) < calibration.FOLDS:
            continue
        fitted = calibration.cross_fitted_temperature(scores, right, seed=seed, clusters=clusters)
        old = before.loc[(benchmark, stage, *part.iloc[0][SETTING])]
        new = calibration.calibration_row(fitted.probabilities, right, seed=seed, clusters=clusters, bins=bins, resamples=resamples)
        row = {"benchmark": benchmark, "stages": stage, "n": len(part), "temperature": float(fitted.temperature.mean()),
               "temperature_low": fitted.temperature.min(), "temperature_high": fitted.temperature.max()}
        for metric in BEFORE_AND_AFTER:
            for when, values in (("before", old), ("after", new)):
                row |= {f"{metric}_{when}{end}": values[f"{metric}{end}"] for end in ("", "_low", "_high")}
        change = calibration.nll_terms(fitted.probabilities, right) - calibration.nll_terms(calibration.option_probabilities(scores), right)
        row["nll_change"], row["nll_change_low"], row["nll_change_high"] = bootstrap(change, seed=seed, clusters=clusters, resamples=resamples)
        rows.append(row)
    return in_order(pd.DataFrame(rows))


def sets(answered: pd.DataFrame, coverages: list[float], *, seed: int) -> pd.DataFrame:
    """Conformal sets of every prediction, cross-fitted over the items of its benchmark and stage: one row per item and coverage.

    Columns: those of `answered`, promised (a share), covered (the answer is in the set), size (options in the set).
    """
    found = []
    for (_, stage), part in answered.groupby(["benchmark", "stages"], sort=False):
        if part["cluster"].nunique() < calibration.FOLDS:
            continue
        probabilities, right = calibration.option_probabilities(list(part["log_likelihoods"])), part["answer"].to_numpy()
        for promised in coverages:
            fitted = calibration.cross_fitted_conformal(probabilities, right, seed=seed, coverage=promised, clusters=part["cluster"].to_numpy())
            found.append(part.assign(promised=promised, covered=fitted.sets[np.arange(len(part)), right], size=fitted.sets.sum(axis=1)))
    return pd.concat(found, ignore_index=True)


def conformal(in_sets: pd.DataFrame, *, resamples: int, seed: int) -> pd.DataFrame:
    """Coverage and size of conformal sets by benchmark, by subject (all benchmarks together), and over all items.

    Columns: stages, promised, by, name, options (on average, to set the size against), then those of calibration.conformal_summary.
    """
    rows = []
    kinds = [("benchmark", in_sets), ("subject", in_sets[in_sets["subject"] != ""]), ("all", in_sets.assign(all="all"))]
    for column, part in kinds:
        for (stage, promised, name), cell in part.groupby(["stages", "promised", column], sort=column == "subject"):
            rows.append({"stages": stage, "promised": promised, "by": column, "name": name, "options": cell["options"].str.len().mean()}
                        | calibration.conformal_summary(cell["covered"].to_numpy(), cell["size"].to_numpy(), seed=seed, clusters=cell["cluster"].to_numpy(), resamples=resamples))
    return in_order(pd.DataFrame(rows))


# --- what may be concluded -----------------------------------------------------------------------------------------------

def statements(means: pd.DataFrame, table: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """The paper's statements on uncertainty, what its own figure says of them, and what this run says.

    means: of the figure's cells; table: of the run's predictions in the figure's setting; published: the means of the paper's
    figure (benchmark, stages, outcome, value). Columns: statement, paper, run, verdict (of the run: holds, does not hold, mixed, undecided).
    """
    theirs = published.rename(columns={"value": "mean_confidence"})
    return pd.DataFrame([_more_confident_when_right(means, theirs), _highest_on_medmcqa(means, theirs), _self_calibrated(table)],
                        columns=["statement", "paper", "run", "verdict"])


def _gaps(means: pd.DataFrame) -> pd.Series:
    wide = means[means["outcome"] != "difference"].pivot_table(index=["benchmark", "stages"], columns="outcome", values="mean_confidence", sort=False)
    return (wide.get("correct", np.nan) - wide.get("incorrect", np.nan)).dropna()


def _more_confident_when_right(means: pd.DataFrame, published: pd.DataFrame) -> tuple[str, str, str, str]:
    theirs, ours = _gaps(published), _gaps(means)
    shown = means[means["outcome"] == "difference"]
    above, below = int((shown["low"] > 0).sum()), int((shown["high"] < 0).sum())
    return ("The model is more confident where it is right",
            f"true in {(theirs > 0).sum()} of {len(theirs)} cells of its figure (by {theirs.min():.3f} to {theirs.max():.3f}; no interval is given)",
            f"true in {(ours > 0).sum()} of {len(ours)} cells (by {ours.min():+.3f} to {ours.max():+.3f}); the interval is above 0 in {above}, below 0 in {below}",
            "holds" if above == len(shown) else "mixed" if above else "does not hold" if below else "undecided")


def _highest_on_medmcqa(means: pd.DataFrame, published: pd.DataFrame) -> tuple[str, str, str, str]:
    def highest(frame: pd.DataFrame) -> pd.Series:
        of = frame[frame["outcome"] != "difference"].dropna(subset="mean_confidence")
        return of.loc[of.groupby(["stages", "outcome"])["mean_confidence"].idxmax(), "benchmark"].value_counts()

    theirs, ours = highest(published), highest(means)
    first = ours.get("medmcqa", 0)
    return ("Confidence is highest on MedMCQA and lower on PubMedQA",
            f"{'its figure agrees' if theirs.get('medmcqa', 0) == theirs.sum() else 'CONTRADICTED BY ITS OWN FIGURE'}: of {theirs.sum()} comparisons (stage x outcome), "
            f"highest are {_counts(theirs)}{'' if 'medmcqa' in theirs else ', medmcqa in none'}",
            f"of {ours.sum()} comparisons, highest are {_counts(ours)}",
            "holds" if first == ours.sum() else "does not hold" if first == 0 else "mixed")


def _counts(found: pd.Series) -> str:
    return ", ".join(f"{name} in {n}" for name, n in found.items())


def _self_calibrated(table: pd.DataFrame) -> tuple[str, str, str, str]:
    cells = table[table["benchmark"] != "all"]
    good = cells["ece"] <= cells["ece_if_calibrated_high"]
    return ("The models are self-calibrated",
            "claimed without a number: no ECE, Brier score, AUROC or temperature is given",
            f"ECE {cells['ece'].min():.3f} to {cells['ece'].max():.3f}; no larger than a calibrated model of that n might show in {good.sum()} of {len(good)} cells (stage x benchmark)",
            "holds" if good.all() else "does not hold" if not good.any() else "mixed")


def conclusions(settings: pd.DataFrame, groups: pd.DataFrame, repaired: pd.DataFrame, covered: pd.DataFrame, *, shots: int) -> list[str]:
    """What this run says about its confidence, each as one sentence with its numbers: stage by stage, then of the model that the paper arrives at.

    settings: `table` of all settings, of which option text, raw, `shots` is the main one; groups: `by`
    group; repaired: `recalibrated`; covered: `conformal`.
    """
    lines = []
    overall = settings[settings["benchmark"] == "all"]
    main = main_setting(overall, shots=shots)
    after = repaired[repaired["benchmark"] == "all"].set_index("stages")
    for row in main.to_dict("records"):
        calibrated = row["ece"] <= row["ece_if_calibrated_high"]
        lines.append(
            f"{row['stages']}: says {row['mean_confidence']:.0%} on average and is right in {row['accuracy']:.0%} (n = {row['n']}); ECE {row['ece']:.3f} "
            f"({row['ece_low']:.3f} to {row['ece_high']:.3f}), where a calibrated model would show about {row['ece_if_calibrated']:.3f}"
            f"{' and so much may be chance' if calibrated else ''}; AUROC {row['auroc']:.2f} ({row['auroc_low']:.2f} to {row['auroc_high']:.2f}), so confidence "
            f"{'separates right from wrong' if row['auroc_low'] > 0.5 else 'does not reliably separate right from wrong'}; "
            f"answering only the surer half it is right in {row['accuracy_at_50']:.0%} ({row['accuracy_at_50_low']:.0%} to {row['accuracy_at_50_high']:.0%}).")
        if row["stages"] in after.index:
            new = after.loc[row["stages"]]
            lines.append(f"{row['stages']}: a temperature of {new['temperature']:.3g}, fitted on other items, takes the NLL from {new['nll_before']:.2f} to {new['nll_after']:.2f} "
                         f"(change {new['nll_change_low']:+.2f} to {new['nll_change_high']:+.2f}), the ECE from {new['ece_before']:.3f} to {new['ece_after']:.3f} "
                         f"({new['ece_after_low']:.3f} to {new['ece_after_high']:.3f}) and mean confidence to {new['mean_confidence_after']:.0%}; not one prediction changes."
                         + (" The likelihood gains and the calibration error grows: a few confident errors set the temperature, and the model is now too modest."
                            if new["ece_after"] > new["ece_before"] and new["nll_after"] < new["nll_before"] else ""))
    arrived = final(list(overall["stages"]))
    last = groups[groups["stages"] == arrived]
    if len(last) > 1:
        worst = last.loc[last["over_confidence"].idxmax()]
        lines.append(f"{worst['stages']}: most over-confident on {worst['group'].replace('_', '-')} items, where it says {worst['mean_confidence']:.0%} and is right in "
                     f"{worst['accuracy']:.0%} ({worst['accuracy_low']:.0%} to {worst['accuracy_high']:.0%}, n = {worst['n']}).")
    for row in covered[(covered["by"] == "all") & (covered["stages"] == arrived)].tail(1).to_dict("records"):
        subjects = covered[(covered["by"] == "subject") & (covered["stages"] == row["stages"]) & (covered["promised"] == row["promised"])]
        worst = f"; by subject between {subjects['coverage'].min():.0%} and {subjects['coverage'].max():.0%}, because the promise is for all items together" if len(subjects) else ""
        lines.append(f"{row['stages']}: sets that promise {row['promised']:.0%} hold the answer in {row['coverage']:.1%} ({row['coverage_low']:.1%} to {row['coverage_high']:.1%}) "
                     f"with {row['set_size']:.2f} of {row['options']:.2f} options{worst}.")
    last = overall[overall["stages"] == arrived]
    if len(last) > 1:
        low, high = last.loc[last["ece"].idxmin()], last.loc[last["ece"].idxmax()]
        lines.append(f"{low['stages']}, the same weights under {len(last)} settings: ECE from {low['ece']:.3f} ({setting_name(low)}) to {high['ece']:.3f} ({setting_name(high)}), "
                     f"AUROC from {last['auroc'].min():.2f} to {last['auroc'].max():.2f}. A statement about calibration is one about a model and a protocol.")
    return lines


def setting_name(row) -> str:
    """How a setting is called: "option text, 5-shot, per byte"."""
    words = [row["protocol"].replace("_", " ").replace("+", " + "), "zero-shot" if row["shots"] == 0 else f"{row['shots']}-shot"]
    return ", ".join(words + (["per byte"] if row["scoring"] == "per_byte" else []))
