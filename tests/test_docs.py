"""The documentation is right: its commands, endpoints, settings, links and paths exist, and its examples run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import typer
from rich.console import Console

from docs import generate_configuration
from service.alarms import AlarmCode
from service.cli.chat import converse
from service.cli.client import Client
from service.cli.main import app
from service.settings.load import Settings
from tests.service.api.conftest import client_of, fake_app, wait_until
from tests.service.house import STANDIN

REPOSITORY = Path(__file__).parents[1]
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
PAGES = [*(REPOSITORY / name for name in ROOT_PAGES), *sorted((REPOSITORY / "docs").glob("*.md"))]
GENERATED = {"configuration.md", "benchmarks.md"}  # their words come from elsewhere
LANGUAGES = {"sh", "python", "text", "mermaid"}
README_LINES = 130

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
SOURCE_PATH = re.compile(r"(?:lars_agent|service|bench|docs|tests|examples|deploy|systemd)/[\w./-]*")
REQUEST = re.compile(r"(GET|POST|DELETE) (/\S+)")
SETTING = re.compile(r"([a-z]+)\.([a-z_]+)")
METRIC = re.compile(r"lars_agent_[a-z_]+")
BAD_START = re.compile(r"(?:^|[.!?] )(What|Who|Whether|Where|Those)\b[^?]*$")
NO_SETTINGS = {"py", "md", "toml", "json", "max"}  # files, and the cgroup's memory.max
SYSTEM_PROGRAMS = {"systemctl", "journalctl", "cp", "ssh", "ssh-keygen"}
OPTIONS_WITH_VALUE = {"-H", "-d", "-X", "-F"}
ADDRESS = "localhost:8321"
IDS = {
    "/generate": "INTERACTION",
    "/feedback": "FEEDBACK",
    "/v1/responses": "RESPONSE",
    "/jobs": "JOB",
    "/v1/files": "FILE",
    "/v1/fine_tuning/jobs": "TUNING",
}  # the variable that an answer gives its id to
UNPLANNED = ("/jobs?dry_run=true", 409)  # the stand-in worker makes no plans
ID_FIELDS = {"INTERACTION": "interaction_id"}


class Code(NamedTuple):
    """A fenced block."""

    language: str
    text: str


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def blocks(page: Path, language: str | None = None) -> list[str]:
    found = [Code(*match.groups()) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]
    return [code.text for code in found if language in (None, code.language)]


def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def inline(page: Path) -> list[str]:
    """Return the texts in backticks."""
    return INLINE.findall(prose(page))


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in a `sh` block."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line)


def mentioned(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in a `sh` block or in backticks."""
    yield from commands(page)
    programs = ("lars-agent ", "make ", "python -m ", "sudo ")
    yield from (shlex.split(code) for code in inline(page) if code.startswith(programs))


def slug(heading: str) -> str:
    """Return the anchor that forges make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.fixture(scope="module")
def targets() -> set[str]:
    """Return the targets of the Makefile."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9-]+):", makefile, re.M))


@pytest.fixture(scope="module")
def routes(tmp_path_factory) -> set[tuple[str, str]]:
    """Return method and path of every route in the OpenAPI description."""
    application = fake_app(Settings(data_dir=tmp_path_factory.mktemp("routes")))
    application.state.daemon.lock.release()
    paths = application.openapi()["paths"]
    return {(method.upper(), path) for path, operations in paths.items() for method in operations}


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pages
def test_every_block_names_its_language(page):
    assert {match[1] for match in FENCE.finditer(page.read_text(encoding="utf-8"))} <= LANGUAGES


@pages
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link or path.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in {slug(heading) for heading in HEADING.findall(target.read_text(encoding="utf-8"))}, link


@pages
def test_paths_exist(page):
    code = " ".join([*inline(page), *blocks(page, "sh"), *blocks(page, "mermaid")])
    named = {path.rstrip(".,") for path in SOURCE_PATH.findall(code) if "checkpoint" not in path}
    missing = sorted(path for path in named if not list(REPOSITORY.glob(path.rstrip("/"))))
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_commands_exist(page, targets):
    for words in mentioned(page):
        check_command(words, targets)


def check_command(words: list[str], targets: set[str]) -> None:
    """Fail unless the command's program, its subcommand and its options exist."""
    program, *arguments = words
    name = Path(program).name
    if name == "sudo":
        check_command(arguments[2:] if arguments[0] == "-u" else arguments, targets)
    elif name == "lars-agent":
        check_command_line(arguments)
    elif name == "make":
        assert set(arguments) <= targets, words
    elif name == "python":
        assert arguments[0] == "-m", words
        assert importlib.util.find_spec(arguments[1]) is not None, words
    elif (REPOSITORY / program).is_file():
        script = (REPOSITORY / program).read_text(encoding="utf-8")
        assert all(argument in script for argument in arguments), words
    else:
        assert name in {"curl", *SYSTEM_PROGRAMS}, words


def check_command_line(arguments: list[str]) -> None:
    """Fail unless `lars-agent` has the subcommand and its options."""
    command: Any = typer.main.get_command(app)
    known = options_of(command)
    for argument in arguments:
        if hasattr(command, "commands") and not argument.startswith("-"):
            assert argument in command.commands, f"lars-agent {shlex.join(arguments)}"
            command = command.commands[argument]
            known |= options_of(command)
        elif argument.startswith("--"):
            assert argument.split("=")[0] in known | {"--help"}, f"lars-agent {shlex.join(arguments)}"


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


@pages
def test_endpoints_exist(page, routes):
    for method, path in (match.groups() for code in inline(page) if (match := REQUEST.fullmatch(code))):
        assert (method, path.partition("?")[0]) in routes, f"{method} {path}"


@pages
def test_settings_exist(page):
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    for code in inline(page):
        match = SETTING.fullmatch(code)
        if match and match[1] in sections and match[2] not in NO_SETTINGS:
            assert match[2] in fields_of(sections[match[1]]), code


def fields_of(section: Any) -> set[str]:
    """Return the names of the fields of a pydantic model or dataclass."""
    return set(getattr(section, "model_fields", None) or section.__dataclass_fields__)


@pages
def test_no_sentence_starts_with_a_question_word(page):
    if page.name in GENERATED:
        pytest.skip("its words come from elsewhere")
    lines = [re.sub(r"^[-#>\s\d.|]+", "", line) for line in prose(page).splitlines()]
    starts = [line for previous, line in zip(["", *lines], lines, strict=False) if not previous or line[:1].isupper()]
    assert [line for line in starts if BAD_START.search(line)] == []


def test_the_configuration_page_is_up_to_date():
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == generate_configuration.page(), "run: python -m docs.generate_configuration > docs/configuration.md"


def test_every_alarm_is_explained():
    table = section("operations.md", "Health alarms")
    assert set(re.findall(r"^\| `(\w+)`", table, re.M)) == set(get_args(AlarmCode))


def section(page: str, heading: str) -> str:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    "block", [block for page in PAGES for block in blocks(page, "python")], ids=lambda block: block.splitlines()[-1]
)
def test_python_examples_run(block, tmp_path):
    command = [sys.executable, "-W", "error", "-c", block]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Session:
    """Sends `curl` commands to an application; `$JOB` and the like are ids that earlier answers gave."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.ids: dict[str, str] = {}
        self.metrics: set[str] = set()

    def scrape(self) -> None:
        """Add the names of the metrics that there are now."""
        self.metrics |= set(re.findall(r"^# TYPE (\w+)", self.client.get("/metrics").text, re.M))

    def run(self, words: list[str]) -> None:
        """Send the command, which must be answered with success."""
        words = [re.sub(r"\$([A-Z]+)", lambda match: self.ids[match[1]], word) for word in words]
        options = [pair for pair in pairwise(words) if pair[0] in OPTIONS_WITH_VALUE]
        body = next((value for option, value in options if option == "-d"), None)
        form = dict(value.split("=", 1) for option, value in options if option == "-F")
        fields = {name: tuple(value.split(";filename=")[::-1]) for name, value in form.items() if ";filename=" in value}
        plain = {name: value for name, value in form.items() if name not in fields}
        sends = body is not None or bool(form)
        method = next((value for option, value in options if option == "-X"), "POST" if sends else "GET")
        headers = dict(value.split(": ", 1) for option, value in options if option == "-H")
        path = next(word for word in words if word.startswith(ADDRESS)).removeprefix(ADDRESS)
        content = {"data": plain, "files": fields} if form else {"content": body}
        answer = self.client.request(method, path, headers=headers, **content)
        assert answer.is_success or (path, answer.status_code) == UNPLANNED, f"{shlex.join(words)}: {answer.text}"
        if method == "POST" and (name := IDS.get(path)):
            self.ids[name] = answer.json()[ID_FIELDS.get(name, "id")]
        if method == "DELETE" and (erasure_id := answer.json()["erasure_id"]):
            self.ids["ERASURE"] = erasure_id


def curls(page: str) -> list[list[str]]:
    return [words for words in commands(REPOSITORY / "docs" / page) if words[0] == "curl"]


@pytest.fixture(scope="module")
def answered(tmp_path_factory) -> Session:
    """A session in which every `curl` command of the API's page was answered.

    The engine and the worker are stand-ins; the first job publishes v1, the second one runs until it is cancelled.
    """
    folder = tmp_path_factory.mktemp("docs")
    settings, release = Settings(data_dir=folder / "data", schedule={"enabled": False}), folder / "release"
    release.touch()
    with client_of(fake_app(settings, worker_command=(sys.executable, str(STANDIN), "--wait", str(release)))) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        session = Session(client)
        for words in curls("api.md"):
            session.run(words)
            if words[-1] == '{"profile": "default"}' and release.exists():
                wait_until(lambda: client.get("/adapters").json()["active"] == "v1")
                wait_until(lambda: client.get("/info").json()["job"] is None)
                release.unlink()
                session.scrape()  # a job that was cancelled measures less
        session.scrape()
        yield session
        release.touch()


def test_the_curl_examples_are_answered(answered):
    assert answered.ids.keys() == {*IDS.values(), "ERASURE"}
    for code in (code for page in PAGES for code in inline(page) if code.startswith("curl ")):
        answered.run(shlex.split(code))


def test_every_metric_is_documented(answered):
    assert set(METRIC.findall(section("operations.md", "Metrics"))) == answered.metrics


def test_the_readmes_chat_stores_its_corrections(answered, monkeypatch):
    said = re.findall(r"^    you: (.+)$", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.M)
    typed = iter([*said, "/quit"])
    monkeypatch.setattr("builtins.input", lambda: next(typed))
    client = Client(f"http://{ADDRESS}")
    client._http = answered.client
    converse(client, "readme", Console(file=StringIO()))
    stored = answered.client.get("/feedback?profile=readme").json()["feedback"]
    corrections = [line.removeprefix("/fix ") for line in said if line.startswith("/fix ")]
    assert len(corrections) == 2
    assert [item["correction"] for item in reversed(stored)] == corrections


def test_constants_named_beside_a_file_stand_in_it():
    """`NAME` in `path/to/file.py`: the name occurs in the file."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`(?: or `\w+`)? in\s+`([\w/]+\.py)`", text)
    assert named
    assert [pair for pair in named if not re.search(rf"\b{pair[0]}\b", (REPOSITORY / pair[1]).read_text())] == []


def test_the_single_test_that_contributing_names_exists():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"-m pytest (\S+\.py)::(\w+)", text)
    assert named
    assert [pair for pair in named if f"def {pair[1]}(" not in (REPOSITORY / pair[0]).read_text()] == []
