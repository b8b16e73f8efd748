"""What changes the store, killed at every step: the store is as before or as after, never torn."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lars_agent.store import AdapterStore
from tests.store.make import BASE_SHA256, make_candidate, make_draft

REPOSITORY = Path(__file__).parents[2]
MAX_STEPS = 48
KEPT_NAMES = {".lock", "active", "last"}


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    return make_candidate(tmp_path / "candidate")


@pytest.fixture
def before(tmp_path: Path, candidate: Path) -> Path:
    """A store with two versions of `alice`, the first of which is in use, and a temp file of a writer long dead."""
    root = tmp_path / "before"
    store = AdapterStore(root)
    store.publish("alice", candidate, make_draft())
    store.publish("alice", candidate, make_draft(1))
    store.activate("alice", 1)
    make_candidate(root / "alice" / ".publish-dead")
    return root


def kill_at_every_step(action: str, before: Path, candidate: Path) -> dict[str, Path]:
    """The store as each killed process left it, by the step before which it was killed."""
    roots = [before.parent / f"killed-{step:02d}" for step in range(MAX_STEPS)]
    for root in roots:
        shutil.copytree(before, root)
    command = [sys.executable, "-m", "tests.store.crash_child", action, str(candidate), *map(str, roots)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    steps = done.stdout.splitlines()
    assert steps[-1] == "finished", "MAX_STEPS is too small to reach the end"
    killed = [(step, root) for step, root in zip(steps, roots, strict=True) if step != "finished"]
    return {f"{number} {step}": root for number, (step, root) in enumerate(killed)}


def assert_sound(store: AdapterStore, step: str) -> None:
    assert store.problems("alice", BASE_SHA256) == {}, step


def assert_next_publish_clears_up(root: Path, candidate: Path, step: str) -> None:
    store = AdapterStore(root)
    known = [manifest.version for manifest in store.versions("alice")]
    version = store.publish("alice", candidate, make_draft(1)).version
    assert version > max(known), step
    names = {path.name for path in (root / "alice").iterdir()}
    assert names == KEPT_NAMES | {f"v{number:04d}" for number in [*known, version]}, step
    store.activate("alice", version)
    assert_sound(store, step)


def test_killed_publish_leaves_the_version_whole_or_not_at_all(before: Path, candidate: Path) -> None:
    seen = set()
    killed = kill_at_every_step("publish", before, candidate)
    for step, root in killed.items():
        store = AdapterStore(root)
        seen.add(tuple(manifest.version for manifest in store.versions("alice")))
        assert store.active("alice") == 1, step
        assert_sound(store, step)
        assert_next_publish_clears_up(root, candidate, step)
    assert seen == {(1, 2), (1, 2, 3)}
    reached = " ".join(killed)
    for name in (
        "copyfile",
        "fsync adapter_model.safetensors",
        "fsync manifest.json",
        "os.rename .publish",
        "fsync alice",
    ):
        assert name in reached


def test_killed_change_of_the_pointer_leaves_the_old_or_the_new_one(before: Path, candidate: Path) -> None:
    seen = set()
    for step, root in kill_at_every_step("activate", before, candidate).items():
        store = AdapterStore(root)
        seen.add(store.active("alice"))
        assert_sound(store, step)
        assert_next_publish_clears_up(root, candidate, step)
    assert seen == {1, 2}


def test_killed_first_publish_leaves_an_empty_profile_or_one_version(tmp_path: Path, candidate: Path) -> None:
    (tmp_path / "before").mkdir()
    seen = set()
    for step, root in kill_at_every_step("publish", tmp_path / "before", candidate).items():
        store = AdapterStore(root)
        versions = [manifest.version for manifest in store.versions("alice")]
        seen.add(tuple(versions))
        assert store.active("alice") is None, step
        assert_sound(store, step)
        assert store.publish("alice", candidate, make_draft()).version > max(versions, default=0)
    assert seen == {(), (1,)}


def test_killed_removal_leaves_the_version_whole_or_gone(before: Path, candidate: Path) -> None:
    seen = set()
    killed = kill_at_every_step("remove", before, candidate)
    for step, root in killed.items():
        store = AdapterStore(root)
        seen.add(tuple(manifest.version for manifest in store.versions("alice")))
        assert store.active("alice") == 1, step
        assert_sound(store, step)
        assert_next_publish_clears_up(root, candidate, step)
        assert [manifest.version for manifest in store.versions("alice")][-1] == 3, step
    assert seen == {(1, 2), (1,)}
    reached = " ".join(killed)
    for name in ("os.rename v0002", "fsync alice", "os.remove adapter_model.safetensors", "os.rmdir"):
        assert name in reached


def test_litter_of_many_crashes_does_not_add_up(before: Path, candidate: Path) -> None:
    steps = kill_at_every_step("publish", before, candidate)
    late = next(root for step, root in steps.items() if "os.rename .publish" in step)
    number = next(index for index, step in enumerate(steps) if "os.rename .publish" in step)
    for _ in range(3):
        command = [sys.executable, "-m", "tests.store.crash_child", "publish", str(candidate)]
        subprocess.run([*command, *[str(late)] * (number + 1)], cwd=REPOSITORY, check=True, capture_output=True)
        litter = [path.name for path in (late / "alice").iterdir() if path.name.startswith(".publish-")]
        assert len(litter) <= 1
