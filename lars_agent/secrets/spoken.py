"""Find secrets by the name that is said with them: `DB_PASSWORD=...`, "mein Passwort lautet ...", "4821 is my PIN".

A name is followed by `=`, `:` or the like and the value; by a few words, "is" and the value; by the value itself; or
the value comes first. A value after "is" has to look like a secret (see `shapes`), for much else is said of passwords.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lars_agent.secrets.found import IDENTITY, KEY, PASSWORD, PIN, TOKEN, Secret
from lars_agent.secrets.shapes import is_code, is_key, is_placeholder, is_strong, is_word
from lars_agent.secrets.vocabulary import FILLERS, FOLLOWERS, IS, JOINED, ORDINARY, VAGUE_IS, Name, names_in

REACH = 120  # characters after a name, or before it, within which its value is looked for
MOST_BETWEEN = 8  # words between a name and "is"
_ASSIGNED = re.compile(
    r"(?P<tail>[\w.-]{0,24})[\"'\]*)]{0,4}(?:\s?\([^()\n]{0,30}\))?\s{0,4}"
    r"(?P<sign>=>|:=|={1,3}|:(?!//)|->|→|\||>|[\"']?\s?,?\s{0,12}[\"']?value[\"']?\s?[:=])\**"
    r"(?:\s{0,3}(?:str|string|String)(?:\s?\|\s?None)?\s{0,3}=)?[\s*]{0,12}"
    r"(?:(?P<scheme>(?i:basic|bearer|token|digest|apikey|key))\s{1,3})?"
    r"(?:(?P<quote>[\"'])(?P<quoted>[^\"'\n]{1,128})(?P=quote)|(?P<plain>[^\s\"'<]{1,200}))"
)
_HARMLESS_TAIL = re.compile(
    r"(?i)[\w.-]*(?:url|uri|len|length|min|max|field|hint|policy|reset|file|path|type|name|id|ids|count|expir\w*|ttl|label|"
    r"hash|hashed|salt|manager|limit|limits|usage|regex|pattern|error|title|text|placeholder|s_per\w*|ring|izer)"
)
_TOKENS = re.compile(r"\"[^\"\n]{1,80}\"|(?<!\w)'[^'\n]{2,80}'(?!\w)|\S+")
_DIGITS = r"(?P<value>[A-Z]?\d(?:[ .-]?\d){%d,%d}[A-Z]?)(?![A-Za-z0-9_%%°€$]|[.,:/-]\d)"
_PIN, _CVV = re.compile(r"[\s#*:=\"'(]{0,6}" + _DIGITS % (3, 7)), re.compile(r"[\s#*:=\"'(]{0,6}" + _DIGITS % (2, 3))
_YEAR = re.compile(r"(?:19|20)\d\d")
_JOINED = re.compile(rf"[^\s。！？!?,、，]{{0,12}}?(?:{JOINED}|[:=])\s{{0,2}}[\"']?(?P<value>[!-~]{{4,80}})")
_NUMBER = re.compile(
    r"(?<![\w+])(?P<value>(?:[A-Za-z]{1,6}[.-]?|[A-Z]{1,6} )?\d(?:[ ./-]{0,2}[A-Za-z0-9]){5,24})(?!\w)"
)
_DATE = re.compile(r"\d{1,2}[./-]\d{1,2}[./-](?:\d{4}|\d{2})|\d{4}[./-]\d{1,2}[./-]\d{1,2}")
_USER = re.compile(r"(?i)\b(?:user|username|login|account)\b")
_TAG = re.compile(r"<[\w:.-]*$")
_CODE_FOLLOWS = re.compile(r"[^\s,'\"-]|['\"][\])}>(=]")
_ENDS = re.compile(r"[.!;,)]?(?:\s*$|\n)")
_PIECES = re.compile(r"[\w+/=.-]{2,12}(?: [\w+/=.-]{2,12}){1,15}")
_COLON = re.compile(r"[\w-]+:")
_QUOTED = re.compile(r"([\"'])(?![\"'\s])[^\"']+\1[.,;:!?)]*")
_SENTENCE_END = re.compile(r"[.!?;。]\s|\n")
_ADJECTIVE = re.compile(r".{3,}(?:ed|ing|ly|able|ible|ful|less|ive|ous|ary|ic|al|ent|ant|ish|ory|er|est)")
EDGES = ".,;:!?)]}\"'*。、"


def spoken_secrets(text: str) -> Iterator[Secret]:
    """Yield what a normal `text` names as a secret."""
    for name in names_in(text):
        kind = {"pin": PIN, "identity": IDENTITY, "key": TOKEN if "token" in name.bare else KEY}.get(
            name.family, PASSWORD
        )
        if name.family == "seed":
            continue
        span = _value(text, name)
        if span is not None:
            yield Secret(*span, kind)


def looks_like(family: str, value: str) -> bool:
    """Return True if `value`, which nothing but a word's family tells of, looks like one of it."""
    if family == "pin":
        return re.fullmatch(r"\d(?:[ -]?\d){3,7}", value) is not None
    if family == "key":
        return is_key(value)
    if family == "identity":
        return sum(one.isdigit() for one in value) >= 6
    return is_strong(value) or _is_number(value, family)


def _is_number(value: str, family: str) -> bool:
    """Return True for digits alone that are long enough for a password, or for the key of a network."""
    return value.isdigit() and len(value) >= (4 if family == "password" else 8)


def is_year(value: str) -> bool:
    """Return True for the four digits of a year of the last or of this century."""
    return _YEAR.fullmatch(value) is not None


def _value(text: str, name: Name) -> tuple[int, int] | None:
    """Return where the value of `name` stands."""
    window = text[name.after : name.after + REACH]
    before = text[max(0, name.start - REACH) : name.start]
    if name.family == "pin":
        return _pin(window, before, name)
    if name.family == "identity":
        return _identity(window, before, name)
    return _assigned(text, name) or _said(window, before, name) or _said_first(before, window, name)


def _assigned(text: str, name: Name) -> tuple[int, int] | None:
    match = _ASSIGNED.match(text, name.end, name.end + REACH + 200)
    if match is None or _HARMLESS_TAIL.fullmatch(match["tail"]) or (match["sign"] == ">" and not _in_tag(text, name)):
        return None
    group = "plain" if match["quoted"] is None else "quoted"
    start, value = match.start(group), match[group]
    if group == "plain":
        value = (value.partition("&")[0] if name.family == "key" else value).rstrip(".,;:)]}*")
        if match["sign"] == ">":
            value = value.partition("<")[0]
    is_below = "\n" in text[match.end("sign") : start]
    rest = text[start + len(value) : start + len(value) + REACH].partition("\n")[0].strip(EDGES + " |`<>/")
    if (not is_below or not rest) and _is_assigned(
        value, name, is_quoted=group == "quoted", is_last=not rest, sign=match["sign"]
    ):
        return start, start + len(value)
    if name.family == "key":
        return _pieces(text, start)
    if name.family == "password" and group == "plain":
        words = f"{value} {rest}".split()
        if rest and 3 <= len(words) <= 12 and _is_phrase(words, name):
            return start, start + len(value) + text[start + len(value) :].find(rest) + len(rest)
    return None


def _in_tag(text: str, name: Name) -> bool:
    return _TAG.search(text[max(0, name.start - 24) : name.start]) is not None and not text[name.end + 1].isspace()


def _is_assigned(value: str, name: Name, *, is_quoted: bool, is_last: bool, sign: str) -> bool:
    """Return True if a value after `=` or `:` is a secret."""
    if is_placeholder(value) or len(value) < 3:
        return False
    if is_quoted and sign != "->":
        words = value.split()
        if name.family == "key":
            return len(words) == 1 and is_key(value)
        is_talk = len(words) > 1 and 3 * sum(word.casefold() in ORDINARY for word in words) > len(words)
        return not is_talk and (name.family == "password" or is_strong(value)) and value.casefold() not in ORDINARY
    if name.family == "key":
        return is_key(value)
    if is_strong(value) or _is_number(value, name.family):
        return sign not in ("|", "->") or (is_strong(value) and not is_word(value))
    if name.family == "plain" or is_code(value) or value.isdigit() or value.casefold() in ORDINARY or len(value) < 4:
        return False
    return is_last and sign not in ("|", "->") and any(one.isalpha() for one in value) and "://" not in value


def _is_phrase(words: Sequence[str], name: Name) -> bool:
    """Return True for words that nobody would say of a passphrase: none of them is an ordinary one."""
    is_phrase = "phra" in name.bare or "zin" in name.bare or len(words) >= 4
    return is_phrase and all(is_word(word) and word.casefold() not in ORDINARY for word in words)


def _said(window: str, before: str, name: Name) -> tuple[int, int] | None:
    """Return the value after "is" or, if it looks like one, right after the name."""
    joined = _JOINED.match(window)
    if joined and looks_like(name.family, joined["value"].strip(EDGES)):
        return _span(name.after + joined.start("value"), joined["value"])
    if _CODE_FOLLOWS.match(window):
        return None
    follows, skipped = False, 0
    is_vague, is_apart = False, window[:1] == " " and (name.family != "plain" or bool(_USER.search(before)))
    for number, match in enumerate(_TOKENS.finditer(window)):
        token, word = match.group(), match.group().strip(EDGES).casefold()
        start = name.after + match.start()
        if number == 0 and word in FOLLOWERS:
            return None
        if follows and word in FILLERS and skipped < 2:
            skipped += 1
            continue
        if (follows or (number == 0 and is_apart)) and _is_said(
            token, window[match.end() :], before, name, follows and not is_vague
        ):
            return _span(start, token)
        if follows and name.family == "key" and (span := _pieces(window, match.start(), name.after)):
            return span
        if (
            number > MOST_BETWEEN
            or token[-1] in ".!?;\u3002"
            or {*token} & {*"={}<>"} - {*token[:1]}
            or "\n" in window[: match.start()]
        ):
            return None
        follows, is_vague = bool(word in IS or token in IS or _COLON.fullmatch(token)), word in VAGUE_IS
        skipped = 0
    return None


def _span(start: int, token: str) -> tuple[int, int]:
    """Return where the token stands, without the quotes and the full stop around it."""
    value = token.strip(EDGES + "([{")
    offset = token.find(value)
    end = offset + len(value)
    while end < len(token) and token[end] in "!?" and token[end + 1 : end + 2] not in ("", "\n") and token[0] in "\"'":
        end += 1
    return start + offset, start + end


def _is_said(token: str, rest: str, before: str, name: Name, follows: bool) -> bool:
    """Return True if a token is the value; `follows` tells that it comes after "is"."""
    value = token.strip(EDGES + "([{")
    is_quoted = _QUOTED.fullmatch(token) is not None
    if is_placeholder(value) or value.casefold() in ORDINARY:
        return False
    if name.family == "key":
        return is_key(value) and (follows or len(value) >= 12)
    if is_strong(value):
        is_bare = len(value) >= 6 and not is_word(value) and (name.family != "plain" or not {*token} & {*"=`("})
        return follows or is_bare
    if follows and value.isdigit():
        return _is_number(value, name.family) and not rest.lstrip()[:1].isalpha()
    if not follows or name.family == "plain":
        return False
    words = value.split()
    if is_quoted:
        return len(value) >= 4 and not any(word.casefold() in ORDINARY for word in words)
    is_last = token[-1] in ".,;!?" or not rest.strip() or rest.lstrip(" ")[:1] == "\n"
    if is_word(value) and len(value) >= 5 and is_last and "-" not in value:
        has_owner = re.search(r"(?i)\b(?:my|our|the|his|her|their|your|'s)\b[^.!?\n]{0,40}$", before) is not None
        return value[0].isupper() or (has_owner and _ADJECTIVE.fullmatch(value) is None and value.isascii())
    words = f"{token} {rest}".partition("\n")[0].partition(". ")[0].strip(EDGES).split()
    return "phra" in name.bare and 3 <= len(words) <= 12 and _is_phrase(words, name)


def _said_first(before: str, window: str, name: Name) -> tuple[int, int] | None:
    """Return the value before "is my password" or "as the password"."""
    follower = _TOKENS.match(window.lstrip())
    if name.family == "plain" or (follower and follower.group().strip(EDGES).casefold() in FOLLOWERS):
        return None
    tokens = list(_TOKENS.finditer(before))[-8:]
    for number in range(len(tokens) - 1, 0, -1):
        token = tokens[number].group()
        if token[-1] in ".!?;" or len(tokens) - number > 6:
            return None
        if token.casefold() in IS and token.casefold() not in ("a", "-", ":", "="):
            value = tokens[number - 1].group().strip(EDGES + "([{")
            if tokens[number - 1].group()[-1] in ".!?;:":
                return None
            if value.casefold() not in ORDINARY and looks_like(name.family, value) and not is_word(value):
                return _span(name.start - len(before) + tokens[number - 1].start(), tokens[number - 1].group())
    return None


def _pin(window: str, before: str, name: Name) -> tuple[int, int] | None:
    digits = _CVV if name.bare.startswith("cv") else _PIN
    match = digits.match(window)
    if match and not (name.bare == "pin" and not name.is_upper and is_year(match["value"])):
        return name.after + match.start("value"), name.after + match.end("value")
    joined = re.match(rf"[^\s\d。]{{0,12}}?(?:{JOINED})\s?" + digits.pattern, window)
    if joined:
        return name.after + joined.start("value"), name.after + joined.end("value")
    for number, token in enumerate(_TOKENS.finditer(window)):
        word = token.group().strip(EDGES).casefold()
        if number > MOST_BETWEEN or "\n" in window[: token.start()]:
            break
        if (word in IS or token.group() in IS or token.group().endswith((":", "="))) and (
            match := digits.match(window, token.end())
        ):
            return name.after + match.start("value"), name.after + match.end("value")
        if word in FILLERS and (match := digits.match(window, token.end())) and number:
            return name.after + match.start("value"), name.after + match.end("value")
        late = digits.match(window, token.end())
        if late and number < 3 and _ENDS.match(window, late.end()) and not is_year(late["value"]):
            return name.after + late.start("value"), name.after + late.end("value")
        if token.group()[-1] in ".!?;":
            break
    return _said_first(before, window, name)


def _identity(window: str, before: str, name: Name) -> tuple[int, int] | None:
    near = _SENTENCE_END.split(window[:70], maxsplit=1)[0]
    for match in _NUMBER.finditer(near + " "):
        digits = sum(one.isdigit() for one in match["value"])
        if digits >= 6 and len(match["value"]) >= 7 and not _DATE.fullmatch(match["value"].strip()):
            return name.after + match.start("value"), name.after + match.end("value")
    return _said_first(before, window, name)


def _pieces(text: str, start: int, offset: int = 0) -> tuple[int, int] | None:
    """Return the pieces of a key with blanks inside that begins at `start`."""
    match = _PIECES.match(text, start, start + REACH)
    if match is None:
        return None
    end, pieces = start, match.group().split(" ")
    for piece in pieces:
        if not (any(one.isdigit() for one in piece) or not (piece.islower() or piece.istitle()) or len(piece) <= 4):
            break
        if piece.casefold() in ORDINARY:
            break
        end = text.index(piece, end) + len(piece)
    value = text[start:end].rstrip(EDGES)
    bare = value.replace(" ", "")
    has_both = any(one.isdigit() for one in bare) and any(one.isalpha() for one in bare)
    if " " in value and len(bare) >= 12 and has_both and is_key(bare) and sum(one.isdigit() for one in bare) >= 3:
        return offset + start, offset + start + len(value)
    return None
