"""The command line of the benchmarks: `lars-agent bench ...`, or `python -m bench ...` in a checkout.

Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong use.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from bench import checkout, report
from bench.cells_file import CellsFile
from bench.methods import METHODS
from bench.planner_cell import DTYPES, RANGES
from lars_agent.errors import LarsError

PROGRAM = "lars-agent bench"
EXTRA = {"peft": "PEFT", "matplotlib": "matplotlib"}
CONTEXTS = "256,1024,2048"
SWEEP_DTYPES = "float32,bfloat16"
TIME_LIMIT_S = 4 * 3600.0
FAULT_PARTS = ("kills", "points", "cuts", "disk", "resume", "latency")
REAL_MODEL_PARTS = ("resume", "latency")
SERVE_PARTS = ("speed", "engine", "clients", "swaps", "feedback", "asleep")

app = typer.Typer(help="Measure what lars-agent claims.", no_args_is_help=True, add_completion=False)

Out = Annotated[Path | None, typer.Option(help="Folder of the figures. Default: bench/results in a checkout.")]
Models = Annotated[Path | None, typer.Option(help="Folder of the base models.")]
Threads = Annotated[int, typer.Option(min=0, help="torch's; 0 for all cores.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again what has been measured.")]
Retry = Annotated[bool, typer.Option("--retry", help="Measure again what failed.")]
TimeLimit = Annotated[float, typer.Option(help="Seconds that one cell may take; then it is written down as too slow.")]


@app.command()
def memory(
    model: Annotated[
        str, typer.Option(help="default, an installed name, a folder, llama-3.2-1b or qwen2.5-0.5b (random weights).")
    ] = "default",
    methods: Annotated[str, typer.Option(help="Separated by commas. " + ", ".join(METHODS))] = ",".join(METHODS),
    contexts: Annotated[str, typer.Option(help="Tokens of the prompt.")] = CONTEXTS,
    dtypes: Annotated[str, typer.Option(help="Of " + ", ".join(DTYPES) + ".")] = SWEEP_DTYPES,
    reply: Annotated[int, typer.Option(min=1, help="Tokens of the reply.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="The first two are watched, the rest timed.")] = 3,
    threads: Threads = 0,
    goals: Annotated[
        bool, typer.Option("--goals", help="Measure what the goals' rows need, and nothing else.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda: the GPU's peak is written down too.")] = "cpu",
    limit: Annotated[int | None, typer.Option(min=1, help="Bytes; each cell runs in a memory cgroup of that.")] = None,
    time_limit: TimeLimit = TIME_LIMIT_S,
    fresh: Fresh = False,
    retry: Retry = False,
    models: Models = None,
    out: Out = None,
) -> None:
    """Peak memory and seconds of a training step, each cell in a fresh process.

    The default is every method at contexts 256, 1,024 and 2,048 in float32 and bfloat16: an hour or two and 8 GB of
    memory on two cores. It goes on where it was stopped.

    All of it is --contexts 256,512,1024,2048,4096,8192 --dtypes float32,bfloat16,int8,int4: most of a day, and 40 GB
    for plain LoRA. A cell that dies is written down as such.
    """
    _require(*EXTRA)
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device!r} is none of cpu, cuda", param_hint="--device")
    if goals and threads:
        raise typer.BadParameter("--goals is measured on all cores", param_hint="--threads")
    chosen = _chosen(methods, tuple(METHODS), "--methods")
    widths, kinds = _numbers(contexts, "--contexts"), _chosen(dtypes, DTYPES, "--dtypes")
    from bench.goal_cells import goal_cells
    from bench.memory import measure_cells
    from bench.sweep import Sweep, grid

    folder = out or checkout.results_folder()
    sweep = Sweep(CellsFile(folder), models or checkout.models_folder(), time_limit, fresh, retry)
    settings = {"model": model, "reply": reply, "steps": steps, "threads": threads, "device": device}
    wanted = list(goal_cells()) if goals else list(grid(chosen, widths, kinds, limit_bytes=limit, **settings))
    measure_cells(sweep, wanted, folder, typer.echo)


@app.command()
def planner(
    cells: Annotated[int, typer.Option(min=1, help="How many random jobs.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the draw; the same seed draws the same jobs.")] = 0,
    models_drawn: Annotated[str, typer.Option("--of", help="Base models to draw from.")] = ",".join(RANGES),
    dtypes: Annotated[str, typer.Option(help="To draw from.")] = ",".join(DTYPES),
    threads: Threads = 0,
    time_limit: TimeLimit = TIME_LIMIT_S,
    fresh: Fresh = False,
    retry: Retry = False,
    models: Models = None,
    out: Out = None,
) -> None:
    """Predicted against measured peak of random jobs, run by the real worker (about two hours on two cores)."""
    _require("matplotlib")
    names, kinds = _chosen(models_drawn, tuple(RANGES), "--of"), _chosen(dtypes, DTYPES, "--dtypes")
    from bench.planner import due, run_planner
    from bench.planner_cell import draw_cells

    folder = out or checkout.results_folder()
    jobs = due(list(draw_cells(cells, seed, names, kinds)), folder, fresh=fresh, retry=retry)
    run_planner(jobs, models or checkout.models_folder(), folder, threads, time_limit, typer.echo)


@app.command()
def serve(
    parts: Annotated[str, typer.Option(help="Of " + ", ".join(SERVE_PARTS) + ".")] = ",".join(SERVE_PARTS),
    rounds: Annotated[int, typer.Option(min=1, help="How often all contenders of a comparison take turns.")] = 5,
    models: Models = None,
    out: Out = None,
) -> None:
    """How fast the endpoint serves, next to llama.cpp and transformers; what swaps and feedback take (half an hour).

    llama.cpp is run by node and fetched with npm; nothing else may run beside.
    """
    _require("matplotlib")
    chosen = _chosen(parts, SERVE_PARTS, "--parts")
    from bench.ready_model import ready_model
    from bench.serve import Place, measure_serving

    folder, library = out or checkout.results_folder(), models or checkout.models_folder()
    for dtype in ("int4", "int8"):
        model = ready_model("default", dtype, "cpu", library)
    measure_serving(chosen, Place(model, library.parent, rounds), folder, typer.echo)


@app.command()
def faults(
    parts: Annotated[str, typer.Option(help="Of " + ", ".join(FAULT_PARTS) + ".")] = ",".join(FAULT_PARTS),
    kills: Annotated[int, typer.Option(min=1, help="kill -9 at moments that nobody chose.")] = 300,
    points: Annotated[int, typer.Option(min=1, help="kill -9 right before a step of publishing.")] = 50,
    cuts: Annotated[int, typer.Option(min=1, help="Power cuts.")] = 25,
    disk: Annotated[int, typer.Option(min=1, help="Writes at which the disk becomes full; there are 21.")] = 21,
    seed: Annotated[int, typer.Option(help="Of what is drawn; the moments also depend on how fast the device is.")] = 0,
    models: Models = None,
    out: Out = None,
) -> None:
    """What survives kills, power cuts and full disks, and what training costs whoever asks meanwhile (an hour).

    Power cuts and full disks need root, and a system that lets it mount; the power cuts' control needs eatmydata. For
    the latency nothing else may run beside.
    """
    chosen = _chosen(parts, FAULT_PARTS, "--parts")
    from bench.faults import Torture, measure_faults
    from bench.ready_model import ready_model

    library = models or checkout.models_folder()
    if set(chosen) & set(REAL_MODEL_PARTS):
        ready_model("default", "bfloat16", "cpu", library)
    torture = Torture(seed, kills, points, cuts, disk, library)
    measure_faults(chosen, torture, out or checkout.results_folder(), typer.echo)


@app.command("report")
def report_(out: Out = None) -> None:
    """Print every figure against its goal; in a checkout, write the README's table too."""
    files = report.result_files(out or report.SHIPPED)
    if not files:
        raise LarsError(f"no results in {out or report.SHIPPED}; run: {PROGRAM} memory --goals")
    for text in report.lines({area: record["rows"] for area, record in files.items()}):
        typer.echo(text)
    if checkout.CHECKOUT is not None and out is None:
        report.write_table(checkout.CHECKOUT / "README.md", report.table(files))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; never shows a stack trace for what a user can cause, and leaves no process behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app(args=arguments, prog_name=PROGRAM)
    except (LarsError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def _require(*packages: str) -> None:
    """Raises LarsError where one of the extra's packages is missing."""
    missing = [EXTRA[name] for name in packages if find_spec(name) is None]
    if missing:
        raise LarsError(f"{' and '.join(missing)} must be installed for this; run: pip install 'lars-agent[bench]'")


def _chosen(text: str, known: Sequence[str], option: str) -> list[str]:
    """The words of a list. Raises BadParameter that names the first unknown one."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise typer.BadParameter(f"{word!r} is none of {', '.join(known)}", param_hint=option)
    return words


def _numbers(text: str, option: str) -> list[int]:
    """The numbers of a list. Raises BadParameter that names the first one that is none."""
    for word in text.split(","):
        if not word.strip().isdecimal() or not int(word):
            raise typer.BadParameter(f"{word!r} is no number of tokens", param_hint=option)
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    main()
