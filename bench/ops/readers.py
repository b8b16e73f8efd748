"""The product's readers of every kind of file, each called on a folder: `python -m bench.ops.readers GOOD LIMIT`.

Reads one JSON line `[kind, folder]` for each case from stdin and writes one for its outcome to stdout. LIMIT is that of
the address space in bytes, so that a number in a header that is taken for a size is found out.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError

from lars_agent.errors import LarsError, ModelUnsupported, PromptRefused
from lars_agent.lars import LarsAdapter, attach, load_adapter
from lars_agent.models.chat_template import encode_prompt
from lars_agent.models.convert import convert
from lars_agent.models.library import ModelLibrary
from lars_agent.models.open import OpenedModel, open_generation_config, open_model, open_tokenizer
from lars_agent.store.adapters import AdapterStore
from lars_agent.training.batches import pad_id
from lars_agent.training.checkpoint import resume
from lars_agent.training.job_directory import (
    PLAN_FILE,
    JobSpec,
    read_progress,
    read_result,
)
from lars_agent.training.job_plan import JobPlan
from lars_agent.training.job_rows import encode_job
from lars_agent.training.trainer import BEST_FILE, Trainer
from service.api.trl import from_lines
from service.db import Database
from service.settings.load import SettingsSource

GOOD = Path()


@cache
def opened() -> OpenedModel:
    """The undamaged base model."""
    return open_model(GOOD / "model" / "tiny", torch.float32)


@cache
def trainer() -> Trainer:
    """A trainer of the undamaged job."""
    model, folder = opened(), GOOD / "job"
    spec = JobSpec.read(folder)
    adapter = LarsAdapter.for_model(model.model, spec.lars, seed=0)
    rows = encode_job(folder, spec, model.tokenizer)
    return Trainer(attach(model.model), adapter, rows, pad_id(model.tokenizer), JobPlan.read(folder).plan)


def adapter(folder: Path) -> None:
    """As engine and worker do."""
    load_adapter(opened().model, folder)


def store(folder: Path) -> None:
    """As the daemon does at its start, and for GET /adapters."""
    adapters = AdapterStore(folder)
    for profile in adapters.profiles():
        adapters.versions(profile)
        adapters.problems(profile)
        for version in adapters.lineage(profile):
            adapters.verify(profile, version, None)


def database(folder: Path) -> None:
    """As the daemon does."""
    db = Database(folder / "lars-agent.db")
    try:
        records = db.feedback.list(limit=100)
        db.feedback.known([record.id for record in records])
        db.feedback.examples("default")
        db.feedback.lessons()
        db.jobs.list()
        db.interactions.list()
        db.recall.search("default", "What is thing 1?", 5)
        db.scheduled_runs.list()
    finally:
        db.close()


def settings(folder: Path) -> None:
    """As the daemon does at its start, with what was changed over the API."""
    SettingsSource(folder / "config.toml", {"data_dir": str(folder)}).load()


def model(folder: Path) -> None:
    """As the engine does, up to the first token."""
    ModelLibrary(folder).list()
    found = open_model(folder / "tiny", torch.float32)
    try:
        ids = encode_prompt(found.tokenizer, [{"role": "user", "content": "Hello?"}])
    except TemplateError as error:
        raise PromptRefused(f"the model's chat template refuses the conversation: {error}") from error
    with torch.inference_mode():
        found.model(torch.tensor([ids]))


def gguf(folder: Path) -> None:
    """As a pull does in a process of its own, the last line of whose error becomes the user's."""
    with tempfile.TemporaryDirectory() as target:
        try:
            convert(folder / "model.gguf", Path(target))
        except Exception as error:
            raise ModelUnsupported(f"could not be converted: {error}") from error
        open_tokenizer(Path(target))
        open_generation_config(Path(target))


def job(folder: Path) -> None:
    """As the worker does before it opens the model, and the daemon at its end."""
    spec = JobSpec.read(folder)
    encode_job(folder, spec, opened().tokenizer)
    if (folder / PLAN_FILE).exists():
        JobPlan.read(folder)
    read_progress(folder)
    read_result(folder)


def checkpoint(folder: Path) -> None:
    """As the worker does; a damaged checkpoint is passed over."""
    one = trainer()
    one.best_file = folder / BEST_FILE
    resume(one, folder)


def lines(folder: Path) -> None:
    """As an import does; a line that is refused is named."""
    _, refused = from_lines((folder / "feedback.jsonl").read_bytes().split(b"\n"), "default")
    for error in refused.values():
        raise error


READERS = {one.__name__: one for one in (adapter, store, database, settings, model, gguf, job, checkpoint, lines)}


def outcome(kind: str, folder: Path) -> dict[str, Any]:
    """How the reader ends: it reads the file, refuses it in words, or breaks; and how long it takes."""
    began, cpu_began, found = time.monotonic(), time.process_time(), {"end": "read", "words": ""}
    try:
        READERS[kind](folder)
    except LarsError as error:
        found = {"end": "refused", "words": f"{type(error).__name__}: {error}"[:300]}
    except BaseException as error:  # whatever else it raises is a crash of the process that reads
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        at = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
        found = {"end": "crash", "words": f"{type(error).__name__}: {str(error)[:200]} ({at})"}
    return found | {"wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu_began}


def main() -> None:
    """Read case after case, until stdin ends."""
    global GOOD
    GOOD, limit = Path(sys.argv[1]), int(sys.argv[2])
    answers, sys.stdout = sys.stdout, sys.stderr
    warnings.simplefilter("ignore")
    trainer()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        kind, folder = json.loads(line)
        print(json.dumps(outcome(kind, Path(folder))), file=answers, flush=True)


if __name__ == "__main__":
    main()
