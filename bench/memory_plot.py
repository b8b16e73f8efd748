"""The memory bench as a picture: peak above the loaded model, and seconds of a step, against context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cell import Cell
from bench.cells_file import FAILED
from bench.methods import METHODS, usual

DTYPES = ("float32", "bfloat16", "int8", "int4")
BLUE, SKY, GREEN, ORANGE, RED, PINK, BLACK = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#000000"
GREY = "#7F7F7F"
# Okabe and Ito's colours, which colour-blind readers tell apart: ours cold and whole, PEFT's warm and dashed.
LOOKS: Mapping[str, tuple[str, str, str]] = {  # colour, marker, dash
    "inference": (BLACK, "", ":"),
    "response": (BLUE, "o", "-"),
    "response+token": (SKY, "s", "-"),
    "prompt": (GREEN, "^", "-"),
    "causal": (GREEN, "v", "-"),
    "sequence": (GREEN, "D", "-"),
    "learned": (GREEN, "P", "-"),
    "sequence+plain": (GREEN, "x", "-."),
    "lora": (RED, "o", "--"),
    "lora+checkpointing": (ORANGE, "s", "--"),
    "lora+checkpointing+chunked": (ORANGE, "^", "--"),
    "lora-fa": (PINK, "D", "--"),
    "ia3": (PINK, "v", "--"),
    "velora": (GREY, "P", "--"),
}
STYLE: Mapping[str, Any] = {
    "svg.hashsalt": "lars-agent",  # with no date: the same figures make the same file
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
}
PANEL_WIDTH, LEAST_WIDTH, ROW_HEIGHT, LEGEND_HEIGHT = 2.7, 7.0, 2.7, 1.2  # inches
LEGEND_COLUMN = 2.7  # inches
MB = 10**6


@dataclass(frozen=True)
class Quantity:
    """What one row of panels shows."""

    label: str

    def of(self, record: Mapping[str, Any]) -> float:
        if self.label == SECONDS.label:
            return float(record["seconds"])
        return (float(record["peak_bytes"]) - float(record["loaded_bytes"])) / MB


PEAK, SECONDS = Quantity("peak above the loaded model, MB"), Quantity("seconds a step")


def draw(records: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """A PNG and an SVG in `out` for each model of which at least two contexts were measured on a CPU."""
    import matplotlib as mpl

    mpl.use("Agg")
    written: list[Path] = []
    for model in sorted({str(record["model"]) for record in records}):
        shown = [item for item in records if item["model"] == model and _is_usual(item)]
        if len({item["context"] for item in shown}) > 1:
            with mpl.rc_context(dict(STYLE)):
                written += _save(shown, model, out)
    return written


def _is_usual(record: Mapping[str, Any]) -> bool:
    """Whether a cell was measured as the method's users run it, once, and came to its end."""
    cell = Cell.from_record(record)
    if FAILED in record or cell.method not in METHODS:
        return False
    same = usual(cell.method, cell.context, cell.dtype, model=cell.model, threads=cell.threads, rank=cell.rank)
    return same.key == cell.key


def _save(records: Sequence[Mapping[str, Any]], model: str, out: Path) -> list[Path]:
    from matplotlib import pyplot

    figure = _figure(records, model)
    stem = "memory" if model == "default" else f"memory-{Path(model).name}"
    paths = [out / f"{stem}.png", out / f"{stem}.svg"]
    figure.savefig(paths[0], dpi=150, metadata={"Software": None})
    figure.savefig(paths[1], metadata={"Date": None})
    pyplot.close(figure)
    return paths


def _figure(records: Sequence[Mapping[str, Any]], model: str) -> Any:
    """A column of panels for each dtype, memory above and time below, the legend below."""
    from matplotlib import pyplot

    dtypes = [dtype for dtype in DTYPES if any(item["dtype"] == dtype for item in records)]
    size = (max(LEAST_WIDTH, PANEL_WIDTH * len(dtypes)), 2 * ROW_HEIGHT + LEGEND_HEIGHT)
    figure, grid = pyplot.subplots(
        2, len(dtypes), figsize=size, squeeze=False, sharex=True, sharey="row", layout="constrained"
    )
    for row, quantity in zip(grid, (PEAK, SECONDS), strict=True):
        for panel, dtype in zip(row, dtypes, strict=True):
            _lines(panel, [item for item in records if item["dtype"] == dtype], quantity)
        row[0].set_ylabel(quantity.label)
    for top, bottom, dtype in zip(*grid, dtypes, strict=True):
        top.set_title(dtype, fontsize=10, fontweight="bold")
        bottom.set_xlabel("context, tokens")
    _axes(grid, sorted({item["context"] for item in records}))
    figure.suptitle(f"One training step, batch 1, reply 128 ({model} model)", x=0.01, ha="left", fontsize=11)
    _legend(figure, grid)
    return figure


def _lines(panel: Any, records: Sequence[Mapping[str, Any]], quantity: Quantity) -> None:
    for method, (colour, marker, dash) in LOOKS.items():
        found = {item["context"]: quantity.of(item) for item in records if item["method"] == method}
        points = sorted(point for point in found.items() if point[1] > 0)
        if points and not (method == "inference" and quantity == SECONDS):  # a reply is no step
            look = {"color": colour, "marker": marker, "linestyle": dash, "markersize": 4.5, "markerfacecolor": "white"}
            look |= {"linewidth": 2.2, "zorder": 5} if method == "response" else {"linewidth": 1.3}
            panel.plot(*zip(*points, strict=True), label=METHODS[method].label, **look)


def _axes(grid: Any, contexts: Sequence[int]) -> None:
    """Both axes logarithmic, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    for panel in grid.flat:
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(contexts, [_short(context) for context in contexts])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _short(context: int) -> str:
    """1,024 tokens are 1k."""
    return f"{context // 1024}k" if context % 1024 == 0 else str(context)


def _legend(figure: Any, grid: Any) -> None:
    """Each method once, in the order of `LOOKS`."""
    found: dict[str, Any] = {}
    for panel in grid.flat:
        handles, labels = panel.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    order = [METHODS[method].label for method in LOOKS if METHODS[method].label in found]
    columns = int(figure.get_figwidth() // LEGEND_COLUMN)
    handles = [found[label] for label in order]
    figure.legend(handles, order, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.2)
