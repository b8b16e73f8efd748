"""Measurements of the device and of its use: from /sys, /proc and logind.

A function returns None for what the device does not report, never raises, and takes at most `LOGIND_S`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from service.schedule.idle_policy import DeviceState, Window
from service.schedule.power import power
from service.schedule.raspberry_pi import throttled, under_voltage
from service.schedule.sysfs import PROC, SYS, folders, read

LOGIND_S = 2.0
LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
BETWEEN_S = 4.0  # two measurements of the processor, at least: less is noise
AWAY_FRESH_S = 10.0  # logind is asked no more often, for that takes a process


def celsius(sys: Path = SYS) -> float | None:
    """Return the temperature of the hottest sensor by which the kernel regulates heat."""
    texts = [read(folder / "temp") for folder in folders(sys / "class/thermal") if folder.name.startswith("thermal_")]
    found = [int(text) / 1000 for text in texts if text and text.lstrip("-").isdecimal()]
    return max((value for value in found if -40 < value < 150), default=None)  # others are not connected


def memory_pressure(proc: Path = PROC) -> float | None:
    """Return the percentage of the last ten seconds in which some program waited for memory (PSI)."""
    for line in (read(proc / "pressure/memory") or "").splitlines():
        if line.startswith("some "):
            with contextlib.suppress(ValueError, IndexError):
                return float(line.split("avg10=")[1].split()[0])
    return None


def available_bytes() -> int | None:
    """Return the memory that programs can still get without swapping."""
    with contextlib.suppress(OSError, psutil.Error):
        return int(psutil.virtual_memory().available)
    return None


def free_disk_bytes(folder: Path) -> int | None:
    """Return the free space on the disk of `folder`."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def away_s(command: Sequence[str] = ("busctl", "--json=short", "--timeout=1", "get-property", *LOGIND)) -> float | None:
    """Return the seconds since a session of this device was last used, from logind."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        query = [*command, "IdleHint", "IdleSinceHint"]
        reply = subprocess.run(query, capture_output=True, timeout=LOGIND_S, check=True, text=True).stdout
        hint, since = [json.loads(line)["data"] for line in reply.splitlines()]
        if not hint:
            return 0.0
        return max(0.0, time.time() - since / 1e6) if since else float("inf")
    return None


class Processor:
    """Use of the cores by other programs than the processes in `own` and their children."""

    def __init__(self, own: Callable[[], Sequence[int]] = lambda: [os.getpid()]) -> None:
        self._own = own
        self._at, self._total_s, self._process_s = time.monotonic(), _total_s(), _process_s()
        self._others: float | None = None
        self._busiest: str | None = None

    def others(self) -> tuple[float | None, str | None]:
        """Return their share of all cores since the last measurement, 0 to 1, and the name of the busiest one."""
        now = time.monotonic()
        if now - self._at < BETWEEN_S:
            return self._others, self._busiest
        total_s, process_s, own = _total_s(), _process_s(), self._family()
        seconds, cores = now - self._at, os.cpu_count() or 1
        rates = {pid: (process_s[pid] - self._process_s.get(pid, 0.0)) / seconds for pid in process_s}
        ours = sum(rates.get(pid, 0.0) for pid in own)
        if total_s is not None and self._total_s is not None:
            self._others = min(1.0, max(0.0, ((total_s - self._total_s) / seconds - ours) / cores))
        busiest = max(rates.keys() - own, key=rates.__getitem__, default=None)
        self._busiest = _name(busiest) if busiest is not None and rates[busiest] > 0.05 else None
        self._at, self._total_s, self._process_s = now, total_s, process_s
        return self._others, self._busiest

    def load(self, worker_threads: int) -> float | None:
        """Return the one-minute load average per core, without `worker_threads` that run all the time."""
        with contextlib.suppress(OSError):
            return max(0.0, os.getloadavg()[0] - worker_threads) / (os.cpu_count() or 1)
        return None

    def _family(self) -> set[int]:
        own = set(self._own())
        for pid in tuple(own):
            with contextlib.suppress(psutil.Error):
                own |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        return own


class DeviceReader:
    """Reads the state of this device.

    `own` returns our other processes, `quiet_s` the time since the last reply, `worker_threads` the number of our
    threads that run all the time now; `folder` lies on the disk that holds the data.
    """

    def __init__(
        self,
        folder: Path,
        own: Callable[[], Sequence[int]],
        quiet_s: Callable[[], float],
        worker_threads: Callable[[], int],
    ) -> None:
        self._folder, self._quiet_s, self._worker_threads = folder, quiet_s, worker_threads
        self._processor = Processor(lambda: [os.getpid(), *own()])
        self._away_s: float | None = None
        self._away_at = -AWAY_FRESH_S

    def read_device_state(self, window: Window) -> DeviceState:
        """Measure everything now; logind's answer may be up to `AWAY_FRESH_S` old."""
        if time.monotonic() - self._away_at >= AWAY_FRESH_S:
            self._away_s, self._away_at = away_s(), time.monotonic()
        others, busiest = self._processor.others()
        on_battery, charge, is_discharging = power()
        return DeviceState(
            window=window,
            request_age_s=self._quiet_s(),
            away_s=self._away_s,
            others_cpu=others,
            busiest=busiest,
            load=self._processor.load(self._worker_threads()),
            on_battery=on_battery,
            battery=charge,
            is_discharging=is_discharging,
            celsius=celsius(),
            throttled=throttled(),
            available_bytes=available_bytes(),
            memory_pressure=memory_pressure(),
            free_disk_bytes=free_disk_bytes(self._folder),
            under_voltage=under_voltage(),
        )


def _total_s() -> float | None:
    """Return the processor time of all cores since the device started."""
    with contextlib.suppress(OSError, psutil.Error):
        times = psutil.cpu_times()
        return float(times.user + times.system + getattr(times, "nice", 0.0))
    return None


def _process_s() -> dict[int, float]:
    """Return the processor time of each process."""
    found = ((process.pid, process.info["cpu_times"]) for process in psutil.process_iter(["cpu_times"]))
    return {pid: times.user + times.system for pid, times in found if times is not None}


def _name(pid: int) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).name()
    return None
