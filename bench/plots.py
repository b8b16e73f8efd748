"""The figures of the results: memory and seconds against context, and tokens a second of each program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.memory.cell import DTYPES, METHODS, Cell, usual
from bench.suite import FAILED
from lars_agent.records import from_json

STYLE = Path(__file__).with_suffix(".mplstyle")
PANEL_WIDTH, LEAST_WIDTH, ROW_HEIGHT, LEGEND_HEIGHT = 2.7, 7.0, 2.7, 1.2  # inches
LEGEND_COLUMN = 2.7  # inches
SPEED_SIZE = (8.0, 4.2)  # inches
MB = 10**6
Records = Sequence[Mapping[str, Any]]
SECONDS = "seconds a step"
QUANTITIES: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "peak above the loaded model, MB": lambda record: (record["peak_bytes"] - record["loaded_bytes"]) / MB,
    SECONDS: lambda record: record["seconds"],
}


def plot_memory(records: Records, folder: Path) -> list[Path]:
    """Write a PNG and an SVG for each model of which at least two contexts were measured on a CPU."""
    written: list[Path] = []
    for model in sorted({str(record["model"]) for record in records}):
        shown = [item for item in records if item["model"] == model and _is_usual(item)]
        if len({item["context"] for item in shown}) > 1:
            name = "memory" if model == "default" else f"memory-{Path(model).name}"
            written += _memory_figure(shown, model, folder / name)
    return written


def plot_speed(speeds: Mapping[str, Mapping[str, float]], colours: Mapping[str, str], stem: Path) -> list[Path]:
    """Write bars, two panels in a row: `speeds` by the panel's title and the contender, with its colour."""
    with _figure(stem, len(speeds) // 2, 2, figsize=SPEED_SIZE) as (figure, panels, paths):
        for panel, (title, values) in zip(panels.flat, speeds.items(), strict=True):
            names = [name.replace("_", " ") for name in values]
            bars = panel.barh(names, list(values.values()), color=[colours[name] for name in values])
            panel.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
            panel.grid(visible=False, axis="y")
            panel.margins(x=0.15)
            panel.set_title(title, fontsize=10, loc="left")
        figure.tight_layout()
    return paths


@contextmanager
def _figure(stem: Path, rows: int, columns: int, **options: Any) -> Iterator[tuple[Any, Any, list[Path]]]:
    """A figure in our style, its panels, and its files `<stem>.png` and `<stem>.svg`, written after the block."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    with mpl.rc_context(fname=STYLE):
        figure, panels = pyplot.subplots(rows, columns, squeeze=False, **options)
        yield figure, panels, paths
        figure.savefig(paths[0], dpi=150, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None})
        pyplot.close(figure)


def _is_usual(record: Mapping[str, Any]) -> bool:
    """Tell whether a cell was measured as the method's users run it, once, and succeeded."""
    cell = from_json(Cell, record)
    if FAILED in record or cell.method not in METHODS:
        return False
    same = usual(cell.method, cell.context, cell.dtype, model=cell.model, threads=cell.threads, rank=cell.rank)
    return same.key == cell.key


def _memory_figure(records: Records, model: str, stem: Path) -> list[Path]:
    """A column of panels for each dtype, memory above and time below, the legend at the bottom."""
    dtypes = [dtype for dtype in DTYPES if any(item["dtype"] == dtype for item in records)]
    size = (max(LEAST_WIDTH, PANEL_WIDTH * len(dtypes)), 2 * ROW_HEIGHT + LEGEND_HEIGHT)
    shared = {"figsize": size, "sharex": True, "sharey": "row", "layout": "constrained"}
    with _figure(stem, 2, len(dtypes), **shared) as (figure, grid, paths):
        for row, quantity in zip(grid, QUANTITIES, strict=True):
            for panel, dtype in zip(row, dtypes, strict=True):
                _lines(panel, [item for item in records if item["dtype"] == dtype], quantity)
            row[0].set_ylabel(quantity)
        for top, bottom, dtype in zip(*grid, dtypes, strict=True):
            top.set_title(dtype, fontsize=10, fontweight="bold")
            bottom.set_xlabel("context, tokens")
        _axes(grid, sorted({item["context"] for item in records}))
        figure.suptitle(f"One training step, batch 1, reply 128 ({model} model)", x=0.01, ha="left", fontsize=11)
        _legend(figure, grid)
    return paths


def _lines(panel: Any, records: Records, quantity: str) -> None:
    for name, method in METHODS.items():
        found = {item["context"]: QUANTITIES[quantity](item) for item in records if item["method"] == name}
        points = sorted(point for point in found.items() if point[1] > 0)
        if points and not (name == "inference" and quantity == SECONDS):  # a reply is no step
            colour, marker, dash = method.look
            look = {"color": colour, "marker": marker, "linestyle": dash, "markersize": 4.5, "markerfacecolor": "white"}
            look |= {"linewidth": 2.2, "zorder": 5} if name == "response" else {"linewidth": 1.3}
            panel.plot(*zip(*points, strict=True), label=method.label, **look)


def _axes(grid: Any, contexts: Sequence[int]) -> None:
    """Make both axes logarithmic, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    labels = [f"{context // 1024}k" if context % 1024 == 0 else str(context) for context in contexts]
    for panel in grid.flat:
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(contexts, labels)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Any, grid: Any) -> None:
    """List each method once, in the order of `METHODS`."""
    found = {line.get_label(): line for panel in grid.flat for line in panel.get_lines()}
    handles = [found[method.label] for method in METHODS.values() if method.label in found]
    columns = int(figure.get_figwidth() // LEGEND_COLUMN)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.2)
