"""Every figure, drawn from its CSV file alone, so that style and captions change without running anything. Looks are in style.py.

A notebook calls `show(stage, name, frame)`, which writes fig_<name>.csv and draws it; `redraw` draws again from the CSV.
Bytes are deterministic: no dates, no software names, fixed ids in SVG.
"""

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from hippo_utils import manifest, paths
from hippo_utils.manifest import Stage
from hippo_utils.reporting.captions import MINI_MARK, PAPER_MARK, PUBLISHED, PUBLISHED_MARK, SMALL_MARK, TITLES
from hippo_utils.reporting.chinese import families
from hippo_utils.reporting.style import (BENCHMARK_NAMES, COLUMN, GROUP_NAMES, HIPPOCRATES, HYPNOS_GROUP_NAMES, METADATA, PALETTE, PATH, RIGHT, SIZE,
                                         STAGE_COLOURS, STAGE_MARKERS, STAGE_ORDER, STYLE, WRONG, in_order, source_name)
from hippo_utils.reporting.tables import DIGITS

def show(stage: Stage, name: str, frame: pd.DataFrame):
    """Write the data of a figure, draw it, and return the picture for the notebook."""
    from IPython.display import Image
    frame.to_csv(stage.figure_path(f"fig_{name}.csv"), index=False, float_format=DIGITS, lineterminator="\n")
    for ending in METADATA:
        stage.figure_path(f"fig_{name}.{ending}")
    draw(name, stage.figures, stage.settings.scale)
    return Image(str(stage.figures / f"fig_{name}.png"))


def draw(name: str, folder: Path, scale: str) -> Figure:
    """Draw fig_<name>.png, .svg and .pdf from fig_<name>.csv."""
    frame = pd.read_csv(folder / f"fig_{name}.csv", keep_default_na=False, na_values=[""])
    fonts = families([*frame.columns, *frame.select_dtypes(exclude="number").stack()])
    with matplotlib.rc_context({**seaborn.axes_style("whitegrid"), **STYLE, **({"font.family": fonts} if fonts else {})}):
        figure = Figure(layout="constrained")
        DRAW[name](figure, frame)
        figure.suptitle(TITLES[name] + figure.get_suptitle(), fontsize=10, fontweight="bold")
        mark = PUBLISHED_MARK if name in PUBLISHED else {"mini": MINI_MARK, "small": SMALL_MARK, "paper": PAPER_MARK}[scale]
        lines = textwrap.fill(mark, 50) if figure.get_figwidth() == COLUMN else mark
        figure.supxlabel(lines, fontsize=7, color="dimgray" if mark == PAPER_MARK else "firebrick")
        for ending, metadata in METADATA.items():
            figure.savefig(folder / f"fig_{name}.{ending}", metadata=metadata)
    return figure


def redraw(run: str, stage: str) -> None:
    """Draw the figures of a finished stage again and note so in its manifest."""
    made, folder = manifest.read(run, stage), paths.figures(run)
    if made is None:
        raise manifest.StageError(f"{stage} of {run} is not done, so it has no figures to draw again; ./run_all.sh makes it")
    if edited := [name for name in manifest.changed(folder, made["figures"]) if not name.endswith(manifest.PICTURES)]:
        raise manifest.StageError(f"{paths.shown(folder / edited[0])} is missing or was changed since {stage} made it; ./run_all.sh makes it again")
    for file in [name for name in made["figures"] if name.startswith("fig_") and name.endswith(".csv")]:
        draw(file[4:-4], folder, made["scale"])
    pictures = {f"{name[:-4]}{ending}" for name in made["figures"] if name.startswith("fig_") and name.endswith(".csv") for ending in manifest.PICTURES}
    made["figures"] = dict(sorted((made["figures"] | {name: manifest.entry(folder / name) for name in pictures}).items()))
    manifest.write_json(made | {"drawing": manifest.drawing_hash()}, paths.manifest(run, stage))


# --- the pieces ------------------------------------------------------------------------------------------------------

def _bars(axes, frame: pd.DataFrame, x: str, hue: str, colours: dict, y: str = "accuracy", names: dict = {}) -> None:
    """Grouped bars with intervals (columns low, high where there are any)."""
    groups, series = in_order(frame[x], BENCHMARK_NAMES), [name for name in colours if name in set(frame[hue])]
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


def _legend(figure: Figure, axes, columns: int = 5) -> None:
    """One legend for all panels, in as many lines below the title as it needs; fewer columns where names are long."""
    labels = axes.get_legend_handles_labels()[1]
    while _legend_width(labels, columns) > 95 and columns > 1:  # so many letters stand beside each other
        columns -= 1
    figure.suptitle("\n" * -(-len(labels) // columns))  # `draw` puts the title before them
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 1 - 0.17 / figure.get_figheight()), ncols=columns)


def _legend_width(labels: list[str], columns: int) -> int:
    """Letters side by side in a legend, its keys and gaps counted as six; matplotlib fills it column by column."""
    lines = -(-len(labels) // columns)
    return sum(max(map(len, labels[at:at + lines])) + 6 for at in range(0, len(labels), lines))


def _spread(frame: pd.DataFrame, measure: str) -> np.ndarray:
    """(2, rows) lengths of the error bars of a measure with columns _low and _high."""
    return np.array([frame[measure] - frame[f"{measure}_low"], frame[f"{measure}_high"] - frame[measure]]).clip(0)


def _group_names(frame: pd.DataFrame) -> dict[str, str]:
    """What the groups of facts are called: the stages tell whose run it is."""
    return GROUP_NAMES if set(frame["stages"]) <= set(HIPPOCRATES) else HYPNOS_GROUP_NAMES


def _curves(axes, frame: pd.DataFrame, colours: dict) -> None:
    for name, part in frame.groupby("series", sort=False):
        axes.plot(part["x"].astype(float), part["y"], label=name, color=colours.get(name), linewidth=1.5)


def _corpus(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, max(2.0, 0.8 + 0.2 * len(frame)))
    axes = figure.subplots()
    kinds = dict(zip(dict.fromkeys(frame["kind"]), PALETTE))
    places = range(len(frame))[::-1]
    axes.barh(places, frame["tokens"], color=[kinds[kind] for kind in frame["kind"]])
    names = [source_name(source.replace(" (deliberately false answers included)", ", false answers in")) for source in frame["source"]]
    axes.set_yticks(places, [name + (", set aside" if kind == "held out" else "") for name, kind in zip(names, frame["kind"])])
    for place, tokens in zip(places, frame["tokens"]):
        axes.text(tokens, place, f" {tokens:,.0f}", va="center", fontsize=7)
    axes.set_xlabel("tokens")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.12, y=0.02)
    axes.grid(axis="y", visible=False)
    axes.legend(handles=[matplotlib.patches.Patch(color=colour, label=kind) for kind, colour in kinds.items()], loc="lower right")


def _pretraining(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 2.9)
    left, right = figure.subplots(1, 2)
    _curves(left, frame[frame["panel"] == "loss"], STAGE_COLOURS)
    left.set(xlabel="step", ylabel="training loss (nats per token)", title="Loss")
    left.legend()
    bars = frame[frame["panel"] == "perplexity"]
    _bars(right, bars, "x", "series", STAGE_COLOURS, y="y", names={name: source_name(name) for name in bars["x"]})
    for bar in right.patches:
        right.annotate(f"{bar.get_height():.1f}", (bar.get_x() + bar.get_width() / 2, bar.get_height()), ha="center", va="bottom", fontsize=7)
    right.set(ylabel="perplexity", title="Documents set aside, lower is better", ylim=(0, 1.3 * bars["y"].max()))
    right.legend(loc="upper center", ncols=2)


def _generators(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 2.9)
    axes = figure.subplots()
    for number, (name, part) in enumerate(frame.groupby("series", sort=False)):  # the writers' curves lie on each other: one is dashed
        axes.plot(part["x"].astype(float), part["y"], label=source_name(name), linewidth=1.5, color=STAGE_COLOURS.get(name, PALETTE[number % 4]), linestyle="--" if number > 1 else "-")
    axes.set(xlabel="step", ylabel="training loss (nats per token)")
    axes.legend()


def _instruction(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 2.9)
    left, right = figure.subplots(1, 2)
    _curves(left, frame[frame["panel"] == "loss"], STAGE_COLOURS)
    left.set(xlabel="step", ylabel="loss on completions (nats per token)", title="Loss on the answer only")
    left.legend()
    bars = frame[frame["panel"] == "rows"]
    places = range(len(bars))[::-1]
    right.barh(places, bars["y"], color=PALETTE[7])
    right.set_yticks(places, [source_name(name) for name in bars["x"]])
    right.set(xlabel="rows", title="The mixture")
    right.grid(axis="y", visible=False)


def _judge(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 2.9)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (panel, title, label) in zip(panels, (("place", "Place of the chosen answer", ""), ("length", "The longer answer won", "difference in characters"),
                                                    ("winner", "Whose answer won", ""))):
        part = frame[frame["panel"] == panel]
        axes.bar(range(len(part)), part["y"], color=PALETTE[9], width=0.7)
        spread = [(part["y"] - part["low"]).clip(lower=0), (part["high"] - part["y"]).clip(lower=0)]
        axes.errorbar(range(len(part)), part["y"], yerr=np.array(spread), fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
        if part["fair"].notna().any():
            axes.axhline(part["fair"].iloc[0], color="black", linestyle="--", linewidth=0.8)
        axes.set_xticks(range(len(part)), [str(name).replace(" ", "\n") for name in part["x"]])
        axes.set(title=title, xlabel=label, ylim=(0, 1.05))
        axes.grid(axis="x", visible=False)
    panels[0].set_ylabel("share (dashed: without the habit)")


def _judge_noise(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 3.3)
    axes = figure.subplots()
    for number, (series, part) in enumerate(frame.sort_values("x").groupby("series", sort=False)):
        spread = [(part["y"] - part["low"]).clip(lower=0), (part["high"] - part["y"]).clip(lower=0)]
        axes.errorbar(part["x"], part["y"], yerr=np.array(spread), fmt="o", color=PALETTE[number], markersize=4, capsize=2, elinewidth=0.8)
        axes.plot(*zip(*part.groupby("x")["y"].mean().items()), color=PALETTE[number], linewidth=1.2, label=f"{series} pairs")
    axes.axhline(0, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="share of training verdicts that are wrong", ylabel="gain in preference accuracy\n(held-out questions)")
    axes.legend()


def _preference(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 2.9)
    left, right = figure.subplots(1, 2)
    _curves(left, frame[frame["panel"] == "loss"], {"loss": STAGE_COLOURS["CP+SFT+DPO"]})
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
        names = in_order(part["benchmark"], BENCHMARK_NAMES)
        for place, name in enumerate(names):
            guess = part[part["benchmark"] == name]["shortcut"].iloc[0]
            if guess == guess:
                axes.hlines(guess, place - 0.45, place + 0.45, color="black", linestyle="--", linewidth=1, label="best shortcut guess" if not place else None)
        axes.set(ylabel="accuracy", ylim=(0, 1.05), title=_group_names(frame)[group])
    _legend(figure, panels[0], 6)


def _study(figure: Figure, frame: pd.DataFrame) -> None:
    groups = [group for group in GROUP_NAMES if group in set(frame["group"])]
    figure.set_size_inches(SIZE, 0.9 + 1.9 * len(groups))
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, group in zip(panels, groups):
        part = frame[frame["group"] == group]
        _bars(axes, part, "setting", "stages", STAGE_COLOURS)
        benchmark = part["benchmark"].iloc[0]
        items = "one-step knowledge items" if benchmark == "knowledge" else BENCHMARK_NAMES.get(benchmark, benchmark)
        axes.set(ylabel="accuracy", ylim=(0, 1.05), title=f"{'all groups' if group == 'all' else _group_names(frame)[group]}; {items}")
    runs = sorted(set(frame["runs"]))
    panels[-1].set_xlabel("whiskers: 95 % interval of one run" if runs == [1] else f"whiskers: smallest to largest of {' or '.join(map(str, runs))} runs")
    _legend(figure, panels[0])


def _prompting(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(SIZE, 3.2)
    axes = figure.subplots()
    colours = dict(zip(dict.fromkeys(frame["prompting"]), seaborn.color_palette("colorblind", 10)))
    _bars(axes, frame, "benchmark", "prompting", colours, names=BENCHMARK_NAMES)
    axes.set(ylabel="accuracy (held-out facts)" if "held_out" in set(frame["group"]) else "accuracy", ylim=(0, 1.05))
    _legend(figure, axes, 4)


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
    benchmarks, stages = in_order(frame["benchmark"], BENCHMARK_NAMES), in_order(frame["stages"], STAGE_ORDER)
    figure.set_size_inches(SIZE, 0.9 + 1.5 * len(benchmarks))
    grid = figure.subplots(len(benchmarks), len(stages), sharex=True, squeeze=False)
    for row, benchmark in zip(grid, benchmarks):
        for axes, stage in zip(row, stages):
            part = frame[(frame["benchmark"] == benchmark) & (frame["stages"] == stage)]
            for place, outcome, colour, dashes in ((0.92, "correct", RIGHT, (0, (4, 2))), (0.8, "incorrect", WRONG, (2, (2, 2)))):
                curve = part[part["outcome"] == outcome]
                axes.fill_between(curve["probability"], curve["density"], color=colour, alpha=0.35, linewidth=0)
                axes.plot(curve["probability"], curve["density"], color=colour, linewidth=1, label=outcome)
                left = part["mean"].mean() > 0.6  # where the curves are low
                axes.text(0.03 if left else 0.97, place, f"n = {curve['n'].iloc[0]}", color=colour, fontsize=7, ha="left" if left else "right", transform=axes.transAxes)
                if curve["mean"].notna().any():
                    axes.axvline(curve["mean"].iloc[0], color=colour, linestyle=dashes, linewidth=1)
            axes.set(xlim=(0.2, 1), ylim=(0, None), yticks=[])
        row[0].set_ylabel(BENCHMARK_NAMES.get(benchmark, benchmark))
    for axes, stage in zip(grid[0], stages):
        axes.set_title(stage)
    for axes in grid[-1]:
        axes.set_xlabel("probability of the prediction")
    _legend(figure, grid[0][0])


def _reliability(figure: Figure, frame: pd.DataFrame) -> None:
    """Dots and bands above, counts below. Bins of under ten items are hollow dots: too few for a line through them."""
    stages = in_order(frame["stages"], STAGE_ORDER)
    figure.set_size_inches(SIZE, 2.9)
    grid = figure.subplots(2, len(stages), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for (above, below), stage in zip(grid.T, stages):
        part, colour = frame[(frame["stages"] == stage) & (frame["n"] > 0)], STAGE_COLOURS[stage]
        many, few = part[part["n"] >= 10], part[part["n"] < 10]
        above.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
        above.fill_between(many["confidence"], many["low"], many["high"], color=colour, alpha=0.25, linewidth=0)
        above.plot(many["confidence"], many["accuracy"], marker="o", markersize=3, color=colour)
        above.plot(few["confidence"], few["accuracy"], marker="o", markersize=3, color=colour, markerfacecolor="white", linestyle="")
        above.set(xlim=(-0.03, 1.03), ylim=(-0.05, 1.05), title=f"{stage}\nECE {part['ece'].iloc[0]:.2f}")
        below.bar((part["bin_low"] + part["bin_high"]) / 2, part["n"], width=(part["bin_high"] - part["bin_low"]).iloc[0] * 0.9, color=colour)
        below.set(xlabel="confidence", xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
    grid[0][0].set_ylabel("accuracy")
    grid[1][0].set_ylabel("items")


def _risk_coverage(figure: Figure, frame: pd.DataFrame) -> None:
    figure.set_size_inches(COLUMN, 3.7)
    axes = figure.subplots()
    for stage in in_order(frame["stages"], STAGE_ORDER):
        part = frame[frame["stages"] == stage]
        axes.plot(part["coverage"], part["risk"], color=STAGE_COLOURS[stage], label=f"{stage} ({part['aurc'].iloc[0]:.2f})", linewidth=1.5)
    axes.set(xlabel="share of items answered, surest first", ylabel="share of wrong answers", xlim=(0, 1), ylim=(0, None))
    axes.legend(title="mean of the curve (AURC)", loc="upper center", bbox_to_anchor=(0.45, -0.18), ncols=2)


def _subjects(figure: Figure, frame: pd.DataFrame) -> None:
    """One row per subject, one panel per stage: how sure the model is (diamond) and how often it is right (dot, with its interval)."""
    stages = in_order(frame["stages"], STAGE_ORDER)
    sizes = frame.groupby("subject", sort=False)["n"].max().sort_values(ascending=False, kind="stable")
    figure.set_size_inches(SIZE, 1.2 + 0.17 * len(sizes))
    panels = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    places = np.arange(len(sizes))[::-1]
    for axes, stage in zip(panels, stages):
        part = frame[frame["stages"] == stage].set_index("subject").reindex(sizes.index)
        sure, right = part["mean_confidence"], part["accuracy"]
        axes.hlines(places, np.fmin(sure, right), np.fmax(sure, right), color=STAGE_COLOURS[stage], linewidth=3, alpha=0.3)
        axes.errorbar(right, places, xerr=_spread(part, "accuracy"), fmt="o", markersize=3.5, color=STAGE_COLOURS[stage], elinewidth=0.8, label="accuracy (95 % interval)")
        axes.plot(sure, places, "D", markersize=3.5, color="black", markerfacecolor="white", label="mean confidence")
        axes.set(title=stage, xlim=(-0.03, 1.03), ylim=(-0.6, len(sizes) - 0.4), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"], xlabel="share")
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(places, [f"{name} ({n})" for name, n in sizes.items()])
    _legend(figure, panels[0])


def _path(figure: Figure, frame: pd.DataFrame) -> None:
    """Accuracy against ECE, one panel per benchmark; arrows follow the model from stage to stage (SFT alone lies beside the path)."""
    benchmarks = in_order(frame["benchmark"], BENCHMARK_NAMES)
    columns = min(4, len(benchmarks))
    rows = -(-len(benchmarks) // columns)
    figure.set_size_inches(SIZE, 0.8 + 1.8 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, benchmark in zip(grid.flat, benchmarks):
        part = frame[frame["benchmark"] == benchmark].set_index("stages")
        for stage in in_order(part.index, STAGE_ORDER):
            here = part.loc[[stage]]
            axes.errorbar(here["accuracy"], here["ece"], xerr=_spread(here, "accuracy"), yerr=_spread(here, "ece"), fmt=STAGE_MARKERS[stage], markersize=4, elinewidth=0.7,
                          color=STAGE_COLOURS[stage], label=stage)
        steps = [part.loc[name, ["accuracy", "ece"]].astype(float) for name in PATH if name in part.index]
        for start, end in zip(steps, steps[1:]):
            axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 0.7, "shrinkA": 2, "shrinkB": 2, "mutation_scale": 6})
        axes.set(title=BENCHMARK_NAMES.get(benchmark, benchmark), xlabel="accuracy" if axes in grid[-1] else None)
        axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(benchmarks):]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("ECE")
    grid[0][0].set(xlim=(0, min(1.0, 1.05 * frame["accuracy_high"].max())), ylim=(0, min(1.0, 1.05 * frame["ece_high"].max())))
    _legend(figure, grid[0][0])


def _protocols(figure: Figure, frame: pd.DataFrame) -> None:
    """ECE and AUROC of every stage under every setting, all benchmarks together."""
    names, stages = list(dict.fromkeys(frame["setting"])), in_order(frame["stages"], STAGE_ORDER)
    figure.set_size_inches(SIZE, 1.2 + 0.42 * len(names))
    panels = figure.subplots(1, 2, sharey=True)
    places = dict(zip(names, range(len(names))[::-1]))
    for axes, measure, title in zip(panels, ("ece", "auroc"), ("ECE (lower is better)", "AUROC of being right (0.5: no use)")):
        for number, stage in enumerate(stages):
            part = frame[frame["stages"] == stage]
            height = part["setting"].map(places) + 0.12 * ((len(stages) - 1) / 2 - number)
            axes.errorbar(part[measure], height, xerr=_spread(part, measure), fmt=STAGE_MARKERS[stage], markersize=3.5, elinewidth=0.8, color=STAGE_COLOURS[stage], label=stage)
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
        for place in range(1, len(names)):
            axes.axhline(place - 0.5, color="lightgray", linewidth=0.6)
    panels[0].set_xlim(0, None)
    panels[1].axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    panels[0].set_yticks(list(places.values()), list(places))
    _legend(figure, panels[0])


def _crossfilter(figure: Figure, frame: pd.DataFrame) -> None:
    """Per generator x judge the rows by their rank (most scores lie close together): right and wrong ones, and the line from which rows are kept."""
    truths = {"right": RIGHT, "wrong": WRONG, "unknown": "lightgray"}
    generators, judges = sorted(set(frame["generator"])), sorted(set(frame["judge"]))
    figure.set_size_inches(SIZE, 2.3 * len(generators))
    grid = figure.subplots(len(generators), len(judges), sharex=True, sharey=True, squeeze=False)
    for axis, (generator, judge) in zip(grid.flat, [(g, j) for g in generators for j in judges]):
        part = frame[(frame["generator"] == generator) & (frame["judge"] == judge)]
        if part.empty:  # endpoints score their own rows only where the control `same` is asked for
            axis.set_axis_off()
            continue
        rank, kept_from = part["score"].rank(pct=True), (part["score"] < part["threshold"].iloc[0]).mean()
        axis.hist([rank[part["truth"] == said] for said in truths], np.linspace(0, 1, 21), stacked=True, color=list(truths.values()), label=list(truths))
        axis.axvline(kept_from, color="black", linewidth=0.9, linestyle="--")
        axis.text(kept_from, 0.97, " kept →", va="top", fontsize=7, transform=axis.get_xaxis_transform())
        axis.margins(x=0.01, y=0.25)
        axis.set_title(f"{generator} judged by {'itself' if judge == generator else judge}\n"
                       + ("" if np.isnan(part["auroc"].iloc[0]) else f"AUROC {part['auroc'].iloc[0]:.2f}, ") + f"{100 * part['kept_rate'].iloc[0]:.0f} % kept", fontsize=8)
        axis.set_ylabel("rows")
    for axis in grid[-1]:
        axis.set_xlabel("rank by the judge's score (share of rows below)")
    _legend(figure, next(axis for axis in grid.flat if axis.axison))


def _filters(figure: Figure, frame: pd.DataFrame) -> None:
    """One panel per question: the paper's method beside what it is held against, by group of facts."""
    panels = sorted(set(frame["panel"]))
    figure.set_size_inches(SIZE, 3.2)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels):
        part = frame[frame["panel"] == panel]
        part = part.assign(group=part["group"].astype(pd.CategoricalDtype(list(GROUP_NAMES), ordered=True))).sort_values("group", kind="stable")
        _bars(axes, part.astype({"group": str}), "group", "stages", STAGE_COLOURS, names={name: name.replace("_", "-") for name in GROUP_NAMES})
        guesses = part.groupby("group", sort=False)["shortcut"].first()
        axes.hlines(guesses, np.arange(len(guesses)) - 0.45, np.arange(len(guesses)) + 0.45, color="black", linestyle="--", linewidth=1)
        axes.set(title=panel, ylim=(0, 1.05))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    grid[0].set_ylabel("accuracy\n(dashed: best shortcut guess)")


def _answers(figure: Figure, frame: pd.DataFrame) -> None:
    """Free answers: overlap with the reference, agreement in drugs and amounts, and length, side by side; overlap alone would mislead."""
    figure.set_size_inches(SIZE, 3.1)
    panels = figure.subplots(1, 3)
    for axes, (measure, label) in zip(panels, (("rougeL", "ROUGE-L over characters"), ("agrees", "same drugs and amounts (share)"), ("length", "length (characters)"))):
        part = frame.rename(columns={f"{measure}_low": "low", f"{measure}_high": "high"})[["benchmark", "stages", measure, "low", "high"]]
        _bars(axes, part, "benchmark", "stages", STAGE_COLOURS, y=measure, names=BENCHMARK_NAMES)
        axes.set_title(label)
        axes.set_ylim(0, None if measure == "length" else 1.05)
    _legend(figure, panels[0], 6)


DRAW = {"corpus": _corpus, "study": _study, "pretraining": _pretraining, "instruction": _instruction, "judge": _judge, "judge_noise": _judge_noise,
        "preference": _preference, "timeline": _timeline, "stages": _stages, "prompting": _prompting, "scoring": _scoring, "uncertainty": _uncertainty,
        "reliability": _reliability, "risk_coverage": _risk_coverage, "subjects": _subjects, "path": _path, "protocols": _protocols, "crossfilter": _crossfilter,
        "generators": _generators, "filters": _filters, "answers": _answers}
