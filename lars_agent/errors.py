"""Errors that lars-agent raises on purpose, and their transport between processes.

Packages above this one add their own subclasses. `serialize_error` and `deserialize_error` carry any of them between
processes.
"""

import json
from subprocess import CompletedProcess
from typing import Any, NotRequired, TypedDict


class LarsError(Exception):
    """Base of every error raised on purpose; its message says what failed, the value met, and what to do."""


class ConfigError(LarsError):
    """A setting has an invalid value."""


class StateMismatch(LarsError):
    """Adapter tensors do not fit: a key is missing, unexpected, or has another shape."""


class DiskFull(LarsError):
    """The disk is full; the incomplete file has been removed."""


class ModelError(LarsError):
    """Base of errors of base models."""


class ModelNotFound(ModelError):
    """No such base model on this device."""


class ModelForbidden(ModelNotFound):
    """The hub gives the model only to those whom its owners let in."""


class ModelIncomplete(ModelError):
    """A required file of the model's folder is missing."""


class ModelCorrupt(ModelError):
    """A file of the base model is damaged."""


class ModelUnsupported(ModelError):
    """The model is not a decoder that can be adapted, or has no chat template."""


class Offline(ModelError):
    """The model has to be downloaded, and the network does not answer."""


class AdapterError(LarsError):
    """Base of errors of stored adapters."""


class AdapterNotFound(AdapterError):
    """No such adapter version."""


class AdapterCorrupt(AdapterError):
    """A file of an adapter version is missing, or differs from the sha256 in its manifest."""


class AdapterIncompatible(AdapterError):
    """The adapter was trained for another base model, or written by a newer lars-agent."""


class AdapterInUse(AdapterError):
    """The adapter cannot be removed: it is active, or an ancestor of the active one."""


class TrainingError(LarsError):
    """Base of errors that end a training job."""


class JobInvalid(TrainingError):
    """A file of a job directory is missing or cannot be read."""


class NothingToLearn(TrainingError):
    """No example is left for training or for evaluation."""


class ExampleTooLong(TrainingError):
    """A prompt and its reply are longer than `max_seq_len`."""


class BudgetTooSmall(TrainingError):
    """The memory budget is too small for the smallest plan; nothing was loaded."""


class MemoryPressure(TrainingError):
    """The worker came near its memory budget with `held_bytes`; the step can be repeated under a smaller plan."""

    held_bytes = 0  # in records without fields, written by older versions

    def __init__(self, message: str, held_bytes: int) -> None:
        super().__init__(message)
        self.held_bytes = held_bytes


class BudgetExceeded(TrainingError):
    """The worker stopped itself: its measured memory exceeded the budget."""


class Preempted(TrainingError):
    """The worker was asked to stop; the current step is discarded and repeated later."""


class WorkerFailed(TrainingError):
    """The training worker ended without a result."""


class JobCancelled(TrainingError):
    """The job was cancelled."""


class GenerationError(LarsError):
    """Base of errors of generation requests."""


class ModelLoading(GenerationError):
    """The base model is being loaded; retry later."""


class PromptTooLong(GenerationError):
    """The prompt leaves no room for a reply in the model's context."""


class PromptRefused(GenerationError):
    """The prompt is empty, or the model's chat template rejects the conversation."""


class ParameterRefused(GenerationError):
    """A field of the request, `param`, asks for what cannot be done with this model, such as an endless grammar."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


class QueueFull(GenerationError):
    """The queue of requests is full; retry after `retry_after_s` whole seconds."""

    retry_after_s = 5

    def __init__(self, message: str, retry_after_s: int = retry_after_s) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GenerationTimeout(GenerationError):
    """A reply was not finished by its deadline."""


class GenerationCancelled(GenerationError):
    """The request was cancelled before its reply was finished."""


class ErrorRecord(TypedDict):
    """A serialized error; `fields`, absent in old records, are its attributes beyond the message."""

    type: str
    message: str
    fields: NotRequired[dict[str, Any]]


def serialize_error(error: LarsError) -> ErrorRecord:
    """Return `error` as JSON values for `deserialize_error`."""
    fields = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    return {"type": type(error).__name__, "message": str(error), "fields": fields}


def deserialize_error(record: ErrorRecord, fallback: type[LarsError]) -> LarsError:
    """Return the serialized error, of type `fallback` if its own is no imported subclass of LarsError."""
    kind = _error_types().get(record["type"], fallback)
    error = kind.__new__(kind, record["message"])  # __init__ may take other parameters
    vars(error).update(record.get("fields", {}))
    return error


def process_error(done: CompletedProcess[str], failure: str, fallback: type[LarsError]) -> LarsError:
    """Return the error that a failed process serialized into the last line of its stdout.

    Without one, `fallback` with `failure` and the last line of its stderr.
    """
    try:
        return deserialize_error(json.loads(last_line(done.stdout)), fallback)
    except (ValueError, LookupError, TypeError):
        return fallback(f"{failure}: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """Return the last line of a process's output; "no reason given" if there is none."""
    return (text.strip().splitlines() or ["no reason given"])[-1]


def _error_types() -> dict[str, type[LarsError]]:
    types, pending = {}, [LarsError]
    while pending:
        kind = pending.pop()
        types[kind.__name__] = kind
        pending += kind.__subclasses__()
    return types
