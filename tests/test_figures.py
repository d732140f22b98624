"""Figures that can be printed: colours for every eye, letters of a readable size inside the picture, one name and one order for everything."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from test_reporting import SMALL

from hippo_utils import paths, records
from hippo_utils.reporting import figures, style

# How linear RGB looks without one kind of cone (Machado, Oliveira and Fernandes 2009, severity 1).
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}
RGB_TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
WHITE = np.array([0.95047, 1.0, 1.08883])
REFERENCE = sorted(paths.REFERENCE.glob("mini_llama/fig_*.csv"))


def lab(colour: str, vision: str = "normal") -> np.ndarray:
    """A colour as CIELAB (L, a, b), as seen with that vision."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = RGB_TO_XYZ @ np.clip(VISION[vision] @ linear, 0, 1) / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colours: list[str], vision: str) -> float:
    return min(np.linalg.norm(lab(one, vision) - lab(other, vision)) for one, other in itertools.combinations(colours, 2))


@pytest.fixture(autouse=True)
def only_svg(monkeypatch):
    monkeypatch.setattr(figures, "METADATA", {"svg": style.METADATA["svg"]})  # the other formats only cost time here


def drawn(name: str, folder, frame: pd.DataFrame):
    """(figure, SVG) of a frame."""
    frame.to_csv(folder / f"fig_{name}.csv", index=False)
    return figures.draw(name, folder, "mini"), (folder / f"fig_{name}.svg").read_text(encoding="utf-8")


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg)


def test_the_simulation_knows_a_pair_that_is_confused():
    assert nearest(["#ff0000", "#6b6b00"], "protanopia") < 25 < 90 < nearest(["#ff0000", "#6b6b00"], "normal")
    assert lab("#ffffff") == pytest.approx([100, 0, 0], abs=0.1) and lab("#777777", "deuteranopia")[1:] == pytest.approx([0, 0], abs=0.5)


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart_by_everybody(vision):
    """A difference of 2 can just be seen side by side; 20 is told apart across a page (the usual palette falls to 11)."""
    for stages in (style.HIPPOCRATES, style.HYPNOS):
        assert nearest(list(stages.values()), vision) > 25
    assert nearest(list(style.PALETTE[:5]), vision) > 20 and nearest([style.RIGHT, style.WRONG], vision) > 50


def test_stages_are_told_apart_in_black_and_white_and_on_paper():
    for stages in (style.HIPPOCRATES, style.HYPNOS):
        lightness = sorted(lab(colour)[0] for colour in stages.values())
        assert min(np.diff(lightness)) > 6 and lightness[-1] < 80
    assert len(set(style.STAGE_MARKERS.values())) == len(style.STAGE_ORDER)


@pytest.mark.parametrize("name", figures.DRAW)
def test_a_figure_is_one_or_two_columns_wide_and_says_in_readable_letters_what_readers_know(name, tmp_path):
    figure, svg = drawn(name, tmp_path, pd.DataFrame(SMALL[name]))
    assert figure.get_figwidth() in (style.COLUMN, style.SIZE) and figure.get_figheight() < 9, "a page of a paper holds it"
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: [^;\"]*?([\d.]+)px", svg)]
    assert sizes and min(sizes) >= 7, "points, as the figure is printed in its own width"
    codes = [word for word in words(svg) if "_" in word or word in records.BENCHMARKS]
    assert words(svg) and not codes, "readers see names and not the codes of files"


@pytest.mark.parametrize("file", REFERENCE, ids=[f"{file.parent.name}-{file.stem}" for file in REFERENCE])
def test_no_word_of_a_real_figure_is_cut_off_or_lies_on_another(file, tmp_path):
    name, frame = file.stem.removeprefix("fig_"), pd.read_csv(file, keep_default_na=False, na_values=[""])
    if missing := set(SMALL[name][0]) - set(frame):
        pytest.skip(f"the reference was kept before {', '.join(sorted(missing))} was a column")
    figure, _ = drawn(name, tmp_path, frame)
    figure.draw_without_rendering()
    axes = [one for one in figure.axes if one.get_visible()]
    labels = [tick_labels(axis) for one in axes for axis in (one.xaxis, one.yaxis)]
    ticks = {label for one in figure.axes for axis in (one.xaxis, one.yaxis) for label in axis.get_ticklabels(which="both")}
    others = [text for text in figure.findobj(Text) if text not in ticks and text.get_visible() and (text.axes is None or text.axes in axes)]
    said = [text for text in itertools.chain(others, *labels) if text.get_text().strip()]
    assert len(said) > 5
    for text in said:
        box = text.get_window_extent()
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < figure.bbox.x1 + 2 and box.y1 < figure.bbox.y1 + 2, f"{text.get_text()!r} is cut off"
    for one, other in (pair for row in labels for pair in itertools.combinations(row, 2)):
        assert not one.get_window_extent().shrunk(0.9, 0.9).overlaps(other.get_window_extent().shrunk(0.9, 0.9)), f"{one.get_text()!r} and {other.get_text()!r} lie on each other"


def tick_labels(axis) -> list[Text]:
    """The labels of an axis that are drawn: matplotlib keeps others beyond its ends."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_visible() and tick.label1.get_text()]


@pytest.mark.parametrize("column, name", [(column, name) for column in ("stages", "benchmark") for name in figures.DRAW if column in SMALL[name][0]])
def test_stages_and_benchmarks_stand_in_one_order_whatever_the_order_of_the_rows(column, name, tmp_path):
    frame = pd.DataFrame(SMALL[name])
    order = list(style.STAGE_ORDER if column == "stages" else style.BENCHMARK_NAMES)
    ranked = frame.assign(rank=[order.index(value) for value in frame[column]])
    pictures = [drawn(name, tmp_path, ranked.sort_values("rank", ascending=ascending, kind="stable").drop(columns="rank"))[1] for ascending in (True, False)]
    assert pictures[0] == pictures[1]


def test_names_beyond_the_order_come_last():
    assert style.in_order(["other", "CP", "base", "CP"], style.STAGE_ORDER) == ["base", "CP", "other"]
    assert style.source_name("mini_patient_information") == "patient information"


def test_a_printed_figure_brings_its_letters_along(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "METADATA", style.METADATA)
    drawn("risk_coverage", tmp_path, pd.DataFrame(SMALL["risk_coverage"]))
    assert b"/FontFile2" in (tmp_path / "fig_risk_coverage.pdf").read_bytes(), "publishers refuse fonts that are not embedded as TrueType"
