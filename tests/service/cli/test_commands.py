"""The commands on records: feedback, interactions, jobs, versions and names, against a daemon over HTTP."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from io import StringIO
from typing import Any

import pytest
import typer
from rich.console import Console
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import Route

from service.cli.main import app
from service.cli.output import table
from service.settings.load import Settings
from service.settings.server import Server
from tests.service.api.conftest import fake_app
from tests.service.dashboard.conftest import served

WITHOUT_JSON = {"serve", "chat", "export", "bench"}  # they print no record
EVIL = "[bold]x[/] \x1b[31mred\x07"
TOKEN = "correct horse battery"


def leaves(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, one in getattr(command, "commands", {}).items():
        yield from leaves(one, *names, name)
    if not hasattr(command, "commands"):
        yield names, command


LEAVES = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("names", LEAVES, ids=" ".join)
def test_every_command_explains_itself_and_its_options_and_has_json(names):
    command = LEAVES[names]
    assert (command.help or "").strip()
    assert [one.name for one in command.params if not one.help] == []
    has_json = any("--json" in one.opts for one in command.params)
    assert has_json != (names[-1] in WITHOUT_JSON)


def add(run, *options: str, prompt: str = "My dog?") -> Any:
    return run("feedback", "add", "--prompt", prompt, "--response", "Luna.", *options, "--json").json


def teach(run) -> None:
    """Store enough to train on."""
    for number in range(2):
        add(run, "--correction", f"It is {number}.", prompt=f"What is the number of house {number}?")


def test_feedback_is_added_listed_shown_and_deleted_by_its_id(device, run):
    stored = add(run, "--correction", "Biscuit.", "--comment", EVIL, "--tag", "pets", "--tag", "dogs")
    assert (stored["tags"], stored["comment"]) == (["pets", "dogs"], EVIL)
    listed = run("feedback", "list", "--tag", "dogs", "--search", "biscuit")
    assert stored["id"] in re.split(r"\W{2,}", listed.out)
    assert run("feedback", "--tag", "cats").out == "no feedback\n"
    page = run("feedback", "--json", "--limit", "1").json
    assert ([row["id"] for row in page["feedback"]], page["total"]) == ([stored["id"]], 1)
    shown = run("feedback", "show", stored["id"]).out
    for words in ("Biscuit.", "My dog?", "pets, dogs", "no version yet", "[bold]x[/] "):
        assert words in shown
    assert "\x1b" not in shown
    assert run("feedback", "show", stored["id"], "--json").json == {**stored, "versions": []}
    gone = run("feedback", "delete", stored["id"], "--json").json
    assert gone["erasure"]["feedback"] == [stored["id"]]
    assert run("feedback", "list", "--json").json["total"] == 0


def test_the_earlier_form_of_feedback_still_adds_some(device, run):
    stored = run("feedback", "--prompt=My cat?", "--response", "No idea.", "--rating", "down")
    assert (stored.code, stored.out.split()[0]) == (0, "stored")
    listed = run("feedback")
    assert stored.out.split()[1] in listed.out
    assert "disliked" in listed.out
    assert run("forget", stored.out.split()[1], "--json").json["deleted"] == 1


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("columns", "row"),
    [
        (("prompt", "reply", "judged"), ("a question " * 20, "an answer " * 20, "corrected")),
        (("status", "note"), ("succeeded: v12", "two examples are needed " * 9)),
    ],
)
def test_in_a_terminal_an_id_is_whole_and_a_row_is_a_line(width, columns, row):
    console, begin = Console(width=width, file=StringIO()), ("f-1a228f57048d7511293e629", "2026-11-29", "default")
    console.print(table(("id", "created", "profile", *columns), [(*begin, *row)]))
    _, _, line = console.file.getvalue().splitlines()
    assert line.split()[:4] == [*begin, row[0].split()[0]]
    assert "corrected" in line or "two" in line


def test_more_rows_than_are_shown_are_told(device, run):
    ids = [add(run, "--rating", "up")["id"] for _ in range(3)]
    listed = run("feedback", "--limit", "2")
    assert [one in listed.out for one in ids] == [False, True, True]
    assert "the newest 2 of 3; --limit shows more" in listed.err
    assert run("forget", "--all", "--yes").code == 0


def test_interactions_are_listed_shown_and_deleted(device, run):
    said = device.say(f"Where is my hat? {EVIL}")
    listed = run("interactions", "-q", "HAT")
    assert said in listed.out
    assert "[bold]x[/] \ufffd[31mred" in listed.out
    assert run("interactions", "--conversation", "none").out == "no interactions\n"
    shown = run("interactions", "show", said)
    assert "echo: Where is my hat?" in shown.out
    assert run("interactions", "show", said, "--json").json["id"] == said
    assert "1 interactions" in run("interactions", "delete", said).out
    assert run("interactions", "show", said).code == 1


def test_a_job_is_followed_to_its_end_phase_by_phase(device, run):
    teach(run)
    device.release.touch()
    done = run("adapt", "--wait")
    assert done.code == 0, done.err
    begun, *phases = done.out.splitlines()
    assert re.fullmatch(r"job j-\w+: begun; it goes on if this command ends", begun)
    assert phases.index("training") < phases.index(f"{begun.split(':')[0]}: succeeded; published default@v1")
    assert phases[-1].startswith("  The loss on general text")
    listed = run("jobs")
    assert re.search(r"j-\w+ .* succeeded: v1 ", listed.out)
    assert run("adapters", "--json").json["active"] == "v1"
    assert "v1" in run("adapters").out
    assert "default@v1, in use" in run("adapters", "show", "v1").out
    assert "succeeded" in run("jobs", "show", begun.split()[1].rstrip(":")).out
    assert run("rollback", "--json").json == {"profile": "default", "active": "base"}
    assert run("adapters", "activate", "v1", "--json").json == {"profile": "default", "active": "v1"}
    names = run("names").out
    assert "default@v1" in names
    assert "base" in names
    assert {card["id"] for card in run("names", "--json").json["data"]} >= {"default", "base", "default@v1"}
    learned = run("lineage", "v1", "--json").json["feedback"]
    assert learned == []  # the stand-in learns nothing


def test_a_job_is_paused_resumed_and_cancelled_without_its_id(device, run):
    teach(run)
    device.release.unlink(missing_ok=True)
    begun = run("adapt", "--json").json
    assert begun["status"] == "queued"
    assert run("adapt").err.startswith(f"error: job {begun['id']} is")
    assert run("jobs", "pause", "--json").json["status"] == "paused"
    assert "status       paused" in run("jobs", "show").out
    assert run("jobs", "resume").out == f"job {begun['id']}: resumed\n"
    assert run("jobs", "cancel").out == f"job {begun['id']}: is being cancelled\n"
    device.idle()
    assert run("jobs", "list", "--limit", "1", "--json").json["jobs"][0]["status"] == "cancelled"
    for verb in ("pause", "resume", "cancel"):
        nothing = run("jobs", verb)
        assert (nothing.code, nothing.out) == (1, "")
        assert "no job is at work" in nothing.err
        over = run("jobs", verb, begun["id"])
        assert (over.code, begun["id"] in over.err) == (1, True)


def test_who_interrupts_the_wait_gets_130_and_the_job_goes_on(device, run):
    teach(run)
    device.release.unlink(missing_ok=True)
    command = [sys.executable, "-m", "service", "adapt", "--wait"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests in the background ignore it
    with subprocess.Popen(command, preexec_fn=heard, **pipes) as process:
        assert process.stdout is not None
        begun = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert device.get("info")["job"] == begun.split()[1].rstrip(":")
    assert run("jobs", "cancel").code == 0
    device.idle()


def test_waiting_for_a_job_that_publishes_nothing_exits_1_and_json_is_one_document(device, run):
    device.release.touch()
    done = run("adapt", "--wait", "--profile", "nobody", "--json")
    assert (done.code, done.json["status"]) == (1, "failed")
    assert "begun" in done.err
    assert done.json["error"] in run("adapt", "--wait", "--profile", "nobody").out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("feedback", "show", "f-nope"), "lars-agent feedback list"),
        (("feedback", "delete", "../info"), "lars-agent feedback list"),
        (("interactions", "show", "i-nope?x#y"), "lars-agent interactions list"),
        (("interactions", "delete", "i-nope"), "lars-agent interactions list"),
        (("forget", "i-nope"), "lars-agent interactions list"),
        (("jobs", "show", "j-nope"), "lars-agent jobs list"),
        (("jobs", "cancel", "j-nope"), "lars-agent jobs list"),
        (("adapters", "show", "v77"), "v77"),
        (("activate", "v77"), "v77"),
    ],
)
def test_an_unknown_id_is_an_error_in_one_line_that_says_where_the_ids_are(device, run, arguments, hint):
    done = run(*arguments)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert hint in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("feedback", "show"),
        ("feedback", "show", ""),
        ("feedback", "show", ".."),
        ("feedback", "list", "--limit", "0"),
        ("feedback", "list", "--source", "guessed"),
        ("feedback", "--colour"),
        ("interactions", "forget", "i-1"),
        ("jobs", "cancel", ""),
        ("jobs", "bogus"),
        ("forget",),
        ("forget", "f-1", "--all"),
        ("settings", "--reset"),
        ("settings", "schedule.cron", "x", "--reset"),
        ("model", "rm"),
        ("bench",),
    ],
)
def test_wrong_use_exits_2_and_changes_nothing(device, run, arguments):
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize("noun", ["feedback", "interactions", "jobs", "adapters", "model", "schedule"])
def test_help_on_a_noun_lists_its_verbs(run, noun):
    done = run(noun, "--help")
    assert done.code == 0
    assert "list" in done.out or "history" in done.out


def test_a_refused_answer_to_the_question_deletes_nothing(device, run):
    stored = add(run, "--rating", "up")
    done = run("forget", "--all", stdin="n\n")
    assert (done.code, done.out.strip()) == (1, "")
    assert run("feedback", "delete", stored["id"]).code == 0


def test_a_daemon_that_is_not_there_or_is_another_program_is_told_in_words(run):
    pages = [Route("/", lambda _: HTMLResponse("hello")), Route("/info", lambda _: HTMLResponse("hello"))]
    with served(Starlette(routes=[*pages, Route("/jobs", lambda _: RedirectResponse("/"))])) as url:
        for path in ("status", "jobs", "adapters"):  # 200 without JSON, a redirect, a 404 without an error
            done = run(path, "--url", url)
            assert (done.code, "not as lars-agent does" in done.err, done.err.count("\n")) == (1, True, 1)
    for url, words in (("http://127.0.0.1:9", "lars-agent serve"), ("localhost:8321", "http://127.0.0.1:8321")):
        done = run("jobs", "--url", url)
        assert (done.code, words in done.err, done.err.count("\n")) == (1, True, 1)


def test_a_missing_and_a_wrong_token_are_told_apart(tmp_path, run, quiet, monkeypatch):
    with served(fake_app(Settings(data_dir=tmp_path / "data", server=Server(token=TOKEN)))) as url:
        monkeypatch.delenv("LARS_AGENT_TOKEN", raising=False)
        assert "asks for its token" in run("jobs", "--url", url).err
        monkeypatch.setenv("LARS_AGENT_TOKEN", "another one of them")
        wrong = run("jobs", "--url", url)
        assert (wrong.code, "refuses the token of the environment variable LARS_AGENT_TOKEN" in wrong.err) == (1, True)
        assert "another one" not in wrong.err.replace("it has another one as", "")
        monkeypatch.setenv("LARS_AGENT_TOKEN", TOKEN)
        assert run("jobs", "--url", url).out == "no jobs\n"


def test_chat_helps_and_takes_no_command_that_it_does_not_know(device, run):
    lines = ["/help", "/fixx it", "/good grief", "//etc/hosts", "/?", "/quit now", "/bye", "never said"]
    done = run("chat", stdin="\n".join(lines))
    assert done.code == 0
    assert done.out.count("/fix TEXT     say what") == 2
    assert "there is no command /fixx; /help lists them" in done.out
    assert "/good takes no text" in done.out
    assert "/quit takes no text" in done.out
    assert "echo: /etc/hosts" in done.out
    assert [row["messages"][-1]["content"] for row in device.get("interactions")["interactions"]][:1] == ["/etc/hosts"]
