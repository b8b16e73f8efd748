"""Bring text into the form in which secrets are looked for: compatible characters, nothing invisible."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Drawn as nothing, though of no category that says so: combining grapheme joiner, fillers, blank Braille.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
# Variants that NFKC leaves apart.
_ALIKE = {
    **dict.fromkeys("‐‑‒–—―−⁃➖", "-"),
    **dict.fromkeys("‘’‚‛′ʼ`´", "'"),
    **dict.fromkeys("“”„‟″«»「」『』", '"'),
    **dict.fromkeys("·•∙・⋅", "."),
    **dict.fromkeys("\u2028\u2029\x85", "\n"),
    "：": ":",
    "＝": "=",
}


class _Normal(dict[str, str]):
    """Each character's normal form, worked out when it is first met."""

    def __missing__(self, character: str) -> str:
        is_hidden = character in _INVISIBLE or unicodedata.category(character) in ("Cf", "Mn")
        normal = _ALIKE.get(character) or unicodedata.normalize("NFKC", character)
        if normal.isdecimal() and not normal.isascii():
            normal = "".join(str(unicodedata.digit(one)) for one in normal)
        self[character] = "" if is_hidden else _ALIKE.get(normal, normal)
        return self[character]


_NORMAL = _Normal()


def normalized(text: str) -> tuple[str, Sequence[int]]:
    """Return the normal form of NFC `text`, and the place in `text` of each of its characters and of its end."""
    if text.isascii():
        return text.replace("`", "'"), range(len(text) + 1)
    pieces = [_NORMAL[character] for character in text]
    places = [place for place, piece in enumerate(pieces) for _ in piece]
    return "".join(pieces), [*places, len(text)]
