"""The section of the configuration file about backups."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from service.settings.recipients import age_recipient
from service.settings.sections import Section


class Backup(Section):
    """Backups that the daemon makes by itself; see `service.backup`."""

    folder: str | None = Field(
        default=None,
        description="Folder in which a backup is made each night, which must exist; none is made if unset. Give one "
        "on another disk, and not the point where that is mounted but a folder on it: then nothing is written to this "
        "disk while the other one is away.",
        examples=["/mnt/backup/lars-agent"],
    )
    keep: int = Field(default=7, ge=1, le=10_000, description="Backups of this device that are kept, the newest.")
    cron: str | None = Field(
        default=None,
        description="When, as in `schedule.cron`; if unset, after the night: when the window of `schedule.cron` "
        "closes. What was missed is made up.",
        examples=["0 7 * * *"],
    )
    recipients: tuple[Annotated[str, AfterValidator(age_recipient)], ...] = Field(
        default=(),
        description="Public keys of age (age1...) or SSH to which backups are encrypted; the secret key is needed only "
        "to restore one, and belongs elsewhere. Not encrypted if there are none.",
    )
    prune_forgotten: bool = Field(
        default=True,
        description="Whether backups that are older than the last deletion (`lars-agent forget`), and may hold what "
        "was deleted, are deleted once a newer one is made.",
    )

    @field_validator("folder")
    @classmethod
    def _check_folder(cls, folder: str | None) -> str | None:
        if folder is not None and not folder.startswith("/"):
            raise ValueError("must begin with /: the daemon has a working folder of its own")
        return folder
