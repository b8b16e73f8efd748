from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
from pathlib import Path

import pytest

from lars_agent.errors import (
    AdapterCorrupt,
    AdapterError,
    AdapterIncompatible,
    AdapterInUse,
    AdapterNotFound,
    DiskFull,
)
from lars_agent.store import AdapterStore, adapters
from lars_agent.store.profile_dir import ProfileDir
from tests.store.make import BASE_SHA256, make_candidate, make_draft

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    return make_candidate(tmp_path / "candidate")


@pytest.fixture
def store(root: Path, candidate: Path) -> AdapterStore:
    """Three versions of `alice`, each the child of the one before; the second is in use."""
    store = AdapterStore(root)
    for parent in (None, 1, 2):
        store.publish("alice", candidate, make_draft(parent))
    store.activate("alice", 2)
    return store


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def set_in_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestPublishing:
    def test_published_version_holds_the_candidate_and_its_manifest(self, root: Path, candidate: Path) -> None:
        store = AdapterStore(root)
        manifest = store.publish("alice", candidate, make_draft())
        assert (manifest.profile, manifest.version, manifest.parent) == ("alice", 1, None)
        assert manifest.created.endswith("+00:00")
        assert manifest.example_ids == ("f-1", "f-2")
        assert store.get("alice", 1) == manifest
        folder = store.folder("alice", 1)
        assert folder == root / "alice" / "v0001"
        assert (folder / WEIGHTS).read_bytes() == (candidate / WEIGHTS).read_bytes()
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", WEIGHTS, "manifest.json"]

    def test_publishing_does_not_activate(self, store: AdapterStore, candidate: Path) -> None:
        store.publish("alice", candidate, make_draft(2))
        assert store.active("alice") == 2

    def test_the_candidate_is_left_as_it_was(self, store: AdapterStore, candidate: Path) -> None:
        before = snapshot(candidate)
        store.publish("alice", candidate, make_draft(2))
        assert snapshot(candidate) == before

    def test_other_files_of_the_candidate_are_not_published(self, store: AdapterStore, candidate: Path) -> None:
        (candidate / "optimizer.bin").write_text("large")
        version = store.publish("alice", candidate, make_draft()).version
        assert not (store.folder("alice", version) / "optimizer.bin").exists()

    def test_a_number_is_never_used_twice(self, store: AdapterStore, root: Path, candidate: Path) -> None:
        shutil.rmtree(root / "alice" / "v0003")
        assert store.publish("alice", candidate, make_draft(2)).version == 4

    def test_numbers_go_on_from_the_folders_when_the_last_number_is_lost(
        self, store: AdapterStore, root: Path, candidate: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (root / "alice" / "last").write_text("rubbish")
        assert store.publish("alice", candidate, make_draft()).version == 4
        assert "rubbish" in caplog.text
        (root / "alice" / "last").unlink()
        assert store.publish("alice", candidate, make_draft()).version == 5

    def test_versions_beyond_four_digits_are_kept_in_order(
        self, store: AdapterStore, root: Path, candidate: Path
    ) -> None:
        (root / "alice" / "last").write_text("9998\n")
        for _ in range(2):
            store.publish("alice", candidate, make_draft())
        assert [manifest.version for manifest in store.versions("alice")] == [1, 2, 3, 9999, 10000]

    @pytest.mark.parametrize("missing", ["adapter_config.json", WEIGHTS])
    def test_a_candidate_that_lacks_a_file_changes_nothing(
        self, store: AdapterStore, root: Path, candidate: Path, missing: str
    ) -> None:
        (candidate / missing).unlink()
        before = snapshot(root)
        with pytest.raises(AdapterCorrupt, match=missing):
            store.publish("alice", candidate, make_draft())
        assert snapshot(root) == before

    def test_a_full_disk_changes_nothing(
        self, store: AdapterStore, root: Path, candidate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        before = snapshot(root)
        for module, step in ((shutil, "copyfile"), (os, "fsync"), (os, "rename")):
            with monkeypatch.context() as patch:
                patch.setattr(module, step, fail)
                with pytest.raises(DiskFull):
                    store.publish("alice", candidate, make_draft())
        assert snapshot(root) == before

    def test_what_a_dead_publisher_left_is_removed_by_the_next(
        self, store: AdapterStore, root: Path, candidate: Path
    ) -> None:
        make_candidate(root / "alice" / ".publish-dead")
        (root / "alice" / ".active.0123456789ab.tmp").write_text("3")
        store.publish("alice", candidate, make_draft())
        left = sorted(path.name for path in (root / "alice").iterdir())
        assert left == [".lock", "active", "last", "v0001", "v0002", "v0003", "v0004"]

    def test_publishers_at_the_same_time_get_different_numbers(self, root: Path, candidate: Path) -> None:
        numbers: list[int] = []

        def publish() -> None:
            for _ in range(5):
                numbers.append(AdapterStore(root).publish("alice", candidate, make_draft()).version)

        threads = [threading.Thread(target=publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(numbers) == list(range(1, 21))
        assert AdapterStore(root).problems("alice", BASE_SHA256) == {}


class TestReading:
    def test_an_empty_store_answers_everything(self, root: Path) -> None:
        store = AdapterStore(root)
        assert store.profiles() == []
        assert store.versions("default") == []
        assert store.active("default") is None
        assert store.problems("default") == {}
        store.activate("default", None)
        with pytest.raises(AdapterNotFound, match="none yet"):
            store.get("default", 1)
        with pytest.raises(AdapterNotFound, match="nothing to roll back"):
            store.parent("default")
        assert not root.exists()

    def test_profiles_do_not_mix(self, store: AdapterStore, candidate: Path) -> None:
        assert store.publish("bob", candidate, make_draft()).version == 1
        assert store.profiles() == ["alice", "bob"]
        assert store.active("bob") is None
        assert [manifest.profile for manifest in store.versions("bob")] == ["bob"]

    def test_foreign_files_in_the_folder_are_no_versions_and_no_profiles(self, store: AdapterStore, root: Path) -> None:
        for name in ("v4", "v0000", "v00005", "v0006.bak", "notes"):
            (root / "alice" / name).mkdir()
        (root / "alice" / "v0007").write_text("a file")
        (root / "Not A Profile").mkdir()
        (root / "empty").mkdir()
        (root / "README").write_text("hello")
        assert [manifest.version for manifest in store.versions("alice")] == [1, 2, 3]
        assert store.profiles() == ["alice"]

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc",
            "a\n",
            "A",
            "-a",
            "_a",
            "a.b",
            "base",
            "v2",
            "a" * 65,
            "ä",
            "a\x00",
            "\ud800",
        ],
    )
    def test_a_name_that_no_profile_can_have_is_refused_everywhere(
        self, store: AdapterStore, root: Path, candidate: Path, name: str
    ) -> None:
        before = snapshot(root.parent)
        for call in (
            lambda: store.publish(name, candidate, make_draft()),
            lambda: store.versions(name),
            lambda: store.get(name, 1),
            lambda: store.folder(name, 1),
            lambda: store.verify(name, 1, None),
            lambda: store.problems(name),
            lambda: store.active(name),
            lambda: store.activate(name, None),
            lambda: store.activate(name, 1),
            lambda: store.parent(name),
            lambda: list(store.lineage(name)),
            lambda: store.remove(name, 1),
        ):
            with pytest.raises(AdapterNotFound, match="a profile's name is"):
                call()
        assert snapshot(root.parent) == before

    @pytest.mark.parametrize("version", [0, -1, 4, 10**400])
    def test_an_unknown_version_is_not_found_and_changes_nothing(
        self, store: AdapterStore, root: Path, version: int
    ) -> None:
        before = snapshot(root)
        for call in (store.get, store.folder, store.activate, store.remove):
            with pytest.raises(AdapterNotFound, match="there are: v1, v2, v3"):
                call("alice", version)
        assert snapshot(root) == before


class TestDamage:
    def test_a_flipped_byte_is_found_and_the_version_cannot_be_activated(self, store: AdapterStore, root: Path) -> None:
        flip_a_byte(root / "alice" / "v0003" / WEIGHTS)
        with pytest.raises(AdapterCorrupt, match=WEIGHTS):
            store.activate("alice", 3)
        assert store.active("alice") == 2
        assert list(store.problems("alice")) == [3]

    def test_a_missing_file_is_found(self, store: AdapterStore, root: Path) -> None:
        (root / "alice" / "v0003" / "adapter_config.json").unlink()
        with pytest.raises(AdapterCorrupt, match="cannot be read"):
            store.verify("alice", 3, BASE_SHA256)

    @pytest.mark.parametrize("name", ["manifest.json", WEIGHTS])
    @pytest.mark.parametrize("kind", ["pipe", "device", "link"])
    def test_what_is_no_plain_file_is_corrupt(self, store: AdapterStore, root: Path, name: str, kind: str) -> None:
        path = store.folder("alice", 3) / name
        copy = path.rename(root / name)
        os.mkfifo(path) if kind == "pipe" else path.symlink_to(copy if kind == "link" else "/dev/zero")
        with pytest.raises(AdapterCorrupt, match=name if name == WEIGHTS else "no readable manifest"):
            store.verify("alice", 3, BASE_SHA256)
        assert store.verify("alice", 2, BASE_SHA256)

    def test_a_pointer_that_is_no_plain_file_is_named(self, store: AdapterStore, root: Path) -> None:
        (root / "alice" / "active").unlink()
        os.mkfifo(root / "alice" / "active")
        with pytest.raises(AdapterCorrupt, match="active cannot be read"):
            store.active("alice")

    def test_a_manifest_that_forgets_a_file_is_corrupt(self, store: AdapterStore, root: Path) -> None:
        set_in_manifest(root / "alice" / "v0003", files={})
        with pytest.raises(AdapterCorrupt, match="no sha256 for"):
            store.verify("alice", 3, BASE_SHA256)

    def test_another_base_model_is_incompatible(self, store: AdapterStore) -> None:
        assert store.verify("alice", 3, BASE_SHA256) == store.folder("alice", 3)
        for call in (store.verify, store.activate):
            with pytest.raises(AdapterIncompatible, match="smollm2-135m-instruct"):
                call("alice", 3, "c" * 64)
        with pytest.raises(AdapterIncompatible, match="not for the base model in use"):
            store.activate("alice", store.parent("alice"), "c" * 64)
        assert store.active("alice") == 2

    def test_a_newer_manifest_is_incompatible_and_the_others_go_on(
        self, store: AdapterStore, root: Path, candidate: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        set_in_manifest(root / "alice" / "v0003", schema=2, news="unknown")
        before = snapshot(root)
        for call in (store.get, store.activate):
            with pytest.raises(AdapterIncompatible, match=r"v0003: .*newer lars-agent"):
                call("alice", 3)
        assert snapshot(root) == before
        with caplog.at_level(logging.WARNING):
            assert [manifest.version for manifest in store.versions("alice")] == [1, 2]
        assert "v0003" in caplog.text
        assert store.publish("alice", candidate, make_draft(2)).version == 4

    @pytest.mark.parametrize("text", [None, "", "{", "\x00" * 300])
    def test_a_manifest_that_cannot_be_read_is_corrupt(self, store: AdapterStore, root: Path, text: str | None) -> None:
        path = root / "alice" / "v0003" / "manifest.json"
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(AdapterCorrupt, match="v0003"):
            store.get("alice", 3)

    def test_a_folder_that_was_copied_is_not_taken_for_another_version(self, store: AdapterStore, root: Path) -> None:
        shutil.copytree(root / "alice" / "v0001", root / "alice" / "v0005")
        shutil.copytree(root / "alice", root / "eve")
        with pytest.raises(AdapterCorrupt, match="alice v1"):
            store.get("alice", 5)
        with pytest.raises(AdapterCorrupt, match="alice v2"):
            store.parent("eve")

    @pytest.mark.parametrize("text", ["", "two", "-1", "0", "1 2", "²", "\x00"])
    def test_a_pointer_that_says_nothing_is_corrupt_and_can_be_replaced(
        self, store: AdapterStore, root: Path, text: str
    ) -> None:
        (root / "alice" / "active").write_text(text)
        with pytest.raises(AdapterCorrupt, match="activate a version"):
            store.active("alice")
        store.activate("alice", 1)
        assert store.active("alice") == 1


class TestPointer:
    def test_any_version_and_the_base_model_can_be_activated(self, store: AdapterStore) -> None:
        for version in (3, None, 1):
            store.activate("alice", version)
            assert store.active("alice") == version

    def test_rolling_back_follows_the_parents_to_the_base_model(self, store: AdapterStore) -> None:
        store.activate("alice", 3)
        parents = []
        for _ in range(3):
            parents.append(store.parent("alice"))
            store.activate("alice", parents[-1])
        assert parents == [2, 1, None]
        with pytest.raises(AdapterNotFound, match="nothing to roll back"):
            store.parent("alice")

    def test_rolling_back_goes_to_the_parent_not_to_the_number_before(
        self, store: AdapterStore, candidate: Path
    ) -> None:
        store.publish("alice", candidate, make_draft(1))
        store.activate("alice", 4)
        assert store.parent("alice") == 1

    def test_a_damaged_version_can_be_rolled_back(self, store: AdapterStore, root: Path) -> None:
        flip_a_byte(root / "alice" / "v0002" / WEIGHTS)
        store.activate("alice", store.parent("alice"))
        assert store.active("alice") == 1

    @pytest.mark.parametrize("gone", [True, False])
    def test_rolling_back_to_a_parent_that_cannot_serve_changes_nothing(
        self, store: AdapterStore, root: Path, gone: bool
    ) -> None:
        parent = root / "alice" / "v0001"
        shutil.rmtree(parent) if gone else flip_a_byte(parent / WEIGHTS)
        with pytest.raises(AdapterError) as caught:
            store.activate("alice", store.parent("alice"))
        assert caught.type is (AdapterNotFound if gone else AdapterCorrupt)
        assert store.active("alice") == 2

    def test_the_pointer_survives_another_store_object(self, store: AdapterStore, root: Path) -> None:
        assert AdapterStore(root).active("alice") == store.active("alice") == 2


class TestRemoval:
    def test_a_removed_version_is_gone_and_the_others_are_as_they_were(self, store: AdapterStore, root: Path) -> None:
        before = {name: data for name, data in snapshot(root).items() if "v0003" not in name}
        store.remove("alice", 3)
        assert snapshot(root) == before
        assert [manifest.version for manifest in store.versions("alice")] == [1, 2]
        with pytest.raises(AdapterNotFound, match="there are: v1, v2"):
            store.remove("alice", 3)

    def test_the_version_in_use_and_its_ancestors_are_not_removed(self, store: AdapterStore, root: Path) -> None:
        before = snapshot(root)
        assert list(store.lineage("alice")) == [2, 1]
        for version in (1, 2):
            with pytest.raises(AdapterInUse, match="v2 is in use"):
                store.remove("alice", version)
        assert snapshot(root) == before

    def test_under_the_base_model_every_version_may_go(self, store: AdapterStore) -> None:
        store.activate("alice", None)
        assert list(store.lineage("alice")) == []
        for version in (2, 1, 3):
            store.remove("alice", version)
        assert store.versions("alice") == []
        assert store.profiles() == ["alice"]

    @pytest.mark.parametrize("last", [None, "lost", "1"])
    def test_the_number_of_a_removed_version_is_never_used_again(
        self, store: AdapterStore, root: Path, candidate: Path, last: str | None
    ) -> None:
        path = root / "alice" / "last"
        path.unlink() if last is None else path.write_text(last)
        store.remove("alice", 3)
        assert store.publish("alice", candidate, make_draft(2)).version == 4

    @pytest.mark.parametrize("damage", ["pointer", "manifest", "ancestor gone"])
    def test_where_the_line_in_use_cannot_be_read_nothing_is_removed(
        self, store: AdapterStore, root: Path, damage: str
    ) -> None:
        if damage == "pointer":
            (root / "alice" / "active").write_text("?")
        elif damage == "manifest":
            (root / "alice" / "v0001" / "manifest.json").write_text("{")
        else:
            shutil.rmtree(root / "alice" / "v0001")
        before = snapshot(root)
        with pytest.raises(AdapterCorrupt):
            store.remove("alice", 3)
        assert snapshot(root) == before

    def test_a_line_that_runs_in_a_circle_ends(self, store: AdapterStore, root: Path) -> None:
        set_in_manifest(root / "alice" / "v0001", parent=2)
        assert list(store.lineage("alice")) == [2, 1]

    def test_a_version_that_is_removed_between_verifying_and_moving_is_not_put_in_use(
        self, store: AdapterStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        verify = store.verify

        def verify_and_lose(profile: str, version: int, base_sha256: str | None) -> Path:
            folder = verify(profile, version, base_sha256)
            AdapterStore(folder.parents[1]).remove(profile, version)
            return folder

        monkeypatch.setattr(store, "verify", verify_and_lose)
        with pytest.raises(AdapterNotFound, match="v3 has just been removed"):
            store.activate("alice", 3)
        assert store.active("alice") == 2

    def test_a_year_of_versions_is_listed_by_one_look_into_the_folder(
        self, store: AdapterStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks, look = [], ProfileDir.versions
        monkeypatch.setattr(ProfileDir, "versions", lambda home: looks.append(home) or look(home))
        assert len(store.versions("alice")) == 3
        assert store.problems("alice") == {}
        assert len(looks) == 2

    def test_a_manifest_is_read_once_and_again_when_it_is_another(
        self, store: AdapterStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, read, read_plain = store.versions("alice"), [], adapters.read_plain
        monkeypatch.setattr(adapters, "read_plain", lambda path, **how: read.append(path) or read_plain(path, **how))
        assert store.versions("alice") == before
        assert read == []
        path = root / "alice" / "v0002" / "manifest.json"
        text = path.read_text()
        for changed in (text.replace('"created"', '"created_"'), text):  # in place, and back
            path.write_text(changed)
            assert (store.versions("alice") == before) == (changed == text)
        assert read == [path, path]
