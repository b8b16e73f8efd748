"""The whole loop on the real default model, as a person would see it, in a scratch folder: `make demo`.

A daemon is started; feedback goes in; one adaptation runs; replies to prompts it has never seen are compared
with those before; the daemon is restarted and still serves the new version; a rollback brings the old replies back,
token for token. Exits 1 when any of this fails.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from examples.persona import MARA, Probe, probes, read_lines
from examples.running import Daemon, daemon
from lars_agent.errors import LarsError

MODELS = Path(__file__).parent.parent / ".cache" / "models"
FACT_GOAL, STYLE_GOAL, TEXT_GOAL = 0.85, 0.80, 0.03
SHOWN = 8
LIMIT_S = 1200
CONSOLE = Console(width=116)


def adapt(running: Daemon) -> dict[str, Any]:
    """The finished job of one adaptation of the default profile."""
    job = running.post("/jobs", {"profile": "default"})
    with Progress(console=CONSOLE) as bar:
        task = bar.add_task("adapting", total=None)
        while job["status"] in {"queued", "running", "paused"}:
            time.sleep(2)
            job = running.get(f"/jobs/{job['id']}")
            progress = running.get(f"/jobs/{job['id']}/progress")["progress"]
            steps = [line for line in progress if "step" in line]
            if steps:
                bar.update(task, completed=steps[-1]["step"], total=steps[-1]["steps"])
    return dict(job)


def ask(running: Daemon, asked: Sequence[Probe], title: str) -> list[tuple[str, dict[str, Any]]]:
    """The daemon's replies to all probes, in order."""
    with Progress(console=CONSOLE) as bar:
        return [running.reply(probe.prompt) for probe in bar.track(asked, description=title)]


def main() -> None:
    """Runs the demonstration and exits 0 when everything in it held."""
    failures: list[str] = []

    def check(held: bool, words: str) -> None:
        CONSOLE.print(("[green]ok[/]      " if held else "[red]FAILED[/]  ") + words)
        if not held:
            failures.append(words)

    started = time.monotonic()
    held_out = probes()
    shown = [*held_out[:: max(1, len(held_out) // SHOWN)]]
    with tempfile.TemporaryDirectory(prefix="lars-agent-demo-") as folder:
        state = Path(folder)
        MODELS.mkdir(parents=True, exist_ok=True)
        (state / "models").symlink_to(MODELS, target_is_directory=True)
        with daemon(state) as running:
            before = ask(running, shown, "replies before")
            for number, item in enumerate(read_lines(MARA / "feedback.jsonl")):
                running.post("/feedback", item, **{"Idempotency-Key": f"demo-{number}"})
            job = adapt(running)
            verdict, result = job.get("verdict") or {}, job.get("result") or {}
            CONSOLE.print(
                f"job {job['id']}: {job['status']}; " + " ".join(verdict.get("reasons", [job.get("error") or ""]))
            )
            check(job["status"] == "succeeded", "the candidate was accepted and published as v1")
            after = ask(running, held_out, "replies after")
        if failures:
            sys.exit(1)  # there is nothing to compare with
        print_replies(shown, before, held_out, after)
        print_losses(result)
        check_quality(held_out, after, result, job, check)
        with daemon(state) as running:
            again = ask(running, shown, "after a restart")
            expected = [after[held_out.index(probe)] for probe in shown]
            same = texts(again) == texts(expected) and all(details["adapter_version"] == "v1" for _, details in again)
            check(same, "the restarted daemon serves v1: the same replies, token for token")
            running.post("/adapters/rollback", {})
            rolled_back = ask(running, shown, "after a rollback")
            check(texts(rolled_back) == texts(before), "after the rollback the old replies are back, token for token")
    seconds = time.monotonic() - started
    check(seconds <= LIMIT_S, f"{seconds:.0f} seconds (limit {LIMIT_S})")
    sys.exit(1 if failures else 0)


def texts(replies: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[str, int]]:
    """Return the texts and the numbers of tokens, which have to be equal between two rounds of replies."""
    return [(text, details["generated_tokens"]) for text, details in replies]


def check_quality(
    held_out: Sequence[Probe],
    after: Sequence[tuple[str, dict[str, Any]]],
    result: dict[str, Any],
    job: dict[str, Any],
    check: Any,
) -> None:
    """Facts, style, general text and memory against their goals."""
    passed = [probe.passed(text) for probe, (text, _) in zip(held_out, after, strict=True)]
    for kind, goal in (("fact", FACT_GOAL), ("style", STYLE_GOAL)):
        marks = [mark for probe, mark in zip(held_out, passed, strict=True) if probe.kind == kind]
        check(
            sum(marks) / len(marks) >= goal,
            f"{kind}: {sum(marks)} of {len(marks)} held-out prompts right (goal {goal:.0%})",
        )
    rise = result["candidate"]["text_loss"] / result["base"]["text_loss"] - 1
    check(rise < TEXT_GOAL, f"general-text loss changes by {rise:+.1%} (goal below +{TEXT_GOAL:.0%})")
    budget, peak, predicted = (
        size / 2**20 for size in (job["budget_bytes"], job["peak_bytes"], result["predicted_peak_bytes"])
    )
    words = f"memory: peak {peak:,.0f} MiB of a budget of {budget:,.0f} MiB (predicted: {predicted:,.0f} MiB)"
    check(peak <= budget, words)


def print_replies(
    shown: Sequence[Probe],
    before: Sequence[tuple[str, dict[str, Any]]],
    held_out: Sequence[Probe],
    after: Sequence[tuple[str, dict[str, Any]]],
) -> None:
    """A table of held-out prompts with the reply before and after."""
    table = Table("held-out prompt", "before (base)", "after (v1)", show_lines=True)
    for probe, (old, _) in zip(shown, before, strict=True):
        table.add_row(probe.prompt, one_line(old), one_line(after[held_out.index(probe)][0]))
    CONSOLE.print(table)


def print_losses(result: dict[str, Any]) -> None:
    """The losses before and after, in nats per token."""
    table = Table("loss, nats per token", "before (base)", "after (v1)")
    for name, label in (("reply_loss", "held-out replies"), ("text_loss", "general text")):
        if result.get("candidate"):
            table.add_row(label, f"{result['base'][name]:.3f}", f"{result['candidate'][name]:.3f}")
    CONSOLE.print(table)


def one_line(text: str) -> str:
    """`text` short enough for a table."""
    flat = " ".join(text.split())
    return json.dumps(flat, ensure_ascii=False)[1:-1] if len(flat) <= 110 else flat[:107] + "..."


if __name__ == "__main__":
    try:
        main()
    except LarsError as error:
        sys.exit(str(error))
