"""Record replies; a full disk or a busy database prevents the record, but not the reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from lars_agent.english.statements import corrected, stated_facts
from lars_agent.errors import DiskFull
from lars_agent.example import Message
from lars_agent.models.tool_calls import with_calls
from lars_agent.runtime.request import Generation, GenerationRequest
from lars_agent.secrets import find_secrets
from service.alarms import Alarm
from service.db import Database
from service.db.errors import DatabaseError
from service.db.records import InteractionRecord, NewFeedback
from service.settings.sections import Learning

log = structlog.get_logger(__name__)


class Recorder:
    """Records requests with their replies, and what a person states in them; `problems` has an alarm if it cannot."""

    def __init__(self, db: Database, learning: Learning) -> None:
        self._db, self._learning = db, learning
        self.problems: list[Alarm] = []

    def use(self, learning: Learning) -> None:
        """Apply new settings to the next reply."""
        self._learning = learning

    def keep(
        self,
        interaction_id: str,
        request: GenerationRequest,
        parameters: Mapping[str, Any],
        generation: Generation,
        recalled: Sequence[str] = (),
        conversation: str | None = None,
    ) -> bool:
        """Record the reply as `interaction_id`, with the client's `parameters` and `conversation`, and what it recalls.

        Return False if that failed.
        """
        try:
            self._db.interactions.add(
                InteractionRecord(
                    interaction_id,
                    self._db.now(),
                    request.profile,
                    _asked(request, generation),
                    parameters,
                    with_calls(request.prefill + generation.text, generation.calls),
                    generation.adapter_version,
                    generation.finish_reason,
                    generation.prompt_tokens,
                    generation.generated_tokens,
                    generation.seed,
                    tuple(recalled) or None,
                    conversation,
                )
            )
            if stated := self._stated(interaction_id, request):
                self._db.feedback.add_stated(stated)
        except (DiskFull, DatabaseError) as error:
            log.warning("reply_not_recorded", error=str(error))
            self.problems = [Alarm("not_recording", f"the last reply was given but not recorded: {error}")]
            return False
        self.problems = []
        return True

    def _stated(self, interaction_id: str, request: GenerationRequest) -> list[NewFeedback]:
        """Return what the last message states, or says that the reply before it should have been."""
        is_on = self._learning.profiles.get(request.profile, self._learning.statements)
        if not is_on or request.raw is not None or request.messages[-1]["role"] != "user":  # a tool's result, say
            return []
        return [
            NewFeedback(interaction_id, asked, reply, None, answer, profile=request.profile, source="stated")
            for asked, reply, answer in _stated(request.messages)
            if not _hold_secret(*(turn["content"] for turn in asked), request.messages[-1]["content"], answer)
        ]


def _asked(request: GenerationRequest, generation: Generation) -> tuple[Message, ...]:
    """Return the messages of the request; a prompt of token ids as the text that they are."""
    if isinstance(request.raw, tuple):
        return (Message(role="user", content=generation.prompt_text),)
    return request.messages


def _hold_secret(*texts: str) -> bool:
    """Return True if one of the texts tells a secret, or answers to the one before with it."""
    return any(find_secrets(texts))


def _stated(messages: Sequence[Message]) -> list[tuple[tuple[Message, ...], str, str]]:
    """Return prompts, each with the reply it got, or nothing, and the right one."""
    said = messages[-1]["content"]
    if [turn["role"] for turn in messages[-3:]] == ["user", "assistant", "user"]:
        asked, reply = (turn["content"] for turn in messages[-3:-1])
        if (answer := corrected(asked, said)) is not None:
            return [(tuple(messages[:-2]), reply, answer)]
    return [((Message(role="user", content=question),), "", answer) for question, answer in stated_facts(said)]
