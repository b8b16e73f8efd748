"""The interface between the batcher and the two ways to run a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from lars_agent.lars import LarsAdapter, attach
from lars_agent.models.open import OpenedModel
from lars_agent.runtime.fast_backend import FastBackend
from lars_agent.runtime.fast_decoder import build_fast_decoder
from lars_agent.runtime.hf_backend import HfBackend
from lars_agent.runtime.prefix_cache import PrefixCache


class DecodingSequence(Protocol):
    """One reply: `logits` (V,) float32 of its next token; `cached_tokens` of its prompt came from the prefix cache."""

    cached_tokens: int
    logits: Tensor

    def prefill(self) -> Iterator[None]:
        """Process the prompt, yielding after each chunk; then `logits` are those of the first token."""


class Backend(Protocol):
    """A way to run a model."""

    def prepare(self, adapter: LarsAdapter) -> Any:
        """Return `adapter` in the form that `start` takes."""

    def start(self, adapter: Any | None, prompt: Sequence[int], capacity: int, scope: str = "") -> DecodingSequence:
        """Return a sequence for `prompt`, not yet prefilled, with capacity for `capacity` reply tokens.

        Only prompts of one `scope` share what is cached.
        """

    def prompt_logits(self, adapter: Any | None, prompt: Sequence[int]) -> Iterator[Tensor]:
        """Yield, a few rows (N, V) float32 at a time, the logits after each token of `prompt`: those that a prompt that
        ends there has.
        """

    def embed(self, prompt: Sequence[int], shared: int = 0) -> Tensor:
        """Return the base model's final hidden state (H,) float32 at the last token of `prompt`.

        The next prompts, too, begin with the first `shared` of its tokens, which are then read once.
        """

    def states(self, prompt: Sequence[int]) -> Iterator[Tensor]:
        """Yield the base model's final hidden states (T, H) of the prompt's tokens, a chunk at a time."""

    def step(self, sequences: Sequence[Any], tokens: Sequence[int]) -> None:
        """Append one token to each of `sequences`, which `start` returned, and update its `logits`."""

    def forget(self) -> None:
        """Clear the cache of processed prompts."""

    def close(self) -> None:
        """Release caches and leave the model as it was before."""


def choose_backend(opened: OpenedModel, prefix_cache_bytes: int) -> Backend:
    """Return a FastBackend if the model is supported, else an HfBackend."""
    decoder = build_fast_decoder(opened.model)
    if decoder is None:
        return HfBackend(attach(opened.model))
    return FastBackend(decoder, PrefixCache(prefix_cache_bytes))
