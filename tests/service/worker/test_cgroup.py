"""Choice of the cgroup, the files written in it, and the error of a worker that was killed at its limit.

The tree is one of plain files, the processes are real. `make rehearse-limit` meets a real kernel and systemd.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.worker.cgroup import Cgroup, CgroupUnavailable, is_delegated, take_cgroup
from service.worker.memory_limit import MemoryLimit
from service.worker.process import PID_NAME, WorkerProcess
from service.worker.worker_exit import WorkerExit
from tests.service.house import REPOSITORY, House

BUDGET = 123_456_789
FILES = ("memory.max", "memory.oom.group", "memory.swap.max", "cgroup.kill")

# Does as a kernel does at the limit (the last argument but one holds the counts), after a copy of its cgroup's files.
KILLED = """
import os, pathlib, shutil, signal, sys
train, counts, folder = sys.argv[1:]
shutil.copytree(train, pathlib.Path(folder, "seen"))
pathlib.Path(train, "memory.events").write_text(counts)
os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass
class Tree:
    """A cgroup2 tree as the kernel would show it: a folder that is made has its files, and is removed with them."""

    root: Path
    delegated: set[Path] = field(default_factory=set)
    controllers: str = "cpu memory pids"
    swap: bool = True
    busy: int = 0  # how often a folder says that processes still end in it

    @property
    def service(self) -> Path:
        return self.root / "system.slice" / "lars-agent.service"

    @property
    def train(self) -> Path:
        return self.service / "train"

    def populate(self, folder: Path) -> None:
        for name in FILES if self.swap else [name for name in FILES if "swap" not in name]:
            (folder / name).touch()
        (folder / "cgroup.procs").touch()
        (folder / "cgroup.subtree_control").touch()
        (folder / "cgroup.controllers").write_text(self.controllers)
        (folder / "memory.events").write_text("low 0\nmax 0\noom 0\noom_kill 0\n")
        (folder / "memory.peak").write_text("1000\n")

    def getxattr(self, folder: Path, name: str) -> bytes:
        if name == "user.delegate" and folder in self.delegated:
            return b"1"
        raise OSError(errno.ENODATA, "no such attribute")

    def remove(self, folder: Path) -> None:
        if not folder.exists():
            raise FileNotFoundError(errno.ENOENT, "no such folder")
        if self.busy:
            self.busy -= 1
            raise OSError(errno.EBUSY, "device or resource busy")
        shutil.rmtree(folder)

    def proc(self, path: str = "/system.slice/lars-agent.service", mount: str = "cgroup2", number: str = "0:") -> Path:
        """A /proc/self that tells of this cgroup."""
        proc = self.root.parent / "proc"
        proc.mkdir(exist_ok=True)
        (proc / "cgroup").write_text(f"{number}:{path}\n")
        (proc / "mounts").write_text(f"proc /proc proc rw 0 0\ncgroup2 {self.root} {mount} rw,nosuid 0 0\n")
        return proc


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Tree:
    """What systemd makes for a service with Delegate=memory, whose only process we are."""
    tree, mkdir, rmdir = Tree(tmp_path / "cgroup"), Path.mkdir, Path.rmdir
    tree.service.mkdir(parents=True)
    tree.populate(tree.service)
    (tree.service / "cgroup.procs").write_text(f"{os.getpid()}\n")
    tree.delegated.add(tree.service)

    def make(folder: Path, *args: object, **options: object) -> None:
        mkdir(folder, *args, **options)
        if folder.is_relative_to(tree.root):
            tree.populate(folder)

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "rmdir", lambda folder: tree.remove(folder) if folder == tree.train else rmdir(folder))
    monkeypatch.setattr(os, "getxattr", tree.getxattr)
    return tree


@pytest.fixture
def folder(tmp_path) -> Path:
    """A job directory."""
    (tmp_path / "j-1").mkdir()
    return tmp_path / "j-1"


def refusal(proc: Path) -> str:
    with pytest.raises(CgroupUnavailable) as refused:
        take_cgroup(proc)
    return str(refused.value)


def run_killed(tree: Tree, folder: Path, counts: str) -> WorkerExit:
    command = (sys.executable, "-c", KILLED, str(tree.train), counts)
    ending = WorkerProcess(command, memory_limit=MemoryLimit(take_cgroup(tree.proc()))).run(folder, BUDGET)
    assert ending is not None
    assert ending.exit_status == -signal.SIGKILL
    return ending


def test_daemon_moves_into_main_and_turns_the_memory_controller_on(tree):
    take_cgroup(tree.proc())
    assert (tree.service / "main" / "cgroup.procs").read_text() == str(os.getpid())
    assert (tree.service / "cgroup.subtree_control").read_text() == "+memory"
    assert not tree.train.exists()


def test_daemon_that_systemd_started_in_main_stays_there(tree):
    (tree.service / "main").mkdir()
    (tree.service / "cgroup.procs").write_text("")
    (tree.service / "main" / "cgroup.procs").write_text(f"{os.getpid()}\n")
    take_cgroup(tree.proc("/system.slice/lars-agent.service/main"))
    assert (tree.service / "cgroup.subtree_control").read_text() == "+memory"
    assert not (tree.service / "main" / "main").exists()


def test_limit_is_set_for_a_run_and_gone_after_it(tree):
    cgroup = Cgroup(tree.service)
    assert cgroup.begin(BUDGET) == tree.train / "cgroup.procs"
    written = {name: (tree.train / name).read_text() for name in FILES}
    assert written == {
        "memory.max": str(BUDGET),
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "cgroup.kill": "",
    }
    assert cgroup.end() == (1000, False)
    assert not tree.train.exists()


def test_job_without_a_budget_has_no_limit_and_a_kernel_without_swap_accounting_is_not_asked_for_it(tree):
    tree.swap = False
    Cgroup(tree.service).begin(None)
    assert (tree.train / "memory.max").read_text() == "max"
    assert not (tree.train / "memory.swap.max").exists()


def test_missing_memory_peak_leaves_the_other_measurements(tree):
    cgroup = Cgroup(tree.service)
    cgroup.begin(BUDGET)
    (tree.train / "memory.peak").unlink()
    assert cgroup.end()[0] is None


def test_whatever_still_runs_in_the_cgroup_is_killed_before_it_is_removed(tree, monkeypatch):
    cgroup, killed = Cgroup(tree.service), []
    cgroup.begin(BUDGET)
    tree.busy = 2
    monkeypatch.setattr("time.sleep", lambda _: killed.append((tree.train / "cgroup.kill").read_text()))
    cgroup.end()
    assert killed == ["1", "1"]
    assert not tree.train.exists()


def test_remains_of_a_daemon_that_died_are_removed_before_the_next_run(tree):
    tree.train.mkdir()
    (tree.train / "memory.events").write_text("oom 1\noom_kill 1\n")
    cgroup = Cgroup(tree.service)
    cgroup.begin(BUDGET)
    assert cgroup.end()[1] is False


def test_cgroup_that_was_not_delegated_is_left_alone(tree):
    tree.delegated.clear()
    tree.delegated.add(tree.service.parent)  # the parent's manager is somebody else
    assert "Delegate=memory" in refusal(tree.proc())
    assert not (tree.service / "main").exists()
    assert (tree.service / "cgroup.subtree_control").read_text() == ""


def test_cgroup_that_another_process_shares_is_left_alone(tree):
    (tree.service / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    assert "process 1 shares" in refusal(tree.proc())
    assert not (tree.service / "main").exists()


def test_disabled_memory_controller_is_reported_with_the_setting_that_enables_it(tree):
    (tree.service / "cgroup.controllers").write_text("cpuset cpu io pids")
    assert "cgroup_enable=memory" in refusal(tree.proc())
    assert not (tree.service / "main").exists()


def test_read_only_cgroup_tree_is_reported(tree, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    proc = tree.proc()
    monkeypatch.setattr(Path, "mkdir", refuse)
    words = refusal(proc)
    assert "Read-only file system" in words
    assert "ProtectControlGroups=no" in words


def test_cgroups_of_version_1_the_root_cgroup_and_no_cgroups_are_refused_with_a_reason(tree, tmp_path):
    assert "systemd.unified_cgroup_hierarchy=1" in refusal(tree.proc(number="4:memory"))
    for path in ("/", "/../other.slice"):
        assert "no cgroup of its own" in refusal(tree.proc(path))
    assert "no cgroup of its own" in refusal(tree.proc(mount="cgroup"))
    assert "has no cgroups" in refusal(tmp_path / "nothing")


def test_without_the_delegation_attribute_the_owner_of_the_cgroup_decides(tree, monkeypatch):
    """As before systemd 251: the service's folder is its user's, the folder around it is root's."""
    tree.delegated.clear()
    assert not is_delegated(tree.service)  # both are ours: part of a tree that somebody else manages for us
    ours, stat = {tree.service}, Path.stat

    def owned(path: Path, **options: bool) -> os.stat_result:
        found = list(stat(path, **options))
        found[4] = os.geteuid() if path in ours else os.geteuid() + 1
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", owned)
    assert is_delegated(tree.service)
    assert not is_delegated(tree.service.parent)


def test_worker_enters_its_cgroup_before_it_is_the_worker(tree, folder):
    run_killed(tree, folder, "oom 0\noom_kill 0\n")
    seen = {name: (folder / "seen" / name).read_text() for name in ("cgroup.procs", "memory.max")}
    assert seen == {"cgroup.procs": "0", "memory.max": str(BUDGET)}
    record = json.loads((folder / PID_NAME).read_text())
    assert (record["limit"], record["limit_bytes"]) == ("cgroup", BUDGET)
    assert not tree.train.exists()


def test_error_names_the_memory_limit_at_which_the_worker_was_killed(tree, folder):
    ending = run_killed(tree, folder, "max 7\noom 1\noom_kill 1\n")
    assert ending.limit.peak_bytes == 1000
    assert "was killed at its memory limit of 123,456,789 bytes (memory.budget_bytes)" in str(ending.failure())


def test_kill_by_a_device_out_of_memory_is_not_reported_as_the_limit(tree, folder):
    words = str(run_killed(tree, folder, "max 0\noom 0\noom_kill 1\n").failure())
    assert "at its memory limit" not in words
    assert "which the system sends when memory runs out" in words


def test_worker_that_cannot_enter_its_cgroup_does_not_run_without_a_limit(tree, folder, monkeypatch):
    monkeypatch.setattr(Cgroup, "begin", lambda *_: tree.root / "gone" / "cgroup.procs")
    command = (sys.executable, "-c", "import sys; open(sys.argv[1] + '/ran', 'w')")
    ending = WorkerProcess(command, memory_limit=MemoryLimit(Cgroup(tree.service))).run(folder, BUDGET)
    assert ending is not None
    assert "cannot enter its cgroup" in str(ending.failure())
    assert not (folder / "ran").exists()


def test_failure_to_set_the_limit_leaves_the_guard_and_is_recorded(tree, folder, monkeypatch):
    def refuse(*_: object) -> Path:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(Cgroup, "begin", refuse)
    command = (sys.executable, "-c", "pass")
    ending = WorkerProcess(command, memory_limit=MemoryLimit(Cgroup(tree.service))).run(folder, BUDGET)
    assert ending is not None
    assert (ending.exit_status, ending.limit.kind) == (0, "guard")
    assert json.loads((folder / PID_NAME).read_text())["limit"] == "guard"


@pytest.mark.parametrize("kind", ["cgroup", "guard"])
def test_job_record_names_the_kind_of_memory_limit(tree, tmp_path, kind):
    house = House(tmp_path / "data")
    house.correct()
    limit = MemoryLimit(take_cgroup(tree.proc())) if kind == "cgroup" else MemoryLimit(reason="told to")
    supervisor = house.supervisor(memory_limit=limit)
    job = supervisor.adapt()
    assert supervisor.wait(30)
    row = house.db.jobs.get(job.id)
    assert row.status == "succeeded"
    assert row.spec["memory_limit"] == kind
    house.close()


def test_this_machine_gives_a_cgroup_or_a_reason_and_logs_it_once():
    code = (
        "import json; from service.worker.memory_limit import memory_limit; limit = memory_limit();"
        "print(json.dumps([limit.kind, limit.reason]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    *logged, last = done.stdout.splitlines()
    assert len(logged) == 1
    kind, reason = json.loads(last)
    assert (kind == "guard") is (reason is not None)
