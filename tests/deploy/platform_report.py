"""This platform as the daemon sees it, one JSON object: `python platform_report.py`. Run by tests/deploy/arm64.sh.

With JSON files as arguments it prints them side by side, as the table of docs/raspberry-pi.md, without rows that agree.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

BUDGET_BYTES = 2**31


def report() -> dict[str, str]:
    """Return each property and its value, in words for a table."""
    import torch

    from lars_agent.memory.allocator import thrifty_environment
    from lars_agent.models.arithmetic import compute_dtype
    from service.schedule import device
    from service.schedule.raspberry_pi import throttled, under_voltage
    from service.worker.cgroup import CgroupUnavailable, take_cgroup

    try:
        take_cgroup()
        limit = "cgroup"
    except CgroupUnavailable:
        limit = "the worker's guard"
    return {
        "machine": platform.machine(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "page size": f"{os.sysconf('SC_PAGE_SIZE')} bytes",
        "vector instructions that torch uses": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": _yes(torch.backends.mkldnn.is_available()),
        "quantized products of torch": ", ".join(torch.backends.quantized.supported_engines),
        '`model.dtype = "auto"` computes in': str(compute_dtype("auto")).removeprefix("torch."),
        **{f"kernel for one row and weights in {bits} bits": _kernel(bits) for bits in (16, 8, 4)},
        "allocator of the worker": "jemalloc" if "LD_PRELOAD" in thrifty_environment({}) else "the C library's",
        "keyboard and mouse": _known(device.away_s()),
        "heat": _known(device.celsius()),
        "throttling": _known(throttled()),
        "voltage of the supply": _known(under_voltage()),
        "memory pressure": _known(device.memory_pressure()),
        "memory limit of the worker": limit,
        **_needs(),
    }


def _needs() -> dict[str, str]:
    """Return the predicted memory of the default model, as `lars-agent model pull default --dry-run` tells it."""
    from lars_agent.planning.preview import preview

    rows = {}
    for dtype in ("auto", "int8", "int4"):
        found = preview("default", dtype, BUDGET_BYTES)
        needs = (found.serving_bytes, found.training_bytes, found.least_training_bytes)
        rows[f"MiB to reply, to train, and at least to train, `{dtype}`"] = ", ".join(
            f"{n / 2**20:,.0f}" for n in needs
        )
    return rows


def _kernel(bits: int) -> str:
    """Return the kernel for weights in `bits` and what is computed in here, the one that is fastest in this process."""
    from lars_agent.models.arithmetic import compute_dtype
    from lars_agent.runtime.fast_linear import fastest_kernel

    kernel = fastest_kernel(bits, compute_dtype("auto"))  # type: ignore[arg-type]
    return "none is faster" if kernel is None else kernel.__name__  # type: ignore[attr-defined]


def _yes(it_is: bool) -> str:
    return "yes" if it_is else "no"


def _known(value: object) -> str:
    return "unknown" if value is None else "known"


def table(files: list[Path]) -> str:
    """Return the reports in `files` as a Markdown table; each column is named as its file."""
    reports = {file.stem: json.loads(file.read_text()) for file in files}
    names = [name for name in next(iter(reports.values())) if len({one[name] for one in reports.values()}) > 1]
    rows = [["", *reports], ["---"] * (len(reports) + 1)]
    rows += [[name, *(one[name] for one in reports.values())] for name in names]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table([Path(name) for name in sys.argv[1:]]) if sys.argv[1:] else json.dumps(report(), indent=1))  # noqa: T201
