"""The command line of the benchmarks: `python -m bench ...` in a checkout.

Exit codes: 0 done, 1 failed (one line on stderr gives the reason), 2 wrong use.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Literal

import typer

from bench import report
from bench.memory.cell import DTYPES, METHODS
from bench.memory.dtypes import dtype_runs
from bench.memory.goals import CELLS, goal_cells, grid
from bench.memory.night import NIGHT, speedup, together
from bench.memory.night import PARTS as NIGHT_PARTS
from bench.memory.process import measure
from bench.models import ready_model
from bench.options import MODELS, PROGRAM, Models, Out, among, count, listed, require
from bench.planner.jobs import JOBS, RANGES, draw_jobs
from bench.quality import commands as quality_commands
from bench.record import CHECKOUT, RESULTS, claims
from bench.suite import Suite
from lars_agent.errors import LarsError

TIME_LIMIT_S = 4 * 3600.0
# Their modules are imported by their commands alone: they take seconds.
FAULT_PARTS = ("kills", "points", "cuts", "disk", "resume", "latency")
OPS_PARTS = (
    "idle_connections",
    "schemathesis_cases",
    "fuzz_files",
    "soak",
    "two_people",
    "ssh_runner",
    "systemd_exposure",
)
SERVE_PARTS = ("speed", "engine", "clients", "swaps", "feedback", "asleep", "grammar", "contended", "int4_path")
MEMORY = Suite("memory", f"{PROGRAM} memory --goals", (CELLS, JOBS, NIGHT))
app = typer.Typer(help="Measure the goals of lars-agent.", no_args_is_help=True, add_completion=False)
app.add_typer(quality_commands.app)

Threads = Annotated[int, typer.Option(min=0, help="torch's; 0 for all cores.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again what has been measured.")]
Retry = Annotated[bool, typer.Option("--retry", help="Measure again what failed.")]
TimeLimit = Annotated[float, typer.Option(help="Seconds that one cell may take; then it is recorded as too slow.")]


@app.command()
def families() -> None:
    """Write the page of model families: tiny random models of each, pulled and checked; a minute."""
    from bench.families import page  # imports torch

    for line in page():
        sys.stdout.write(line)


@app.command()
def memory(
    model: Annotated[str, typer.Option(help="default, a name, a folder, llama-3.2-1b or qwen2.5-0.5b.")] = "default",
    methods: Annotated[str, typer.Option(help="Separated by commas. " + ", ".join(METHODS))] = ",".join(METHODS),
    contexts: Annotated[str, typer.Option(help="Tokens of the prompt.")] = "256,1024,2048",
    dtypes: Annotated[str, typer.Option(help="Of " + ", ".join(DTYPES) + ".")] = "float32,bfloat16",
    reply: Annotated[int, typer.Option(min=1, help="Tokens of the reply.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="The first two warm up, the rest are timed.")] = 3,
    threads: Threads = 0,
    goals: Annotated[bool, typer.Option("--goals", help="Measure the cells of the goals, and nothing else.")] = False,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="With cuda the GPU's peak is recorded too.")] = "cpu",
    limit: Annotated[int | None, typer.Option(min=1, help="Bytes; each cell runs in a memory cgroup of that.")] = None,
    time_limit: TimeLimit = TIME_LIMIT_S,
    fresh: Fresh = False,
    retry: Retry = False,
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """Peak memory and seconds of a training step, each cell in a fresh process.

    The default is every method at contexts 256, 1,024 and 2,048 in float32 and bfloat16: an hour or two and 8 GB of
    memory on two cores. It resumes where it was stopped.

    All of it is --contexts 256,512,1024,2048,4096,8192 --dtypes float32,bfloat16,int8,int4: most of a day, and 40 GB
    for plain LoRA. A cell that dies is recorded as such.
    """
    require("PEFT", "matplotlib")
    if goals and threads:
        raise typer.BadParameter("--goals is measured on all cores", param_hint="--threads")
    chosen, kinds = among(methods, tuple(METHODS), "--methods"), among(dtypes, DTYPES, "--dtypes")
    lengths = listed(contexts, "--contexts", "no number of tokens", count)
    settings = {"model": model, "reply": reply, "steps": steps, "threads": threads, "device": device}
    cells = goal_cells() if goals else grid(chosen, lengths, kinds, limit_bytes=limit, **settings)
    run = partial(measure, models=models, time_limit_s=time_limit)
    MEMORY.measure(CELLS, map(asdict, cells), run, out, fresh=fresh, retry=retry)


@app.command()
def night(
    parts: Annotated[str, typer.Option(help="Of " + ", ".join(NIGHT_PARTS) + ".")] = ",".join(NIGHT_PARTS),
    rounds: Annotated[int, typer.Option(min=1, help="How often both take turns.")] = 3,
    against: Annotated[str, typer.Option(help="An earlier commit.")] = "e803412",
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """A night by a real daemon: its time next to an earlier commit's, and the memory of all processes (an hour).

    The part dtypes times a training step and a token in what `model.dtype = "auto"` chooses and in the other dtypes,
    also as on a processor without bfloat16.
    """
    chosen, model = among(parts, NIGHT_PARTS, "--parts"), ready_model("default", "bfloat16", "cpu", models)
    measures = {"speedup": partial(speedup, model, rounds, against), "together": partial(together, model)}
    measures["dtypes"] = partial(dtype_runs, model, rounds)
    MEMORY.measure(
        NIGHT, [{"part": name} for name in chosen], lambda part: {"figures": measures[part["part"]]()}, out, fresh=True
    )


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
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """Predicted against measured peak of random jobs, run by the real worker (about two hours on two cores)."""
    require("matplotlib")
    names, kinds = among(models_drawn, tuple(RANGES), "--of"), among(dtypes, DTYPES, "--dtypes")
    from bench.planner.worker import run_job  # transformers comes with it

    run = partial(run_job, models=models, threads=threads, time_limit_s=time_limit)
    MEMORY.measure(JOBS, map(asdict, draw_jobs(cells, seed, names, kinds)), run, out, fresh=fresh, retry=retry)


@app.command()
def serve(
    parts: Annotated[str, typer.Option(help="Of " + ", ".join(SERVE_PARTS) + ".")] = ",".join(SERVE_PARTS),
    rounds: Annotated[int, typer.Option(min=1, help="How often all contenders of a comparison take turns.")] = 5,
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """Speed of the endpoint next to llama.cpp and transformers; latency of swaps and of feedback (half an hour).

    llama.cpp is run by node and fetched with npm; nothing else may run beside.
    """
    require("matplotlib")
    chosen = among(parts, SERVE_PARTS, "--parts")
    from bench.serve.parts import RUNS, serve_parts

    for dtype in ("int4", "int8"):
        model = ready_model("default", dtype, "cpu", models)
    measures, subjects = serve_parts(model, models.parent, rounds), [{"part": name} for name in chosen]
    suite = Suite("serve", f"{PROGRAM} serve", (RUNS,))
    suite.measure(RUNS, subjects, lambda subject: {"figures": measures[subject["part"]]()}, out, fresh=True)


@app.command()
def faults(
    parts: Annotated[str, typer.Option(help="Of " + ", ".join(FAULT_PARTS) + ".")] = ",".join(FAULT_PARTS),
    kills: Annotated[int, typer.Option(min=1, help="kill -9 at random moments.")] = 300,
    points: Annotated[int, typer.Option(min=1, help="kill -9 right before a step of publishing.")] = 50,
    cuts: Annotated[int, typer.Option(min=1, help="Power cuts.")] = 25,
    disk: Annotated[int, typer.Option(min=1, help="Writes at which the disk becomes full; there are 21.")] = 21,
    seed: Annotated[int, typer.Option(help="Of what is drawn; the moments also depend on how fast the device is.")] = 0,
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """Losses in kills, power cuts and full disks, and the latency of requests during training (an hour).

    Power cuts and full disks need root, and a system that lets it mount; the power cuts' control needs eatmydata. For
    the latency nothing else may run beside.
    """
    chosen = among(parts, FAULT_PARTS, "--parts")
    from bench.faults.parts import REAL_MODEL_PARTS, RUNS, FaultSettings, measure_part

    if REAL_MODEL_PARTS & set(chosen):
        ready_model("default", "bfloat16", "cpu", models)
    subjects = [{"part": name, "seed": seed} for name in chosen]
    run = partial(measure_part, settings=FaultSettings(seed, kills, points, cuts, disk, models))
    Suite("faults", f"{PROGRAM} faults", (RUNS,)).measure(RUNS, subjects, run, out, fresh=True)


@app.command()
def ops(
    parts: Annotated[str, typer.Option(help="Of " + ", ".join(OPS_PARTS) + ".")] = ",".join(OPS_PARTS),
    connections: Annotated[int, typer.Option(min=1, help="Silent and slow ones.")] = 2000,
    seconds: Annotated[float, typer.Option(min=1, help="For which they are there.")] = 60,
    cases: Annotated[int, typer.Option(min=1, help="Of schemathesis.")] = 20_000,
    files: Annotated[int, typer.Option(min=1, help="Damaged ones.")] = 2000,
    minutes: Annotated[float, typer.Option(min=0.1, help="Of the soak.")] = 120,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    tiny: Annotated[bool, typer.Option("--tiny", help="Try `two_people` with the tiny model.")] = False,
    out: Out = RESULTS,
) -> None:
    """Silent connections, random requests, damaged files, hours of load, two people, and another machine (four hours).

    For the soak nothing else may run beside.
    """
    chosen = among(parts, OPS_PARTS, "--parts")
    if "schemathesis_cases" in chosen:
        require("schemathesis")
    from bench.ops.other_machine import missing_programs
    from bench.ops.parts import RUNS, OpsSettings, measure_part

    if "ssh_runner" in chosen and (missing := missing_programs()):
        raise LarsError(f"{' and '.join(missing)} not found; run: apt-get install openssh-server rsync")
    run = partial(measure_part, settings=OpsSettings(seed, connections, seconds, cases, files, minutes, tiny))
    suite, subjects = Suite("ops", f"{PROGRAM} ops", (RUNS,)), [{"part": name, "seed": seed} for name in chosen]
    suite.measure(RUNS, subjects, run, out, fresh=True)


@app.command("report")
def report_(out: Out = RESULTS) -> None:
    """Print every row against its goal; without --out, write the tables of README.md and docs/benchmarks.md too."""
    files = report.result_files(out)
    if not files:
        raise LarsError(f"no results in {out}; run: {PROGRAM} memory --goals")
    for line in report.lines({area: record["rows"] for area, record in files.items()}):
        typer.echo(line)
    if out == RESULTS:
        words = {name: claim["readme"] for name, claim in claims().items() if "readme" in claim}
        report.write_between_markers(CHECKOUT / "README.md", report.short_table(files, words))
        tables = report.full_tables(files, plots="../bench/results")
        report.write_between_markers(CHECKOUT / "docs" / "benchmarks.md", tables)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; never show a stack trace for what a user can cause, and leave no process behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app(args=arguments, prog_name=PROGRAM)
    except (LarsError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
