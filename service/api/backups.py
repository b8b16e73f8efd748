"""Backups: those that there are, and making one now."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from pydantic import AfterValidator, Field

from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import Body, Reply, storable
from service.backup.errors import BackupFailed
from service.backup.folder import BackupFile
from service.settings.recipients import age_recipient

router = APIRouter(prefix="/backups", tags=["operation"])

MOST_RECIPIENTS = 100


class BackupBody(Reply):
    """A backup."""

    path: str
    created: datetime
    bytes: int
    encrypted: bool


class BackupList(Reply):
    """This device's backups in the folder of the settings, the newest first."""

    folder: str | None = Field(description="`backup.folder`; null while no backups are made at night.")
    next_run: datetime | None = Field(description="When the next one is due; null without a folder.")
    problem: str | None = Field(
        description="Why there is none to list, or why the last one failed; null if all is well."
    )
    backups: list[BackupBody]


class NewBackup(Body):
    """Where to make a backup."""

    folder: Annotated[str, AfterValidator(storable)] | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        pattern="^/",
        description="A folder that exists, as the daemon sees it; `backup.folder` by default, where backups that are "
        "not kept are then deleted.",
    )
    recipients: list[Annotated[str, Field(max_length=10_000), AfterValidator(age_recipient)]] = Field(
        default=[],
        max_length=MOST_RECIPIENTS,
        description="Public keys to encrypt it to; those of `backup.recipients` by default.",
    )


@router.get("")
def list_backups(daemon: DaemonDep) -> BackupList:
    """List the backups at hand, the newest first."""
    backups, folder = daemon.backups, daemon.settings.backup.folder
    problem = next((alarm.message for alarm in backups.problems()), None)
    try:
        found = backups.listed()
    except BackupFailed as error:
        return BackupList(folder=folder, next_run=None, problem=problem or str(error), backups=[])
    bodies = [_body(one) for one in found]
    return BackupList(folder=folder, next_run=backups.next_run(), problem=problem, backups=bodies)


@router.post("", status_code=201, responses=documented(409, 503, 507))
def make(body: NewBackup, daemon: DaemonDep) -> BackupBody:
    """Make a backup now, while everything else goes on; return it once what is on the disk was checked."""
    folder = None if body.folder is None else Path(body.folder)
    return _body(daemon.backups.make(folder, tuple(body.recipients)))


def _body(made: BackupFile) -> BackupBody:
    return BackupBody(path=str(made.path), created=made.created, bytes=made.bytes, encrypted=made.encrypted)
