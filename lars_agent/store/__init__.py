"""Published adapters: immutable versions, their manifests, and the pointer to the one in use."""

from lars_agent.store.adapters import AdapterStore
from lars_agent.store.manifest import AdapterManifest

__all__ = ["AdapterManifest", "AdapterStore"]
