"""Detect secrets, which must not be trained on: keys, tokens, passwords and account numbers.

A model trained on a secret can reproduce it. The patterns match secrets with a distinctive form (and a valid checksum
if they have one); a secret that looks like ordinary words is not found.
"""

from __future__ import annotations

import re
from itertools import accumulate

_PATTERNS = (
    ("a private key", r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
    ("a private key", r"\bAGE-SECRET-KEY-1[0-9A-Z]{40,}"),
    ("an API key", r"\bsk-[A-Za-z0-9_-]{20,}"),  # OpenAI, Anthropic and compatible
    ("an API key", r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),  # Stripe
    ("an API key", r"\bAIza[A-Za-z0-9_-]{35}"),  # Google
    ("an API key", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),  # AWS
    ("an access token", r"\bgh[pousr]_[A-Za-z0-9]{36,}"),  # GitHub
    ("an access token", r"\bgithub_pat_[A-Za-z0-9_]{22,}"),
    ("an access token", r"\bglpat-[A-Za-z0-9_-]{20,}"),  # GitLab
    ("an access token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),  # Slack
    ("an access token", r"\bhf_[A-Za-z0-9]{30,}"),  # Hugging Face
    ("an access token", r"\bnpm_[A-Za-z0-9]{36}"),
    ("an access token", r"\bpypi-[A-Za-z0-9_-]{50,}"),
    ("an access token", r"\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,}"),  # JWT
    ("a password", r"://[^\s/:@]{1,100}:[^\s/@]{1,100}@"),  # in a URL
    (
        "a password",
        r"(?i)\b(?:password|passwd|passphrase|pwd)\b(?:\s{0,3}[:=]|\s{1,3}is)\s{0,3}[\"'`]?"
        r"(?=[^\s\"'`]{0,100}[0-9])(?=[^\s\"'`]{0,100}[A-Za-z])[^\s\"'`]{8,}",
    ),
)
_DIGIT_GROUPS = re.compile(r"[0-9]+(?:[ -][0-9]+)*")
_CARD = re.compile(
    r"4[0-9]{12}(?:[0-9]{3}){0,2}"  # Visa
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|35[0-9]{14}"  # American Express, Diners Club, JCB
    r"|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}|62[0-9]{14}"  # Discover, UnionPay
)
_MAX_CARD_DIGITS = 19
_IBAN = re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")


def find_secret(text: str) -> str | None:
    """Return the kind of secret in `text`, with its article ("an API key"), or None."""
    for kind, pattern in _PATTERNS:
        if re.search(pattern, text):
            return kind
    if any(_holds_card(run.group()) for run in _DIGIT_GROUPS.finditer(text)):
        return "a card number"
    if any(_is_iban(match.group()) for match in _IBAN.finditer(text)):
        return "a bank account number"
    return None


def _holds_card(run: str) -> bool:
    """Return True if adjacent groups of digits in `run`, joined, are a card number."""
    groups = re.split("[ -]", run)
    return any(
        _CARD.fullmatch(digits) and _passes_luhn(digits)
        for first in range(len(groups))
        for digits in accumulate(groups[first : first + _MAX_CARD_DIGITS])
    )


def _passes_luhn(digits: str) -> bool:
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


def _is_iban(text: str) -> bool:
    """Return True if the ISO 13616 check digits are valid."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1
