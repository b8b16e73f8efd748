"""Old adapter versions that no version in use descends from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from lars_agent.errors import AdapterError
from lars_agent.store.manifest import AdapterManifest
from service.db.records import JobRecord
from service.housekeeping.retention import Item, Limits
from service.housekeeping.sweep import Sweep, log, taken_bytes

YOUNG = timedelta(days=7)  # somebody may want to go back to it

Version = tuple[str, int]  # profile, and its version


def tidy_adapters(sweep: Sweep) -> None:
    """Remove the versions of all profiles that are past the limits, unless they are protected: see `_versions`."""
    keep = sweep.settings.retention

    def remove(version: Version) -> None:
        with sweep.switch.held():
            sweep.store.remove(*version)

    sweep.remove_expired("adapters", _all_versions(sweep), Limits(keep.adapter_days, keep.adapter_bytes), remove)


def _all_versions(sweep: Sweep) -> Iterator[Item[Version]]:
    unfinished = sweep.db.jobs.unfinished()
    for profile in sweep.store.profiles():
        with sweep.step("adapters", profile=profile):
            yield from _versions(sweep, profile, [job for job in unfinished if job.profile == profile])


def _versions(sweep: Sweep, profile: str, unfinished: Sequence[JobRecord]) -> list[Item[Version]]:
    """Return the profile's versions, latest first.

    Protected are the active version, young ones, those that unfinished jobs use, and the ancestors of all of these; all
    versions if the active one's ancestors cannot be read. A parent is as young as its youngest descendant and is
    returned after it, so that no version loses the parent that a rollback would activate.
    """
    manifests = sweep.store.versions(profile)
    try:
        protected = {*sweep.store.lineage(profile), *_used(unfinished, manifests)}
    except AdapterError as error:
        log.warning("adapters_kept", profile=profile, error=str(error))
        protected = {manifest.version for manifest in manifests}
    created = {manifest.version: _created(manifest, sweep.now) for manifest in manifests}
    items = []
    for manifest in reversed(manifests):
        version, parent = manifest.version, manifest.parent
        if sweep.now - created[version] < YOUNG:
            protected.add(version)
        if parent in created:
            created[parent] = max(created[parent], created[version])
            if version in protected:
                protected.add(parent)
        size_bytes = taken_bytes(sweep.store.folder(profile, version))
        items.append(Item((profile, version), created[version], size_bytes, version in protected))
    return items


def _used(unfinished: Sequence[JobRecord], manifests: Sequence[AdapterManifest]) -> Iterator[int]:
    """Yield the versions that unfinished jobs started from or have published."""
    for job in unfinished:
        named = (job.version, job.active_version, job.parent_version)
        yield from (version for version in named if version is not None)
        yield from (manifest.version for manifest in manifests if manifest.job_id == job.id)


def _created(manifest: AdapterManifest, now: datetime) -> datetime:
    """Return when the version was published; `now` if the manifest does not say."""
    try:
        created = datetime.fromisoformat(manifest.created)
    except ValueError:
        return now
    return created if created.tzinfo else created.replace(tzinfo=UTC)
