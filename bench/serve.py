"""How the endpoint serves: `lars-agent bench serve`. Each part's figures are kept; rows are made of the newest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import record
from bench.asleep import asleep
from bench.cells_file import JsonLines
from bench.clients import throughput
from bench.engine_speed import engine_speeds
from bench.feedback_latency import feedback_latency
from bench.report import lines
from bench.serve_plot import draw_serving
from bench.serve_rows import serve_rows
from bench.speed import speed_runs
from bench.swaps import swaps

AREA = "serve"
COMMAND = "lars-agent bench serve"
FILE_NAME = "serve-runs.jsonl"
SERVED_DTYPES = ("bfloat16", "int4")
SWAPS, SWAPS_DTYPE = 200, "int4"  # whose products are the same for one row and for several, to the last bit
Tell = Callable[[str], None]
Found = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where the model lies, where what is fetched is kept, and how often the paired runs are repeated."""

    model: Path
    cache: Path
    rounds: int


PARTS: Mapping[str, Callable[[Place], Any]] = {
    "speed": lambda place: list(speed_runs(place.model, place.cache, place.rounds)),
    "engine": lambda place: engine_speeds(place.model),
    "clients": lambda place: [throughput(place.model, dtype) for dtype in SERVED_DTYPES],
    "swaps": lambda place: swaps(place.model, SWAPS_DTYPE, SWAPS),
    "feedback": lambda place: feedback_latency(place.model),
    "asleep": lambda place: asleep(place.model),
}


def measure_serving(parts: Sequence[str], place: Place, out: Path, tell: Tell) -> None:
    """Every part is measured, and what is made of all parts so far lies in `out`: rows and plots."""
    kept = JsonLines(out / FILE_NAME)
    for part in parts:
        tell(f"measuring: {part}")
        kept.append({"part": part, "figures": PARTS[part](place), **circumstances()})
    written, rows = write_serving(out)
    for text in lines({AREA: rows}):
        tell(text)
    tell(f"written: {', '.join(str(path) for path in written)}")


def write_serving(out: Path) -> tuple[list[Path], list[dict[str, Any]]]:
    """serve.json and the plots in `out`, from the newest figures of each part; their paths, and the rows."""
    newest: dict[str, Found] = {line["part"]: line["figures"] for line in JsonLines(out / FILE_NAME).records()}
    rows = serve_rows(newest)
    plots = draw_serving(newest, out)
    path = record.write(AREA, COMMAND, rows, out, runs=FILE_NAME, plots=[plot.name for plot in plots])
    return [path, *plots], rows


def circumstances() -> dict[str, Any]:
    return {
        "commit": record.commit(),
        "when": record.now(),
        "machine": record.machine(),
        "versions": record.versions(),
    }
