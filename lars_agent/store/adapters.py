"""Adapters on disk: immutable versions, and for each profile a pointer to the active one.

Publishing, activating and removing are atomic and durable, also when the process is killed or the power fails. See
`lars_agent.store.profile_dir` for the files.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path

from lars_agent.errors import AdapterCorrupt, AdapterError, AdapterIncompatible, AdapterInUse, AdapterNotFound
from lars_agent.files import publish_folder, raise_disk_full, read_plain, sha256_of, write_atomically
from lars_agent.records import to_json
from lars_agent.store.manifest import AdapterManifest, read_manifest
from lars_agent.store.profile_dir import ProfileDir

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MANIFEST = "manifest.json"

_log = logging.getLogger(__name__)


class AdapterStore:
    """Adapter versions of all profiles under one folder; safe to use from any thread and process.

    A version is a number from 1 on; None is the base model without adapter. Every method raises AdapterNotFound for an
    invalid profile name (see `ProfileDir`).
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(root)

    def publish(self, profile: str, candidate: Path, draft: AdapterManifest) -> AdapterManifest:
        """Copy the adapter in the folder `candidate` to the profile's next version and return its manifest.

        `draft` gives its provenance; profile, version, files and (if empty) time are filled in. The active version does
        not change. Raises AdapterCorrupt if `candidate` lacks a file, and DiskFull; both leave the store unchanged.
        """
        home = ProfileDir(self._root, profile)
        with home.writing(), home.publishing() as folder:
            temp = Path(folder)
            with raise_disk_full(home.path):
                for file in ADAPTER_FILES:
                    source = Path(candidate, file)
                    if not source.is_file() or source.is_symlink():
                        raise AdapterCorrupt(f"the candidate {candidate} lacks {file}; nothing was published")
                    shutil.copyfile(source, temp / file)
                digests = {file: sha256_of(temp / file) for file in ADAPTER_FILES}
                version = home.next_version()
                created = draft.created or datetime.now(UTC).isoformat(timespec="seconds")
                manifest = replace(draft, profile=profile, version=version, created=created, files=digests)
                text = to_json(manifest)
                (temp / MANIFEST).write_text(text, encoding="utf-8")
            home.allot(version)
            publish_folder(temp, home.folder(version))
        return read_manifest(text)

    def profiles(self) -> list[str]:
        """Return the names of all profiles that have or had a version, sorted."""
        return ProfileDir.names(self._root)

    def has_profile(self, profile: str) -> bool:
        """Return whether `profiles` lists it. Raises AdapterNotFound for a name that no profile can have."""
        return ProfileDir(self._root, profile).is_known()

    def versions(self, profile: str) -> list[AdapterManifest]:
        """Return the manifests of the profile's versions, oldest first.

        A version whose manifest cannot be read is logged and left out; see `problems`.
        """
        manifests = []
        for version in ProfileDir(self._root, profile).versions():
            try:
                manifests.append(self.get(profile, version))
            except AdapterError as error:
                _log.warning("adapter left out of the list: %s", error)
        return manifests

    def get(self, profile: str, version: int) -> AdapterManifest:
        """Return the manifest of one version. Raises AdapterNotFound, AdapterCorrupt or AdapterIncompatible."""
        folder = self.folder(profile, version)
        try:
            path = folder / MANIFEST
            found = path.lstat()
            manifest = _manifest(path, found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError as error:
            raise AdapterCorrupt(f"{folder} has no readable manifest ({error}); activate another version") from error
        except AdapterError as error:
            raise type(error)(f"{folder}: {error}") from error
        if (manifest.profile, manifest.version) != (profile, version):
            owner = f"{manifest.profile} v{manifest.version}"
            raise AdapterCorrupt(f"{folder} holds the manifest of {owner}: it was renamed or copied; rename it back")
        if missing := sorted(set(ADAPTER_FILES) - manifest.files.keys()):
            raise AdapterCorrupt(f"{folder}: the manifest has no sha256 for {missing[0]}; activate another version")
        return manifest

    def folder(self, profile: str, version: int) -> Path:
        """Return the folder of one version, without reading it. Raises AdapterNotFound."""
        home = ProfileDir(self._root, profile)
        if not home.has(version):
            known = ", ".join(f"v{number}" for number in home.versions()) or "none yet"
            raise AdapterNotFound(f"profile {profile!r} has no adapter version v{version}; there are: {known}")
        return home.folder(version)

    def verify(self, profile: str, version: int, base_sha256: str | None) -> Path:
        """Check a version's files against their published digests and return its folder.

        `base_sha256` is the digest of the base model that it is to run on; None skips that check. Raises
        AdapterNotFound, AdapterCorrupt for a missing or changed file, AdapterIncompatible for another base model or a
        newer format.
        """
        manifest, folder = self.get(profile, version), self.folder(profile, version)
        if base_sha256 is not None and manifest.base_model_sha256 != base_sha256:
            raise AdapterIncompatible(
                f"{profile} v{version} was trained for {manifest.base_model or 'another model'} (weights sha256 "
                f"{manifest.base_model_sha256[:12] or 'unknown'}), not for the base model in use ({base_sha256[:12]}); "
                "use that model or activate another version"
            )
        for name, digest in manifest.files.items():
            _verify_file(folder / name, digest)
        return folder

    def unreadable(self, profile: str) -> dict[int, str]:
        """Return the error message of `get` for each version that `versions` leaves out."""
        messages = {}
        for version in ProfileDir(self._root, profile).versions():
            try:
                self.get(profile, version)
            except AdapterError as error:
                messages[version] = str(error)
        return messages

    def problems(self, profile: str, base_sha256: str | None = None) -> dict[int, str]:
        """Return the error message of `verify` for each version that fails it."""
        messages = {}
        for version in ProfileDir(self._root, profile).versions():
            try:
                self.verify(profile, version, base_sha256)
            except AdapterError as error:
                messages[version] = str(error)
        return messages

    def active(self, profile: str) -> int | None:
        """Return the active version, None for the base model. Raises AdapterCorrupt for a damaged pointer."""
        return ProfileDir(self._root, profile).active()

    def activate(self, profile: str, version: int | None, base_sha256: str | None = None) -> None:
        """Verify `version` and make it active. Raises as `verify` does; the pointer is then unchanged."""
        if version is not None:
            self.verify(profile, version, base_sha256)
        self.move(profile, version)

    def move(self, profile: str, version: int | None) -> None:
        """Make `version` active, just verified by the caller. Raises AdapterNotFound if it was removed since."""
        home = ProfileDir(self._root, profile)
        if version is None and not home.path.is_dir():
            return
        with home.writing():
            if version is not None and not home.has(version):
                raise AdapterNotFound(f"{profile} v{version} has just been removed; activate another version")
            home.point_to(version)

    def parent(self, profile: str) -> int | None:
        """Return the parent of the active version, to roll back to; None for the base model.

        Raises AdapterNotFound if the base model is active, and as `get` does for the active version.
        """
        active = self.active(profile)
        if active is None:
            raise AdapterNotFound(f"profile {profile!r} uses the base model already; there is nothing to roll back")
        return self.get(profile, active).parent

    def lineage(self, profile: str) -> Iterator[int]:
        """Yield the active version and its ancestors, latest first; nothing for the base model.

        Raises AdapterCorrupt if the pointer is damaged or an ancestor is gone, and as `get` does for each of them.
        """
        latest = version = self.active(profile)
        visited = set[int]()
        while version is not None and version not in visited:
            visited.add(version)
            yield version
            try:
                version = self.get(profile, version).parent
            except AdapterNotFound as error:
                raise AdapterCorrupt(f"the lineage of {profile} v{latest} is broken: {error}") from error

    def sound_ancestors(self, profile: str, base_sha256: str | None) -> Iterator[int]:
        """Yield the ancestors of the version in use that `verify` passes, the nearest first.

        They end where the line ends or is broken, as one whose manifest cannot be read breaks it.
        """
        with contextlib.suppress(AdapterError):
            for version in islice(self.lineage(profile), 1, None):
                with contextlib.suppress(AdapterError):
                    self.verify(profile, version, base_sha256)
                    yield version

    def remove(self, profile: str, version: int) -> None:
        """Delete `version`; its number is never used again.

        Raises AdapterNotFound, AdapterInUse for the active version and its ancestors, and as `lineage` does if these
        cannot be determined; nothing is then removed.
        """
        self.folder(profile, version)  # raises before `writing` creates a folder for the profile
        home = ProfileDir(self._root, profile)
        with home.writing():
            self.folder(profile, version)
            if version in (lineage := list(self.lineage(profile))):
                raise AdapterInUse(
                    f"{profile} v{version} is not removed: v{lineage[0]} is in use and goes back to it; activate a "
                    "version that does not, or the base model"
                )
            home.discard(version)

    def count_on(self, before: AdapterStore) -> None:
        """Give no version a number that the store `before`, whose place this one takes, has ever given."""
        for profile in before.profiles():
            home, last = ProfileDir(self._root, profile), ProfileDir(before._root, profile).next_version() - 1
            with home.writing():
                if home.next_version() <= last:
                    home.allot(last)

    def erase(self, profile: str, versions: Collection[int]) -> None:
        """Delete `versions`, none of which is active, whoever descends from them; their numbers are never used again.

        Their descendants go back to the nearest ancestor that is left.
        """
        home = ProfileDir(self._root, profile)
        if not home.path.is_dir():
            return
        with home.writing():
            manifests = {manifest.version: manifest for manifest in self.versions(profile)}
            for version, manifest in manifests.items():
                parent = manifest.parent
                while parent in versions:
                    parent = manifests[parent].parent if parent in manifests else None
                if version not in versions and parent != manifest.parent:
                    write_atomically(home.folder(version) / MANIFEST, to_json(replace(manifest, parent=parent)))
            for version in set(home.versions()).intersection(versions):
                home.discard(version)


@lru_cache(maxsize=1024)
def _manifest(path: Path, inode: int, changed_ns: int, size: int) -> AdapterManifest:
    """Return the manifest in a file, which is read again once it is another one; lists of a year's versions are long.

    Versions share the ids that they have learned. Raises OSError, and what `read_manifest` raises.
    """
    manifest = read_manifest(read_plain(path, follow=False))
    return replace(manifest, example_ids=tuple(map(sys.intern, manifest.example_ids)))


def _verify_file(path: Path, digest: str) -> None:
    try:
        actual = sha256_of(path, follow=False)
    except OSError as error:
        raise AdapterCorrupt(f"{path} cannot be read ({error}); activate another version") from error
    if actual != digest:
        raise AdapterCorrupt(
            f"{path} is damaged: its sha256 is {actual[:12]}..., published was {digest[:12]}...; activate another "
            "version"
        )
