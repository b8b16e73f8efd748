"""Replies are kept; a disk without room, or a database that does not answer, costs the record and not the reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from lars_agent.errors import DiskFull
from lars_agent.runtime.request import Generation, GenerationRequest
from service.alarms import Alarm
from service.db import Database
from service.db.errors import DatabaseError

log = structlog.get_logger(__name__)


class Recorder:
    """Keeps what was asked and replied, as long as it can; `problems` says so while it cannot."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.problems: list[Alarm] = []

    def keep(
        self, interaction_id: str, request: GenerationRequest, parameters: Mapping[str, Any], generation: Generation
    ) -> bool:
        """Record the reply as `interaction_id`, with the client's `parameters`; return False if that failed."""
        try:
            self._db.interactions.add(
                profile=request.profile,
                messages=request.messages,
                parameters=parameters,
                response=generation.text,
                adapter_version=generation.adapter_version,
                finish_reason=generation.finish_reason,
                prompt_tokens=generation.prompt_tokens,
                generated_tokens=generation.generated_tokens,
                seed=generation.seed,
                interaction_id=interaction_id,
            )
        except (DiskFull, DatabaseError) as error:
            log.warning("reply_not_recorded", error=str(error))
            self.problems = [Alarm("not_recording", f"the last reply was given but not recorded: {error}")]
            return False
        self.problems = []
        return True
