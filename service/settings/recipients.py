"""Recipients of age: the public keys that a backup is encrypted to."""

from __future__ import annotations

from typing import Any

import pyrage

FORM = "give the public key that age-keygen prints (age1...), or one of SSH (ssh-ed25519 ..., ssh-rsa ...)"


def age_recipient(text: str) -> str:
    """Return the recipient without blanks around it. Raises ValueError."""
    parse_recipient(text)
    return text.strip()


def parse_recipient(text: str) -> Any:
    """Return pyrage's recipient. Raises ValueError with the reason, and without the text, which may be a secret."""
    wanted = text.strip()
    if wanted.upper().startswith("AGE-SECRET-KEY-"):
        raise ValueError(f"is a secret key, which must not be on this device; {FORM}")
    kind = pyrage.ssh if wanted.startswith("ssh-") else pyrage.x25519
    try:
        return kind.Recipient.from_str(wanted)
    except pyrage.RecipientError as error:
        raise ValueError(f"is no recipient of age; {FORM}") from error
