"""Recognize replies that nobody means: characters at random, keys hit at random, and text that repeats itself.

The evidence is a log-likelihood ratio: how many nats the letters cost as text (by the pairs of letters of 34 languages,
`lars_agent/data/letters.json`) less what they cost as noise. A few letters are little evidence, so that short replies
and invented names pass. Only Latin letters are judged, and no addresses.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from functools import cache
from importlib.resources import files
from itertools import pairwise
from string import ascii_lowercase
from typing import NamedTuple

RANDOM, REPETITIVE = "random characters", "repeats itself"
ENOUGH = 9.0  # nats: noise must be 8,000 times as likely as text; half of it where the prompt is as unlikely
LEAST, ACRONYM = 6, 4  # letters judged at least, and capitals that are not: DD/MM/YYYY has pairs like no word
EVENLY = math.log(26)
HOME_ROW, KEY_ROWS = "asdfghjkl", ("qwertyuiop", "asdfghjkl", "zxcvbnm")
MOSTLY = 0.9  # of keys hit at random lie as the hypothesis has it
CHANGES, CHANGES_IN_TEXT = 0.5, 0.25  # of neighbours that differ in kind or case, in noise and in a mixed word
LEAST_LOOP, GRAM = 24, 8  # characters of a loop, and of a piece that tells how far away the same is again
ADDRESS = re.compile(r"\w+://\S+|\bwww\.\S+|[\w.+-]+@[\w-]+\.\S+")
WORD, RUN = re.compile(r"[^\W_]+"), re.compile(r"(.)\1{2,}")
FOLDED = str.maketrans(
    {"ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "þ": "th", "ə": "e"}
    | {"Ø": "O", "Æ": "Ae", "Œ": "Oe", "Ł": "L", "Đ": "D", "Ð": "D", "Þ": "Th"}
)


def meaningless(reply: str, prompt: str = "") -> str | None:
    """Return the reason why nobody means the reply, or None."""
    if loops(reply):
        return REPETITIVE
    surprise = _noise(reply)
    if surprise >= ENOUGH or (surprise >= ENOUGH / 2 and _noise(prompt) >= ENOUGH / 2):
        return RANDOM
    return None


def loops(text: str) -> bool:
    """Return whether most of the text is one piece, four times or more in a row."""
    text, last, distances = f"{' '.join(WORD.findall(text.casefold()))} ", dict[str, int](), Counter[int]()
    for at in range(len(text) - GRAM + 1):
        piece = text[at : at + GRAM]
        if piece in last:
            distances[at - last[piece]] += 1
        last[piece] = at
    for size, _ in distances.most_common(3):
        is_same = "".join("1" if one == other else "0" for one, other in zip(text, text[size:], strict=False))
        longest = max(is_same.split("0"), key=len)
        whole, start = len(longest) + size, is_same.index(longest)
        if whole >= max(4 * size, LEAST_LOOP) and 2 * whole > len(text) and re.search(r"[^\W\d]", text[start:][:whole]):
            return True
    return False


def _noise(text: str) -> float:
    """Return the nats of evidence for noise in the worst stretch of the text; 0 where that is not most of it."""
    text = _folded(ADDRESS.sub(" ", text))
    words = WORD.findall(text)
    scored = [word for word in dict.fromkeys(words) if not (word.isupper() and len(word) <= ACRONYM)]
    evidence = [_evidence(word) for word in scored]
    total = sum(map(len, set(words)))
    best = 0.0
    for by_word in zip(*evidence, strict=True):  # of each kind of noise
        most, length = _worst(by_word, [len(word) for word in scored])
        best = max(best, most if length >= LEAST and 2 * length > total else 0.0)
    return best


def _worst(evidence: tuple[float, ...], lengths: list[int]) -> tuple[float, int]:
    """Return the largest sum of the evidence of adjacent words, and the characters of these (Kadane's algorithm)."""
    best, best_length, here, length = 0.0, 0, 0.0, 0
    for one, size in zip(evidence, lengths, strict=True):
        here, length = (here + one, length + size) if here > 0 else (one, size)
        if here > best:
            best, best_length = here, length
    return best, best_length


def _evidence(word: str) -> tuple[float, float, float]:
    """Return the nats for letters drawn evenly, for the keys of the home row, and for neighbouring keys."""
    evenly = home = nearby = _changes(word)
    before = " "
    for letter in RUN.sub(r"\1\1", word.lower()):
        if found := _letters().get(letter):
            cost = found.after.get(before, found.after[" "])
            evenly += cost - EVENLY
            home += cost - found.home
            nearby += cost - found.nearby.get(before, found.far)
        before = letter
    return evenly, home, nearby


def _changes(word: str) -> float:
    """Return the evidence of a word's digits and capitals; none where it has letters of one case, or digits, only."""
    kinds = "".join("0" if one.isdigit() else "A" if one.isupper() else "a" for one in word)
    if "0" not in kinds.strip("0") and "A" not in kinds[1:]:
        return 0.0
    changed = sum(one + two in ("a0", "0a", "A0", "0A", "aA") for one, two in pairwise(kinds))
    same = len(kinds) - 1 - changed
    return changed * math.log(CHANGES / CHANGES_IN_TEXT) + same * math.log((1 - CHANGES) / (1 - CHANGES_IN_TEXT))


class Letter(NamedTuple):
    """Costs of a letter in nats.

    Attributes:
        after: in text, by the letter before it or a blank.
        home: if keys of the home row are hit.
        nearby: if keys near the one before are, by that; `far` where it is not near.
    """

    after: dict[str, float]
    home: float
    nearby: dict[str, float]
    far: float


@cache
def _letters() -> dict[str, Letter]:
    """Return the letters from a to z; the file has tenths of nats, by the letter before or a blank."""
    rows = json.loads((files("lars_agent.data") / "letters.json").read_text(encoding="utf-8"))
    return {
        letter: Letter(
            after={before: row[column] / 10 for before, row in rows.items()},
            home=-math.log(MOSTLY / len(HOME_ROW) if letter in HOME_ROW else (1 - MOSTLY) / (26 - len(HOME_ROW))),
            nearby={" ": EVENLY} | {key: -math.log(MOSTLY / len(_near(key))) for key in _near(letter)},
            far=-math.log((1 - MOSTLY) / 26),
        )
        for column, letter in enumerate(ascii_lowercase)
    }


def _near(key: str) -> str:
    """Return the keys beside a key, in its row and in those above and below."""
    places = {one: (row, column) for row, keys in enumerate(KEY_ROWS) for column, one in enumerate(keys)}
    row, column = places[key]
    return "".join(
        one for one, (other, at) in places.items() if one != key and abs(other - row) <= 1 and abs(at - column) <= 1
    )


def _folded(text: str) -> str:
    """Return the text with plain letters in place of those with marks."""
    return "".join(
        one for one in unicodedata.normalize("NFKD", text.translate(FOLDED)) if not unicodedata.combining(one)
    )
