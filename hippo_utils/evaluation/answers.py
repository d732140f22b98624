"""Scores of free Chinese answers against references: overlap, and, apart from it, drugs, numbers, doses and units.

Overlap rewards a wrong dose (all but one character is right), so it never stands alone.
"""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from hippo_utils.chinese import amounts, tokens
from hippo_utils.miniworld.anesthesia.world import FACTS, FILES
from hippo_utils.statistics import bootstrap, wilson

# Drugs that the tables do not have but whose names hold one of theirs, and other names of theirs: what each is counted as.
OTHER_NAMES = {name: name for name in ("阿芬太尼", "艾司氯胺酮", "左布比卡因", "异丙肾上腺素", "阿曲库铵", "氢吗啡酮", "阿扑吗啡", "低分子肝素", "类肝素")} | {
    "顺式阿曲库铵": "顺阿曲库铵", "苯肾上腺素": "去氧肾上腺素", "异丙酚": "丙泊酚", "七氟醚": "七氟烷", "地氟醚": "地氟烷", "异氟醚": "异氟烷", "笑气": "氧化亚氮"}
NO_DRUG = re.compile("(?:去甲)?肾上腺素(?=受体|能(?:神经|受体|[αβ]))")  # a receptor or a nerve
COUNTS = ("drugs_missing", "drugs_added", "amounts_missing", "amounts_added", "dose_errors", "unit_errors")


class _Characters:
    """The tokenizer that rouge_score asks for; its own drops every Chinese character."""

    def tokenize(self, text: str) -> list[str]:
        return tokens(text)


def bleu(answers: list[str], references: list[str]) -> tuple[float, str]:
    """Corpus BLEU (0 to 100) with sacrebleu's tokenizer zh, and the signature without which the number means nothing."""
    from sacrebleu.metrics import BLEU
    metric = BLEU(tokenize="zh")
    return metric.corpus_score(answers, [references]).score, str(metric.get_signature())


def bleu_parts(answers: list[str], references: list[str]) -> np.ndarray:
    """(n, 10) what BLEU needs of each answer: its n-grams found and there are (orders 1 to 4), and the lengths of both texts."""
    from sacrebleu.metrics import BLEU
    metric = BLEU(tokenize="zh", effective_order=True)  # concerns the score of one sentence, not its parts
    found = [metric.sentence_score(answer, [reference]) for answer, reference in zip(answers, references, strict=True)]
    return np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in found], dtype=float).reshape(-1, 10)


def bleu_of(parts: np.ndarray) -> float:
    """Corpus BLEU (0 to 100) of the answers with these parts: `bleu` without reading them again, for resampling."""
    from sacrebleu.metrics import BLEU
    whole = [int(total) for total in parts.sum(axis=0)]
    return BLEU.compute_bleu(whole[:4], whole[4:8], whole[8], whole[9], smooth_method="exp").score


def overlap(answers: list[str], references: list[str]) -> pd.DataFrame:
    """ROUGE-1, -2 and -L (F, 0 to 1, over characters) and the lengths, one row per answer; an empty answer scores 0."""
    from rouge_score.rouge_scorer import RougeScorer
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Characters())
    rows = []
    for answer, reference in zip(answers, references, strict=True):
        found = scorer.score(reference, answer)
        rows.append({name: found[name].fmeasure for name in found} | {"answer_length": len(tokens(answer)), "reference_length": len(tokens(reference))})
    return pd.DataFrame(rows)


def drug_names() -> list[str]:
    """The drugs to look for: those of the embedded tables, in mini runs and others."""
    return sorted(set(pd.read_csv(FACTS / FILES["agent"], dtype=str)["entity"]))


def agreement(answer: str, reference: str, drugs: list[str], question: str = "") -> dict:
    """What an answer says of drugs and amounts against its reference.

    drugs: names to look for (`drugs_in`). What the question names already is neither missing nor
    added, in drugs and in amounts. Counts: drugs_missing, drugs_added, amounts_missing,
    amounts_added, and of the added ones dose_errors (the reference has the unit with another number) and unit_errors (the
    reference has the number with another unit). `agrees` is True when nothing is missing or added.
    """
    said, meant = (drugs_in(text, drugs) - drugs_in(question, drugs) for text in (answer, reference))
    given, wanted = (set(amounts(text)) - set(amounts(question)) for text in (answer, reference))
    added, units, numbers = given - wanted, {amount[2] for amount in wanted}, {amount[:2] for amount in wanted}
    counts = {"drugs_missing": len(meant - said), "drugs_added": len(said - meant), "amounts_missing": len(wanted - given),
              "amounts_added": len(added), "dose_errors": sum(amount[2] in units for amount in added),
              "unit_errors": sum(amount[2] not in units and amount[:2] in numbers for amount in added)}
    return counts | {"agrees": not any(counts.values())}


def drugs_in(text: str, drugs: Iterable[str]) -> set[str]:
    """The drugs that a text names: of these and OTHER_NAMES, the longest name at each place (舒芬太尼 is not 芬太尼), by one name each."""
    names = OTHER_NAMES | {drug: drug for drug in drugs}
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return {names[name] for name in re.findall(pattern, NO_DRUG.sub("•", text))}


def score(answers: list[str], references: list[str], drugs: list[str]) -> tuple[pd.DataFrame, dict]:
    """Per answer overlap and agreement; and the corpus: bleu, its signature, mean ROUGE-L, share that agrees, n."""
    rows = overlap(answers, references).join(pd.DataFrame([agreement(a, r, drugs) for a, r in zip(answers, references)]))
    value, signature = bleu(answers, references)
    return rows, {"n": len(rows), "bleu": value, "bleu_signature": signature, "rougeL": float(rows["rougeL"].mean()),
                  "agrees": float(rows["agrees"].mean())}


def join(answers: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """Answer records with what their questions say: group, subject, cluster, fact_ids, prompt, reference (the first of them)."""
    known = questions.set_index("id")
    lost = set(answers["question"]) - set(known.index)
    if lost:
        raise ValueError(f"{len(lost)} answers are to questions that are not there, {sorted(lost)[0]} among them; run 05_evaluation again")
    known = known.assign(reference=[references[0] for references in known["references"]])
    return answers.join(known[["group", "subject", "cluster", "fact_ids", "prompt", "reference"]], on="question")


def table(joined: pd.DataFrame, *, seed: int, resamples: int = 1000) -> pd.DataFrame:
    """Table `answers`: one row per model, benchmark and group (and all groups together), scored against the references.

    Columns: stages, benchmark, group, n; bleu, rouge1, rouge2, rougeL and length (units of chinese.tokens), each a 95 %
    bootstrap interval over questions, those about one entity drawn together; reference_length; checked = questions whose reference
    names a drug or an amount that the question does not; agrees = the share of these whose answer names just the same, with
    its interval (Wilson's where none or all do); how many answers have each fault of COUNTS; the signature of BLEU. An answer with nothing in it scores 0.
    """
    drugs, texts = drug_names(), (joined["answer"].tolist(), joined["reference"].tolist())
    signature = bleu(*(text[:1] for text in texts))[1]
    rows = pd.concat([joined.reset_index(drop=True), overlap(*texts)], axis=1)
    rows = rows.join(pd.DataFrame([agreement(*texts, drugs, question) for *texts, question in zip(*texts, joined["prompt"])]))
    nothing = dict.fromkeys(COUNTS, 0) | {"agrees": True}
    rows["checked"] = [agreement("", reference, drugs, question) != nothing for reference, question in zip(texts[1], joined["prompt"])]
    parts = bleu_parts(*texts)
    several = set(rows["group"]) != {"all"}
    whole = pd.concat([rows, rows.assign(group="all")]) if several else rows
    lines = []
    for (stages, benchmark, group), part in whole.groupby(["stages", "benchmark", "group"], sort=False):
        how = dict(seed=seed, clusters=part["cluster"].to_numpy(), resamples=resamples)
        line = {"stages": stages, "benchmark": benchmark, "group": group, "n": len(part)}
        line |= _with_ends("bleu", bootstrap(parts[part.index], bleu_of, **how))
        for name in ("rouge1", "rouge2", "rougeL"):
            line |= _with_ends(name, bootstrap(part[name].to_numpy(), **how))
        line |= _with_ends("length", bootstrap(part["answer_length"].to_numpy(), **how)) | {"reference_length": part["reference_length"].mean(), "checked": int(part["checked"].sum())}
        some = part[part["checked"]]
        if some["agrees"].nunique() > 1:
            agrees = bootstrap(some["agrees"].to_numpy(float), seed=seed, clusters=some["cluster"].to_numpy(), resamples=resamples)
        else:  # none or all: no resample differs, and an interval without a width would be a lie
            agrees = wilson(int(some["agrees"].sum()), len(some)) if len(some) else (np.nan,) * 3
        line |= _with_ends("agrees", agrees)
        lines.append(line | {name: int((part[name] > 0).sum()) for name in COUNTS} | {"bleu_signature": signature})
    return pd.DataFrame(lines)


def _with_ends(name: str, interval) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval))
