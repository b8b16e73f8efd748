"""The device, the program and the sizes of its files, without a name of either's owner."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from lars_agent.files import read_plain
from lars_agent.memory.allocator import thrifty_environment
from lars_agent.records import parse_json
from service.housekeeping.sweep import taken_bytes
from service.process.version import package_version
from service.settings.load import Settings
from service.support.allowed import numbers

LIBRARIES = ("torch", "transformers", "safetensors", "fastapi", "uvicorn", "sqlalchemy", "pydantic", "structlog")
SYSTEMS = {"debian", "ubuntu", "raspbian", "fedora", "arch", "nixos", "alpine", "opensuse", "rhel", "linuxmint"}
MACHINES = {"x86_64", "aarch64", "armv7l", "riscv64", "ppc64le", "s390x"}
FLAGS = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "asimddp", "bf16", "i8mm"}
BOARD, BOARD_FILE = re.compile(r"Raspberry Pi \d[\w .+]{0,40}"), Path("/proc/device-tree/model")
MODEL = numbers(
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)


def device_told() -> dict[str, Any]:
    """Return versions and hardware; of free texts, such as a kernel's name, only what is a number or well known."""
    return {
        "lars_agent": package_version(),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "sqlite": sqlite3.sqlite_version,
        "system": _system(),
        "kernel": (re.match(r"[\d.]+", platform.release()) or [None])[0],
        "machine": _known(platform.machine(), MACHINES),
        "board": _board(),
        "cores": os.cpu_count(),
        "flags": sorted(FLAGS & _flags()),
        "memory_bytes": psutil.virtual_memory().total,
        "available_bytes": psutil.virtual_memory().available,
        "swap_bytes": psutil.swap_memory().total,
        "jemalloc": "LD_PRELOAD" in thrifty_environment({}),
        "under_systemd": Path("/run/systemd/system").is_dir(),
        "is_root": os.geteuid() == 0,
        "is_venv": sys.prefix != sys.base_prefix,
    }


def files_told(settings: Settings) -> dict[str, Any]:
    """Return the sizes of what is in the state folder, by kind, of its models, and of its disk. Raises OSError."""
    folder, disk = settings.data_dir, shutil.disk_usage(settings.data_dir)
    kinds = {
        "database": list(folder.glob(f"{settings.database_path.name}*")),
        "adapters": [settings.adapters_dir],
        "jobs": [settings.jobs_dir],
        "models": [settings.models_dir],
    }
    sizes = {kind: taken_bytes(*paths) for kind, paths in kinds.items()}
    models = [MODEL(parse_json(read_plain(path))) for path in settings.models_dir.glob("*/config.json")]
    return {"bytes": sizes, "models": models, "disk_free_bytes": disk.free, "disk_size_bytes": disk.total}


def _version(name: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(name)
    return None


def _system() -> str:
    with suppress(OSError):
        return _known(platform.freedesktop_os_release().get("ID", ""), SYSTEMS)
    return "other"


def _board() -> str | None:
    with suppress(OSError, ValueError):
        found = BOARD.fullmatch(BOARD_FILE.read_text().rstrip("\0"))
        return found[0] if found else "other"
    return None


def _flags() -> set[str]:
    with suppress(OSError, ValueError):
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        return set(found[1].split()) if found else set()
    return set()


def _known(word: str, words: set[str]) -> str:
    return word if word in words else "other"
