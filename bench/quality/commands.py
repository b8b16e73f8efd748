"""The commands that measure quality: what is learned, kept, forgotten and refused."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.models import TINY, ready_model
from bench.options import MODELS, PROGRAM, Models, Out, among, listed, require, seeded, settings
from bench.quality import lora as rival
from bench.quality import sweep
from bench.quality.forgetting import FORGETTING, measure_forgetting
from bench.quality.hostile import HOSTILE, HostileNights
from bench.quality.hostile import subjects as hostile_subjects
from bench.quality.month import MONTH, measure_month
from bench.quality.once import ONCE, measure_once
from bench.quality.passing import PASSING, measure_passing
from bench.quality.rewordings import PEOPLE, REWORDINGS, measure_rewordings
from bench.quality.secrets import SECRETS, measure_secrets
from bench.record import RESULTS
from bench.suite import Suite

STORES = (ONCE, REWORDINGS, rival.AGAINST_LORA, PASSING, MONTH, FORGETTING, HOSTILE, SECRETS)
QUALITY = Suite("quality", f"{PROGRAM} quality", STORES, on_any_processor=True)
SWEEP = Suite("sweep", f"{PROGRAM} sweep", (sweep.CELLS,), on_any_processor=True)

app = typer.Typer()


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
    subjects = seeded(seeds, facts=facts, settings=settings(changes))
    QUALITY.measure(ONCE, subjects, partial(measure_once, ready_model("default", "bfloat16", "cpu", models)), out)


@app.command()
def rewordings(
    people: Annotated[str, typer.Option(help="Of " + ", ".join(PEOPLE) + ".")] = ",".join(PEOPLE),
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """What people correct once, asked for again in their own words: found, and answered at once (ten minutes each)."""
    subjects = [{"person": name} for name in among(people, PEOPLE, "--people")]
    model = ready_model("default", "bfloat16", "cpu", models)
    QUALITY.measure(REWORDINGS, subjects, partial(measure_rewordings, model), out, fresh=True)


@app.command()
def lora(
    facts: Annotated[int, typer.Option(min=2, max=150, help="That a person corrects once.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="Of training, of either method.")] = 100,
    seeds: Annotated[str, typer.Option(help="Of the invented people.")] = "0",
    models: Models = MODELS,
    out: Out = RESULTS,
) -> None:
    """LARS and PEFT's LoRA on the same corrections, rehearsal and number of steps (an hour a seed)."""
    require("PEFT")
    drawn = listed(seeds, "--seeds", "no seed", int)
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
    subjects = seeded(seeds, facts=facts)
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
    subjects = seeded(seeds, nights=nights, corrections=corrections, settings=settings(changes))
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
    wanted = hostile_subjects(nights, facts, seed, settings(changes))
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
    subjects = seeded(seeds, planted=planted, model=model, secrets=setting)
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
    require("PEFT")
    chosen = among(methods, sweep.METHODS, "--methods")
    numbers, drawn = listed(rates, "--rates", "no learning rate", float), listed(seeds, "--seeds", "no seed", int)
    cells = sweep.cells(chosen, numbers, drawn, steps=steps, batch_size=batch_size)
    SWEEP.measure(sweep.CELLS, cells, partial(sweep.run, models=models), out, side_by_side=jobs)
