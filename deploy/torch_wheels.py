"""Install PyTorch's build for the CPU where no other is of use: Linux on x86 without an NVIDIA GPU.

    python deploy/torch_wheels.py constraints.txt [FOLDER]

The version is the pinned one. PyPI's wheel for x86 brings CUDA's libraries, gigabytes that such a machine never loads.
The build for the CPU is looked for at

1. the environment variable TORCH_INDEX: the address of an index, as PyTorch's page on installation gives it (for "Pip"
   and "CPU"); `none` takes PyPI's wheel;
2. the places that pip is configured to look into;
3. the index that uv, the package installer, knows as PyTorch's for the CPU.

It says which build it takes and how large the download is, then installs torch alone, without what it depends on. Where
no build for the CPU is found it installs nothing, and says what the installation that follows will fetch. With FOLDER
the wheel is put there, and nothing is installed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NVIDIA = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the last one under WSL
TIMEOUT_S = 10
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def say(text: str) -> None:
    sys.stderr.write(f"torch: {text}\n")
    sys.stderr.flush()


def pinned(constraints: Path, machine: str) -> str:
    """Return the pinned version for the machine."""
    for line in constraints.read_text(encoding="utf-8").splitlines():
        requirement, _, marker = line.partition(";")
        applies = not marker or ("!=" in marker) != (machine == "aarch64")  # the only machine that has a pin of its own
        if requirement.startswith("torch==") and applies:
            return requirement.removeprefix("torch==").strip()
    sys.exit(f"{constraints} pins no torch for {machine}")


def needs_cpu_build() -> bool:
    on_x86 = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
    return on_x86 and not any(path.exists() for path in NVIDIA)


def installed() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def found(*options: str) -> list[str] | None:
    """Return the addresses of the files that pip would install; None if there is no such thing."""
    command = (*PIP, "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return [item["download_info"]["url"] for item in json.loads(done.stdout)["install"]]


def size(urls: Iterable[str]) -> str:
    """Return how many bytes are at the addresses, for people; those whose server does not say count nothing."""
    total = 0
    for url in urls:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S) as answer:
                total += int(answer.headers.get("Content-Length") or 0)
        except (OSError, ValueError):  # an unreachable server, too
            continue
    return f"{total / 2**20:,.0f} MiB" if total else "of a size that its server does not say"


def index_of_uv(torch: str) -> str | None:
    """Return the address of the index in which uv finds the build for the CPU; None if it cannot be reached."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text(f"torch=={torch}\n", encoding="utf-8")
        uv = [sys.executable, "-m", "uv"]
        environment = os.environ | {"UV_HTTP_TIMEOUT": str(TIMEOUT_S), "UV_HTTP_RETRIES": "0"}
        if subprocess.run([*uv, "--version"], capture_output=True, check=False).returncode:
            if subprocess.run(
                [*PIP, "install", "--quiet", "--target", folder, "uv"], capture_output=True, check=False
            ).returncode:
                return None
            environment["PYTHONPATH"] = folder
        options = ["--no-config", "--no-deps", "--no-header", "--torch-backend", "cpu", "--emit-index-annotation"]
        command = [*uv, "pip", "compile", *options, str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    address = re.search(r"^\s*# from (\S+)", done.stdout, re.M)
    return address[1] if address and "+cpu" in done.stdout else None


def options_for_cpu(torch: str) -> tuple[list[str], list[str]] | None:
    """Return pip's options for the build for the CPU, and the address of its file; None if it is nowhere."""
    build = f"torch=={torch}+cpu"
    index = os.environ.get("TORCH_INDEX")
    if index:
        places = [["--index-url", index]]
        if (urls := found("--no-deps", *places[0], build)) is None:
            sys.exit(f"torch: no {build} for this Python at TORCH_INDEX={index}; TORCH_INDEX=none goes without")
        return [*places[0], build], urls
    if (urls := found("--no-deps", build)) is not None:
        return [build], urls
    if (known := index_of_uv(torch)) and (urls := found("--no-deps", "--index-url", known, build)) is not None:
        return ["--index-url", known, build], urls
    return None


def main(constraints: Path, folder: str = "") -> None:
    torch = pinned(constraints, platform.machine())
    is_there = not folder and (installed() or "").split("+")[0] == torch
    if is_there or not needs_cpu_build():
        return None
    if os.environ.get("TORCH_INDEX") == "none":
        return say("PyPI's build, as TORCH_INDEX=none asks for")
    choice = options_for_cpu(torch)
    if choice is None:
        urls = found(f"torch=={torch}") or []
        say(f"no build for the CPU is within reach; PyPI's {torch}, with CUDA's libraries, is {size(urls)}")
        return say("to fetch less, stop now, set TORCH_INDEX to PyTorch's index for the CPU, and run this again")
    options, urls = choice
    say(f"this machine has no NVIDIA GPU: takes {torch}+cpu, {size(urls)}, from {urls[0].rpartition('/')[0]}")
    verb = ["download", "--dest", folder] if folder else ["install"]
    if subprocess.run([*PIP, *verb, "--quiet", "--no-deps", *options], check=False).returncode:
        sys.exit("torch: it could not be fetched; see above")
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
