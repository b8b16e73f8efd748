"""The serving bench as a picture: tokens a second, of everyone, while a prompt is read and while a reply is made."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.contenders import CONTENDERS, LLAMACPP, TRANSFORMERS
from bench.memory_plot import BLUE, ORANGE, RED, STYLE
from bench.serve_rows import DECODE, PREFILL, of

LABELS = {PREFILL: "reading a prompt, tokens/s", DECODE: "replying, tokens/s"}
COLOURS = {LLAMACPP.name: ORANGE, TRANSFORMERS.name: RED}
SIZE = (8.0, 4.2)  # inches
NAME = "serve"


def draw_serving(parts: Mapping[str, Any], out: Path) -> list[Path]:
    """A PNG and an SVG in `out`; nothing where no speed was measured."""
    if "speed" not in parts:
        return []
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context(dict(STYLE)):
        return _save(parts["speed"], out)


def _save(runs: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    from matplotlib import pyplot

    counts = sorted({run["threads"] for run in runs})
    figure, panels = pyplot.subplots(len(counts), 2, figsize=SIZE, squeeze=False)
    for line, count in zip(panels, counts, strict=True):
        for panel, measured in zip(line, (PREFILL, DECODE), strict=True):
            _bars(panel, runs, count, measured)
            panel.set_title(f"{LABELS[measured]}, {count} thread{'s' if count > 1 else ''}", fontsize=10, loc="left")
    figure.tight_layout()
    written = [out / f"{NAME}.{suffix}" for suffix in ("png", "svg")]
    for path in written:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    pyplot.close(figure)
    return written


def _bars(panel: Any, runs: Sequence[Mapping[str, Any]], threads: int, measured: str) -> None:
    names = [one.name for one in CONTENDERS][::-1]
    values = [statistics.median(run[measured] for run in of(runs, name, threads)) for name in names]
    bars = panel.barh(
        [name.replace("_", " ") for name in names], values, color=[COLOURS.get(name, BLUE) for name in names]
    )
    panel.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    panel.grid(visible=False, axis="y")
    panel.margins(x=0.15)
