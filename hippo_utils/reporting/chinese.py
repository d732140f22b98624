"""Chinese in figures: the bundled font, another one on this machine for what it lacks, or a sentence that says so."""

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Iterable

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from hippo_utils.chinese import HAN

FONT = Path(__file__).parent / "fonts" / "HippoHans-Regular.otf"
KNOWN = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC", "Heiti SC",
         "Microsoft YaHei", "SimHei", "Arial Unicode MS")


@cache
def _characters(file: str) -> frozenset[int]:
    return frozenset(FT2Font(file).get_charmap())


def families(texts: Iterable[str]) -> list[str]:
    """Font families for matplotlib that together draw these texts; none when there is no Chinese in them (no change then).

    Warns, naming the characters, when no font here has them: they would come out as empty boxes.
    """
    needed = {ord(letter) for text in texts for letter in re.findall(f"[{HAN}，。、；：？！（）]", str(text))}
    if not needed:
        return []
    font_manager.fontManager.addfont(FONT)
    chosen, missing = ["DejaVu Sans", "Hippo Hans"], needed - _characters(str(FONT))
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: entry.name):
        if missing and entry.name in KNOWN and missing & _characters(entry.fname):
            chosen.append(entry.name)
            missing -= _characters(entry.fname)
    if missing:
        warnings.warn(f"no font on this machine draws {''.join(map(chr, sorted(missing)[:20]))}; install one that does, for example Noto Sans CJK "
                      "(package fonts-noto-cjk), and draw again: python -m hippo_utils.reporting redraw RUN STAGE", stacklevel=2)
    return chosen
