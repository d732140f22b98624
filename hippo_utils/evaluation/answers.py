"""Scores of free Chinese answers against references: overlap, and, apart from it, drugs, numbers, doses and units.

Overlap rewards a wrong dose (all but one character is right), so it never stands alone.
"""

import pandas as pd

from hippo_utils.chinese import amounts, tokens


class _Characters:
    """The tokenizer that rouge_score asks for; its own drops every Chinese character."""

    def tokenize(self, text: str) -> list[str]:
        return tokens(text)


def bleu(answers: list[str], references: list[str]) -> tuple[float, str]:
    """Corpus BLEU (0 to 100) with sacrebleu's tokenizer zh, and the signature without which the number means nothing."""
    from sacrebleu.metrics import BLEU
    metric = BLEU(tokenize="zh")
    return metric.corpus_score(answers, [references]).score, str(metric.get_signature())


def overlap(answers: list[str], references: list[str]) -> pd.DataFrame:
    """ROUGE-1, -2 and -L (F, 0 to 1, over characters) and the lengths, one row per answer; an empty answer scores 0."""
    from rouge_score.rouge_scorer import RougeScorer
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Characters())
    rows = []
    for answer, reference in zip(answers, references, strict=True):
        found = scorer.score(reference, answer)
        rows.append({name: found[name].fmeasure for name in found} | {"answer_length": len(tokens(answer)), "reference_length": len(tokens(reference))})
    return pd.DataFrame(rows)


def agreement(answer: str, reference: str, drugs: list[str]) -> dict:
    """What an answer says of drugs and amounts against its reference.

    drugs: names to look for; the longest is taken (舒芬太尼 is not 芬太尼). Counts: drugs_missing, drugs_added, amounts_missing,
    amounts_added, and of the added ones dose_errors (the reference has the unit with another number) and unit_errors (the
    reference has the number with another unit). `agrees` is True when nothing is missing or added.
    """
    said, meant = _drugs(answer, drugs), _drugs(reference, drugs)
    given, wanted = set(amounts(answer)), set(amounts(reference))
    added, units, numbers = given - wanted, {amount[2] for amount in wanted}, {amount[:2] for amount in wanted}
    counts = {"drugs_missing": len(meant - said), "drugs_added": len(said - meant), "amounts_missing": len(wanted - given),
              "amounts_added": len(added), "dose_errors": sum(amount[2] in units for amount in added),
              "unit_errors": sum(amount[2] not in units and amount[:2] in numbers for amount in added)}
    return counts | {"agrees": not any(counts.values())}


def _drugs(text: str, drugs: list[str]) -> set[str]:
    found = set()
    for drug in sorted(drugs, key=len, reverse=True):
        if drug in text:
            found.add(drug)
            text = text.replace(drug, "•")
    return found


def score(answers: list[str], references: list[str], drugs: list[str]) -> tuple[pd.DataFrame, dict]:
    """Per answer overlap and agreement; and the corpus: bleu, its signature, mean ROUGE-L, share that agrees, n."""
    rows = overlap(answers, references).join(pd.DataFrame([agreement(a, r, drugs) for a, r in zip(answers, references)]))
    value, signature = bleu(answers, references)
    return rows, {"n": len(rows), "bleu": value, "bleu_signature": signature, "rougeL": float(rows["rougeL"].mean()),
                  "agrees": float(rows["agrees"].mean())}
