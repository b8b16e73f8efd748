"""Digests of the listed models: each name has one of its own, as clients merge those that share one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from lars_agent.errors import AdapterError
from lars_agent.store.adapters import AdapterStore
from lars_agent.store.names import parse_adapter_name


@dataclass(frozen=True)
class AdapterFiles:
    """The sha256 of each file of an adapter version, and their size; nothing for the base model."""

    sha256: Mapping[str, str]
    bytes: int


def adapter_files(store: AdapterStore, label: str) -> AdapterFiles:
    """Return the files of the version of that label; none if it is no version, or one that cannot be read."""
    adapter = parse_adapter_name(label)
    if adapter is None or not isinstance(adapter.version, int):
        return AdapterFiles({}, 0)
    try:
        manifest, folder = store.get(adapter.profile, adapter.version), store.folder(adapter.profile, adapter.version)
        return AdapterFiles(manifest.files, sum((folder / name).stat().st_size for name in manifest.files))
    except (AdapterError, OSError):
        return AdapterFiles({}, 0)


def digest_of(name: str, label: str, base_sha256: str, served: AdapterFiles) -> str:
    """Return the sha256 that stands for a name and for what serves it, the version of that label."""
    parts = [name, label, base_sha256, *(f"{file} {digest}" for file, digest in sorted(served.sha256.items()))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
