"""Every error that lars-agent raises on purpose.

LarsError
├── ConfigError                a setting that cannot be
├── StateMismatch              tensors that do not fit the adapter they are loaded into
├── DiskFull                   no room for a file; nothing half-written is left
├── ModelError
│   ├── ModelNotFound          no such model here
│   ├── ModelIncomplete        a file of the model's folder is missing
│   ├── ModelCorrupt           a file's bytes are not what they should be
│   ├── ModelUnsupported       not a decoder we can adapt, or no chat template
│   └── Offline                the model would have to be fetched, and the network does not answer
├── AdapterError
│   ├── AdapterNotFound        no such version
│   ├── AdapterCorrupt         a file's sha256 is not the manifest's
│   ├── AdapterIncompatible    made for another base model, or by a newer format
│   └── AdapterInUse           to be removed, but the version in use goes back to it
├── TrainingError
│   ├── JobInvalid             a job directory that cannot be read
│   ├── NothingToLearn         no example survives curation
│   ├── ExampleTooLong         prompt and reply do not fit `max_seq_len`
│   ├── BudgetTooSmall         refused before it starts
│   ├── MemoryPressure         near the budget; a smaller plan goes on from the last step
│   ├── BudgetExceeded         stopped because the measured memory passed the budget
│   ├── Preempted              asked to stop; a checkpoint goes on from the last whole step
│   ├── WorkerFailed           the worker process ended without a result
│   └── JobCancelled
└── GenerationError
    ├── ModelLoading           ask again in a moment
    ├── PromptTooLong
    ├── PromptRefused          empty, or not what the chat template takes
    ├── QueueFull              ask again in `retry_after_s`
    ├── GenerationTimeout      not whole by its deadline
    └── GenerationCancelled

Packages above this one add their own subclasses. `serialize_error` and `deserialize_error` carry any of them from one
process to another.
"""

import json
from subprocess import CompletedProcess
from typing import Any, NotRequired, TypedDict


class LarsError(Exception):
    """Base of every error raised on purpose; its message says what failed, the value met, and what to do."""


class ConfigError(LarsError):
    """A setting has a value that cannot be."""


class StateMismatch(LarsError):
    """Adapter tensors do not fit: a key is missing, unexpected, or has another shape."""


class DiskFull(LarsError):
    """A file did not fit on the disk; what was half-written has been removed."""


class ModelError(LarsError):
    """Something is wrong with a base model."""


class ModelNotFound(ModelError):
    """No such base model on this device."""


class ModelIncomplete(ModelError):
    """A file that the model's folder should have is missing."""


class ModelCorrupt(ModelError):
    """A file of the base model does not hold the bytes it should."""


class ModelUnsupported(ModelError):
    """The model is not a decoder that can be adapted, or has no chat template."""


class Offline(ModelError):
    """The model would have to be fetched and the network does not answer."""


class AdapterError(LarsError):
    """Something is wrong with a stored adapter."""


class AdapterNotFound(AdapterError):
    """No such adapter version."""


class AdapterCorrupt(AdapterError):
    """A file of an adapter version is missing, or its sha256 is not the manifest's."""


class AdapterIncompatible(AdapterError):
    """The adapter was made for another base model, or written by a newer lars-agent."""


class AdapterInUse(AdapterError):
    """The adapter cannot be removed: it is in use, or an ancestor of the one that is."""


class TrainingError(LarsError):
    """A training job cannot start or go on."""


class JobInvalid(TrainingError):
    """A job directory is missing a file or holds one that cannot be read."""


class NothingToLearn(TrainingError):
    """No example is left to train on, or none to judge by."""


class ExampleTooLong(TrainingError):
    """A prompt and its reply do not fit the longest sequence allowed."""


class BudgetTooSmall(TrainingError):
    """The memory budget cannot hold even the smallest plan; nothing was loaded."""


class MemoryPressure(TrainingError):
    """The worker came near its memory budget, holding `held_bytes`; the step can be done again under a smaller plan."""

    held_bytes = 0  # where an older record of the error does not say

    def __init__(self, message: str, held_bytes: int) -> None:
        super().__init__(message)
        self.held_bytes = held_bytes


class BudgetExceeded(TrainingError):
    """The worker's measured memory passed the budget and it stopped itself."""


class Preempted(TrainingError):
    """Somebody asked for the processor; the work in hand is given up and done again later, exactly."""


class WorkerFailed(TrainingError):
    """The training worker ended without leaving a result."""


class JobCancelled(TrainingError):
    """The job was cancelled."""


class GenerationError(LarsError):
    """A reply cannot be generated."""


class ModelLoading(GenerationError):
    """The base model is still being loaded; ask again in a moment."""


class PromptTooLong(GenerationError):
    """The prompt leaves no room for a reply in the model's context."""


class PromptRefused(GenerationError):
    """There is nothing to go on with, or the model's chat template does not take the conversation."""


class QueueFull(GenerationError):
    """Too many requests wait already.

    Attributes: `retry_after_s`, whole seconds after which it is worth asking again.
    """

    retry_after_s = 5

    def __init__(self, message: str, retry_after_s: int = retry_after_s) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GenerationTimeout(GenerationError):
    """A reply was not whole by its deadline."""


class GenerationCancelled(GenerationError):
    """The request was cancelled before its reply was finished."""


class ErrorRecord(TypedDict):
    """A serialized error; `fields` are its attributes beyond the message. An older record may lack them."""

    type: str
    message: str
    fields: NotRequired[dict[str, Any]]


def serialize_error(error: LarsError) -> ErrorRecord:
    """Return `error` as JSON values, for another process; the inverse is `deserialize_error`."""
    fields = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    return {"type": type(error).__name__, "message": str(error), "fields": fields}


def deserialize_error(record: ErrorRecord, fallback: type[LarsError]) -> LarsError:
    """Return the error that another process serialized, of its own type; of type `fallback` if that is unknown here.

    Types are looked up by name among all subclasses of LarsError that have been imported.
    """
    kind = _error_types().get(record["type"], fallback)
    error = kind.__new__(kind, record["message"])  # not __init__: its parameters differ, and the message is complete
    vars(error).update(record.get("fields", {}))
    return error


def process_error(done: CompletedProcess[str], failure: str, fallback: type[LarsError]) -> LarsError:
    """Return the error of a process that has failed.

    It is the one that the process serialized into the last line of its stdout; where there is none, `fallback` with
    `failure` and the last line of its stderr.
    """
    try:
        return deserialize_error(json.loads(last_line(done.stdout)), fallback)
    except (ValueError, LookupError, TypeError):
        return fallback(f"{failure}: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """Return the last line of a process's output; "no reason given" if there is none."""
    return (text.strip().splitlines() or ["no reason given"])[-1]


def _error_types() -> dict[str, type[LarsError]]:
    found, pending = {}, [LarsError]
    while pending:
        kind = pending.pop()
        found[kind.__name__] = kind
        pending += kind.__subclasses__()
    return found
