"""Embeddings: vectors of norm 1 that are near each other for texts of one meaning, made of the base model's states.

The model is asked for the text in one word (Jiang et al., arXiv 2307.16645): the final hidden state from which that
word would come stands for all of the text, however it ends. Hidden states of all texts are much alike, in a few
directions above all (Ethayarajh, arXiv 1909.00512), so that it is standardized by those of the shipped passages' first
sentences. docs/api.md has what was measured.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from lars_agent.errors import DiskFull, GenerationTimeout, PromptRefused, PromptTooLong, QueueFull
from lars_agent.files import write_atomically
from lars_agent.models.open import OpenedModel
from lars_agent.ops.safetensors_io import read_tensors, tensor_file
from lars_agent.runtime.embedded import Embedded, Input, encoded

BEFORE, BEHIND = 'This sentence: "', '" means in one word: "'
WAITING = 8  # callers
OnThread = Callable[[Callable[[], Any]], Any]


class Embedder:
    """Embeds texts with `states`, which yields a prompt's final hidden states (T, H) a chunk at a time.

    Each chunk is read by `on_thread`, between two tokens of the replies that are being made. Means and deviations of
    the states are kept in the model's folder, if it can be written, for `model`, a name of weights and precision.
    """

    def __init__(
        self,
        opened: OpenedModel,
        states: Callable[[Sequence[int]], Iterator[Tensor]],
        on_thread: OnThread,
        *,
        model: str,
        context: int,
        deadline_s: float,
    ) -> None:
        self._tokenizer, self._states, self._on_thread = opened.tokenizer, states, on_thread
        self._context, self._deadline_s = context, deadline_s
        self._vocabulary = int(opened.model.config.get_text_config(decoder=True).vocab_size)
        passages = (files("lars_agent.data") / "rehearsal.txt").read_text(encoding="utf-8").split("\n\n")
        self._common_texts = [passage.strip().replace("\n", " ").partition(". ")[0] for passage in passages]
        digest = hashlib.sha256(json.dumps([*self._common_texts, BEFORE, BEHIND, model]).encode()).hexdigest()[:12]
        self._before, self._behind = self._ids(BEFORE), self._ids(BEHIND)
        whole = list(self._tokenizer.encode(BEFORE))  # with the token that a text begins with, where the model has one
        if whole[-len(self._before) :] == self._before:
            self._before = whole
        self._file = opened.folder / f"embedding-{digest}.safetensors"
        self._common: tuple[Tensor, Tensor] | None = None
        self._room, self._turn = threading.BoundedSemaphore(WAITING), threading.Lock()

    def embed(self, inputs: Sequence[Input], truncate: bool = False) -> list[Embedded]:
        """Return the embeddings of texts, or of token ids; with `truncate` the end of a text that is too long is left.

        Raises PromptRefused for an empty one, PromptTooLong, QueueFull, GenerationTimeout.
        """
        prompts = [self._encode(one, truncate) for one in inputs]
        if not self._room.acquire(blocking=False):
            raise QueueFull(f"{WAITING} requests for embeddings wait already; try again in a moment")
        try:
            with self._turn:
                ends = time.monotonic() + self._deadline_s
                mean, deviation = self._common = self._common or self._find_common(ends)
                vectors = [normalize((self._read(one, ends) - mean) / deviation, dim=0) for one in prompts]
        finally:
            self._room.release()
        frame = len(self._before) + len(self._behind)
        return [
            Embedded(encoded(array("f", vector.tolist())), len(prompt) - frame)
            for vector, prompt in zip(vectors, prompts, strict=True)
        ]

    def _ids(self, text: str) -> list[int]:
        """Return the ids of a text, in which special tokens are ordinary text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def _encode(self, given: Input, truncate: bool) -> list[int]:
        ids = self._ids(given) if isinstance(given, str) else list(given)
        if not ids:
            raise PromptRefused("a text is empty; give each at least one character")
        if strange := [one for one in ids if not 0 <= one < self._vocabulary]:
            raise PromptRefused(
                f"token {strange[0]} is none of the model's {self._vocabulary}; send texts (langchain: "
                "check_embedding_ctx_length=False), or ids of this model's own tokenizer"
            )
        most = self._context - len(self._before) - len(self._behind)
        if len(ids) > most and not truncate:
            raise PromptTooLong(
                f"a text has {len(ids)} tokens, at most {most} are read at once; send it in shorter parts"
            )
        return [*self._before, *ids[:most], *self._behind]

    def _read(self, prompt: Sequence[int], ends: float) -> Tensor:
        """Return the state (H,) float32 at the last token. Raises GenerationTimeout."""
        chunks, last = self._states(prompt), torch.empty(0)
        while True:
            if time.monotonic() > ends:
                raise GenerationTimeout(
                    f"the embeddings were not complete within {self._deadline_s:.0f} s (runtime.deadline_s); "
                    "send fewer texts at once"
                )
            try:
                hidden = self._on_thread(lambda: next(chunks, None))
            except TimeoutError as error:
                raise GenerationTimeout("the model was too busy to read a text; try again in a moment") from error
            if hidden is None:
                return last
            last = hidden[-1].float()

    def _find_common(self, ends: float) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (H,) of the states of everyday sentences, read once for each model."""
        with suppress(SafetensorError, OSError, KeyError):
            kept = read_tensors(self._file)
            return kept["mean"], kept["deviation"]
        read = torch.stack([self._read(self._encode(text, truncate=True), ends) for text in self._common_texts])
        mean, deviation = read.mean(0), read.std(0) + 1e-6
        with suppress(OSError, DiskFull):
            write_atomically(self._file, tensor_file({"mean": mean, "deviation": deviation}))
        return mean, deviation
