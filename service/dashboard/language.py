"""The languages of the pages: English, and those for which a folder has a catalog of words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

WORDS = Path(__file__).parent / "static" / "words"
COOKIE = "lars-language"  # set by the choice on the page of settings
ENGLISH = "en"
NAME = "language name"  # the key in each catalog, of its language in itself
CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
RIGHT_TO_LEFT = {"ar", "ckb", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"}
PLACEHOLDER = re.compile(r"\{(\w+)\}")


class Language:
    """A language; its catalog has the English sentences as keys."""

    def __init__(self, code: str, words: Mapping[str, str]) -> None:
        self.code, self._words = code, words

    @property
    def direction(self) -> str:
        """The direction in which it is written, as in HTML."""
        return "rtl" if self.code.partition("-")[0] in RIGHT_TO_LEFT else "ltr"

    @property
    def name(self) -> str:
        """Its name in itself."""
        return self._words.get(NAME, self.code)

    def t(self, text: str, **values: object) -> str:
        """Return the English `text` in this language, `{name}` replaced by the value; English if it has no entry."""
        return PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), self._words.get(text, text))


class Languages:
    """English, and a language for each catalog `CODE.json` in `folder`."""

    def __init__(self, folder: Path = WORDS) -> None:
        self._known = {ENGLISH: Language(ENGLISH, {NAME: "English"})}
        for path in sorted(folder.glob("*.json")):
            if CODE.fullmatch(path.stem):
                self._known[path.stem] = Language(path.stem, _pages(path))

    def __iter__(self) -> Iterator[Language]:
        return iter(self._known.values())

    def choose(self, cookie: str, accept_language: str) -> Language:
        """Return the language of the cookie, else the best one of the header Accept-Language, else English."""
        wanted = (self._find(tag) for tag in (cookie, *_by_preference(accept_language)))
        return next((language for language in wanted if language is not None), self._known[ENGLISH])

    def _find(self, tag: str) -> Language | None:
        """Return the language of a tag such as `de-AT`, or else of its first part."""
        by_tag = {code.lower(): language for code, language in self._known.items()}
        tag = tag.strip().lower()
        return by_tag.get(tag) or by_tag.get(tag.partition("-")[0])


def _by_preference(header: str) -> list[str]:
    """Return the tags of an Accept-Language header, the best first; without those that are refused or malformed."""
    weights: dict[str, float] = {}
    for part in header.split(","):
        tag, _, parameter = part.partition(";")
        name, _, weight = parameter.partition("=")
        try:
            weights[tag.strip()] = float(weight) if name.strip() == "q" else 1.0
        except ValueError:
            continue
    return sorted((tag for tag, weight in weights.items() if weight > 0), key=lambda tag: -weights[tag])


def _pages(path: Path) -> dict[str, str]:
    """Return the words of the pages in a catalog; none, and the page stays English, if it cannot be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["pages"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        log.warning("catalog_unreadable", file=str(path), error=str(error))
        return {}
