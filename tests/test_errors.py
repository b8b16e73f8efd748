"""Every error of both packages crosses a process boundary as it is."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

import lars_agent
import service
from lars_agent.errors import (
    GenerationError,
    LarsError,
    MemoryPressure,
    ModelUnsupported,
    QueueFull,
    WorkerFailed,
    deserialize_error,
    process_error,
    serialize_error,
)
from lars_agent.runtime.rpc import RpcConnection, error_from, error_to
from lars_agent.training.job_directory import JobResult, read_result
from service.api.errors import InvalidField

EXAMPLES = {int: 7, str: "top_p", str | None: "j-1", float: 0.5, bool: True}


def subclasses(kind: type[LarsError]) -> Iterator[type[LarsError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def error_types() -> list[type[LarsError]]:
    """LarsError and its subclasses in both packages, every module of which is imported first."""
    for package in (lars_agent, service):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "migrations" not in module.name and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return [kind for kind in subclasses(LarsError) if kind.__module__.split(".")[0] in ("lars_agent", "service")]


ERROR_TYPES = error_types()


def example(kind: type[LarsError]) -> LarsError:
    """An error with a value of its own for each parameter."""
    if not inspect.isfunction(kind.__init__):
        return kind("needs 3 bytes, 2 are left")
    parameters = list(inspect.signature(kind.__init__, eval_str=True).parameters.values())[1:]
    return kind(*(EXAMPLES[parameter.annotation] for parameter in parameters))


def test_errors_of_both_packages_are_found_and_no_two_have_one_name() -> None:
    names = [kind.__name__ for kind in ERROR_TYPES]
    assert {"LarsError", "QueueFull", "SafeMode", "JobRunning", "DatabaseBusy", "InvalidField"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", ERROR_TYPES, ids=lambda kind: kind.__name__)
def test_every_error_keeps_type_message_and_fields_in_another_process(kind: type[LarsError]) -> None:
    sent = example(kind)
    got = deserialize_error(json.loads(json.dumps(serialize_error(sent))), WorkerFailed)
    assert type(got) is kind
    assert (str(got), got.args, vars(got)) == (str(sent), (str(sent),), vars(sent))


def test_fields_are_kept() -> None:
    full, pressure, field = (
        QueueFull("8 wait", retry_after_s=9),
        MemoryPressure("near", 1234),
        InvalidField("n", "is 0"),
    )
    assert deserialize_error(serialize_error(full), LarsError).retry_after_s == 9
    assert deserialize_error(serialize_error(pressure), LarsError).held_bytes == 1234
    assert deserialize_error(serialize_error(field), LarsError).param == "n"


def test_error_crosses_the_socket_between_daemon_and_engine() -> None:
    ours, theirs = (RpcConnection(end) for end in socket.socketpair())
    theirs.send({"id": 1, "error": error_to(QueueFull("8 requests wait", retry_after_s=9))})
    theirs.send({"id": 2, "error": error_to(ZeroDivisionError("division by zero"))})
    theirs.close()
    full, ours_unknown = (error_from(line["error"]) for line in ours)
    assert (type(full), str(full), full.retry_after_s) == (QueueFull, "8 requests wait", 9)
    assert (type(ours_unknown), str(ours_unknown)) == (GenerationError, "ZeroDivisionError('division by zero')")
    ours.close()


@pytest.mark.parametrize("name", ["NoSuchError", "", "Exception", "annotations", "TypedDict"])
def test_unknown_type_becomes_the_fallback(name: str) -> None:
    error = deserialize_error({"type": name, "message": "words"}, WorkerFailed)
    assert (type(error), str(error)) == (WorkerFailed, "words")


def test_record_of_an_older_version_has_no_fields() -> None:
    assert deserialize_error({"type": "QueueFull", "message": "full"}, LarsError).retry_after_s == 5
    assert deserialize_error({"type": "MemoryPressure", "message": "near"}, LarsError).held_bytes == 0


def test_result_of_an_older_worker_is_read(tmp_path) -> None:
    old = {"status": "failed", "error": "near", "error_type": "MemoryPressure", "learned": [], "stepped_down": []}
    (tmp_path / "result.json").write_text(json.dumps(old))
    assert read_result(tmp_path) == JobResult("failed", error="near", error_type="MemoryPressure")


def test_process_that_dies_silently_is_told_by_its_last_line() -> None:
    serialized = json.dumps(serialize_error(QueueFull("full", 3)))
    done = subprocess.CompletedProcess([], 1, stdout=f"noise\n{serialized}\n", stderr="")
    assert process_error(done, "x", ModelUnsupported).retry_after_s == 3
    for stdout in ("", "noise", "[]", "{}", "3"):
        died = subprocess.CompletedProcess([], 1, stdout=stdout, stderr="Traceback\nKeyError: 'a'\n")
        error = process_error(died, "it could not be checked", ModelUnsupported)
        assert (type(error), str(error)) == (ModelUnsupported, "it could not be checked: KeyError: 'a'")
