"""Find keys and tokens by the shapes that vendors give them, private keys, and long random text that has no shape.

The rules are Betterleaks' (`lars_agent/data/secret_rules.json`), run by RE2: the time is linear in the text, whatever
is in it. A few shapes are kept looser than there, for keys of another length.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import accumulate

import re2

from lars_agent.secrets.found import KEY, PASSWORD, PRIVATE_KEY, TOKEN, Secret
from lars_agent.secrets.shapes import HASH_NAMES, MIN_RANDOM, entropy, is_placeholder, is_random

MOST_PIECES = 40  # of a key with blanks inside
LONGEST_RUN = 2000  # characters; longer ones are files in Base64
_LOOSE = (
    (PRIVATE_KEY, r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
    (PRIVATE_KEY, r"(?i)\bAGE-SECRET-KEY-1[0-9A-Z]{40,}"),
    (KEY, r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{20,}"),
    (KEY, r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    (KEY, r"\bAIza[A-Za-z0-9_-]{30,}"),
    (KEY, r"\b(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b"),
    (TOKEN, r"\bgh[pousr]_[A-Za-z0-9]{30,}"),
    (TOKEN, r"\bgithub_pat_[A-Za-z0-9_]{22,}"),
    (TOKEN, r"\bgl(?:pat|dt|ft|rt|soat|ptt|cbt|agent|imt|oas|ffct)-[A-Za-z0-9_-]{20,}"),
    (TOKEN, r"\bx(?:ox[a-z]|app)-[A-Za-z0-9-]{10,}"),
    (TOKEN, r"\bhf_[A-Za-z0-9]{30,}"),
    (TOKEN, r"\bnpm_[A-Za-z0-9]{30,}"),
    (TOKEN, r"\bpypi-[A-Za-z0-9_-]{50,}"),
    (TOKEN, r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),  # JWT
    (KEY, r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{30,}"),
    (TOKEN, r"\b[0-9]{8,10}:[A-Za-z0-9_-]{30,}"),  # Telegram
    (TOKEN, r"\b[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}\b"),  # Discord
    (TOKEN, r"\bEAA[A-Z][A-Za-z0-9]{30,}"),  # Facebook
    (TOKEN, r"\b(?:ya29\.|1//0)[A-Za-z0-9_-]{20,}"),  # Google
    (KEY, r"\b(?:AC|SK)[0-9a-f]{32}\b"),  # Twilio
    (KEY, r"\b[0-9a-f]{32}-us[0-9]{1,2}\b"),  # Mailchimp
    (TOKEN, r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_]{20,}"),
    (TOKEN, r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/[0-9]{15,}/[A-Za-z0-9_-]{30,}"),
    (KEY, r"(?i)\b(?:SharedAccessKey|AccountKey|SharedAccessSignature|sig)=([A-Za-z0-9+/%=]{20,})"),
)
_URL_PASSWORD = r"://[^\s/:@]{0,100}:([^\s/@]{1,100})@"
_SCHEME = r"(?i)\b(basic|bearer)\s{1,3}([A-Za-z0-9+/=_.~-]{8,})"
_FLAG = (
    r"""\bcurl\b[^\n]{0,200}?\s(?:-u|--user)[= ]{0,2}["']?[^\s:"']{1,64}:([^\s"']{1,128})"""
    r"""|\bmysql\b[^\n]{0,80}\s-p([^\s"'-]{4,64})|\bsshpass\s-p\s?["']?([^\s"']{3,64})"""
)
# A short name, then random text: what most vendors give out today.
_PREFIXED = r"\b([A-Za-z][A-Za-z0-9]{1,11}(?:[_-][A-Za-z0-9]{1,8}){0,3})[_-]([A-Za-z0-9]{20,128})"
_RUN = r"[A-Za-z0-9+/_-]{20,}={0,2}"
_PEM_END = re2.compile(r"-----END [A-Z0-9 ]{0,60}-----")
_PEM_BODY = re.compile(r"(?:(?:\s|\\[nr]){0,4}[A-Za-z0-9+/=]{16,})*")
_PIECE, _GAP = re.compile(r"[A-Za-z0-9_+/=.-]+"), re.compile(r"[ \t\n]{1,3}")
_TYPES = re.compile(r"[0-9]|[a-z][A-Z]|[_=+/-]|^[A-Z]{2,6}$|^.$")


class _Rules:
    """All shapes as one filter, so that a text is looked through once."""

    def __init__(self) -> None:
        read = json.loads((files("lars_agent.data") / "secret_rules.json").read_text(encoding="utf-8"))["rules"]
        self._kinds = [(kind, 0.0) for kind, _ in _LOOSE]
        self._kinds += [(_kind_of(name), least) for name, _, least in read]
        self._patterns = [re2.compile(pattern) for _, pattern in _LOOSE] + [re2.compile(one[1]) for one in read]
        self._filter = re2.Filter()
        for pattern in self._patterns:
            self._filter.Add(pattern.pattern)
        self._filter.Compile()

    def find(self, text: str) -> Iterator[Secret]:
        """Yield what has a known shape."""
        for number in self._filter.Match(text) or ():
            kind, least = self._kinds[number]
            for match in self._patterns[number].finditer(text):
                group = next((one for one in range(1, match.re.groups + 1) if match.group(one)), 0)
                start, end = match.span(group)
                if not least or (entropy(text[start:end]) >= least and not is_placeholder(text[start:end])):
                    yield Secret(start, _end_of(text, end) if kind == PRIVATE_KEY else end, kind)


def _kind_of(rule: str) -> str:
    if "private-key" in rule:
        return PRIVATE_KEY
    return TOKEN if "token" in rule else PASSWORD if "password" in rule or "uri" in rule or "auth-user" in rule else KEY


def _end_of(text: str, start: int) -> int:
    """Return where a private key ends whose first line ends at `start`."""
    end = _PEM_END.search(text, start)
    if end is not None:
        return int(end.end())
    body = _PEM_BODY.match(text, start)
    return start if body is None else body.end()


@cache
def _rules() -> _Rules:
    return _Rules()


@cache
def _other() -> dict[str, re2._Regexp]:
    return {name: re2.compile(globals()[name]) for name in ("_URL_PASSWORD", "_SCHEME", "_FLAG", "_PREFIXED", "_RUN")}


def vendor_secrets(text: str) -> Iterator[Secret]:
    """Yield keys, tokens and passwords of a normal `text` that tell what they are by their form."""
    yield from _rules().find(text)
    for match in _other()["_URL_PASSWORD"].finditer(text):
        if not is_placeholder(match.group(1)):
            yield _secret(match, 1, PASSWORD)
    for match in _other()["_SCHEME"].finditer(text):
        if _is_basic(match.group(2)) if match.group(1).casefold() == "basic" else _has_both(match.group(2), 16):
            yield _secret(match, 2, PASSWORD if match.group(1).casefold() == "basic" else TOKEN)
    for match in _other()["_FLAG"].finditer(text):
        group = next(one for one in (1, 2, 3) if match.group(one))
        if not is_placeholder(match.group(group)):
            yield _secret(match, group, PASSWORD)
    yield from _shapeless(text)
    yield from _in_pieces(text)


def _secret(match: re2._Match, group: int, kind: str) -> Secret:
    return Secret(match.start(group), match.end(group), kind)


def _shapeless(text: str) -> Iterator[Secret]:
    for match in _other()["_PREFIXED"].finditer(text):
        start, end = match.span()
        names = re.split("[_-]", match.group(1).casefold())
        if not HASH_NAMES & {*names} and _has_both(match.group(2), 20) and not _is_in_address(text, start):
            digits = sum(one.isdigit() for one in match.group(2))
            is_mixed = digits >= 3 and len(match.group(2)) - digits >= 3
            if (is_mixed or (digits and match.group().isupper())) and entropy(match.group(2)) >= 3.0:
                yield Secret(start, end, KEY)
    for match in _other()["_RUN"].finditer(text):
        start, end = match.span()
        run = match.group()
        is_long = end - start > LONGEST_RUN
        if not is_long and "/" not in run[:1] and is_random(run.rstrip("=")) and not _is_in_address(text, start):
            words = re.split(r"[/_+-]", run)
            if max(map(len, words)) >= 12 and not HASH_NAMES & {words[0].casefold()}:
                yield Secret(start, end, KEY)


def _is_in_address(text: str, start: int) -> bool:
    """Return True inside a URL, a path, a `data:` image or a public key."""
    before = text[max(0, start - 200) : start]
    word = re.split(r"[\s\"'<>(]", before)[-1]
    return (
        "://" in word or word.startswith(("www.", "data:", "/", "~/", "./")) or ";base64," in word
        or before.endswith(("ssh-rsa ", "ssh-ed25519 ", "sha256:", "sha512:", "sha1:"))
    )  # fmt: skip


def _in_pieces(text: str) -> Iterator[Secret]:
    """Yield keys of a known shape with blanks inside."""
    pieces: list[tuple[int, int]] = []
    for match in _PIECE.finditer(text):
        if pieces and not (_GAP.fullmatch(text, pieces[-1][1], match.start()) and _goes_on(text, pieces, match)):
            yield from _joined(text, pieces)
            pieces = []
        pieces.append(match.span())
    yield from _joined(text, pieces)


def _goes_on(text: str, pieces: list[tuple[int, int]], match: re.Match[str]) -> bool:
    """Return True if the word may be one more piece of a key: it looks so, is short after one, or as long."""
    last, size = text[slice(*pieces[-1])], len(match.group())
    is_like = _TYPES.search(match.group()) is not None or len(last) == size <= 8
    return len(pieces) < MOST_PIECES and (is_like or (size <= 6 and _TYPES.search(last) is not None))


def _joined(text: str, spans: list[tuple[int, int]]) -> Iterator[Secret]:
    joined = "".join(text[start:end] for start, end in spans)
    starts = [0, *accumulate(end - start for start, end in spans)]
    if len(spans) < 2 or len(joined) < MIN_RANDOM:
        return
    for found in _rules().find(joined):
        first = max(number for number, start in enumerate(starts) if start <= found.start)
        last = max(number for number, start in enumerate(starts) if start < found.end)
        mixed = sum(_TYPES.search(text[start:end]) is not None for start, end in spans[first : last + 1])
        if last > first and 2 * mixed > last - first:
            begin = spans[first][0] + found.start - starts[first]
            yield Secret(begin, spans[last][0] + found.end - starts[last], found.kind)


def _is_basic(value: str) -> bool:
    """Return True for `user:password` in Base64."""
    try:
        decoded = base64.b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    return ":" in decoded and decoded.isprintable()


def _has_both(value: str, least: int) -> bool:
    return len(value) >= least and any(map(str.isdigit, value)) and any(map(str.isalpha, value))
