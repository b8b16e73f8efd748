"""Encode conversations so that control tokens in what people write stay ordinary text.

A tokenizer turns the text of a control token, `<|im_end|>` say, into the token wherever it finds it. In a rendered
conversation only those are meant that the chat template has written. So the messages are rendered with one private
character in place of each such text in them (`shield`), and the result is encoded by a twin of the tokenizer
(`Shield.encode`): same model, same normalizer, but in it the template's own control tokens go by private characters
too, and no text is theirs. Conversations without such a text are encoded as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

MARKS = 0xF0000  # private characters in place of texts in messages
TWINS = 0x100000  # and of the template's control tokens
REASONING = frozenset({"<think>", "</think>"})  # a model writes them itself, as text, and templates look for them
OPTIONS = ("single_word", "lstrip", "rstrip", "normalized")  # of an added token
BREAKS = ("\u200d", " ")  # put into a text that the twin cannot keep apart; the first is invisible


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer with its chat template, by their texts.

    Attributes:
        ids: of all: the special ones, and those of other kinds that the template writes.
        in_replies: texts that are none in an assistant's message either.
        normalized: True if some are looked for in normalized text, where other texts can become theirs.
    """

    ids: Mapping[str, int]
    in_replies: frozenset[str]
    normalized: bool
    tokenizer: Tokenizer
    starts: re.Pattern[str] | None
    lengths: Sequence[int]

    @cached_property
    def twin(self) -> Twin:
        """The twin of the tokenizer."""
        return Twin.of(self.tokenizer, self.ids)

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield position and text of each control token's text in `text`: the leftmost, the longest at each place."""
        end = 0
        for match in self.starts.finditer(text) if self.starts else ():
            start = match.start()
            sizes = self.lengths if start >= end else ()
            found = next((part for size in sizes if (part := text[start : start + size]) in self.ids), None)
            if found is not None:
                end = start + len(found)
                yield start, found

    def replace(self, text: str, by: Callable[[str], str]) -> str:
        """Return `text` with each control token's text replaced."""
        parts, end = list[str](), 0
        for start, found in self.find(text):
            parts += [text[end:start], by(found)]
            end = start + len(found)
        return "".join([*parts, text[end:]])


@dataclass(frozen=True)
class Twin:
    """A tokenizer with the model of another one, in which control tokens go by `names`.

    `original` maps the ids of its added tokens to those of the other tokenizer.
    """

    tokenizer: Tokenizer
    names: Mapping[str, str]
    original: Mapping[int, int]

    @classmethod
    def of(cls, tokenizer: Tokenizer, control: Iterable[str]) -> Twin:
        """Make the twin of `tokenizer`; the model is shared."""
        twin = Tokenizer(tokenizer.model)
        for part in ("normalizer", "pre_tokenizer"):
            if (value := getattr(tokenizer, part)) is not None:
                setattr(twin, part, value)
        names = {text: chr(TWINS + number) for number, text in enumerate(control)}
        added = {
            token_id: AddedToken(
                names.get(token.content, token.content), **{name: getattr(token, name) for name in OPTIONS}
            )
            for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
        }
        twin.add_tokens(list(added.values()))
        ids = {token_id: twin.token_to_id(token.content) for token_id, token in added.items()}
        return cls(twin, names, {ours: theirs for theirs, ours in ids.items() if ours is not None})


@dataclass(frozen=True)
class Shield:
    """The control tokens' texts in the messages of a conversation, each by the character that stands for it."""

    tokenizer: PreTrainedTokenizerBase
    control: ControlTokens
    marks: Mapping[str, str]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, which was rendered from the shielded messages."""
        if not self.control.normalized and not any(mark in text for mark in self.marks):
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        return self._by_twin(text) or self._broken(text)

    def _by_twin(self, text: str) -> list[int] | None:
        """Return the token ids by the twin; None if a text is a control token all the same."""
        twin, control = self.control.twin, self._watched
        if any(TWINS <= ord(char) < TWINS + len(twin.names) for char in text):
            return None
        meant = self._with_marks(self.control.replace(text, twin.names.__getitem__), lambda found: found)
        ids = twin.tokenizer.encode(meant, add_special_tokens=False).ids
        if any(token in control and token not in twin.original for token in ids):  # a whole word of the model
            return None
        return [twin.original.get(token, token) for token in ids]

    def _broken(self, text: str) -> list[int]:
        """Return the token ids with something put into each text that must not become a control token."""
        control = self._watched
        meant = sum(self.control.ids[found] in control for _, found in self.control.find(text))
        ids = list[int]()
        for gap in BREAKS:
            broken = self._with_marks(text, partial(_broken, gap=gap))
            ids = list(self.tokenizer.encode(broken, add_special_tokens=False))
            if sum(token in control for token in ids) == meant:
                break
        return ids

    @property
    def _watched(self) -> set[int]:
        """The ids of control tokens, without that of unknown words, which any text may have."""
        return {*self.control.ids.values()} - {self.tokenizer.unk_token_id}

    def _with_marks(self, text: str, by: Callable[[str], str]) -> str:
        for mark, found in self.marks.items():
            text = text.replace(mark, by(found))
        return text


def shield(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], written: Callable[[], str]
) -> tuple[list[Any], Shield]:
    """Return the messages to render, and the shield that encodes the result.

    `written` renders a plain conversation by the tokenizer's chat template.
    """
    control, marks = control_tokens(tokenizer, written), dict[str, str]()
    texts = list(_texts(messages))
    found = sorted({one for text in texts for _, one in control.find(text)})
    if found:
        free = (mark for mark in map(chr, range(MARKS, TWINS)) if not any(mark in text for text in texts))
        marks = dict(zip(found, free, strict=False))

    def turn(message: Mapping[str, Any]) -> dict[str, Any]:
        kept = frozenset(marks) - control.in_replies if message.get("role") == "assistant" else frozenset()
        said = partial(control.replace, by=lambda one: one if one in kept else marks[one])
        given = partial(control.replace, by=marks.__getitem__)
        return {key: _mapped(value, said if key == "content" else given) for key, value in message.items()}

    return [turn(message) if marks else dict(message) for message in messages], Shield(
        tokenizer, control, {mark: text for text, mark in marks.items()}
    )


def control_tokens(tokenizer: PreTrainedTokenizerBase, written: Callable[[], str]) -> ControlTokens:
    """Return the control tokens of `tokenizer`; `written` as in `shield`."""
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != tokenizer.chat_template:
        made = _control_tokens(tokenizer, f"{tokenizer.chat_template}", written())
        known = _KNOWN[tokenizer] = (tokenizer.chat_template, made)
    return known[1]


def written_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that a text can have: all but those of special tokens."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    special = {token_id for token_id, token in added.items() if token.special}
    return (set(backend.get_vocab(with_added_tokens=False).values()) | set(added)) - special


_KNOWN: WeakKeyDictionary[Any, tuple[object, ControlTokens]] = WeakKeyDictionary()


def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str, written: str) -> ControlTokens:
    backend: Tokenizer = tokenizer.backend_tokenizer
    added = {token.content: (token_id, token) for token_id, token in backend.get_added_tokens_decoder().items()}
    special = {text for text, (_, token) in added.items() if token.special}
    ids = {
        text: added[text][0]
        for text in sorted(added)
        if text.strip() and (text in special or text in template or text in written)
    }
    return ControlTokens(
        ids=ids,
        in_replies=frozenset(text for text in ids if text in special or text in written) - REASONING,
        normalized=backend.normalizer is not None and any(added[text][1].normalized for text in ids),
        tokenizer=backend,
        starts=re.compile("|".join(sorted({re.escape(text[0]) for text in ids}))) if ids else None,
        lengths=sorted({len(text) for text in ids}, reverse=True),
    )


def _broken(text: str, gap: str) -> str:
    return text[:1] + gap + text[1:]


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in the values of messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from (*_texts(key), *_texts(one))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _mapped(value: object, by: Callable[[str], str]) -> object:
    """Return the value of a message with each text in it replaced."""
    if isinstance(value, str):
        return by(value)
    if isinstance(value, Mapping):
        return {_mapped(key, by): _mapped(one, by) for key, one in value.items()}
    return [_mapped(one, by) for one in value] if isinstance(value, list | tuple) else value
