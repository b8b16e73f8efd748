"""Read a JSON list item by item: a file of one long line may be larger than memory should be."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

CHUNK_BYTES = 2**16
NEAR_END = 16  # characters from which on an error may be that the text goes on
LIST_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")
BLANK = re.compile(r"[ \t\n\r]*")


def is_list(file: IO[bytes]) -> bool:
    """Return whether the file is a JSON list, and go to its beginning."""
    file.seek(0)
    found = LIST_BEGINS.match(file.read(CHUNK_BYTES))
    file.seek(0)
    return found is not None


def items(file: IO[bytes]) -> Iterator[tuple[Any, int]]:
    """Yield the items of the list, each with its number of characters. Raises ValueError, RecursionError."""
    text = _Text(file)
    text.expect("[")
    if text.sign() == "]":
        text.expect("]")
    else:
        while True:
            yield text.value()
            if text.sign() == "]":
                text.expect("]")
                break
            text.expect(",")
    if text.sign():
        raise ValueError("something follows the list")


class _Text:
    """The text of a file from `position` on, as much as has been read of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self.text, self.position, self.is_whole = "", 0, False

    def sign(self) -> str:
        """Return the next character that is not blank; none at the end."""
        while True:
            found = BLANK.match(self.text, self.position)
            self.position = found.end() if found else self.position
            if self.position < len(self.text) or self.is_whole:
                return self.text[self.position : self.position + 1]
            self._read_on()

    def expect(self, sign: str) -> None:
        """Pass over the character `sign`. Raises ValueError for another one."""
        if (found := self.sign()) != sign:
            raise ValueError(f"a {sign} is missing, there is {found or 'the end'!r}")
        self.position += 1

    def value(self) -> tuple[Any, int]:
        """Pass over a value; return it and its number of characters."""
        self.sign()
        while True:
            try:
                found, end = self._json.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - NEAR_END
                if self.is_whole or not is_cut:
                    raise ValueError(error.msg) from error
            else:
                if end < len(self.text) or self.is_whole:  # else a number may go on
                    length, self.position = end - self.position, end
                    return found, length
            self._read_on()

    def _read_on(self) -> None:
        """Read as much as is left to be understood, so that a large value is not tried too often."""
        left = self.text[self.position :]
        chunk = self._file.read(max(CHUNK_BYTES, len(left)))
        self.is_whole = not chunk
        self.text, self.position = left + self._decoder.decode(chunk, final=self.is_whole), 0
