"""What can be seen of the device and its people. Each probe gives its value, or None where the device cannot tell.

Linux says most of it in files under /sys and /proc; who is at the keyboard is asked of logind. No probe raises, and
none takes longer than `ASKED_S`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

__all__ = ["Processor", "available_bytes", "away_s", "battery", "celsius", "free_disk_bytes", "memory_pressure",
           "throttled"]  # fmt: skip

SYS, PROC = Path("/sys"), Path("/proc")
ASKED_S = 2.0
THROTTLED_NOW = 0b1111  # Raspberry Pi's firmware: weak supply, capped, throttled, soft limit of temperature
LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
RASPBERRY = "devices/platform/soc/soc:firmware/get_throttled"
BETWEEN_S = 4.0  # two looks at the processor, at least: less is noise


def battery(sys: Path = SYS) -> tuple[bool | None, float | None]:
    """Whether a battery feeds the device, and its charge, 0 to 1. A mouse's battery is none of the device's."""
    supplies = [folder for folder in _folders(sys / "class/power_supply") if _read(folder / "scope") != "Device"]
    mains = [_read(folder / "online") for folder in supplies if _read(folder / "type") in ("Mains", "USB")]
    batteries = [folder for folder in supplies if _read(folder / "type") == "Battery"]
    charges = [int(text) / 100 for folder in batteries if (text := _read(folder / "capacity") or "").isdecimal()]
    charge = min(charges, default=None)
    if "1" in mains:
        return False, charge
    if any(_read(folder / "status") == "Discharging" for folder in batteries):
        return True, charge
    if batteries:
        return ("0" in mains) if mains else False, charge  # full, or charging from what has no name here
    return (False, None) if supplies and "0" not in mains else (None, None)


def celsius(sys: Path = SYS) -> float | None:
    """The hottest of the sensors that the kernel regulates heat by."""
    texts = [_read(folder / "temp") for folder in _folders(sys / "class/thermal") if folder.name.startswith("thermal_")]
    found = [int(text) / 1000 for text in texts if text and text.lstrip("-").isdecimal()]
    return max((value for value in found if -40 < value < 150), default=None)  # the others are not connected


def throttled(sys: Path = SYS) -> bool | None:
    """Whether the firmware slows the processor down just now; only a Raspberry Pi's says so."""
    text = _read(sys / RASPBERRY)
    with contextlib.suppress(ValueError):
        return None if text is None else bool(int(text, 16) & THROTTLED_NOW)
    return None


def memory_pressure(proc: Path = PROC) -> float | None:
    """Percent of the last ten seconds in which some program waited for memory (PSI)."""
    for line in (_read(proc / "pressure/memory") or "").splitlines():
        if line.startswith("some "):
            with contextlib.suppress(ValueError, IndexError):
                return float(line.split("avg10=")[1].split()[0])
    return None


def available_bytes() -> int | None:
    """What programs could still get without swapping."""
    with contextlib.suppress(OSError, psutil.Error):
        return int(psutil.virtual_memory().available)
    return None


def free_disk_bytes(folder: Path) -> int | None:
    """The room on the disk that `folder` lies on."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def away_s(command: Sequence[str] = ("busctl", "--json=short", "--timeout=1", "get-property", *LOGIND)) -> float | None:
    """Seconds for which no session of this device has been used, as logind has it; None without one."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        asked = [*command, "IdleHint", "IdleSinceHint"]
        said = subprocess.run(asked, capture_output=True, timeout=ASKED_S, check=True, text=True).stdout
        hint, since = [json.loads(line)["data"] for line in said.splitlines()]
        if not hint:
            return 0.0
        return max(0.0, time.time() - since / 1e6) if since else float("inf")
    return None


class Processor:
    """How busy other programs keep the cores; what the processes `own` gives, and their children, is left out."""

    def __init__(self, own: Callable[[], Sequence[int]] = lambda: [os.getpid()]) -> None:
        self._own = own
        self._at, self._spent, self._of = time.monotonic(), _spent(), _processes()
        self._others: float | None = None
        self._busiest: str | None = None

    def others(self) -> tuple[float | None, str | None]:
        """Their share of all cores since the last look, 0 to 1, and which one takes most of it."""
        now = time.monotonic()
        if now - self._at < BETWEEN_S:
            return self._others, self._busiest
        spent, of, own = _spent(), _processes(), self._family()
        seconds, cores = now - self._at, os.cpu_count() or 1
        rates = {pid: (of[pid] - self._of.get(pid, 0.0)) / seconds for pid in of}
        ours = sum(rates.get(pid, 0.0) for pid in own)
        if spent is not None and self._spent is not None:
            self._others = min(1.0, max(0.0, ((spent - self._spent) / seconds - ours) / cores))
        others = [pid for pid in rates if pid not in own]
        busiest = max(others, key=rates.__getitem__, default=None)
        self._busiest = _name(busiest) if busiest is not None and rates[busiest] > 0.05 else None
        self._at, self._spent, self._of = now, spent, of
        return self._others, self._busiest

    def load(self, worker_threads: int) -> float | None:
        """The one-minute load average a core, `worker_threads` that run all the time left out."""
        with contextlib.suppress(OSError):
            return max(0.0, os.getloadavg()[0] - worker_threads) / (os.cpu_count() or 1)
        return None

    def _family(self) -> set[int]:
        own = set(self._own())
        for pid in tuple(own):
            with contextlib.suppress(psutil.Error):
                own |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        return own


def _spent() -> float | None:
    """Seconds that the cores have worked since the start, all together."""
    with contextlib.suppress(OSError, psutil.Error):
        times = psutil.cpu_times()
        return float(times.user + times.system + getattr(times, "nice", 0.0))
    return None


def _processes() -> dict[int, float]:
    """Seconds that each process has worked."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def _name(pid: int) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).name()
    return None


def _folders(path: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(path.iterdir())


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="ascii").strip()
    return None
