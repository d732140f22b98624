"""Every figure, drawn from its CSV file alone, so that style and captions change without running anything.

A notebook calls `show(stage, name, frame)`, which writes fig_<name>.csv and draws it; `redraw` draws again from the CSV.
Bytes are deterministic: no dates, no software names, fixed ids in SVG.
"""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from hippo_utils import manifest, paths
from hippo_utils.manifest import Stage
from hippo_utils.reporting.captions import MINI_MARK, PAPER_MARK, PUBLISHED, PUBLISHED_MARK, TITLES
from hippo_utils.reporting.tables import DIGITS

PALETTE = seaborn.color_palette("colorblind")
RIGHT, WRONG = PALETTE[0], (0.75, 0.15, 0.15)  # blue and red, as in the paper's figure 3
STAGE_ORDER = ("base", "CP", "SFT", "CP+SFT", "CP+SFT+DPO")
STAGE_COLOURS = dict(zip(STAGE_ORDER, [(0.6, 0.6, 0.6), PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[4]]))
BENCHMARK_NAMES = {"medmcqa": "MedMCQA", "medqa": "MedQA", "pubmedqa": "PubMedQA", "usmle_step1": "USMLE 1", "usmle_step2": "USMLE 2",
                   "usmle_step3": "USMLE 3", "knowledge": "knowledge\n(pooled)", "two_step": "two-step"}
GROUP_NAMES = {"held_out": "held-out facts (only in the documents)", "seen": "facts seen in the instructions",
               "control": "control facts (in no training text)", "all": "all items"}
SIZE = 7.0  # inches: two columns of a paper
STYLE = {"svg.hashsalt": "hippo", "svg.fonttype": "none", "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8,
         "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False}


def show(stage: Stage, name: str, frame: pd.DataFrame):
    """Write the data of a figure, draw it, and return the picture for the notebook."""
    from IPython.display import Image
    frame.to_csv(stage.figure_path(f"fig_{name}.csv"), index=False, float_format=DIGITS, lineterminator="\n")
    for ending in ("png", "svg"):
        stage.figure_path(f"fig_{name}.{ending}")
    draw(name, stage.figures, stage.settings.scale)
    return Image(str(stage.figures / f"fig_{name}.png"))


def draw(name: str, folder: Path, scale: str) -> None:
    """Draw fig_<name>.png and .svg from fig_<name>.csv."""
    frame = pd.read_csv(folder / f"fig_{name}.csv", keep_default_na=False, na_values=[""])
    with matplotlib.rc_context({**seaborn.axes_style("whitegrid"), **STYLE}):
        figure = Figure(layout="constrained")
        DRAW[name](figure, frame)
        figure.suptitle(TITLES[name], fontsize=10, fontweight="bold")
        mark = PUBLISHED_MARK if name in PUBLISHED else MINI_MARK if scale == "mini" else PAPER_MARK
        figure.supxlabel(mark, fontsize=7, color="dimgray" if mark == PAPER_MARK else "firebrick")
        figure.savefig(folder / f"fig_{name}.png", dpi=160, metadata={"Software": None})
        figure.savefig(folder / f"fig_{name}.svg", metadata={"Date": None, "Creator": None})


def redraw(run: str, stage: str) -> None:
    """Draw the figures of a finished stage again and note so in its manifest."""
    made = manifest.read(run, stage)
    folder = paths.figures(run)
    for file in [name for name in made["figures"] if name.startswith("fig_") and name.endswith(".csv")]:
        draw(file[4:-4], folder, made["scale"])
    made["figures"] = {name: manifest.entry(folder / name) for name in made["figures"]}
    manifest.write_json(made | {"drawing": manifest.drawing_hash()}, paths.manifest(run, stage))


# --- the pieces ------------------------------------------------------------------------------------------------------

def _bars(axes, frame: pd.DataFrame, x: str, hue: str, colours: dict, y: str = "accuracy", names: dict = {}) -> None:
    """Grouped bars with intervals (columns low, high where there are any)."""
    groups, series = list(dict.fromkeys(frame[x])), [name for name in colours if name in set(frame[hue])]
    width = 0.8 / max(1, len(series))
    for number, name in enumerate(series):
        part = frame[frame[hue] == name].set_index(x).reindex(groups)
        places = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
        axes.bar(places, part[y], width * 0.92, color=colours[name], label=names.get(name, name))
        if "low" in part:
            spread = [(part[y] - part["low"]).clip(lower=0), (part["high"] - part[y]).clip(lower=0)]
            axes.errorbar(places, part[y], yerr=np.array(spread), fmt="none", ecolor="black", elinewidth=0.8, capsize=1.5)
    axes.set_xticks(range(len(groups)), [names.get(group, group) for group in groups])
    axes.grid(axis="x", visible=False)


def _ticks(axes, names: list[str]) -> None:
    axes.set_xticks(range(len(names)), [BENCHMARK_NAMES.get(name, name) for name in names])


def _curves(axes, frame: pd.DataFrame, colours: dict) -> None:
    for name, part in frame.groupby("series", sort=False):
        axes.plot(part["x"].astype(float), part["y"], label=name, color=colours.get(name), linewidth=1.5)


def _corpus(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, max(2.0, 0.4 + 0.3 * len(frame)))
    axes = figure.subplots()
    kinds = dict(zip(dict.fromkeys(frame["kind"]), PALETTE))
    places = range(len(frame))[::-1]
    axes.barh(places, frame["tokens"], color=[kinds[kind] for kind in frame["kind"]])
    names = [source.replace(" (deliberately false answers included)", ", false answers in").removeprefix("mini_") for source in frame["source"]]
    axes.set_yticks(places, [name + (", set aside" if kind == "held out" else "") for name, kind in zip(names, frame["kind"])])
    for place, tokens in zip(places, frame["tokens"]):
        axes.text(tokens, place, f" {tokens:,.0f}", va="center", fontsize=7)
    axes.set_xlabel("tokens")
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.legend(handles=[matplotlib.patches.Patch(color=colour, label=kind) for kind, colour in kinds.items()], loc="lower right")


def _pretraining(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 2.9)
    left, right = figure.subplots(1, 2)
    _curves(left, frame[frame["panel"] == "loss"], STAGE_COLOURS)
    left.set(xlabel="step", ylabel="training loss (nats per token)", title="Loss")
    left.legend()
    bars = frame[frame["panel"] == "perplexity"]
    _bars(right, bars, "x", "series", STAGE_COLOURS, y="y", names={name: name.removeprefix("mini_") for name in bars["x"]})
    for bar in right.patches:
        right.annotate(f"{bar.get_height():.1f}", (bar.get_x() + bar.get_width() / 2, bar.get_height()), ha="center", va="bottom", fontsize=7)
    right.set(ylabel="perplexity", title="Documents set aside, lower is better", ylim=(0, 1.3 * bars["y"].max()))
    right.legend(loc="upper center", ncols=2)


def _instruction(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 2.9)
    left, right = figure.subplots(1, 2)
    _curves(left, frame[frame["panel"] == "loss"], STAGE_COLOURS)
    left.set(xlabel="step", ylabel="loss on completions (nats per token)", title="Loss on the answer only")
    left.legend()
    bars = frame[frame["panel"] == "rows"]
    places = range(len(bars))[::-1]
    right.barh(places, bars["y"], color=PALETTE[7])
    right.set_yticks(places, [name.removeprefix("mini_") for name in bars["x"]])
    right.set(xlabel="rows", title="The mixture")
    right.grid(axis="y", visible=False)


def _preference(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 2.9)
    left, right = figure.subplots(1, 2)
    _curves(left, frame[frame["panel"] == "loss"], {"loss": PALETTE[4]})
    left.axhline(np.log(2), color="black", linewidth=0.8, linestyle="--")
    left.text(left.get_xlim()[1], np.log(2), "ln 2 ", ha="right", va="bottom", fontsize=8)
    left.set(xlabel="step", ylabel="DPO loss", title="Loss starts at ln 2")
    bars = frame[frame["panel"] == "accuracy"]
    _bars(right, bars, "x", "series", STAGE_COLOURS, y="y")
    right.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    right.set(ylabel="preference accuracy", ylim=(0, 1.3), title="Held-out questions: chosen more likely", yticks=[0, 0.25, 0.5, 0.75, 1])
    right.legend(loc="upper center", ncols=2)


def _timeline(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 3.4)
    axes = figure.subplots()
    dates = pd.to_datetime(frame["date"])
    ours = frame["model"].str.startswith("Hippo")
    axes.scatter(dates[~ours], frame["accuracy_percent"][~ours], color=PALETTE[7], s=24)
    axes.scatter(dates[ours], frame["accuracy_percent"][ours], color=PALETTE[3], s=36, marker="D")
    for date, value, model in zip(dates, frame["accuracy_percent"], frame["model"]):
        axes.annotate(model, (date, value), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(ylabel="accuracy in % (published)", ylim=(20, 68))
    axes.margins(x=0.12)


def _stages(figure: Figure, frame: pd.DataFrame) -> None:
    there = set(frame["group"])
    groups = [group for group in GROUP_NAMES if group in there and (group != "all" or there == {"all"})]
    figure.set_size_inches(SIZE, 0.9 + 1.9 * len(groups))
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, group in zip(panels, groups):
        part = frame[frame["group"] == group]
        _bars(axes, part, "benchmark", "stages", STAGE_COLOURS, names=BENCHMARK_NAMES)
        names = list(dict.fromkeys(part["benchmark"]))
        for place, name in enumerate(names):
            guess = part[part["benchmark"] == name]["shortcut"].iloc[0]
            if guess == guess:
                axes.hlines(guess, place - 0.45, place + 0.45, color="black", linestyle="--", linewidth=1, label="best shortcut guess" if not place else None)
        axes.set(ylabel="accuracy", ylim=(0, 1.05), title=GROUP_NAMES[group])
    panels[0].legend(ncols=6, loc="upper center", bbox_to_anchor=(0.5, 1.45))


def _prompting(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 3.2)
    axes = figure.subplots()
    colours = dict(zip(dict.fromkeys(frame["prompting"]), PALETTE))
    _bars(axes, frame, "benchmark", "prompting", colours, names=BENCHMARK_NAMES)
    axes.set(ylabel="accuracy (held-out facts)" if "held_out" in set(frame["group"]) else "accuracy", ylim=(0, 1.05))
    axes.legend(ncols=min(4, len(colours)), loc="upper center", bbox_to_anchor=(0.5, 1.16 + 0.08 * ((len(colours) - 1) // 4)))


def _scoring(figure: Figure, frame: pd.DataFrame) -> None:
    """One row per protocol, in the table's order; the line is the paper's protocol."""
    stages = list(dict.fromkeys(frame["stages"]))
    names = list(dict.fromkeys(frame["scoring"]))[::-1]
    figure.set_size_inches(SIZE, 1.0 + 0.24 * len(names))
    panels = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    for axes, stage in zip(panels, stages):
        part = frame[frame["stages"] == stage].set_index("scoring").reindex(names)
        places = np.arange(len(names))
        axes.errorbar(part["accuracy"], places, xerr=np.array([(part["accuracy"] - part["low"]).clip(lower=0), (part["high"] - part["accuracy"]).clip(lower=0)]),
                      fmt="o", markersize=4, color=STAGE_COLOURS.get(stage, PALETTE[0]), ecolor="black", elinewidth=0.8, capsize=1.5)
        axes.axvline(part["accuracy"].iloc[-1], color="black", linewidth=0.8, linestyle="--")
        axes.set(xlabel="accuracy", xlim=(0, 1), title=f"{stage}, the same {part['n'].iloc[-1]:.0f} items")
        axes.set_yticks(places, names)
        axes.grid(axis="y", visible=False)


def _uncertainty(figure: Figure, frame: pd.DataFrame) -> None:
    """Rows are benchmarks, columns stages; correct (blue) and incorrect (red) are normalised together, so areas add up to 1."""
    benchmarks, stages = list(dict.fromkeys(frame["benchmark"])), list(dict.fromkeys(frame["stages"]))
    figure.set_size_inches(SIZE, 0.7 + 1.7 * len(benchmarks))
    grid = figure.subplots(len(benchmarks), len(stages), sharex=True, squeeze=False)
    for row, benchmark in zip(grid, benchmarks):
        for axes, stage in zip(row, stages):
            part = frame[(frame["benchmark"] == benchmark) & (frame["stages"] == stage)]
            for outcome, colour in (("correct", RIGHT), ("incorrect", WRONG)):
                curve = part[part["outcome"] == outcome]
                axes.fill_between(curve["probability"], curve["density"], color=colour, alpha=0.35, linewidth=0)
                axes.plot(curve["probability"], curve["density"], color=colour, linewidth=1, label=outcome)
                if len(curve) and curve["mean"].notna().any():
                    axes.axvline(curve["mean"].iloc[0], color=colour, linestyle="--", linewidth=1)
            axes.set(xlim=(0.2, 1), ylim=(0, None), yticks=[])
            axes.set_title(f"{BENCHMARK_NAMES.get(benchmark, benchmark)}, {stage}", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("probability of the prediction")
    for row in grid:
        row[0].set_ylabel("density")
    grid[0][0].legend(loc="upper right")


def _reliability(figure: Figure, frame: pd.DataFrame) -> None:
    stages = list(dict.fromkeys(frame["stages"]))
    figure.set_size_inches(SIZE, 2.9)
    grid = figure.subplots(2, len(stages), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for (above, below), stage in zip(grid.T, stages):
        part = frame[(frame["stages"] == stage) & (frame["n"] > 0)]
        above.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
        above.fill_between(part["confidence"], part["low"], part["high"], color=STAGE_COLOURS[stage], alpha=0.25, linewidth=0)
        above.plot(part["confidence"], part["accuracy"], marker="o", markersize=3, color=STAGE_COLOURS[stage])
        above.set(xlim=(0, 1), ylim=(0, 1), title=f"{stage}\nECE {part['ece'].iloc[0]:.2f}" if len(part) else stage)
        below.bar((frame["bin_low"] + frame["bin_high"])[frame["stages"] == stage] / 2, frame["n"][frame["stages"] == stage],
                  width=(frame["bin_high"] - frame["bin_low"]).iloc[0] * 0.9, color=STAGE_COLOURS[stage])
        below.set_xlabel("confidence")
    grid[0][0].set_ylabel("accuracy")
    grid[1][0].set_ylabel("items")


def _risk_coverage(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE * 0.75, 3.3)
    axes = figure.subplots()
    for stage in [name for name in STAGE_ORDER if name in set(frame["stages"])]:
        part = frame[frame["stages"] == stage]
        axes.plot(part["coverage"], part["risk"], color=STAGE_COLOURS[stage], label=stage, linewidth=1.5)
    axes.set(xlabel="share of items answered (most confident first)", ylabel="share of wrong answers", xlim=(0, 1), ylim=(0, None))
    axes.legend()


DRAW = {"corpus": _corpus, "pretraining": _pretraining, "instruction": _instruction, "preference": _preference, "timeline": _timeline,
        "stages": _stages, "prompting": _prompting, "scoring": _scoring, "uncertainty": _uncertainty, "reliability": _reliability, "risk_coverage": _risk_coverage}
