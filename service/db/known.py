"""Tell which feedback of an import a profile has already, however much that is."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator

from service.db.feedback import Feedback, key_of, to_example
from service.db.records import FeedbackRecord, NewFeedback


class KnownFeedback:
    """What a profile's feedback says, as hashes in a temporary file of SQLite's own, so that it takes no memory.

    A piece of feedback is known if all that it says is: the desired reply to a prompt, which of two replies is better,
    whether one is good, or a remark. So an export in any format is known where it comes from.
    """

    def __init__(self, feedback: Feedback, profile: str) -> None:
        self._profile = profile
        self._connection = sqlite3.connect("", check_same_thread=False)
        self._connection.execute("CREATE TABLE said (hash BLOB PRIMARY KEY) WITHOUT ROWID")
        self._add(hashed(said) for record in feedback.each(profile) for said in _said_by(record))
        self._add(hashed(key) for key in feedback.keys(profile))

    def take(self, new: NewFeedback) -> bool:
        """Return whether the profile has it not yet. What has a `key` is known from then on."""
        if new.key is not None:
            key = hashed(key_of(new))
            if self._has(key):
                return False
            self._add([key])
        return not self.has(new)

    def has(self, one: NewFeedback | FeedbackRecord) -> bool:
        """Return whether all that it says has been said."""
        says = list(statements(one))
        return bool(says) and all(self._has(hashed(said)) for said in says)

    def close(self) -> None:
        """Delete the file."""
        self._connection.close()

    def _add(self, hashes: Iterable[bytes]) -> None:
        with self._connection:
            self._connection.executemany("INSERT OR IGNORE INTO said VALUES (?)", ((one,) for one in hashes))

    def _has(self, one: bytes) -> bool:
        return self._connection.execute("SELECT 1 FROM said WHERE hash = ?", (one,)).fetchone() is not None


def statements(one: NewFeedback | FeedbackRecord) -> Iterator[list[object]]:
    """Yield what the feedback says about its prompt; nothing where it has tags alone."""
    messages, response, correction = one.messages, one.response, one.correction
    if correction is not None:
        yield [messages, correction] if correction == response else [messages, correction, response]
    if one.rating:
        yield [messages, response, one.rating > 0]
    if one.comment:
        yield [messages, response, "comment", one.comment]


def _said_by(record: FeedbackRecord) -> Iterator[list[object]]:
    yield from statements(record)
    if (example := to_example(record)) is not None:
        yield [example.messages, example.response]


def hashed(said: object) -> bytes:
    """Return 16 bytes that tell this from anything else."""
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).digest()
