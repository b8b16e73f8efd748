"""Adapter versions that nothing goes back to any more, and that nobody has put in use for long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from lars_agent.errors import AdapterError
from lars_agent.store.manifest import AdapterManifest
from service.db import JobRecord
from service.housekeeping.disk_room import taken_bytes
from service.housekeeping.retention import Item, Limits, expired
from service.housekeeping.sweep import Round, log

YOUNG = timedelta(days=7)  # somebody may want to go back to it

Version = tuple[str, int]  # whose, and which


def tidy_adapters(work: Round) -> None:
    """The versions of all profiles keep to their limits, as far as they may: see `_items`."""
    keep = work.settings.retention
    with work.going_on("adapters"):
        working = work.db.jobs.unfinished()
        items: list[Item[Version]] = []
        for profile in work.store.profiles():
            with work.going_on("adapters", profile=profile):
                items += _items(work, profile, [job for job in working if job.profile == profile])
        sizes = {item.id: item.bytes for item in items}
        for profile, version in expired(items, Limits(keep.adapter_days, keep.adapter_bytes), work.now):
            with work.going_on("adapters", profile=profile, version=version), work.switch.held():
                work.store.remove(profile, version)
                work.report.adapters += 1
                work.report.freed_bytes += sizes[profile, version]


def _items(work: Round, profile: str, working: Sequence[JobRecord]) -> list[Item[Version]]:
    """The profile's versions, the latest first.

    Protected are the one in use, young ones, those that a job works with, and the ancestors of them all; everything,
    where the line of the one in use cannot be read. One that others were trained from is as young as the youngest of
    them and stands after them: no version is left without the parent that one would roll it back to.
    """
    manifests = work.store.versions(profile)
    try:
        protected = {*work.store.lineage(profile), *_worked_with(working, manifests)}
    except AdapterError as error:
        log.warning("adapters_kept", profile=profile, words=str(error))
        protected = {manifest.version for manifest in manifests}
    created = {manifest.version: _created(manifest, work.now) for manifest in manifests}
    items = []
    for manifest in reversed(manifests):
        version, parent = manifest.version, manifest.parent
        if work.now - created[version] < YOUNG:
            protected.add(version)
        if parent in created:
            created[parent] = max(created[parent], created[version])
            if version in protected:
                protected.add(parent)
        size_bytes = taken_bytes(work.store.folder(profile, version))
        items.append(Item((profile, version), created[version], size_bytes, version in protected))
    return items


def _worked_with(working: Sequence[JobRecord], manifests: Sequence[AdapterManifest]) -> Iterator[int]:
    """Versions that jobs which have not ended were begun from, or have made."""
    for job in working:
        named = (job.version, *((job.spec or {}).get(key) for key in ("active_version", "parent_version")))
        yield from (version for version in named if version is not None)
        yield from (manifest.version for manifest in manifests if manifest.job_id == job.id)


def _created(manifest: AdapterManifest, now: datetime) -> datetime:
    """When the version was published; now, where nobody can tell."""
    try:
        created = datetime.fromisoformat(manifest.created)
    except ValueError:
        return now
    return created if created.tzinfo else created.replace(tzinfo=UTC)
