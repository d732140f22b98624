"""Chinese in figures and tables is never mangled."""

import shutil
import warnings

import pandas as pd
import pytest

from hippo_utils import paths
from hippo_utils.miniworld.anesthesia import wording
from hippo_utils.miniworld.anesthesia.world import FACTS
from hippo_utils.reporting import chinese, figures


def test_the_bundled_font_draws_all_that_the_mini_world_says():
    texts = [file.read_text(encoding="utf-8") for file in FACTS.glob("*.csv")] + [str(wording.NAMES), str(wording.STATEMENTS), str(wording.CATEGORIES)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chinese.families(texts)[:2] == ["DejaVu Sans", "Hippo Hans"]
    assert chinese.families(["only letters", "α 10⁹"]) == []


def test_what_no_font_draws_is_named(monkeypatch):
    monkeypatch.setattr(chinese, "KNOWN", ())
    with pytest.warns(UserWarning, match="no font on this machine draws 㐀鿏; install one"):
        chinese.families(["丙泊酚㐀鿏"])


def test_a_figure_with_chinese_has_glyphs_and_utf8(tmp_path):
    shutil.copy(paths.REFERENCE / "mini_llama" / "fig_corpus.csv", tmp_path)
    table = pd.read_csv(tmp_path / "fig_corpus.csv")
    table["source"] = [f"麻醉学资料{number}" for number in range(len(table))]
    table.to_csv(tmp_path / "fig_corpus.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each glyph that it lacks
        figures.draw("corpus", tmp_path, "mini")
    assert "麻醉学资料0" in (tmp_path / "fig_corpus.svg").read_text(encoding="utf-8")
    assert (tmp_path / "fig_corpus.png").stat().st_size > 10_000
    assert pd.read_csv(tmp_path / "fig_corpus.csv", encoding="utf-8")["source"][0] == "麻醉学资料0"


def test_english_figures_are_not_touched(tmp_path):
    shutil.copy(paths.REFERENCE / "mini_llama" / "fig_corpus.csv", tmp_path)
    figures.draw("corpus", tmp_path, "mini")
    assert "Hippo Hans" not in (tmp_path / "fig_corpus.svg").read_text(encoding="utf-8")
