"""How every figure looks: its width in print, letters, colours, and the names and order of what it shows. Editing it runs nothing.

A figure is as wide as one or as both columns of a paper, and its smallest letters have 7 points there. Colours are told apart
with any of the three kinds of colour blindness and, for the stages, by their lightness alone (a test simulates both); red and
blue for wrong and right are those of the paper's figure 3.
"""

from collections.abc import Iterable

COLUMN, SIZE = 3.35, 7.0  # inches: one column of a paper, and both
PALETTE = ("#005a9c", "#cc7a00", "#7cc4f2", "#6d1240", "#a0a0a0") * 2  # five that everybody can tell apart; a sixth repeats the first
RIGHT, WRONG = PALETTE[0], "#bf2626"
HIPPOCRATES = {"base": PALETTE[4], "CP": PALETTE[2], "SFT": PALETTE[1], "CP+SFT": PALETTE[0], "CP+SFT+DPO": PALETTE[3]}
HYPNOS = {"base": PALETTE[4], "general": "#00cd66", "specific": "#bc5e00", "general+specific": "#005858", "general+unfiltered": "#582c00",
          "general+same": "#8b37de", "general+random": "#cd66cd", "mixed": "#371658"}
STAGE_COLOURS = HIPPOCRATES | HYPNOS  # no figure shows stages of both papers
STAGE_ORDER = tuple(STAGE_COLOURS)
STAGE_MARKERS = dict(zip(STAGE_ORDER, "osD^vP*X<>ph"))
PATH = ("base", "CP", "CP+SFT", "CP+SFT+DPO", "general", "general+specific")  # as the papers' models pass through the stages
BENCHMARK_NAMES = {"medmcqa": "MedMCQA", "medqa": "MedQA", "pubmedqa": "PubMedQA", "usmle_step1": "USMLE 1", "usmle_step2": "USMLE 2",
                   "usmle_step3": "USMLE 3", "anecq": "AneCQ", "aneqa": "AneQA", "anerc": "AneRC", "private_cases": "own cases",
                   "knowledge": "knowledge\n(pooled)", "two_step": "two-step", "all": "all items"}
GROUP_NAMES = {"held_out": "held-out facts (only in the documents)", "seen": "facts seen in the instructions",
               "control": "control facts (in no training text)", "all": "all items"}
HYPNOS_GROUP_NAMES = {"held_out": "held-out facts (known to the generators alone)", "seen": "facts of the seed tasks' topics", "control": GROUP_NAMES["control"], "all": "all items"}
STYLE = {"svg.hashsalt": "hippo", "svg.fonttype": "none", "pdf.fonttype": 42, "savefig.dpi": 200, "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9,
         "legend.fontsize": 8, "legend.title_fontsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.frameon": False, "grid.color": "#dddddd",
         "axes.spines.top": False, "axes.spines.right": False}
# Everything by which two drawings of the same data could differ, per format.
METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}


def in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    """The names without repetition: those of `order` in its order, the others behind as they come."""
    there, order = list(dict.fromkeys(names)), list(order)
    return [name for name in order if name in there] + [name for name in there if name not in order]


def source_name(source: str) -> str:
    """A source as readers see it: mini_patient_information is patient information."""
    return source.removeprefix("mini_").replace("_", " ")
