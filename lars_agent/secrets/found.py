"""A secret found in a text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Secret:
    """Where a secret stands, `text[start:end]`, and its kind with its article ("an API key")."""

    start: int
    end: int
    kind: str

    @property
    def mask(self) -> str:
        """What replaces it: `[API key]`."""
        return f"[{self.kind.partition(' ')[2]}]"


PASSWORD, PIN, KEY, TOKEN = "a password", "a PIN", "an API key", "an access token"
PRIVATE_KEY, SEED, CARD, ACCOUNT = "a private key", "a seed phrase", "a card number", "a bank account number"
IDENTITY = "an identity number"
