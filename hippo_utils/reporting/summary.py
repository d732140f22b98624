"""The README's numbers, written from the committed reference runs and never by hand."""

import json
import re

import pandas as pd

from hippo_utils import manifest, paths

BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- end of results -->)", re.DOTALL)
DATA = [("study_corpora", "the documents of continued pre-training", "SFT", "*none*: SFT on the base, without CP"),  # and what is left without any
        ("study_instructions", "the instructions", "CP", "*none*: CP without SFT; no setting has mini_llama's worked two-step answers, so *both* is not mini_llama")]
ROWS = [("base", "base"), ("CP", "+ CP"), ("SFT", "+ SFT"), ("CP+SFT", "+ CP + SFT"), ("CP+SFT+DPO", "+ CP + SFT + DPO")]


def cell(table: pd.DataFrame, **where) -> str:
    """One accuracy in percent with its 95 % interval."""
    for column, value in where.items():
        table = table[table[column] == value]
    row = table.iloc[0]
    return f"{100 * row['accuracy']:.0f} ({100 * row['ci_low']:.0f}–{100 * row['ci_high']:.0f})"


def measured(claim: pd.Series) -> str:
    """What a claim's verdict rests on: a p-value, an accuracy or a difference in points."""
    if "smallest p" in claim["claim"]:
        return f"p = {claim['value']:.2f}"
    return f"{100 * claim['value']:.1f} %" if "the base guesses" in claim["claim"] else f"{100 * claim['value']:+.1f}"


def results(runs: list[str]) -> str:
    """Markdown: what each paper's runs show, and seconds per stage."""
    papers = {run: next(iter(manifest.behind(paths.REFERENCE / run).values()))["paper"] for run in runs}
    lines = hippocrates([run for run in runs if papers[run] == "hippocrates"])
    lines += [line for run in runs if papers[run] == "hypnos" for line in hypnos(run)]
    seconds = {run: json.loads((paths.REFERENCE / run / "seconds.json").read_text()) for run in runs}
    lines += ["", f"Seconds per stage on the reference machine (2 cores, {'both' if len(runs) == 2 else 'the'} runs side by side, one thread each):", "",
              "| | " + " | ".join(stage[:2] for stage in manifest.STAGES) + " | together |", "| --- |" + " --- |" * (len(manifest.STAGES) + 1)]
    for run in runs:
        lines.append(f"| {run} | " + " | ".join(f"{seconds[run][stage]:.0f}" for stage in manifest.STAGES) + f" | {sum(seconds[run].values()):.0f} |")
    return "\n".join(lines) + "\n"


def hypnos(run: str) -> list[str]:
    """Markdown: what each filter of a run of Hypnos keeps, its models by group, what filter and order are worth, and its claims."""
    read = {name: pd.read_csv(paths.REFERENCE / run / f"table_{name}.csv") for name in ("arms", "pooled", "filters", "curriculum", "claims")}
    points = lambda row, value: f"{100 * row[value]:+.1f} ({100 * row[value + '_low']:+.1f} to {100 * row[value + '_high']:+.1f})"
    lines = ["", f"{run} (Hypnos): generated rows that are right by the fact tables, in % with the 95 % interval, and what keeping half of them does.", "",
             "| rows | n | right | of the readable | gain, points | facts with a right row |", "| --- | --- | --- | --- | --- | --- |"]
    names = {"all": "all that were new", "cross": "half, by the other model (cross-filtering)", "same": "half, by their own model", "random": "half, at random"}
    lines += [f"| {names[row['arm']]} | {row['n']} | {100 * row['right']:.1f} ({100 * row['right_low']:.1f}–{100 * row['right_high']:.1f}) "
              f"| {100 * row['right'] * row['n'] / (row['n'] - row['unreadable']):.1f} (n = {row['n'] - row['unreadable']}) "
              f"| {points(row, 'gain') if row['arm'] != 'all' else ''} | {row['facts_right']} |" for row in read["arms"].to_dict("records")]
    lines += ["", "Rows whose question asks for nothing in the tables (unreadable) count as not right: part of what a filter gains is leaving those out."]
    groups = ("held_out", "seen", "control")
    pooled = read["pooled"].query("benchmark == 'knowledge' and protocol == 'option_text'")
    counts = ", ".join(f"{pooled[pooled['group'] == group]['n'].iloc[0]} {group.replace('_', '-')}" for group in groups)
    lines += ["", f"Zero-shot accuracy in % on AneCQ ({counts} items; chance is 25). *Seen* facts stand in the seed tasks, *held-out* facts only in what the generators have read, *control* facts nowhere.",
              "", "| | held-out | seen | control |", "| --- | --- | --- | --- |"]
    lines += [f"| {stages} | " + " | ".join(cell(pooled, stages=stages, group=group) for group in groups) + " |" for stages in pooled["stages"].unique()]
    lines += ["", "What the filter and the general stage before the specialty are worth, on the same items (difference in points; the order itself is compared in `params/study_hypnos.yaml`):", ""]
    lines += [f"* {row['stages']} against {row['compared_with']}, {row['group'].replace('_', '-')}: {points(row, 'difference')}, n = {row['n']}."
              for name in ("filters", "curriculum") for row in read[name].query("group != 'all' and group != 'control'").to_dict("records")]
    lines += [""] + [f"* {'Holds' if row['holds'] else 'FAILS'}: {row['claim']} ({measured(row)})." for row in read["claims"].to_dict("records")]
    return lines


def hippocrates(runs: list[str]) -> list[str]:
    """Markdown: the ablation on pooled knowledge items by group, preference accuracy and the claims."""
    lines = ["Zero-shot accuracy in % with its 95 % Wilson interval, on all one-step knowledge items (chance is about 23; seed 0, option-text log-likelihood). It takes items as "
             "independent; several ask about one drug or disease, and with those drawn whole, as the differences below are, an interval is up to about twice as wide.", "",
             "| | " + " | ".join(f"{run}: {group}" for run in runs for group in ("held-out", "seen", "control")) + " |",
             "| --- |" + " --- |" * (3 * len(runs))]
    pooled = {run: pd.read_csv(paths.REFERENCE / run / "table_pooled.csv") for run in runs}
    for stages, name in ROWS:
        cells = [cell(pooled[run], stages=stages, protocol="option_text", benchmark="knowledge", group=group)
                 for run in runs for group in ("held_out", "seen", "control")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    counts = {(group, n) for run in runs for group, n in pooled[run].query("benchmark == 'knowledge' and group != 'all'")[["group", "n"]].itertuples(index=False)}
    lines += ["", "Items: " + ", ".join(f"{n} {group.replace('_', '-')}" for group, n in sorted(counts)) + ". *Held-out* facts stand in the documents only, "
              "*seen* facts in the instructions too, *control* facts in no training text at all.", ""]
    for run in runs:
        preference = pd.read_csv(paths.REFERENCE / run / "table_preferences.csv").query("measure == 'summed'").set_index("kind")
        parts = [f"{kind} {row['before']:.2f} → {row['after']:.2f} ({row['difference']:+.2f}, {row['difference_low']:+.2f} to {row['difference_high']:+.2f}; n = {row['n']:.0f})"
                 for kind, row in preference.iterrows()]
        lines.append(f"* {run}, preference accuracy on held-out questions before → after DPO: " + "; ".join(parts) + ".")
    lines.append("\nIn these pairs the questions are held out; the sentences of manner, by which *style* pairs differ, are the same 18 as in training.")
    lines += ["", "Each run checks claims whose bars were set beforehand (`table_claims`):", "", "| claim | " + " | ".join(runs) + " |", "| --- |" + " --- |" * len(runs)]
    claims = {run: pd.read_csv(paths.REFERENCE / run / "table_claims.csv") for run in runs}
    for number in range(len(claims[runs[0]])):
        rows = [claims[run].iloc[number] for run in runs]
        name = re.sub(r" \((frequency|ngrams)\)$", "", rows[0]["claim"])
        lines.append(f"| {name} | " + " | ".join(f"{'holds' if row['holds'] else 'FAILS'} ({measured(row)})" for row in rows) + " |")
    return lines + seeds() + data()


def seeds(study: str = "study_seeds") -> list[str]:
    """Markdown of the committed study of seeds: mean, smallest and largest accuracy per stage, and in how many runs each claim holds."""
    folder = paths.REFERENCE / study
    if not folder.is_dir():
        return []
    spread, claims, preferences = (pd.read_csv(folder / f"table_{name}.csv") for name in ("spread", "claims", "preferences"))
    rows = spread.query("benchmark == 'knowledge' and protocol == 'option_text'")
    settings = list(rows["setting"].unique())
    heads = [(setting, group) for setting in settings for group in ("held_out", "seen", "control")]
    lines = ["", f"The same with {rows['runs'].max()} seeds (`params/{study}.yaml`; the groups, texts, exams and weights all change with the seed): mean "
             "accuracy in % (smallest to largest).", "", "| | " + " | ".join(f"{setting}: {group.replace('_', '-')}" for setting, group in heads) + " |",
             "| --- |" + " --- |" * len(heads)]
    for stages, name in ROWS:
        cells = [rows[(rows["stages"] == stages) & (rows["setting"] == setting) & (rows["group"] == group)].iloc[0] for setting, group in heads]
        lines.append(f"| {name} | " + " | ".join(f"{100 * c['mean']:.0f} ({100 * c['min']:.0f} to {100 * c['max']:.0f})" for c in cells) + " |")
    claims["claim"] = claims["claim"].str.replace(r" \((frequency|ngrams)\)$", "", regex=True)
    lines += [""] + [f"* {int(part['holds'].sum())} of {len(part)} runs: {claim}." for claim, part in claims.groupby("claim", sort=False)]
    for row in preferences.query("measure == 'summed'").to_dict("records"):
        lines.append(f"* {row['setting']}, what DPO adds to preference accuracy, {row['kind']} pairs: {row['mean']:+.2f} ({row['min']:+.2f} to {row['max']:+.2f}).")
    return lines


def data() -> list[str]:
    """Markdown of the committed studies of the data: each part alone, CP + SFT on pooled knowledge items, beside all of it and none."""
    lines = []
    for study, what, without, note in DATA:
        folder = paths.REFERENCE / study
        if not folder.is_dir():
            continue
        spread, against = (pd.read_csv(folder / f"table_{name}.csv").query("benchmark == 'knowledge'") for name in ("spread", "settings"))
        spread = spread.query("protocol == 'option_text' and shots == 0")
        first = spread["setting"].iloc[0]
        lines += ["", f"What {what} are worth (`params/{study}.yaml`, seed 0; each part in its own size, so fewer tokens alone): CP + SFT, zero-shot, in % with "
                  f"the 95 % interval, and the difference to *{first}* on the same held-out items in points ({note}).", "",
                  f"| | held-out | seen | held-out, against {first} |", "| --- | --- | --- | --- |"]
        for setting, stages in [*((setting, "CP+SFT") for setting in spread["setting"].unique()), (first, without)]:
            rows = spread[(spread["setting"] == setting) & (spread["stages"] == stages)].set_index("group")
            cells = [f"{100 * rows.loc[group, 'mean']:.0f} ({100 * rows.loc[group, 'low']:.0f}–{100 * rows.loc[group, 'high']:.0f})" for group in ("held_out", "seen")]
            of = against[(against["setting"] == setting) & (against["stages"] == stages) & (against["group"] == "held_out")]
            gain = [f"{100 * row['difference']:+.1f} ({100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f})" for row in of.to_dict("records")]
            lines.append(f"| {setting if stages == 'CP+SFT' else 'none'} | {' | '.join(cells)} | {gain[0] if gain else ''} |")
    return lines


def readme(text: str, runs: list[str]) -> str:
    """The README with its results block written anew."""
    return BLOCK.sub(lambda found: found[1] + results(runs) + found[2], text)
