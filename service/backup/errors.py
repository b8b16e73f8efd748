"""Errors of backups."""

from __future__ import annotations

from lars_agent.errors import LarsError


class BackupError(LarsError):
    """Base of the errors of backups."""


class BackupFailed(BackupError):
    """No backup was made; those that there are stay."""


class BackupRunning(BackupError):
    """Another backup is being made, or the state is being restored."""


class BackupDamaged(BackupError):
    """The file is no whole backup; nothing was restored."""


class BackupLocked(BackupError):
    """The file is encrypted, and what was given does not open it."""


class BackupRefused(BackupError):
    """The backup cannot be restored here; nothing was changed."""
