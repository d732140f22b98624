"""Chinese text: one written form, characters in place of words, and n-grams that work where there are no spaces.

What counts words elsewhere must count characters here: a Chinese sentence is a single "word" to `str.split` and to `\\w+`,
so that filters made for English drop or pass all of it (Self-Instruct's own, MinHash over words, rouge_score's tokenizer).
"""

import re
import unicodedata
from functools import cache

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
MARKS = {",": "，", "?": "？", "!": "！", ":": "：", ";": "；", "(": "（", ")": "）"}
# NFKC makes 109 of 10⁹, 12 mg of ①2 mg and three dots of an ellipsis
KEPT = "".join(MARKS.values()) + "\u00b2\u00b3\u00b9\u2070-\u207f\u00bc-\u00be\u2150-\u215f\u2189\u2460-\u249b\u2026"
NARROWED = re.compile(f"[^{KEPT}]+")
CHARACTER, KANA, LETTERS = re.compile(f"[{HAN}]"), re.compile("[\u3040-\u30ff]"), re.compile(r"[^\W\d_]+")
TOKEN = re.compile(rf"[{HAN}]|[a-z\u0370-\u03ff]+|\d+(?:\.\d+)?|[%‰]")
BETWEEN = re.compile(rf"(?<=[{HAN}]) +(?=[{HAN}，。；：？！、（）])|(?<=[，。；：？！、（）]) +(?=[{HAN}])")
AFTER_HAN = re.compile(rf"(?<=[{HAN}）]) ?([,?!;:])(?=\s|[{HAN}（]|$)|([(])(?=[{HAN}])|(?<=[{HAN}])([)])")


def widths(text: str) -> str:
    """Letters, digits and signs at half width (ＡＳＡ３级 -> ASA3级), marks between Chinese characters at full width.

    Superscripts, fractions and numbers in circles stay: 10⁹ is not 109, and ①2 mg is not 12 mg."""
    text = NARROWED.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)
    return AFTER_HAN.sub(lambda found: MARKS[found[1] or found[2] or found[3]], text)


def closed(text: str) -> str:
    """No spaces between Chinese characters, nor between them and their marks."""
    return BETWEEN.sub("", text)


def normalise(text: str) -> str:
    """One written form: `widths`, then `closed`."""
    return closed(widths(text))


def written(text: str) -> bool:
    """Whether a text is in Chinese: three in ten of its letters or more are Chinese characters, and fewer than one in ten is kana (ours)."""
    letters = 0 if text.isascii() else sum(map(len, LETTERS.findall(text)))
    return letters > 0 and len(CHARACTER.findall(text)) >= 0.3 * letters and len(KANA.findall(text)) < 0.1 * letters


def tokens(text: str) -> list[str]:
    """The units that overlap is counted in: every Chinese character, every run of other letters, every number, % and ‰.

    Case, width, spaces and marks do not count. This is the character tokenizer of ROUGE, of novelty and of overlap.
    """
    return TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """The distinct runs of n units; a shorter text is one run."""
    units = tokens(text)
    return {tuple(units[at:at + n]) for at in range(max(1, len(units) - n + 1))} if units else set()


def similarity(one: str, other: str, n: int = 2) -> float:
    """Jaccard similarity of n-grams of characters: 1 for the same text in other width or spacing, 0 without a common run."""
    a, b = ngrams(one, n), ngrams(other, n)
    return len(a & b) / len(a | b) if a or b else 1.0


@cache
def folded(text: str) -> str:
    """A text for comparison: its units without anything between them."""
    return "".join(tokens(text))


def longest_common(one: str, other: str) -> int:
    """Length of the longest run of characters that two short texts share."""
    best, row = 0, [0] * (len(other) + 1)
    for a in one:
        row = [0] + [row[at] + 1 if a == b else 0 for at, b in enumerate(other)]
        best = max(best, *row)
    return best


# --- amounts ------------------------------------------------------------------------------------------------------------

SPELLED = {"毫克": "mg", "微克": "μg", "mcg": "μg", "ug": "μg", "克": "g", "毫升": "ml", "千克": "kg", "公斤": "kg", "升": "l",
           "国际单位": "iu", "单位": "iu", "每": "/", "min": "分钟", "小时": "h", "hr": "h", "毫米汞柱": "mmhg"}
SPELLING = re.compile("|".join(sorted(SPELLED, key=len, reverse=True)))
UNIT = r"(?:mg|μg|g|ml|l|iu|u)(?:/(?:kg|h|分钟|ml|l|d))*|mmhg|cmh2o|mmol/l|%|分钟|秒|h|天|周|岁|级|hz"
AMOUNT = re.compile(rf"(\d+(?:\.\d+)?)(?:({UNIT}|)[~\-–—至到](\d+(?:\.\d+)?))?({UNIT})(?![a-z])")
PER = re.compile(r"[·⋅•./]?(kg|h|分钟|d)(?:⁻¹|-1(?![\d.]))")  # mg·kg⁻¹·h⁻¹
BRACKETS = re.compile(r"/[(（]([^()（）]*)[)）]")                  # mg/(kg·h)
SCALE = {"μg": (1e-3, "mg"), "g": (1e3, "mg"), "l": (1e3, "ml"), "u": (1.0, "iu"), "秒": (1.0, "秒"), "分钟": (60.0, "秒"), "h": (3600.0, "秒")}


def amounts(text: str) -> list[tuple[float, float, str]]:
    """The numbers with units of a text as (low, high, unit), in order; a single number has low = high.

    Width, spacing, spelled units (毫克, 毫克每千克), their size and form do not count: 500 μg is 0.5 mg, 1.5～2.5 is 1.5至2.5, 1,000 is
    1000, mg/(kg·h) and mg·kg⁻¹·h⁻¹ are mg/kg/h. Of a compound unit (μg/kg/min) the first part is converted.
    """
    plain = re.sub(r"\s+", "", NARROWED.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text).lower())
    plain = SPELLING.sub(lambda found: SPELLED[found[0]], re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain))
    plain = BRACKETS.sub(lambda found: "/" + re.sub("[·⋅•.×]", "/", found[1]), PER.sub(r"/\1", plain))
    found = []
    for low, _, high, unit in AMOUNT.findall(plain):
        first, _, rest = unit.partition("/")
        factor, base = SCALE.get(first, (1.0, first))
        found.append((round(float(low) * factor, 9), round(float(high or low) * factor, 9), f"{base}/{rest}" if rest else base))
    return found
