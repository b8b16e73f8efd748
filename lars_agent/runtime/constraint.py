"""Constrained decoding: the tokens with which a reply can go on so that its grammar holds."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lars_agent.errors import ParameterRefused
from lars_agent.models.chat_template import tool_traits
from lars_agent.runtime import grammar as grammars
from lars_agent.runtime.request import GenerationRequest, Grammar

KNOWN_GRAMMARS = 64  # whose check is remembered; its result is a line of text
UNKNOWN_TOKENIZER = "cannot be enforced, as llguidance does not know this model's kind of tokenizer"


class Constraint:
    """The grammar of one reply, token by token; a reply ends only where its grammar is complete."""

    def __init__(self, matcher: LLMatcher, end_mark: int, end_tokens: Iterable[int], field: str) -> None:
        self._matcher, self._end_mark, self._ends, self._field = matcher, end_mark, frozenset(end_tokens), field
        self._end_ids = torch.tensor(sorted(self._ends), dtype=torch.long)

    def allowed(self, size: int) -> Tensor:
        """Return the ids, in order and below `size`, of the tokens that may come next. Raises ParameterRefused."""
        marks = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        self._check()
        marks[self._end_ids] = marks[self._end_mark].clone()
        ids = marks[:size].nonzero()[:, 0]
        if not len(ids):
            raise ParameterRefused(self._field, "cannot be completed with the tokens of this model")
        return ids

    def append(self, token: int) -> None:
        """Take in the reply's next token, one of those allowed. Raises ParameterRefused."""
        if token not in self._ends:
            self._matcher.consume_token(token)
            self._check()

    @property
    def is_complete(self) -> bool:
        """True once nothing but the end can follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = grammars.readable(self._matcher.get_error())
            raise ParameterRefused(self._field, f"became too complex to enforce in the middle of the reply ({reason})")


class Constraints:
    """Makes the constraint of each reply of a model that has `vocabulary` tokens, and ends replies with `end_tokens`.

    The results of the last checks are remembered. A compiled grammar is not: the automata that it builds grow with
    each reply, up to a limit behind which it would refuse every reply.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, end_tokens: frozenset[int], vocabulary: int) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._end_tokens = frozenset(token for token in end_tokens if token < vocabulary)
        self._checking, self._loading = threading.Lock(), threading.Lock()
        self._refusals: OrderedDict[Grammar, str | None] = OrderedDict()
        self._loaded: _Tokens | None = None

    def of(self, request: GenerationRequest) -> Constraint | None:
        """Return the constraint of the request's reply, if it has a grammar; may take seconds. Raises ParameterRefused.

        Also checks the request's `logit_bias`, as its tokens must be the model's.
        """
        strange = [token for token, _ in request.logit_bias if not 0 <= token < self._vocabulary]
        if strange:
            raise ParameterRefused("logit_bias", f"token {strange[0]} is none of the model's {self._vocabulary:,}")
        if request.grammar is not None:
            return self._constraint(request.grammar)
        called = call_grammar(self._tokenizer, request)
        with suppress(ParameterRefused):  # what cannot be enforced of calls is only begun
            return None if called is None else self._constraint(called)
        return None

    def _constraint(self, grammar: Grammar) -> Constraint:
        refusal = self._refusal(replace(grammar, field=""))
        if refusal is not None:
            raise ParameterRefused(grammar.field, refusal)
        tokens = self._tokens(grammar.field)
        lark = grammars.to_lark(grammar, leading_blank=tokens.drops_blank, tokens=tokens.texts)
        matcher = LLMatcher(tokens.known, lark, limits=grammars.limits(), log_level=0)
        if matcher.is_error():
            raise ParameterRefused(grammar.field, f"cannot be enforced: {grammars.readable(matcher.get_error())}")
        return Constraint(matcher, tokens.known.eos_token, self._end_tokens, grammar.field)

    def _refusal(self, grammar: Grammar) -> str | None:
        with self._checking:  # one process at a time, and one for equal grammars
            if grammar not in self._refusals:
                self._refusals[grammar] = grammars.refusal(grammar)
                if len(self._refusals) > KNOWN_GRAMMARS:
                    self._refusals.popitem(last=False)
            self._refusals.move_to_end(grammar)
            return self._refusals[grammar]

    def _tokens(self, field: str) -> _Tokens:
        with self._loading:
            if self._loaded is None:
                try:
                    self._loaded = _Tokens(self._tokenizer, min(self._end_tokens, default=None), self._vocabulary)
                except ValueError as error:
                    raise ParameterRefused(field, UNKNOWN_TOKENIZER) from error
            return self._loaded


def call_grammar(tokenizer: PreTrainedTokenizerFast, request: GenerationRequest) -> Grammar | None:
    """Return the form of a reply that must call a tool, behind the opening that is in its prompt."""
    if request.tools is None or not request.tools.must_call or request.prefill:
        return None
    forced = tool_traits(tokenizer, request.tools).forced(request.tools)
    if forced is None:
        return None
    return Grammar(schema=json.dumps(forced.schema), prefix=forced.blank, suffix=forced.closing, field="tools")


class _Tokens:
    """The model's tokens as llguidance `known` them.

    `drops_blank` tells that the decoder drops a blank at the beginning of a text; `texts` are the ids of added tokens
    that are shown as their text. Raises ValueError for a kind of tokenizer that llguidance cannot read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, end_token: int | None, vocabulary: int) -> None:
        backend = tokenizer.backend_tokenizer
        size = max(vocabulary, backend.get_vocab_size(with_added_tokens=True))
        self.known = LLTokenizer(backend.to_str(), n_vocab=size, eos_token=end_token)
        added = backend.get_added_tokens_decoder().items()
        self.texts = {token.content: token_id for token_id, token in added if not token.special}
        words = (token for token in range(self.known.vocab_size) if self.known.decode_bytes([token])[:1] == b" ")
        word = next(words, None)
        self.drops_blank = word is not None and not backend.decode([word]).startswith(" ")
