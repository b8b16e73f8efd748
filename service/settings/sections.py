"""Sections of the configuration file: every option with its default and unit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0, le=31_536_000)]  # a year
Days = Annotated[int, Field(ge=0, le=36_500)]
Bytes = Annotated[int, Field(ge=0, le=2**50)]  # a pebibyte
Limit = Annotated[float, Field(gt=0, le=86_400)]  # of a time, seconds

MOST_THREADS = 1024


class Section(BaseModel):
    """A section of the configuration file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Section):
    """The base model."""

    name: str = Field(
        default="default",
        min_length=1,
        description="Model to serve: `default`, a hub id, a folder. `lars-agent model pull` fetches and installs it.",
    )
    dtype: Literal["auto", "bfloat16", "float32", "int8", "int4"] = Field(
        default="auto",
        description="What the base model's weights are kept in, for serving and training. auto keeps them as they are "
        "stored and computes in bfloat16 or float32, whichever is faster here; float32 takes twice the memory of "
        "bfloat16, int8 and int4 half and a third of it, at some speed.",
    )


class Memory(Section):
    """The memory budget, from which a training plan follows."""

    budget_bytes: int = Field(
        default=2 * 1024**3,
        ge=2**26,  # the worker alone, without a model, takes more
        le=2**50,
        description="Memory budget, bytes: the training worker's peak and the engine's prefix cache together.",
    )


class Schedule(Section):
    """When the device learns by itself."""

    enabled: bool = Field(default=True, description="Whether it learns without being asked.")
    cron: str = Field(default="0 3 * * *", description="Minute, hour, day, month, weekday; five fields, as in crontab.")
    timezone: str | None = Field(
        default=None, description="IANA name; the device's own if unset.", examples=["Europe/Berlin"]
    )
    window_hours: float = Field(
        default=4.0, gt=0, le=168, description="How long the window for a scheduled run is open from that moment on."
    )
    make_up: bool = Field(
        default=True, description="Whether a run whose window has passed is made up once the device is idle."
    )
    min_new_feedback: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Least new feedback that a scheduled run needs; any deleted feedback is enough.",
    )


class Idle(Section):
    """Conditions under which the device counts as idle; a value that a device does not report blocks nothing."""

    quiet_s: Seconds = Field(default=300.0, description="Least time since the last request.")
    away_s: Seconds = Field(default=300.0, description="Least time since anybody used keyboard or mouse.")
    late_quiet_s: Seconds = Field(
        default=1800.0,
        description="Least time without a request and without keyboard or mouse, for a run that is made up.",
    )
    resume_s: Seconds = Field(default=1.0, description="After a reply, until the worker that it stopped goes on.")
    park_s: Seconds = Field(
        default=120.0,
        description="After so long a pause the worker writes a checkpoint and ends, so that its memory is free.",
    )
    max_cpu: float = Field(
        default=0.5, gt=0, le=1, description="Largest share of all cores that other programs may take; half to begin."
    )
    max_load: float = Field(default=2.0, gt=0, le=1000, description="Largest load average a core; half to begin.")
    on_battery: bool = Field(default=False, description="Whether scheduled runs may run on the battery.")
    max_celsius: float = Field(
        default=80.0, gt=0, le=150, description="Hottest the processor may be; 10 less to begin."
    )
    max_memory_pressure: float = Field(
        default=10.0, gt=0, le=100, description="Percent of time that programs may wait for memory; half to begin."
    )
    min_free_disk_bytes: Bytes = Field(default=512 * 2**20, description="Least room on the disk.")


class Runtime(Section):
    """The generation engine."""

    threads: int = Field(
        default=0,
        ge=0,
        le=MOST_THREADS,
        description="Most threads that generate; 0 for every core. Cores that other programs need are left to them.",
    )
    queue_size: int = Field(default=8, ge=1, le=10_000, description="Requests that may wait for their turn.")
    parallel: int = Field(default=4, ge=1, le=64, description="Replies that are made at the same time.")
    prefix_cache_bytes: Bytes = Field(
        default=128 * 2**20,
        description="What was read of earlier prompts is kept up to this size, a part of memory.budget_bytes.",
    )
    deadline_s: Seconds = Field(default=600.0, description="A reply not whole after so long is ended; 0 never.")
    keep_alive_s: Seconds = Field(default=0.0, description="Unload the model after so long without a request; 0 never.")


class Recall(Section):
    """Past corrections in the prompt of the next reply."""

    enabled: bool = Field(
        default=True,
        description="Whether corrections that answer a question are put before it, unless a request says otherwise.",
    )
    profiles: dict[str, bool] = Field(default={}, description="Other choices by profile: {alice = false}.")
    max_corrections: int = Field(default=3, ge=0, le=50, description="Most corrections in one prompt.")
    max_tokens: int = Field(default=256, ge=0, le=2**20, description="Most tokens that they take in one prompt.")
    strength: float = Field(
        default=4.0,
        ge=0,
        le=100,
        description="How much likelier, in nats a token, a reply is that goes on with a short correction to the same "
        "question; small models do not use what stands in their prompt. 0 is off.",
    )
    locality: bool = Field(
        default=True,
        description="Whether the base model replies to what nothing learned is about: a fact about a friend's dog, one "
        "that was never told, or a question about nobody (the capital of France) of a kind of which no reply was "
        "corrected.",
    )


class Learning(Section):
    """What is learned besides feedback."""

    statements: bool = Field(
        default=True,
        description='Whether lasting facts that somebody states about themself in a conversation ("my sister lives in '
        'Oslo", "No, she is called Mira") are kept as corrections are; `GET /feedback?source=stated` lists them.',
    )
    profiles: dict[str, bool] = Field(default={}, description="Other choices by profile: {guest = false}.")


class Retention(Section):
    """How long things are kept, and how much of them; see `service.housekeeping.retention`."""

    interaction_days: Days = Field(
        default=90, description="Days for which prompts and their replies are kept; 0 for ever."
    )
    interaction_bytes: Bytes = Field(
        default=200_000_000,
        description="Most that they take together, the oldest going first; 0 for no limit. Feedback, with its own "
        "copy of the text, stays.",
    )
    file_days: Days = Field(
        default=30,
        description="Days for which files of POST /v1/files are kept that no job has learned from; 0 for ever.",
    )
    job_days: Days = Field(
        default=365, description="Days for which records of jobs and of scheduled runs are kept; 0 for ever."
    )
    job_bytes: Bytes = Field(default=20_000_000, description="Most that they take together; 0 for no limit.")
    job_folder_days: Days = Field(default=30, description="Days for which directories of jobs are kept; 0 for ever.")
    job_folder_bytes: Bytes = Field(default=500_000_000, description="Most that they take together; 0 for no limit.")
    checkpoint_days: Days = Field(
        default=1,
        description="Days for which checkpoints and temporary files of jobs that have ended are kept; 0 for ever.",
    )
    checkpoint_bytes: Bytes = Field(default=100_000_000, description="Most that they take together; 0 for no limit.")
    adapter_days: Days = Field(
        default=180, description="Days for which adapters are kept that the one in use does not go back to; 0 for ever."
    )
    adapter_bytes: Bytes = Field(
        default=500_000_000,
        description="Most that all adapters take together; 0 for no limit. What is in use, what one can roll back to, "
        "and what is younger than a week stays all the same.",
    )


class Log(Section):
    """The daemon's log."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Least important lines that are logged. debug adds one for each request: method, path (without "
        "names), status and milliseconds.",
    )
