"""Find numbers of cards, accounts and people by their form and check digits (python-stdnum)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from stdnum import ean, iban, luhn

from lars_agent.secrets.found import ACCOUNT, CARD, IDENTITY, Secret

_DIGIT_GROUPS = re.compile(r"[0-9]+(?:[ \t.-]{1,2}[0-9]+)*")
_CARD = re.compile(
    r"4[0-9]{12}(?:[0-9]{3}){0,2}"  # Visa
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|35[0-9]{14}"  # American Express, Diners Club, JCB
    r"|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}|62[0-9]{14}"  # Discover, UnionPay
    r"|220[0-4][0-9]{12}|9792[0-9]{12}"  # Mir, Troy
    r"|(?:50(?:18|20|38)|5[6-8][0-9]{2}|6304|6759|676[1-3])[0-9]{12,15}"  # Maestro
)
_MAX_CARD_DIGITS = 19
MOST_GROUPS = 6  # of digits in the number of a card
_IBAN_START = re.compile(r"(?i)\b[A-Z]{2}[ .-]?[0-9]{2}")
_BLANK, _MAX_IBAN = " .-_/\t\n", 34
_PART = re.compile(r".?[.,+/=_-]")  # before digits that are a part of something longer
# Forms that no other number has; where check digits exist, the module of stdnum that checks them.
_PEOPLE = (
    ("", r"\b(?!000|666)[0-8][0-9]{2}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}\b"),  # United States
    ("fr.nir", r"\b[1-4] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}\b"),
    ("it.codicefiscale", r"(?i)\b[A-Z]{3} ?[A-Z]{3} ?[0-9]{2}[A-Z][0-9]{2} ?[A-Z][0-9]{3}[A-Z]\b"),
    ("es.dni", r"\b[0-9]{8}[ -]?[A-Z]\b"),
    ("es.nie", r"\b[XYZ][ -]?[0-9]{7}[ -]?[A-Z]\b"),
    ("br.cpf", r"\b[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}\b"),
    ("ch.ssn", r"\b756[. ]?[0-9]{4}[. ]?[0-9]{4}[. ]?[0-9]{2}\b"),
    ("be.nn", r"\b[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}[.-][0-9]{2}\b"),
    ("se.personnummer", r"\b(?:19|20)?[0-9]{6}[-+][0-9]{4}\b"),
    ("fi.hetu", r"\b[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]\b"),
    ("no.fodselsnummer", r"\b[0-9]{6} ?[0-9]{5}\b"),
    ("cn.ric", r"\b[1-9][0-9]{16}[0-9Xx]\b"),
    ("kr.rrn", r"\b[0-9]{6}-[1-8][0-9]{6}\b"),
    ("mx.curp", r"\b[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]\b"),
    ("", r"\b[ABCEGHJ-PRSTW-Z][ABCEGHJ-NPRSTW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]\b"),  # United Kingdom
    ("", r"\b[0-9]{2} ?(?:[0-2][0-9]|3[01])(?:0[1-9]|1[0-2])[0-9]{2} ?[A-Z] ?[0-9]{3}\b"),  # Germany, pensions
    ("", r"\b[0-9]{3}-[0-9]{3}-[0-9]{3} [0-9]{2}\b"),  # Russia, SNILS
)


def numbers(text: str) -> Iterator[Secret]:
    """Yield the numbers of cards, accounts and people in a normal `text`."""
    if not any(digit in text for digit in "0123456789"):
        return
    for run in _DIGIT_GROUPS.finditer(text):
        if not _is_word(text[run.start() - 1 : run.start()] + text[run.end() : run.end() + 1]):
            yield from _cards(run.group(), run.start())
    for match in _IBAN_START.finditer(text):
        if (end := _iban_end(text, match.start())) is not None:
            yield Secret(match.start(), end, ACCOUNT)
    for module, pattern in _people():
        for match in pattern.finditer(text):
            is_part = _PART.fullmatch(text, max(0, match.start() - 2), match.start()) or text[
                match.end() : match.end() + 1
            ] in ("+", "-", "/")
            if not is_part and (module is None or module.is_valid(match.group())):
                yield Secret(*match.span(), IDENTITY)


@cache
def _people() -> list[tuple[Any, re.Pattern[str]]]:
    return [
        (import_module(f"stdnum.{name}") if name else None, re.compile(pattern, re.ASCII)) for name, pattern in _PEOPLE
    ]


def _is_word(around: str) -> bool:
    """Return True if letters stand right beside a number."""
    return any(one.isalpha() and one.isascii() for one in around)


def _cards(run: str, offset: int) -> Iterator[Secret]:
    """Yield the cards among groups of digits: adjacent groups of three or more, or a run of single digits."""
    groups = list(re.finditer("[0-9]+", run))
    if len(run) == 2 * len(groups) - 1 and len(groups) <= _MAX_CARD_DIGITS:
        return (yield from _card("".join(one.group() for one in groups), offset, offset + len(run)))
    for first in range(len(groups)):
        digits = ""
        for group in groups[first : first + MOST_GROUPS]:
            digits += group.group()
            if (
                len(group.group()) < 3
                or (len(group.group()) > 6 and digits != group.group())
                or len(digits) > _MAX_CARD_DIGITS
            ):
                break
            yield from _card(digits, offset + groups[first].start(), offset + group.end())


def _card(digits: str, start: int, end: int) -> Iterator[Secret]:
    if _CARD.fullmatch(digits) and luhn.is_valid(digits) and not _is_article(digits):
        yield Secret(start, end, CARD)


def _is_article(digits: str) -> bool:
    """Return True for the 13 digits of a bar code; old Visa cards have as many."""
    return len(digits) == 13 and ean.is_valid(digits)


def _iban_end(text: str, start: int) -> int | None:
    """Return where the IBAN ends that begins at `start`, written with blanks, dots or dashes, in capitals or not."""
    compact, blanks, place = "", 0, start
    while place < len(text) and len(compact) <= _MAX_IBAN and blanks < 3:
        character = text[place]
        place += 1
        if character in _BLANK:
            blanks += 1
        elif character.isascii() and character.isalnum():
            compact, blanks = compact + character.upper(), 0
            is_end = place == len(text) or not (text[place].isascii() and text[place].isalnum())
            if is_end and len(compact) >= 15 and _checks(compact) and iban.is_valid(compact):
                return place
        else:
            break
    return None


def _checks(compact: str) -> bool:
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1
