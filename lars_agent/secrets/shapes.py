"""Tell values that look like a password or a random key from words, versions, dates, names of files and addresses."""

from __future__ import annotations

import math
import re
from collections import Counter

MIN_KEY, MIN_RANDOM = 8, 20  # characters: of a key beside its name, and of one that nothing tells of
RANDOM_BITS = 3.3  # least entropy of the characters of a key that nothing tells of
HASH_NAMES = frozenset(
    [
        "sha",
        "sha1",
        "sha256",
        "sha384",
        "sha512",
        "md5",
        "commit",
        "rev",
        "git",
        "blob",
        "tree",
        "etag",
        "uuid",
        "guid",
        "id",
        "img",
        "image",
        "file",
        "page",
        "urn",
        "build",
        "digest",
        "checksum",
        "hash",
        "cid",
        "bafy",
        "version",
        "release",
        "tag",
        "ref",
        "track",
        "order",
        "invoice",
    ]
)
# Letters with digits that people say all the time.
_SAID = re.compile(
    r"(?i)v?\d+(?:[.,:/x×–-]\d+)*[a-zäéèº²³%$€£°+]{0,3}"  # versions, times, dates, sizes, 2nd, 30km, 10%
    r"|\d[\d.,:-]*-?(?:bit|byte|day|year|month|week|hour|minute|min|char|character|digit|core|inch|liter|litre|gram|"
    r"person|page|step|point|fold|plus|mal|mb|gb|tb|ghz|mhz|kwh?|mah|ppm|fps|dpi|bpm)s?(?:-\w+)?"
    r"|(?:sha|md|utf|wpa|oauth|base|rfc|iso|aes|rsa|tls|ssl|https?|ipv|win|windows|ios|ipados|macos|android|mp|python|"
    r"py|php|web|argon|pbkdf|scrypt|bcrypt|h|x|usb|wifi|ps|gpt|llama|qwen|gemini|claude|gemma|phi|smollm|covid|a|b|c|"
    r"en|din|ean|isbn|co|mach|m|gen|ed|curve|log|int|float|uint|bit|level|lv|step|day|q|s|t|r|room|gate|bus|line|"
    r"version|ver|k|figure|fig|chapter|ch|no|nr|article|art|section|sec|page|p|top|f|g|i|l|n|u|w|y|z|d|e|j|o)"
    r"[-_]?\d{1,4}[a-z+]{0,2}(?:[-./]\w{1,5}){0,2}"
    r"|1password|365|4chan|7-?zip|office365|microsoft365|\d+\w{0,2}"
)
_FILE = re.compile(r"(?i)[\w./~\\-]*[\w-]\.(?:[a-z]{2,4}|[a-z]{2,6}\d?|json|toml|html|jpeg|service|conf|sqlite)")
_PLACEHOLDER = re.compile(
    r"(?i)[<\[{(].*|.*[>\]})]|\$\{?[a-z_]+\}?|%[a-z_]+%|(.)\1*"
    r"|.*(?:\.\.\.|…|\*\*\*|xxxx|example|placeholder|change-?me|redacted|dummy).*"
    r"|(?:.*[-_ ])?(?:your|insert|here)(?:[-_ ].*)?"
    r"|[^\d]*(?:pass ?w(?:or)?d|passwort|secret|token|api[-_ ]?key)[^\d]*"
    r"|none|null|nil|true|false|undefined|str|string|text|int|number|bool|boolean|required|optional|hidden|encrypted"
    r"|unset|empty|blank|void|todo|tbd|n/a"
)
_CODE = re.compile(
    r"(?i)[\w.]*[\w]\(.*|[a-z_]\w*(?:\.[a-z_]\w*)+(?:\(.*)?|[\w.]+\[.*|[a-z]+(?:_[a-z]+)+|self\.\w+|\w+::\w+|&\w+"
)
_UUID = re.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEX = re.compile(r"(?i)(?:0x)?[0-9a-f]+")
_WORDS = re.compile(r"[a-z]{4,}|[A-Z][a-z]{3,}|[A-Z]{6,}")
_LETTERS = re.compile(r"[^\W\d_]")


def is_placeholder(value: str) -> bool:
    """Return True for what stands in place of a secret: `<password>`, `${TOKEN}`, `****`, `string`."""
    return _PLACEHOLDER.fullmatch(value) is not None


def is_code(value: str) -> bool:
    """Return True for an expression: a call, an attribute, an index, a name_of_parts."""
    return _CODE.fullmatch(value) is not None


def is_word(value: str) -> bool:
    """Return True for letters alone, also with hyphens and apostrophes between them."""
    return value.replace("-", "").replace("'", "").isalpha()


def is_strong(value: str) -> bool:
    """Return True if a value looks like a password among words: letters with digits or signs, or capitals inside."""
    if not 4 <= len(value) <= 128 or not _LETTERS.search(value) or "://" in value or is_placeholder(value):
        return False
    if _SAID.fullmatch(value) or _FILE.fullmatch(value) or is_code(value):
        return False
    if any(character.isdigit() for character in value):
        return True
    inner = value.strip("-'\"!?.,;:/()*_")
    return any(not (one.isalnum() or one in "-'./,:;()\"") for one in inner) and len(inner) >= 6


def is_key(value: str) -> bool:
    """Return True if a value beside its name looks like a key: long enough, with letters and digits or at random."""
    if len(value) < MIN_KEY or is_placeholder(value) or "://" in value or "(" in value or "[" in value:
        return False
    if _SAID.fullmatch(value) or (
        _FILE.fullmatch(value) and not any(one.isdigit() for one in value.rpartition(".")[0])
    ):
        return False
    has_digit = any(one.isdigit() for one in value)
    has_letter = _LETTERS.search(value) is not None
    if has_digit and has_letter:
        return entropy(value) >= 2.5 and not (is_code(value) and entropy(value) < 3.5)
    return (len(value) >= 16 and has_digit) or (len(value) >= MIN_RANDOM and has_letter and is_random(value, 2))


def is_random(value: str, kinds: int = 3) -> bool:
    """Return True if a run of letters, digits and `-_+/=` is too disorderly for a name, a hash or a list of words.

    It holds so many `kinds` of small letters, capitals and digits.
    Hexadecimal text is none: that is how hashes and identifiers, which people do talk about, are written.
    """
    if len(value) < MIN_RANDOM or _UUID.fullmatch(value) or _HEX.fullmatch(value):
        return False
    held = sum(any(map(kind, value)) for kind in (str.islower, str.isupper, str.isdigit))
    if held < kinds or entropy(value) < RANDOM_BITS:
        return False
    in_words = sum(map(len, _WORDS.findall(value)))
    return in_words < 0.45 * len(value)


def entropy(value: str) -> float:
    """Return the Shannon entropy of the characters, bits each."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
