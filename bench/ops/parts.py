"""The parts of `python -m bench ops`, and the rows made of their findings; a part that was not run makes no row."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.faults.scenario import MODELS
from bench.models import TINY, ready_model
from bench.ops.cases import schemathesis_cases
from bench.ops.crowd import idle_connections
from bench.ops.exposure import systemd_exposure
from bench.ops.files import fuzz_files
from bench.ops.settings import OpsSettings
from bench.ops.soak import soak
from bench.ops.ssh_runner import ssh_runner
from bench.ops.two_people import two_people
from bench.record import Row, claimed
from bench.suite import Record, parts_store

Found = Mapping[str, Any]
NAMED = 3  # problems in a note


def ops_rows(parts: Found) -> list[Row]:
    """Every row whose part was run."""
    builders = {idle_connections: _crowd_rows, schemathesis_cases: _case_rows, fuzz_files: _file_rows, soak: _soak_rows}
    builders[two_people] = _people_rows
    builders[ssh_runner] = _ssh_rows
    builders[systemd_exposure] = lambda found: [claimed("systemd_exposure", [found["exposure"]])]
    return [row for part, rows in builders.items() if part.__name__ in parts for row in rows(parts[part.__name__])]


def _crowd_rows(found: Found) -> Iterator[Row]:
    opened = ", ".join(f"{count:,} {kind}" for kind, count in found["opened"].items())
    yield claimed("idle_connections", [found["connections"]], seconds=found["seconds"], opened=opened)
    yield _problems("idle_connections_unanswered", found["unanswered"], answered=found["answered"])
    yield claimed("idle_connections_log_bytes", [found["log_bytes"]])
    yield claimed("idle_connections_slowest_s", [found["slowest_s"]])


def _case_rows(found: Found) -> Iterator[Row]:
    cases = ", ".join(f"{count:,} {kind}" for kind, count in found["cases"].items())
    yield claimed("schemathesis_cases", [sum(found["cases"].values())], cases=cases)
    for name, counts in (
        ("server_errors", found["server_errors"]),
        ("undocumented_answers", found["undocumented"]),
        ("unanswered_cases", found["unanswered"]),
    ):
        yield claimed(name, [sum(counts.values())], named=_named(list(counts)))


def _file_rows(found: Found) -> Iterator[Row]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["kinds"].items())
    yield claimed("fuzz_files", [found["files"]], kinds=kinds, refused=found["ends"].get("refused", 0))
    yield _problems("fuzz_crashes", found["problems"])


def _soak_rows(found: Found) -> Iterator[Row]:
    words = {"minutes": found["minutes"], "a_second": round(found["a_second"], 1)}
    words |= {"generated": found["answered"].get("generate", 0), "jobs": found["jobs"]}
    yield _problems("soak_errors", found["errors"], **words)
    if grown := found["growth_mb"]:
        by_kind = ", ".join(f"{name} {mb:+.1f}" for name, mb in grown.items())
        yield claimed("soak_rss_growth_mb", [max(grown.values())], by_kind=by_kind)
    left = ", ".join(f"{name} {count:+}" for name, count in found["files_left"].items())
    yield claimed("soak_files_left", [max(0, *found["files_left"].values())], left=left)


def _people_rows(found: Found) -> Iterator[Row]:
    words = {"searched": found["searched"], "places": found["places"], "jobs": " and ".join(found["jobs"])}
    yield _problems("two_people_leaks", found["leaks"], **words)
    yield claimed("two_people_own_facts", [found["own"]], asked=found["asked"])


def _ssh_rows(found: Found) -> Iterator[Row]:
    yield claimed("ssh_same_bytes", [int(found["same"])], plan=found["there"]["plan"])
    lost = {name: losses for name, losses in found["cuts"].items() if losses}
    named = _named([f"{name}: {'; '.join(losses)}" for name, losses in lost.items()])
    yield claimed("ssh_cuts_lost", [len(lost)], cuts=", ".join(found["cuts"]), named=named)


def _problems(name: str, problems: Sequence[str], **words: Any) -> Row:
    """The row that counts problems, the first of them named in its note."""
    return claimed(name, [len(problems)], named=_named(problems), **words)


def _named(problems: Sequence[str]) -> str:
    return "".join(f"; {problem[:200]}" for problem in problems[:NAMED])


MEASURED = (idle_connections, schemathesis_cases, fuzz_files, soak, two_people, ssh_runner, systemd_exposure)
PARTS = {one.__name__: one for one in MEASURED}
RUNS = parts_store("ops-runs.jsonl", ops_rows)


def measure_part(subject: Record, settings: OpsSettings) -> Record:
    """The figures of a part, in a scratch folder."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        ready_model(TINY, "float32", "cpu", Path(folder, MODELS))
        return {"figures": PARTS[subject["part"]](settings, Path(folder))}
