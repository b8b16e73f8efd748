"""Find and mask secrets, which must not be trained on: keys, tokens, passwords, PINs, account and identity numbers.

A model trained on a secret can reproduce it. A secret is found by a vendor's form, by check digits, by what it is
called, or by its disorder. One that looks like an ordinary word, and that nothing names, is not found.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from lars_agent.secrets.found import IDENTITY, KEY, PASSWORD, PIN, TOKEN, Secret
from lars_agent.secrets.normal import normalized
from lars_agent.secrets.numbers import numbers
from lars_agent.secrets.seeds import seed_phrases
from lars_agent.secrets.shapes import is_word
from lars_agent.secrets.spoken import EDGES, is_year, looks_like, spoken_secrets
from lars_agent.secrets.vendors import vendor_secrets
from lars_agent.secrets.vocabulary import ORDINARY, names_in

SHORT_REPLY, SHORT_QUESTION = 12, 30  # words: of a reply that only tells the secret, and of the question for it
_KINDS = {"password": PASSWORD, "plain": PASSWORD, "pin": PIN, "key": KEY, "identity": IDENTITY}


def find_secret(text: str) -> str | None:
    """Return the kind of a secret in `text`, with its article ("an API key"), or None."""
    found = find_secrets([text])[0]
    return found[0].kind if found else None


def find_secrets(turns: Sequence[str]) -> list[list[Secret]]:
    """Return the secrets of each turn of a conversation, in order and apart; places are those of its NFC form.

    What a turn asks for and the next one tells is found too: "What is my PIN?", "4821".
    """
    texts = [normalized(unicodedata.normalize("NFC", turn)) for turn in turns]
    all_found = []
    for number, (text, places) in enumerate(texts):
        found = [*vendor_secrets(text), *spoken_secrets(text), *numbers(text), *seed_phrases(text)]
        if number and not found:
            found += _told(texts[number - 1][0], text)
        all_found.append([Secret(places[one.start], places[one.end], one.kind) for one in _apart(found)])
    return all_found


def mask_secrets(turns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the turns with each secret replaced by its kind in brackets, and the kinds."""
    masked, kinds = [], dict[str, None]()
    for turn, found in zip(turns, find_secrets(turns), strict=True):
        text = unicodedata.normalize("NFC", turn) if found else turn
        for one in reversed(found):
            text = text[: one.start] + one.mask + text[one.end :]
        masked.append(text)
        kinds |= dict.fromkeys(one.kind for one in found)
    return masked, list(kinds)


def _apart(found: Sequence[Secret]) -> list[Secret]:
    """Return the secrets in order; those that overlap as one, of the kind of the first and longest."""
    apart: list[Secret] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        if apart and one.start < apart[-1].end:
            apart[-1] = Secret(apart[-1].start, max(apart[-1].end, one.end), apart[-1].kind)
        else:
            apart.append(one)
    return apart


def _told(question: str, reply: str) -> list[Secret]:
    """Return what a short `reply` tells, where the `question` names a kind of secret."""
    words = reply.split()
    if not words or len(words) > SHORT_REPLY or len(question.split()) > SHORT_QUESTION:
        return []
    for name in names_in(question):
        place = 0
        for word in words if name.family in _KINDS else ():
            place = reply.index(word, place)
            value = word.strip(EDGES + "([{")
            is_alone = len(words) == 1 and is_word(value) and len(value) >= 5 and value.casefold() not in ORDINARY
            is_told = looks_like(name.family, value) and (name.family == "pin" or not is_year(value))
            if value and (is_told or (is_alone and name.family == "password")):
                start = reply.index(value, place)
                return [Secret(start, start + len(value), TOKEN if "token" in name.bare else _KINDS[name.family])]
            place += len(word)
    return []


__all__ = ["find_secret", "find_secrets", "mask_secrets"]
