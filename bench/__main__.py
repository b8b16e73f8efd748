"""The command line of the benchmarks: `python -m bench ...` in a checkout.

Exit codes: 0 done, 1 failed (one line on stderr gives the reason), 2 wrong use.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from bench import report
from bench.memory.cell import DTYPES, METHODS
from bench.memory.goals import CELLS, goal_cells, grid
from bench.memory.process import measure
from bench.models import TINY, ready_model
from bench.planner.jobs import JOBS, RANGES, draw_jobs
from bench.quality import lora as rival
from bench.quality import sweep
from bench.quality.forgetting import FORGETTING, measure_forgetting
from bench.quality.hostile import HOSTILE, HostileNights
from bench.quality.hostile import subjects as hostile_subjects
from bench.quality.month import MONTH, measure_month
from bench.quality.once import ONCE, measure_once
from bench.quality.passing import PASSING, measure_passing
from bench.quality.secrets import SECRETS, measure_secrets
from bench.record import CHECKOUT, RESULTS, claims
from bench.suite import Suite
from lars_agent.errors import LarsError

PROGRAM = "python -m bench"
MODELS = CHECKOUT / ".cache" / "models"
TIME_LIMIT_S = 4 * 3600.0
# Their modules are imported by their commands alone: they take seconds.
FAULT_PARTS = ("kills", "points", "cuts", "disk", "resume", "latency")
OPS_PARTS = ("idle_connections", "schemathesis_cases", "fuzz_files", "soak")
SERVE_PARTS = ("speed", "engine", "clients", "swaps", "feedback", "asleep")
MEMORY = Suite("memory", f"{PROGRAM} memory --goals", (CELLS, JOBS))
QUALITY = Suite(
    "quality",
    f"{PROGRAM} quality",
    (ONCE, rival.AGAINST_LORA, PASSING, MONTH, FORGETTING, HOSTILE, SECRETS),
)
SWEEP = Suite("sweep", f"{PROGRAM} sweep", (sweep.CELLS,))
T = TypeVar("T")

app = typer.Typer(help="Measure the goals of lars-agent.", no_args_is_help=True, add_completion=False)

Out = Annotated[Path, typer.Option(help="Folder of the results.", show_default="bench/results")]
Models = Annotated[Path, typer.Option(help="Folder of the base models.", show_default=".cache/models")]
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
    _require("PEFT", "matplotlib")
    if goals and threads:
        raise typer.BadParameter("--goals is measured on all cores", param_hint="--threads")
    chosen, kinds = _chosen(methods, tuple(METHODS), "--methods"), _chosen(dtypes, DTYPES, "--dtypes")
    lengths = _listed(contexts, "--contexts", "no number of tokens", _count)
    settings = {"model": model, "reply": reply, "steps": steps, "threads": threads, "device": device}
    cells = goal_cells() if goals else grid(chosen, lengths, kinds, limit_bytes=limit, **settings)
    run = partial(measure, models=models, time_limit_s=time_limit)
    MEMORY.measure(CELLS, map(asdict, cells), run, out, fresh=fresh, retry=retry)


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
    _require("matplotlib")
    names, kinds = _chosen(models_drawn, tuple(RANGES), "--of"), _chosen(dtypes, DTYPES, "--dtypes")
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
    _require("matplotlib")
    chosen = _chosen(parts, SERVE_PARTS, "--parts")
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
    chosen = _chosen(parts, FAULT_PARTS, "--parts")
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
    out: Out = RESULTS,
) -> None:
    """Silent connections, random requests, damaged files, and hours of load (three and a half hours).

    For the soak nothing else may run beside.
    """
    chosen = _chosen(parts, OPS_PARTS, "--parts")
    if "schemathesis_cases" in chosen:
        _require("schemathesis")
    from bench.ops.parts import RUNS, OpsSettings, measure_part

    run = partial(measure_part, settings=OpsSettings(seed, connections, seconds, cases, files, minutes))
    suite, subjects = Suite("ops", f"{PROGRAM} ops", (RUNS,)), [{"part": name, "seed": seed} for name in chosen]
    suite.measure(RUNS, subjects, run, out, fresh=True)


@app.command()
def quality(
    facts: Annotated[int, typer.Option(min=1, max=150, help="That a person corrects once.")] = 60,
    seeds: Annotated[str, typer.Option(help="Of the invented people.")] = "0,1,2",
    changes: Annotated[str, typer.Option("--settings", help="Of the daemon: training__epochs=12,...")] = "",
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """Facts that a person corrects once, over the API of a real daemon: at once, and after a night (an hour each).

    Nothing else may run beside.
    """
    subjects = _seeded(seeds, facts=facts, settings=_settings(changes))
    QUALITY.measure(ONCE, subjects, partial(measure_once, ready_model("default", "bfloat16", "cpu", models)), out)


@app.command()
def lora(
    facts: Annotated[int, typer.Option(min=2, max=150, help="That a person corrects once.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="Of training, of either method.")] = 100,
    seeds: Annotated[str, typer.Option(help="Of the invented people.")] = "0",
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """LARS and PEFT's LoRA on the same corrections, rehearsal and number of steps (an hour a seed)."""
    _require("PEFT")
    drawn = _listed(seeds, "--seeds", "no seed", int)
    subjects = [cell for seed in drawn for cell in rival.cells(facts, steps, seed)]
    model = ready_model("default", "bfloat16", "cpu", models)
    QUALITY.measure(rival.AGAINST_LORA, subjects, partial(rival.measure_cell, model), out)


@app.command()
def passing(
    facts: Annotated[int, typer.Option(min=1, max=150, help="That a person only mentions.")] = 60,
    seeds: Annotated[str, typer.Option(help="Of the invented people.")] = "0,1,2",
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """Facts that a person only says in a conversation: what is kept, recalled at once, and known after a night.

    Half an hour each; nothing else may run beside.
    """
    subjects = _seeded(seeds, facts=facts)
    QUALITY.measure(PASSING, subjects, partial(measure_passing, ready_model("default", "bfloat16", "cpu", models)), out)


@app.command()
def month(
    nights: Annotated[int, typer.Option(min=3, help="One after the other.")] = 15,
    corrections: Annotated[int, typer.Option(min=1, help="Of facts, before each night; styles come on top.")] = 10,
    seeds: Annotated[str, typer.Option(help="Of the invented people.")] = "0",
    changes: Annotated[str, typer.Option("--settings", help="Of the daemon: training__warm_start=false,...")] = "",
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """Night after night: new facts, changed ones, rules of style; what is known after each (five minutes a night).

    Nothing else may run beside.
    """
    subjects = _seeded(seeds, nights=nights, corrections=corrections, settings=_settings(changes))
    QUALITY.measure(MONTH, subjects, partial(measure_month, ready_model("default", "bfloat16", "cpu", models)), out)


@app.command()
def forgetting(
    deletions: Annotated[int, typer.Option(min=1, help="At random moments of a cycle.")] = 30,
    seed: Annotated[int, typer.Option(help="Of what is drawn; the moments also depend on how fast the device is.")] = 0,
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """What is left of deleted words in any file, and of replies by a version that knew them (ten minutes)."""
    subjects = [{"deletions": deletions, "seed": seed}]
    QUALITY.measure(FORGETTING, subjects, partial(measure_forgetting, ready_model(TINY, "float32", "cpu", models)), out)


@app.command()
def hostile(
    nights: Annotated[int, typer.Option(min=1, help="Of all kinds in turn, the worst first.")] = 20,
    facts: Annotated[int, typer.Option(min=3, max=100, help="Learned the night before.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the first 20 nights; the next ones have the next.")] = 0,
    changes: Annotated[str, typer.Option("--settings", help="Of the daemon: curation__max_repeated=25,...")] = "",
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """Nights after gibberish, flipped ratings, one reply over and over, a planted trigger (five minutes each).

    Resumes where it was stopped, after one honest night more.
    """
    wanted = hostile_subjects(nights, facts, seed, _settings(changes))
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as scratch:
        run = HostileNights(ready_model("default", "bfloat16", "cpu", models), Path(scratch)).measure
        QUALITY.measure(HOSTILE, wanted, run, out)


@app.command()
def secrets(
    planted: Annotated[int, typer.Option(min=1, help="Of twelve kinds, told in four ways.")] = 50,
    model: Annotated[Literal["default", "tiny"], typer.Option(help="The tiny one takes two minutes.")] = "default",
    setting: Annotated[Literal["drop", "mask"], typer.Option(help="curation.secrets.")] = "drop",
    seeds: Annotated[str, typer.Option(help="Of the invented secrets and replies.")] = "0",
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """Secrets in training files and in replies after a night, and those found in lists (half an hour)."""
    subjects = _seeded(seeds, planted=planted, model=model, secrets=setting)
    folder = ready_model(*((TINY, "float32") if model == "tiny" else ("default", "bfloat16")), "cpu", models)
    QUALITY.measure(SECRETS, subjects, partial(measure_secrets, folder), out)


@app.command("sweep")
def sweep_(
    methods: Annotated[str, typer.Option(help="Of these; none only makes the rows.")] = ",".join(sweep.METHODS),
    rates: Annotated[str, typer.Option(help="Learning rates, in place of each method's own.")] = "",
    seeds: Annotated[str, typer.Option(help="Of initial weights and batches.")] = sweep.SEEDS,
    steps: Annotated[int, typer.Option(min=1, help="Of training.")] = sweep.STEPS,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 8,
    jobs: Annotated[int, typer.Option(min=1, help="Cells side by side, one thread each.")] = os.cpu_count() or 1,
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """Recall of a persona's facts and style by each pooling mode, with PEFT's LoRA beside (hours)."""
    _require("PEFT")
    chosen = _chosen(methods, sweep.METHODS, "--methods")
    numbers, drawn = _listed(rates, "--rates", "no learning rate", float), _listed(seeds, "--seeds", "no seed", int)
    cells = sweep.cells(chosen, numbers, drawn, steps=steps, batch_size=batch_size)
    SWEEP.measure(sweep.CELLS, cells, partial(sweep.run, models=models), out, side_by_side=jobs)


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


def _require(*packages: str) -> None:
    """Raises LarsError where one of the extra's packages is missing."""
    missing = [name for name in packages if find_spec(name.lower()) is None]
    if missing:
        raise LarsError(f"{' and '.join(missing)} must be installed for this; run: pip install 'lars-agent[bench]'")


def _seeded(seeds: str, **subject: Any) -> list[dict[str, Any]]:
    """The subject once with each of the seeds."""
    return [{**subject, "seed": seed} for seed in _listed(seeds, "--seeds", "no seed", int)]


def _settings(changes: str) -> dict[str, str]:
    return dict(_listed(changes, "--settings", "no NAME=VALUE", _pair))


def _chosen(text: str, known: Sequence[str], option: str) -> list[str]:
    return _listed(text, option, f"none of {', '.join(known)}", lambda word: known[known.index(word)])


def _listed(text: str, option: str, what: str, kind: Callable[[str], T]) -> list[T]:
    """The values of a list. Raises BadParameter, which names the first invalid one and `what` it is."""
    values = []
    for word in filter(None, map(str.strip, text.split(","))):
        try:
            values.append(kind(word))
        except ValueError:
            raise typer.BadParameter(f"{word!r} is {what}", param_hint=option) from None
    return values


def _pair(word: str) -> tuple[str, str]:
    name, value = word.split("=")
    return name, value


def _count(word: str) -> int:
    if int(word) < 1:
        raise ValueError
    return int(word)


if __name__ == "__main__":
    main()
