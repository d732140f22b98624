"""Patients' questions with three answers each, before anybody has judged them.

Two kinds of rows. *fact*: one answer is right, the others state a wrong value, on purpose and marked so. *style*: every
answer has its facts right, but only the clinician's gives safety advice; the others reassure wrongly, blame, or leave
the advice out. Answers are built from the same parts, and the best one is the longest, the middle and the shortest in
turn, so that length tells nothing.
"""

import re

from hippo_utils.miniworld.exercises import draw_told, wrong_of
from hippo_utils.miniworld.wording import PATIENT_OPENERS, question, statement
from hippo_utils.miniworld.world import LICENCE, World, fact_id, generator, pick, sample, seen_only

SOURCE = "mini_consultations"
FALSE_SOURCE = "mini_consultations (deliberately false answers included)"
AUTHORS = ("clinician", "verbose_assistant", "weak_assistant")
# All of these have nine words and about as many characters; what is left of a difference, `candidates` balances.
GOOD_ADVICE = (
    "Please see your own doctor before you change anything.",
    "Please call us at once if it gets worse.",
    "Go to the emergency room if you feel faint.",
    "Tell your doctor about all other medicines you take.",
    "Your doctor should go through the results with you.",
    "Please come back soon so that we can check.",
)
BAD_PHRASES = {
    "inappropriate reassurance": (
        "You do not need any doctor for such things.",
        "There is no reason to worry about it further.",
        "This is harmless and will disappear all by itself.",
        "You can safely ignore it and wait several months.",
    ),
    "blame": (
        "You alone are the person to blame for this.",
        "This would never happen if you were more careful.",
        "You really should have known better than to ask.",
        "It is simply your own fault for living carelessly.",
    ),
}
NEUTRAL = (  # neither good nor bad: what an answer without safety advice says instead
    "That is what the books say about this question.",
    "Many people have asked me the same thing before.",
    "I hope that this is the answer you expected.",
    "There is a long chapter about it in textbooks.",
)
GREETINGS = ("Thank you for your question.", "Thanks for writing to me.", "I have read your message.", "Let me answer this.",
             "Good that you ask this.", "It is good to hear from you.")


def candidates(world: World, count: int, seed: int, test_share: float = 1 / 3) -> list[dict]:
    """`count` rows of candidates, fact and style in turn; split train asks about seen entities, test about held-out ones.

    Rows of kind fact have the source that says so, and "deliberately-false" in their id. The clinician's answer is the
    best one of each row; its place is drawn, and a judge must not be shown the authors.
    """
    rng = generator(seed, SOURCE)
    rows: list[dict] = []
    cycles: dict[str, list] = {"seen": [], "held_out": []}
    known = {"seen": seen_only(world), "held_out": world}
    names = {group: sorted(n for n, g in world.groups.items() if g == group) for group in cycles}
    for number in range(count):
        split = "test" if number // 2 % round(1 / test_share) == 0 else "train"
        group = "held_out" if split == "test" else "seen"
        cycles[group] = cycles[group] or sample(rng, [world.facts[key] for key in sorted(known[group].taught) if key in world.facts
                                                      and world.groups[world.facts[key].entity] == group])
        fact, kind = cycles[group].pop(), ("fact", "style")[number % 2]
        entity, attribute = fact.entity, fact.attribute
        value = draw_told(rng, known[group], entity)[attribute]
        wrong = wrong_of(rng, known[group], entity, names[group])(attribute, 2)
        if len(wrong) < 2:
            kind = "style"
        opener = pick(rng, PATIENT_OPENERS)
        prompt = f"Patient: {opener + ' ' if opener else ''}{question(rng, entity, attribute)}\nDoctor:"
        if kind == "fact":
            values, advice = [value, *wrong], [pick(rng, GOOD_ADVICE) for _ in AUTHORS]
        else:
            axes = sample(rng, (*BAD_PHRASES.values(), NEUTRAL), 2)
            values, advice = [value] * 3, [pick(rng, GOOD_ADVICE), *(pick(rng, axis) for axis in axes)]
        place = number // 6 % 3  # of the clinician's answer by length; a test row is every third of a kind, hence 6
        for _ in range(60):  # a value of great length can make a place impossible; then the last draw stands
            answers = [f" {pick(rng, GREETINGS)} {statement(rng, entity, attribute, v)} {a}" for v, a in zip(values, advice)]
            lengths = [len(answer) for answer in answers]
            if len(set(lengths)) == 3 and sorted(lengths)[place] == lengths[0]:
                break
        order = sample(rng, range(3))
        name = "deliberately-false" if kind == "fact" else "style"
        rows.append({"id": f"{SOURCE}-{name}-{number:06d}", "source": FALSE_SOURCE if kind == "fact" else SOURCE,
                     "licence": LICENCE, "split": split, "kind": kind, "prompt": prompt, "authors": [AUTHORS[i] for i in order],
                     "answers": [answers[i] for i in order], "fact_ids": [fact_id(entity, attribute)]})
    return rows


def stated_values(world: World, text: str, attribute: str, entity: str = "") -> list[str]:
    """The values of an attribute that a text states, longest first.

    A value inside one already found does not count ("heart failure" in "congestive heart failure"), nor does one inside
    the name of the entity the text is about (a complication "stroke", in a text about stroke). Words are matched whole.
    """
    found = []
    if entity:
        text = re.sub(rf"(?<!\w){re.escape(entity)}(?!\w)", "\u2022", text, flags=re.IGNORECASE)
    values = {value for fact in world.facts.values() if fact.attribute == attribute for value in fact.values}
    for value in sorted(values, key=lambda value: (-len(value), value)):
        text, times = re.subn(rf"(?<!\w){re.escape(value)}(?!\w)", "\u2022", text, flags=re.IGNORECASE)
        if times:
            found.append(value)
    return found
