"""Which option a written reply names. The rules are these and no others, so that a number can be checked by hand.

    1. what stands behind the last "Answer:"                                       of a rationale
    2. without one, what stands behind the last "answer is" (the correct answer is (B))
    3. without either, the reply's first line, if the prompt ended in "Answer:"    (direct=True)

What stands there must be an option's text, its letter - "B", "(b)", "B.", "B) beta blocker", "option B", with or without
Markdown's asterisks - or begin with the text of exactly one option, followed by a comma, a full stop or the like. Anything else is
no answer, which counts as wrong and is reported as a share: an extractor that guesses gives away marks that nobody earned.
"""

import re
from collections import Counter

NO_ANSWER = -1
LETTERS = "abcdefghij"
MARKED = re.compile(r"Answer:\s*(.+)")
SAID = re.compile(r"\banswer is:?\s*(.+)", re.IGNORECASE)
LETTER = re.compile(r"(?:option )?(?:\(([a-j])\)|([a-j])(?:[.:)]|$))")  # "(b) ..." or "b", but not the article in "a beta blocker"


def parse_answer(text: str, options: list[str], direct: bool = False) -> int:
    """The index of the option that a reply names, NO_ANSWER when it names none. `direct`: the reply itself is the answer."""
    found = MARKED.findall(text) or SAID.findall(text)
    if found:
        return named_option(found[-1], options)
    lines = text.strip().splitlines()
    return named_option(lines[0], options) if direct and lines else NO_ANSWER


def named_option(said: str, options: list[str]) -> int:
    """The option that a short text names by its text or by its letter."""
    said, plain = _bare(said), [_bare(option) for option in options]
    if said in plain:
        return plain.index(said)
    if letter := LETTER.match(said):
        number = LETTERS.index(letter[1] or letter[2])
        return number if number < len(options) else NO_ANSWER
    begun = [number for number, option in enumerate(plain) if option and re.match(re.escape(option) + r"\s*[,.;:(]", said)]
    return begun[0] if len(begun) == 1 else NO_ANSWER


def _bare(text: str) -> str:
    return text.replace("*", "").strip().strip(".").strip().lower()


def vote(choices: list[int]) -> int:
    """The option that most replies name; the one named first among equals; NO_ANSWER when no reply names any."""
    named = [choice for choice in choices if choice != NO_ANSWER]
    return Counter(named).most_common(1)[0][0] if named else NO_ANSWER
