"""Notifications to systemd, received on a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import uuid

import pytest

from service.process.sd_notify import SdNotify, Watchdog

QUIET_S = 0.2  # twenty beats' time


class Listener:
    """systemd's end."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(20)

    def hear(self) -> list[str]:
        return self._socket.recv(4096).decode().splitlines()

    def hears_nothing(self) -> bool:
        """What was said before is heard and forgotten; then nothing comes."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(4096):
                pass
        except BlockingIOError:
            pass
        self._socket.settimeout(QUIET_S)
        try:
            return not self._socket.recv(4096)
        except TimeoutError:
            return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def address(request, tmp_path) -> str:
    return str(tmp_path / "notify") if request.param == "file" else f"@lars-agent-{uuid.uuid4()}"


@pytest.fixture
def end(address):
    listener = Listener(address)
    yield listener
    listener.close()


def test_lines_are_sent_in_one_message(end, address):
    SdNotify(address).notify("READY=1", "STATUS=ready")
    assert end.hear() == ["READY=1", "STATUS=ready"]


def test_reload_notification_has_a_monotonic_timestamp(end, address):
    SdNotify(address).notify_reloading()
    first, second = end.hear()
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0


@pytest.mark.parametrize("address", [None, "/nowhere/notify"])
def test_missing_or_unreachable_socket_is_ignored(address):
    SdNotify(address).notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("60000000", None, 60.0),
        ("60000000", "own", 60.0),
        ("60000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_watchdog_settings_count_only_for_the_process_they_name(usec, pid, seconds):
    pid = str(os.getpid()) if pid == "own" else pid
    given = {"NOTIFY_SOCKET": "@a", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    environment = {name: value for name, value in given.items() if value is not None} | {"HOME": "/"}
    assert SdNotify.from_environment(environment) == SdNotify("@a", seconds)
    assert environment == {"HOME": "/"}  # what is started from here is not meant


def test_status_is_sent_when_it_changes_and_the_watchdog_between(end, address):
    words = iter(["loading", "loading", "ready"])
    heard = []

    async def main() -> None:
        watchdog = Watchdog(SdNotify(address, 0.02), lambda: next(words, "ready"), status_s=0.01)
        watchdog.start()
        while "STATUS=ready" not in heard or heard.count("WATCHDOG=1") < 3:
            heard.extend(await asyncio.to_thread(end.hear))
        watchdog.stop()

    asyncio.run(main())
    assert [line for line in heard if line.startswith("STATUS")] == ["STATUS=loading", "STATUS=ready"]


def test_blocked_event_loop_sends_no_watchdog_message(end, address):
    async def main() -> None:
        watchdog = Watchdog(SdNotify(address, 0.02), lambda: "ready", status_s=0.01)
        watchdog.start()
        while "WATCHDOG=1" not in await asyncio.to_thread(end.hear):
            pass
        silent: list[bool] = []
        thread = threading.Thread(target=lambda: silent.append(end.hears_nothing()))
        thread.start()
        thread.join()  # blocks the loop
        watchdog.stop()
        assert silent == [True]

    asyncio.run(main())


def test_without_systemd_nothing_is_sent():
    async def main() -> int:
        Watchdog(SdNotify(), lambda: "ready").start()
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1
