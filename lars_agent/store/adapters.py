"""The adapters on disk: versions that never change, and for each profile a pointer to the one in use.

A version appears whole or not at all, and goes so, and so does a change of the pointer, whenever the process or the
power goes. See `lars_agent.store.profile_dir` for the files.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from lars_agent.errors import AdapterCorrupt, AdapterError, AdapterIncompatible, AdapterInUse, AdapterNotFound
from lars_agent.files import publish_folder, raise_disk_full, sha256_of
from lars_agent.store.manifest import AdapterManifest
from lars_agent.store.profile_dir import ProfileDir

__all__ = ["AdapterStore"]

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MANIFEST = "manifest.json"

_log = logging.getLogger(__name__)


class AdapterStore:
    """Every profile's adapter versions under one folder. Methods may be called from any thread and process.

    A profile's name is 1 to 64 of `a-z`, `0-9`, `_` and `-`, begins with a letter or digit, and is neither `base` nor a
    version such as `v2`; any other is answered with AdapterNotFound. A version is a number from 1 on; None is the base
    model without adapter.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(root)

    def publish(self, profile: str, candidate: Path, draft: AdapterManifest) -> AdapterManifest:
        """A copy of the adapter in the folder `candidate` is the profile's next version; its manifest is returned.

        `draft` says where it comes from; its profile, version, files and (where empty) date are filled in. The active
        version stays what it was. Raises AdapterCorrupt where `candidate` lacks a file, and DiskFull; both leave the
        store as it was.
        """
        home = ProfileDir(self._root, profile)
        with home.writing(), home.publishing() as temp:
            with raise_disk_full(home.path):
                digests = _copy_adapter(Path(candidate), temp)
                version = home.next_version()
                text = _complete(draft, profile, version, digests).to_json()
                (temp / MANIFEST).write_text(text, encoding="utf-8")
            home.allot(version)
            publish_folder(temp, home.folder(version))
        return AdapterManifest.from_json(text)

    def profiles(self) -> list[str]:
        """The names of all profiles that have a version or ever had one, sorted."""
        return ProfileDir.names(self._root)

    def has_profile(self, profile: str) -> bool:
        """Return whether `profiles` lists it. Raises AdapterNotFound for a name that no profile can have."""
        return ProfileDir(self._root, profile).is_known()

    def versions(self, profile: str) -> list[AdapterManifest]:
        """The manifests of the profile's versions, oldest first.

        A version whose manifest cannot be read is left out and logged; `problems` tells what is wrong with it.
        """
        manifests = []
        for version in ProfileDir(self._root, profile).versions():
            try:
                manifests.append(self.get(profile, version))
            except AdapterError as error:
                _log.warning("adapter left out of the list: %s", error)
        return manifests

    def get(self, profile: str, version: int) -> AdapterManifest:
        """The manifest of one version. Raises AdapterNotFound, AdapterCorrupt or AdapterIncompatible."""
        folder = self.folder(profile, version)
        try:
            manifest = AdapterManifest.from_json((folder / MANIFEST).read_bytes())
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
        """The folder of one version, unread. Raises AdapterNotFound."""
        home = ProfileDir(self._root, profile)
        versions = home.versions()
        if version not in versions:
            known = ", ".join(f"v{number}" for number in versions) or "none yet"
            raise AdapterNotFound(f"profile {profile!r} has no adapter version v{version}; there are: {known}")
        return home.folder(version)

    def verify(self, profile: str, version: int, base_sha256: str | None) -> Path:
        """The folder of one version, all of whose bytes are what was published.

        `base_sha256` is the digest of the base model it is to run on; None does not ask. Raises AdapterNotFound,
        AdapterCorrupt for a missing or changed file, AdapterIncompatible for another base model or a newer format.
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

    def problems(self, profile: str, base_sha256: str | None = None) -> dict[int, str]:
        """What `verify` has against each of the profile's versions; empty when all of them are sound."""
        found = {}
        for version in ProfileDir(self._root, profile).versions():
            try:
                self.verify(profile, version, base_sha256)
            except AdapterError as error:
                found[version] = str(error)
        return found

    def active(self, profile: str) -> int | None:
        """The version in use, None for the base model. Raises AdapterCorrupt where the pointer cannot be understood."""
        return ProfileDir(self._root, profile).active()

    def activate(self, profile: str, version: int | None, base_sha256: str | None = None) -> None:
        """`version` is the one in use. Raises what `verify` raises; the pointer is then what it was."""
        if version is not None:
            self.verify(profile, version, base_sha256)
        self.move(profile, version)

    def move(self, profile: str, version: int | None) -> None:
        """`version`, which `verify` has just passed, is the one in use. Raises AdapterNotFound if it is gone since."""
        home = ProfileDir(self._root, profile)
        if version is None and not home.path.is_dir():
            return
        with home.writing():
            if version is not None and not home.folder(version).is_dir():
                raise AdapterNotFound(f"{profile} v{version} has just been removed; activate another version")
            home.point_to(version)

    def parent(self, profile: str) -> int | None:
        """What `rollback` would put in use; None for the base model.

        Raises AdapterNotFound where that is in use already, and what reading the manifest of the version in use raises.
        """
        active = self.active(profile)
        if active is None:
            raise AdapterNotFound(f"profile {profile!r} uses the base model already; there is nothing to roll back")
        return self.get(profile, active).parent

    def rollback(self, profile: str, base_sha256: str | None = None) -> int | None:
        """The parent of the version in use is in use, and returned; None for the base model.

        Raises AdapterNotFound where the base model is in use already or the parent is gone, and what `verify` raises
        for the parent; the pointer is then what it was. The version that is left need not be sound, but its manifest.
        """
        self.parent(profile)  # before there is a folder for the profile
        home = ProfileDir(self._root, profile)
        with home.writing():
            parent = self.parent(profile)
            if parent is not None:
                self.verify(profile, parent, base_sha256)
            home.point_to(parent)
        return parent

    def lineage(self, profile: str) -> list[int]:
        """The version in use, its parent, and so on; empty for the base model.

        Raises AdapterCorrupt where the pointer cannot be understood or one of them is gone, and what reading the
        manifest of one of them raises.
        """
        return list(self.line(profile))

    def line(self, profile: str) -> Iterator[int]:
        """`lineage`, one by one; where it raises, those before the break have been given."""
        latest = version = self.active(profile)
        met = set[int]()
        while version is not None and version not in met:
            met.add(version)
            yield version
            try:
                version = self.get(profile, version).parent
            except AdapterNotFound as error:
                raise AdapterCorrupt(f"the line of {profile} v{latest} is broken: {error}") from error

    def sound_ancestors(self, profile: str, base_sha256: str) -> Iterator[int]:
        """Yield the ancestors of the version in use that `verify` passes, the nearest first.

        They end where the line ends or is broken, as one whose manifest cannot be read breaks it.
        """
        with contextlib.suppress(AdapterError):
            for version in islice(self.line(profile), 1, None):
                with contextlib.suppress(AdapterError):
                    self.verify(profile, version, base_sha256)
                    yield version

    def remove(self, profile: str, version: int) -> None:
        """`version` is gone for good; its number is never used again.

        Raises AdapterNotFound, AdapterInUse for the version in use and its ancestors, and what `lineage` raises: where
        nobody can tell what they are, nothing is removed.
        """
        self.folder(profile, version)  # before there is a folder for the profile
        home = ProfileDir(self._root, profile)
        with home.writing():
            self.folder(profile, version)
            if version in (lineage := self.lineage(profile)):
                raise AdapterInUse(
                    f"{profile} v{version} is not removed: v{lineage[0]} is in use and goes back to it; activate a "
                    "version that does not, or the base model"
                )
            home.discard(version)


def _copy_adapter(candidate: Path, temp: Path) -> dict[str, str]:
    """`temp` holds the candidate's files; their sha256 by name."""
    for name in ADAPTER_FILES:
        if not (candidate / name).is_file():
            raise AdapterCorrupt(f"the candidate {candidate} lacks {name}; nothing was published")
        shutil.copyfile(candidate / name, temp / name)
    return {name: sha256_of(temp / name) for name in ADAPTER_FILES}


def _complete(draft: AdapterManifest, profile: str, version: int, digests: dict[str, str]) -> AdapterManifest:
    created = draft.created or datetime.now(UTC).isoformat(timespec="seconds")
    return replace(draft, profile=profile, version=version, created=created, files=digests)


def _verify_file(path: Path, digest: str) -> None:
    try:
        met = sha256_of(path)
    except OSError as error:
        raise AdapterCorrupt(f"{path} cannot be read ({error}); activate another version") from error
    if met != digest:
        raise AdapterCorrupt(
            f"{path} is damaged: its sha256 is {met[:12]}..., published was {digest[:12]}...; activate another version"
        )
