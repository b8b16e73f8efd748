"""What was forgotten stays forgotten: it is deleted from a restored state before anything reads that."""

from __future__ import annotations

from lars_agent.store.adapters import AdapterStore
from service.db import Database
from service.db.erased import Erased


def forget_again(db: Database, store: AdapterStore, erased: Erased) -> tuple[int, dict[str, list[int]]]:
    """Delete from a restored state what was `erased` from the one before it, and every version that learned it.

    Return the number of pieces of feedback, and the versions by profile. Where the version in use goes, its nearest
    ancestor that stays takes its place, or the base model.
    """
    again = db.erasures.again(erased)
    gone = {one for record in again for one in record.feedback}
    learned: dict[str, list[int]] = {}
    for profile in store.profiles():
        versions = [
            manifest.version
            for manifest in store.versions(profile)
            if not gone.isdisjoint(manifest.example_ids) or erased.among(manifest.example_ids)
        ]
        if versions:
            line = store.lineage(profile)
            store.move(profile, next((version for version in line if version not in versions), None))
            store.erase(profile, versions)
            learned[profile] = versions
    return len(gone), learned
