"""Record replies; a full disk or a busy database prevents the record, but not the reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from lars_agent.errors import DiskFull
from lars_agent.runtime.request import Generation, GenerationRequest
from service.alarms import Alarm
from service.db import Database
from service.db.errors import DatabaseError
from service.db.records import InteractionRecord, now_utc

log = structlog.get_logger(__name__)


class Recorder:
    """Records requests with their replies; `problems` has an alarm while it cannot."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.problems: list[Alarm] = []

    def keep(
        self,
        interaction_id: str,
        request: GenerationRequest,
        parameters: Mapping[str, Any],
        generation: Generation,
        recalled: Sequence[str] = (),
    ) -> bool:
        """Record the reply as `interaction_id`, with the client's `parameters`, and the ids of the feedback `recalled`.

        Return False if that failed.
        """
        try:
            self._db.interactions.add(
                InteractionRecord(
                    interaction_id,
                    now_utc(),
                    request.profile,
                    request.messages,
                    parameters,
                    generation.text,
                    generation.adapter_version,
                    generation.finish_reason,
                    generation.prompt_tokens,
                    generation.generated_tokens,
                    generation.seed,
                    tuple(recalled) or None,
                )
            )
        except (DiskFull, DatabaseError) as error:
            log.warning("reply_not_recorded", error=str(error))
            self.problems = [Alarm("not_recording", f"the last reply was given but not recorded: {error}")]
            return False
        self.problems = []
        return True
