"""The parts of `python -m bench faults`, and the rows made of their findings; a part that was not run makes no row."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.faults.disks import cuts, disk
from bench.faults.kills import kills, points
from bench.faults.scenario import MODELS, FaultSettings
from bench.faults.state import PHASES
from bench.faults.training import latency, resume
from bench.models import TINY, ready_model
from bench.record import Row, claimed
from bench.suite import Record, parts_store

Found = Mapping[str, Any]
KILLED = ("kills", "points")
NAMED = 3  # problems in a note


def fault_rows(parts: Found) -> list[Row]:
    """Every row whose parts were run."""
    killed = [parts[part] for part in KILLED if part in parts]
    rows = [*_kill_rows(parts, killed), *_promise_rows(parts, killed)]
    for name, builder in (("disk", _disk_rows), ("latency", _latency_rows), ("resume", _resume_rows)):
        rows += builder(parts[name]) if name in parts else []
    return rows


def disk_losses(point: Mapping[str, Any]) -> list[str]:
    """Descriptions of what was lost or damaged at one point; empty where nothing was."""
    checks = {
        f"{len(point['lost'])} acknowledged feedbacks lost": not point["lost"],
        f"{len(point['duplicated'])} feedbacks stored twice": not point["duplicated"],
        f"the store is damaged: {point['unsound']}": not point["unsound"],
        f"the database is damaged: {point['integrity']}": point["integrity"] == "ok",
        "no reply once there was room": point["reply_after"] == 200,
        f"the next cycle: {point['next']}": point["next"] == "succeeded",
        f"a reply was answered with {point['reply_while_full']}": point["reply_while_full"] == 200,
        f"a request was answered with 500: {point['said'].get('500')}": "500" not in point["said"],
    }
    return [problem for problem, fine in checks.items() if not fine]


def says_full(point: Mapping[str, Any]) -> bool:
    """Tell whether the full disk was reported: a job failed or a client had a 507, and every failed job names it."""
    failed = [job for job in point["jobs"] if job.startswith("failed")]
    return bool(failed or "507" in point["said"]) and all("no room on the disk" in job for job in failed)


def _kill_rows(parts: Found, killed: list[Found]) -> Iterator[Row]:
    kills, points = parts.get("kills"), parts.get("points")
    phases = {phase: kills["phases"].get(phase, 0) for phase in PHASES} if kills else {}
    how = [_listed(kills["targets"]), f"phases: {_listed(phases)}"] if kills else []
    if points:
        steps = f"{len(points['steps'])} kinds of step, {len(points['steps_there_are'])} steps"
        how.append(f"{points['strikes']} at named points from publishing on ({steps})")
    if killed:
        yield claimed("kills", [sum(found["strikes"] for found in killed)], how="; ".join(how))
    if kills:
        for phase, count in phases.items():
            yield claimed("kills_{phase}", [count], phase=phase)
        yield claimed("kills_orphans", [kills["orphans"]])
        if kills["restart_s"]:
            yield claimed("kills_restart_s", kills["restart_s"])
    if "cuts" in parts:
        flushing, control = parts["cuts"]["flushing"], parts["cuts"]["control"]["cuts"]
        words = {"phases": _listed(flushing["phases"]), "restarts": flushing["restarts"]}
        yield claimed("power_cuts", [len(flushing["cuts"])], **words)
        yield claimed("power_cuts_damaged_databases", [sum(cut["integrity"] != "ok" for cut in flushing["cuts"])])
        losing, lost = sum(cut["lost"] > 0 for cut in control), sum(cut["lost"] for cut in control)
        yield claimed("power_cuts_control_losing", [losing], cuts=len(control), lost=lost)


def _promise_rows(parts: Found, killed: list[Found]) -> Iterator[Row]:
    """Promises to clients, over all the parts in which a daemon died, and the ends of cycles."""
    flushing = [parts["cuts"]["flushing"]] if "cuts" in parts else []
    cuts = [cut for found in flushing for cut in found["cuts"]]
    if not killed and not flushing:
        return
    acknowledged = sum(found["acknowledged"] for found in [*killed, *flushing])
    for kind in ("lost", "duplicated"):
        count = len(_all(killed, kind)) + sum(cut[kind] for cut in cuts)
        yield claimed(f"{kind}_feedback", [count], acknowledged=acknowledged)
    if killed:
        replies = parts["kills"]["replies"] if "kills" in parts else 0
        yield _problems("torn_served", _all(killed, "wrong_replies"), replies=replies)
    yield _problems("unverified_pointers", _all([*killed, *cuts], "unsound"))
    if killed:
        endings = sum((Counter(found["endings"]) for found in killed), Counter[str]())
        yield claimed("cycles_ended", [endings.total()], endings=_listed(endings))
        yield _problems("stuck_cycles", _all(killed, "stuck"))
        yield _problems("published_not_once", _all(killed, "published_twice"))


def _disk_rows(found: Found) -> Iterator[Row]:
    points = found["points"]
    yield claimed("disk_full_points", [len(points)], names=", ".join(point["name"] for point in points))
    losses = [f"{point['name']}: {problem}" for point in points for problem in disk_losses(point)]
    yield claimed("disk_full_losses", [len(losses)], named="".join(f"; {loss}" for loss in losses))
    yield claimed("disk_full_replies_refused", [sum(point["reply_while_full"] != 200 for point in points)])
    silent = [point["name"] for point in points if not says_full(point)]
    named = f"; not at: {', '.join(silent)}" if silent else ""
    yield claimed("disk_full_without_words", [len(silent)], named=named)
    yield claimed("disk_full_recovery_s", [point["next_s"] for point in points])


def _latency_rows(found: Found) -> Iterator[Row]:
    idle, training = found["idle_ms"], found["training_ms"]
    ratios = [one / other for one, other in zip(training, idle, strict=True)]
    yield claimed("ttft_training_over_idle", ratios, pairs=len(ratios), model=found["model"])
    yield claimed("ttft_idle_ms", idle)
    yield claimed("ttft_training_ms", training)


def _resume_rows(found: Found) -> Iterator[Row]:
    pairs = zip(found["interrupted_after_step"], found["signals"], strict=True)
    interruptions = ", ".join(f"{name} after step {step}" for step, name in pairs)
    yield claimed("resume_equal", [float(found["whole"] == found["broken"])], **found, interruptions=interruptions)


def _problems(name: str, problems: list[str], **words: Any) -> Row:
    """The row that counts problems, the first of them named in its note."""
    return claimed(name, [len(problems)], named="".join(f"; {problem}" for problem in problems[:NAMED]), **words)


def _all(found: Iterable[Found], name: str) -> list[str]:
    return [item for part in found for item in part[name]]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


PARTS = {measure.__name__: measure for measure in (kills, points, cuts, disk, resume, latency)}
REAL_MODEL_PARTS = {"resume", "latency"}
RUNS = parts_store("faults-runs.jsonl", fault_rows)


def measure_part(subject: Record, settings: FaultSettings) -> Record:
    """The figures of a part, in a scratch folder."""
    part = subject["part"]
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        if part not in REAL_MODEL_PARTS:
            ready_model(TINY, "float32", "cpu", Path(folder, MODELS))
        return {"figures": PARTS[part](settings, Path(folder))}
