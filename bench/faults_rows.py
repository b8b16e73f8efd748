"""The fault bench's claims, made of what was found; a part that was not run makes no row of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from bench.record import row

Row = dict[str, Any]
KILLS, CUTS, DISK_POINTS, TTFT_RATIO = 350, 25, 10, 1.3
STRUCK = ("kills", "points")
FORGIVEN = (
    "failed starts are not counted (starts.json is removed before each but a few), or safe mode would end the load"
)


def fault_rows(parts: Mapping[str, Any]) -> list[Row]:
    """Every row whose parts are there."""
    made = [*_kill_rows(parts), *_cut_rows(parts), *_promise_rows(parts), *_cycle_rows(parts)]
    for part, builder in (("disk", disk_rows), ("latency", latency_rows), ("resume", resume_rows)):
        made += builder(parts[part]) if part in parts else []
    return made


def disk_losses(point: Mapping[str, Any]) -> list[str]:
    """What was not as it must be at one point, in words; empty where all was."""
    checks = {
        f"{len(point['lost'])} acknowledged feedbacks lost": not point["lost"],
        f"{len(point['duplicated'])} feedbacks stored twice": not point["duplicated"],
        f"the store is damaged: {point['unsound']}": not point["unsound"],
        f"the database is damaged: {point['integrity']}": point["integrity"] == "ok",
        "no reply once there was room": point["reply_after"] == 200,
        f"the next cycle: {point['next']}": point["next"] == "succeeded",
        f"a reply was answered with {point['reply_while_full']}": point["reply_while_full"] == 200,
        f"a request was answered with 500: {point['said'].get('500')}": "500" not in point["statuses"],
    }
    return [words for words, fine in checks.items() if not fine]


def says_full(point: Mapping[str, Any]) -> bool:
    """Whether whoever met the full disk was told so: no job has failed without naming it, or a client had a 507."""
    failed = [words for words in point["jobs"] if words.startswith("failed")]
    return bool(failed or point["statuses"].get("507")) and all("no room on the disk" in words for words in failed)


def disk_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    points = found["points"]
    note = "full right before: " + ", ".join(point["name"] for point in points)
    yield _count("disk_full_points", len(points), "points", "higher", DISK_POINTS, note)
    losses = [f"{point['name']}: {words}" for point in points for words in disk_losses(point)]
    note = "acknowledged feedback, the store, the database, replies, and that a cycle succeeds without a restart"
    yield _count("disk_full_losses", len(losses), "losses", "lower", 0, "; ".join([note, *losses]))
    refused = sum(point["reply_while_full"] != 200 for point in points)
    note = "a reply is given though there is no room to record it"
    yield _count("disk_full_replies_refused", refused, "points", "lower", 0, note)
    silent = [point["name"] for point in points if not says_full(point)]
    note = "the job's words or an answer name the disk" + (f"; not at: {', '.join(silent)}" if silent else "")
    yield _count("disk_full_without_words", len(silent), "points", "lower", 0, note)
    note = "until another cycle has succeeded once there is room again, without a restart; a cycle itself included"
    yield row("disk_full_recovery_s", [point["next_s"] for point in points], "s", "lower", note=note)


def latency_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    idle, training = found["idle_ms"], found["training_ms"]
    ratios = [one / other for one, other in zip(training, idle, strict=True)]
    note = f"{len(ratios)} pairs in blocks that take turns, {found['model']}, over HTTP, no prompt like another"
    yield row("ttft_training_over_idle", ratios, "ratio", "lower", goal=TTFT_RATIO, note=note)
    yield row("ttft_idle_ms", idle, "ms", "lower", note="no job at all")
    yield row("ttft_training_ms", training, "ms", "lower", note="the worker is in its steps when the request comes")


def resume_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    struck = ", ".join(
        f"{name} after step {step}"
        for step, name in zip(found["interrupted_after_step"], found["signals"], strict=True)
    )
    equal = float(found["whole"] == found["broken"])
    note = f"sha256 of the adapter, {found['model']}, {found['steps']} steps, {found['threads']} threads; {struck}"
    yield row("resume_equal", [equal], "equal", "higher", goal=1, note=note)


def _kill_rows(parts: Mapping[str, Any]) -> Iterator[Row]:
    struck = [parts[part] for part in STRUCK if part in parts]
    if not struck:
        return
    notes = (
        [_listed(parts["kills"]["targets"]), f"phases: {_listed(parts['kills']['phases'])}"] if "kills" in parts else []
    )
    if "points" in parts:
        points = parts["points"]
        steps = f"{len(points['steps'])} kinds of step, {len(points['steps_there_are'])} steps"
        notes.append(f"{points['strikes']} at named points from publishing on ({steps})")
    yield _count(
        "kills", sum(found["strikes"] for found in struck), "kills", "higher", KILLS, "; ".join([*notes, FORGIVEN])
    )
    if "kills" in parts:
        kills = parts["kills"]
        for name, count in kills["phases"].items():
            yield _count(f"kills_{name}", count, "kills", "higher", None, "where the cycle stood")
        yield _count("kills_orphans", kills["orphans"], "processes", "lower", 0, "alive 10 s after their daemon")
        if kills["restart_s"]:
            yield row("kills_restart_s", kills["restart_s"], "s", "lower", note="from the start until it replies")


def _cut_rows(parts: Mapping[str, Any]) -> Iterator[Row]:
    if "cuts" not in parts:
        return
    flushing, control = parts["cuts"]["flushing"], parts["cuts"]["control"]
    note = f"ext4 image copied with all processes stopped; {_listed(flushing['phases'])}"
    note += f"; on {flushing['restarts']} of them a daemon was started, and its next cycle succeeded"
    yield _count("power_cuts", len(flushing["cuts"]), "cuts", "higher", CUTS, note)
    damaged = sum(cut["integrity"] != "ok" for cut in flushing["cuts"])
    yield _count("power_cuts_damaged_databases", damaged, "cuts", "lower", 0, "PRAGMA integrity_check")
    losing = sum(cut["lost"] > 0 for cut in control["cuts"])
    lost = sum(cut["lost"] for cut in control["cuts"])
    note = f"the same with eatmydata, of {len(control['cuts'])} cuts: it has to lose, or the cuts prove nothing"
    yield _count("power_cuts_control_losing", losing, "cuts", "higher", 1, f"{note}; {lost} rows in all")


def _promise_rows(parts: Mapping[str, Any]) -> Iterator[Row]:
    """What was promised, over all the parts in which a daemon died."""
    died = [parts[part] for part in STRUCK if part in parts] + ([parts["cuts"]["flushing"]] if "cuts" in parts else [])
    if not died:
        return
    cuts = parts["cuts"]["flushing"]["cuts"] if "cuts" in parts else []
    struck = [parts[part] for part in STRUCK if part in parts]
    note = f"of {sum(found['acknowledged'] for found in died):,} that were answered with 2xx"
    for name in ("lost", "duplicated"):
        count = sum(len(found[name]) for found in struck) + sum(cut[name] for cut in cuts)
        yield _count(f"{name}_feedback", count, "rows", "lower", 0, note)
    unsound = [words for found in [*struck, *cuts] for words in found["unsound"]]
    if struck:
        wrong = [words for found in struck for words in found["wrong_replies"]]
        replies = parts["kills"]["replies"] if "kills" in parts else 0
        note = f"of {replies:,} replies during kills, each against what its version replies alone"
        yield _count("torn_served", len(wrong), "replies", "lower", 0, "; ".join([note, *wrong[:3]]))
    note = "each time that the daemon was dead: every version whole, the pointer on one of them or on the base model"
    yield _count("unverified_pointers", len(unsound), "times", "lower", 0, "; ".join([note, *unsound[:3]]))


def _cycle_rows(parts: Mapping[str, Any]) -> Iterator[Row]:
    struck = [parts[part] for part in STRUCK if part in parts]
    if not struck:
        return
    endings: dict[str, int] = {}
    for found in struck:
        for status, count in found["endings"].items():
            endings[status] = endings.get(status, 0) + count
    yield _count("cycles_ended", sum(endings.values()), "cycles", "higher", None, _listed(endings))
    stuck = [words for found in struck for words in found["stuck"]]
    yield _count(
        "stuck_cycles", len(stuck), "cycles", "lower", 0, "; ".join(["unfinished though left alone", *stuck[:3]])
    )
    twice = [words for found in struck for words in found["published_twice"]]
    note = "cycles that succeeded and published not exactly one version"
    yield _count("published_not_once", len(twice), "cycles", "lower", 0, "; ".join([note, *twice[:3]]))


def _count(name: str, count: int, unit: str, better: Literal["lower", "higher"], goal: float | None, note: str) -> Row:
    return row(name, [count], unit, better, goal=goal, note=note)


def _listed(counts: Mapping[str, int] | Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {name}" for name, count in dict(counts).items())
