"""Two ways to run a model: read again and lean, several replies at once; or as transformers has it, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lars_agent.lars import LarsAdapter, attach
from lars_agent.models.open import OpenedModel
from lars_agent.runtime.constant_delta import LeanAdapter
from lars_agent.runtime.fast_decoder import LeanModel, lean_model
from lars_agent.runtime.generation import Reply, Stepper
from lars_agent.runtime.hf_decoder import Decoder
from lars_agent.runtime.prefix_cache import PrefixCache

__all__ = ["Backend", "BeingMade", "backend_for"]


class BeingMade(Protocol):
    """A reply: `known` tokens of its prompt need not be read, `logits` (V,) float32 are those of the next token."""

    known: int
    logits: Tensor

    def read(self) -> Iterator[None]:
        """Reads the prompt, a piece between two yields."""
        ...


class Backend(Protocol):
    """A way to run a model. An adapter is first made ready by `prepared`."""

    def prepared(self, adapter: LarsAdapter) -> Any:
        """What `begin` takes for it."""
        ...

    def begin(self, adapter: Any | None, prompt: Sequence[int], room: int) -> BeingMade:
        """A reply to `prompt`, of which nothing has been read yet, and with room for `room` tokens."""
        ...

    def step(self, replies: Sequence[BeingMade], tokens: Sequence[int]) -> None:
        """Each reply goes on with its token."""
        ...

    def close(self) -> None:
        """The model is what it was before."""
        ...


class LeanBackend:
    """Several replies at once, and prompts that begin alike read once."""

    def __init__(self, model: LeanModel, prefixes: PrefixCache) -> None:
        self.model, self.prefixes = model, prefixes
        self._stepper = Stepper(model)

    def prepared(self, adapter: LarsAdapter) -> LeanAdapter:
        """See `Backend`."""
        return LeanAdapter(self.model, adapter)

    def begin(self, adapter: LeanAdapter | None, prompt: Sequence[int], room: int) -> Reply:
        """See `Backend`."""
        return Reply(self.model, adapter, prompt, room, self.prefixes)

    def step(self, replies: Sequence[Any], tokens: Sequence[int]) -> None:
        """See `Backend`."""
        self._stepper.step(replies, tokens)

    def close(self) -> None:
        """See `Backend`."""
        self.prefixes.clear()


class PlainReply:
    """A reply by transformers' own modules."""

    def __init__(self, decoder: Decoder, prompt: Sequence[int], room: int) -> None:
        self.decoder, self.known, self.logits = decoder, 0, torch.empty(0)
        self._prompt, self._room = prompt, room

    def read(self) -> Iterator[None]:
        """See `BeingMade`."""
        self.logits = self.decoder.prefill(self._prompt, self._room)
        yield


class PlainBackend:
    """One reply after the other, by transformers' own modules."""

    def __init__(self, opened: OpenedModel) -> None:
        self._attachment = attach(opened.model)

    def prepared(self, adapter: LarsAdapter) -> LarsAdapter:
        """See `Backend`."""
        return adapter

    def begin(self, adapter: LarsAdapter | None, prompt: Sequence[int], room: int) -> PlainReply:
        """See `Backend`."""
        return PlainReply(Decoder(self._attachment, adapter), prompt, room)

    def step(self, replies: Sequence[Any], tokens: Sequence[int]) -> None:
        """See `Backend`."""
        for reply, token in zip(replies, tokens, strict=True):
            reply.logits = reply.decoder.step(token)

    def close(self) -> None:
        """See `Backend`."""
        self._attachment.detach()


def backend_for(opened: OpenedModel, prefix_bytes: int) -> Backend:
    """The lean one for models that it knows, and transformers' for all others."""
    model = lean_model(opened.model)
    return PlainBackend(opened) if model is None else LeanBackend(model, PrefixCache(prefix_bytes))
