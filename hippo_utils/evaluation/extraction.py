"""Which option a written reply names. The rules are these and no others, so that a number can be checked by hand.

    1. what stands behind the last "Answer:"                                       of a rationale
    2. without one, what stands behind the last "answer is" (the correct answer is (B))
    3. without either, the reply's first line, if the prompt ended in "Answer:"    (direct=True)

In Chinese the same, the first line first where the reply itself is the answer: 1. the last 答案：or 答： of a rationale; 2. 答案是,
正确选项为, 应选, 选择 and the like, but not where it is negated (不选, 错误选项是); 3. the first line. Width, and the marks of Chinese, make no difference (Ｂ． is B.).

What stands there must be an option's text, its letter - "B", "(b)", "B.", "B) beta blocker", "option B", with or without
Markdown's asterisks - or begin with the text of exactly one option, followed by a comma, a full stop or the like. Among Chinese options
a letter counts behind 选项, before 、 or 。 and before its own option's text (B阿托品), and never with a second letter (B、C). Anything else is
no answer, which counts as wrong and is reported as a share: an extractor that guesses gives away marks that nobody earned.
"""

import re
from collections import Counter

from hippo_utils.chinese import HAN, folded, normalise

NO_ANSWER = -1
LETTERS = "abcdefghij"
MARKED = re.compile(r"Answer:\s*(.+)")
SAID = re.compile(r"\banswer is:?\s*(.+)", re.IGNORECASE)
NOT = "".join(f"(?<!{word})" for word in ("不", "不能", "不应", "不该", "不可", "不宜", "不要", "不会", "勿", "别", "错误", "错误的"))
MARKED_ZH = re.compile(r"答(?:案)?[：:]\s*(.+)")
SAID_ZH = re.compile(NOT + r"(?:答案(?:应该|应)?[是为选]|选项(?:应该|应)?[是为：:]|"
                     r"(?:^|(?<=[，。；：、,;:\s])|本题|此题|我|应该|应当|应|故|因此|所以|可)选(?!项|择性)(?:择|用)?)[：:]?\s*(.+)")  # 高选择性 is no choice
LETTER_ZH = re.compile(r"(?:选项|项)?\s*(?:[(（]([a-j])[)）]|([a-j])(?![a-z0-9]))\s*(?:选项|项)?[.、,，。；;:：)]?\s*")
HAS_HAN = re.compile(f"[{HAN}]")
LETTER = re.compile(r"(?:option )?(?:\(([a-j])\)|([a-j])(?:[.:)]|$))")  # "(b) ..." or "b", but not the article in "a beta blocker"


def parse_answer(text: str, options: list[str], direct: bool = False) -> int:
    """The index of the option that a reply names, NO_ANSWER when it names none. `direct`: the reply itself is the answer."""
    if chinese := bool(HAS_HAN.search("".join(options))):
        text = "\n".join(map(normalise, text.splitlines()))
    found = MARKED.findall(text) or SAID.findall(text)
    if chinese and not found:
        if direct and text.strip() and (named := named_option(text.strip().splitlines()[0], options)) != NO_ANSWER:
            return named
        found = MARKED_ZH.findall(text) or [said for line in text.splitlines() for said in _last(SAID_ZH, line)]
    if found:
        return named_option(found[-1], options)
    lines = text.strip().splitlines()
    return named_option(lines[0], options) if direct and lines else NO_ANSWER


def _last(pattern: re.Pattern, line: str) -> list[str]:
    """What stands behind the last match of a pattern whose group runs to the end of the line: its later matches lie inside it."""
    found, rest = [], line
    while match := pattern.search(rest):
        found, rest = [match[1]], rest[match.start(1) - len(rest):]
    return found


def named_option(said: str, options: list[str]) -> int:
    """The option that a short text names by its text or by its letter."""
    if HAS_HAN.search("".join(options)):
        return _named_in_chinese(said, options)
    said, plain = _bare(said), [_bare(option) for option in options]
    if said in plain:
        return plain.index(said)
    if letter := LETTER.match(said):
        number = LETTERS.index(letter[1] or letter[2])
        return number if number < len(options) else NO_ANSWER
    begun = [number for number, option in enumerate(plain) if option and re.match(re.escape(option) + r"\s*[,.;:(]", said)]
    return begun[0] if len(begun) == 1 else NO_ANSWER


def _named_in_chinese(said: str, options: list[str]) -> int:
    said, plain = _bare(normalise(said)), [_bare(normalise(option)) for option in options]
    same = [number for number, option in enumerate(plain) if folded(option) == folded(said) != ""]
    if len(same) == 1:
        return same[0]
    begun = [number for number, option in enumerate(plain) if option and re.match(re.escape(option) + r"\s*[,，.。;；:：(（]", said)]
    if len(begun) == 1:
        return begun[0]
    letter = LETTER_ZH.match(said)
    number = LETTERS.index(letter[1] or letter[2]) if letter else len(options)
    if number >= len(options):
        return NO_ANSWER
    rest = said[letter.end():]
    return number if not rest or re.match(re.escape(plain[number]) + r"($|[,，.。;；:：(（])", rest) else NO_ANSWER


def _bare(text: str) -> str:
    return text.replace("*", "").strip().strip(".。").strip().lower()


def vote(choices: list[int]) -> int:
    """The option that most replies name; the one named first among equals; NO_ANSWER when no reply names any."""
    named = [choice for choice in choices if choice != NO_ANSWER]
    return Counter(named).most_common(1)[0][0] if named else NO_ANSWER
