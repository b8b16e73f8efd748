"""Error responses: `STATUS` maps error types to HTTP status, and every error has one shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from lars_agent import errors
from service.api.caller import OwnerOnly, ProfileNotFound
from service.backup.errors import BackupError
from service.cycle.supervisor import JobNotRunning, JobRunning
from service.db.errors import DatabaseBusy, IdempotencyConflict, RecordNotFound
from service.process.crash_loop import SafeMode
from service.serving.model_pull import PullRunning
from service.serving.model_removal import ModelInUse

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 5
EVERYWHERE = (400, 401, 403, 405, 408, 413, 422, 429, 500)  # statuses that every route can answer with
UNEXPECTED = "something went wrong here; the daemon's log says what"
OLLAMA = "/api/"  # clients of this dialect read an error as one string
ANTHROPIC = "/v1/messages"  # and of this one a shape of its own
SHOWN_CHARS = 60  # maximum length of a quoted value
MESSAGES = {"missing": "is missing", "extra_forbidden": "is not supported in this request; leave it out"}
MESSAGES |= dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be an object")
Responses = dict[int | str, dict[str, Any]]  # FastAPI's `responses`, by status
PROMPTS = ("inputs", "messages", "prompt", "input")  # the prompt's names in the dialects
SOURCES = ("body", "query", "path", "header")  # locations of a field; not part of its name


class InvalidField(errors.LarsError):
    """A field of the request has an invalid value; `param` is its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


class FieldConflict(InvalidField):
    """A field of the request has a value that what is stored does not allow."""


class FieldNotFound(InvalidField):
    """A field of the request names something that does not exist."""


# The first match counts, so a subclass precedes its base; all other errors are 500.
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (FieldConflict, 409),
    (FieldNotFound, 404),
    (InvalidField, 422),
    (errors.PromptTooLong, 422),
    (errors.PromptRefused, 422),
    (errors.ParameterRefused, 422),
    (OwnerOnly, 403),
    (ProfileNotFound, 404),
    (errors.AdapterNotFound, 404),
    (RecordNotFound, 404),
    (IdempotencyConflict, 409),
    (JobRunning, 409),
    (PullRunning, 409),
    (ModelInUse, 409),
    (BackupError, 409),
    (JobNotRunning, 409),
    (SafeMode, 409),
    (errors.AdapterError, 409),  # damaged, or made for another base model: it cannot serve
    (errors.ConfigError, 409),  # a configuration file that cannot be read any more
    (errors.TrainingError, 409),
    (errors.GenerationTimeout, 504),
    (errors.GenerationError, 503),  # such as ModelLoading, QueueFull, GenerationCancelled
    (errors.ModelError, 503),
    (DatabaseBusy, 503),
    (errors.DiskFull, 507),
)

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error"}
TYPES |= {408: "timeout_error", 429: "rate_limit_error"}
TYPES |= {500: "server_error", 503: "unavailable_error", 504: "timeout_error", 507: "server_error"}
ANTHROPIC_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
ANTHROPIC_TYPES |= {413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 503: "overloaded_error"}
ANTHROPIC_TYPES |= {504: "timeout_error", 507: "api_error"}

DESCRIPTIONS = {
    400: "The body cannot be parsed.",
    401: "The token is wrong or missing.",
    403: "The Host or Origin is not allowed, or only the owner may do this.",
    404: "It does not exist.",
    405: "The method is not supported here.",
    408: "The body did not arrive in time, see `server.body_timeout_s`.",
    409: "The request conflicts with the current state.",
    413: "The body is too large.",
    429: "Too many wrong tokens, requests or streams of this address; wait for `Retry-After` seconds.",
    422: "A field is invalid; `param` names it.",
    500: "Internal error; see the daemon's log.",
    503: "Unavailable: the model is loading, or the queue is full. Retry after `Retry-After` seconds.",
    504: "The reply was not finished by the deadline, `runtime.deadline_s`.",
    507: "The disk is full.",
}


class ErrorDetail(BaseModel):
    """An error."""

    message: str = Field(description="What failed, the invalid value, and what to do.")
    type: str = Field(description="Kind of error.", examples=["invalid_request_error"])
    code: int = Field(description="HTTP status.")
    param: str | None = Field(default=None, description="The invalid field, if there is one.")


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: ErrorDetail


class AnthropicError(BaseModel):
    """An error in Anthropic's dialect."""

    type: str = Field(description="Kind of error.", examples=["invalid_request_error"])
    message: str = Field(description="What failed, the invalid value, and what to do.")


class AnthropicErrorBody(BaseModel):
    """The body of every error response in Anthropic's dialect."""

    type: Literal["error"] = "error"
    error: AnthropicError


class OllamaErrorBody(BaseModel):
    """The body of every error response in Ollama's dialect."""

    error: str = Field(description="What failed, the invalid value, and what to do.")


def answers(description: str, media_type: str, content: Mapping[str, Any] | None = None) -> Responses:
    """Return the `responses` of a route whose answer is of this media type."""
    return {200: {"description": description, "content": {media_type: content or {}}}}


def documented(*statuses: int, body: type[BaseModel] = ErrorBody) -> Responses:
    """Return the `responses` of a route that can answer with these statuses."""
    return {status: {"model": body, "description": DESCRIPTIONS[status]} for status in statuses}


def error_response(
    path: str, status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error in the dialect of `path`; it is ASCII, so that any text of the client's can be quoted."""
    retry = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    body: dict[str, Any] = error_body(status, message, param)
    if path.startswith(OLLAMA):
        body = {"error": message}
    if path.startswith(ANTHROPIC):
        body = anthropic_error(status, message)
    return Response(ascii_json(body), status, {**retry, **(headers or {})}, "application/json")


def error_body(status: int, message: str, param: str | None = None) -> dict[str, dict[str, str | int | None]]:
    """Return an `ErrorBody` without validation, as it may quote text that is not valid UTF-8."""
    kind = TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "code": status, "param": param}}


def anthropic_error(status: int, message: str) -> dict[str, Any]:
    """Return an `AnthropicErrorBody`, which is also the last event of a stream that breaks off."""
    kind = ANTHROPIC_TYPES.get(status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def ascii_json(value: Any) -> str:
    """Serialize `value` as JSON in ASCII."""
    return json.dumps(value, ensure_ascii=True)


def status_of(error: Exception) -> int:
    """Return the HTTP status of `error`."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def install(app: FastAPI) -> None:
    """Register the error handlers of `app`."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(errors.LarsError, _ours)
    app.add_exception_handler(Exception, _unexpected)


async def _ours(request: Request, error: Exception) -> Response:
    status = status_of(error)
    if status == 500:
        log.error("request_failed", path=request.url.path, error=str(error), error_type=type(error).__name__)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, errors.QueueFull) else None
    about_prompt = isinstance(error, errors.PromptTooLong | errors.PromptRefused)
    param = _prompt_field(request) if about_prompt else getattr(error, "param", None)
    return error_response(request.url.path, status, str(error), param, headers)


def _prompt_field(request: Request) -> str | None:
    """Return the field of the route's body that holds the prompt; None if it has none."""
    body = getattr(request.scope.get("route"), "body_field", None)
    fields = getattr(getattr(getattr(body, "field_info", None), "annotation", None), "model_fields", {})
    return next((name for name in PROMPTS if name in fields), None)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = f"{request.url.path!a:.200}"
    messages = {
        400: "the body cannot be parsed; send JSON in UTF-8",
        404: f"there is no route {path}",
        405: f"{request.method} is not supported at {path}",
    }
    message = messages.get(error.status_code, str(error.detail))
    return error_response(request.url.path, error.status_code, message, headers=error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    param, message = describe(error.errors())
    kind = request.headers.get("content-type", "")
    if param is None and error.body and "json" not in kind:
        message = f"the body is read as JSON only with the header Content-Type: application/json, not {kind[:60]!a}"
    return error_response(request.url.path, 422, message, param)


async def _gone(request: Request, error: Exception) -> Response:
    """Answer nobody: the client has left in the middle of its body, or had a 408."""
    return error_response(request.url.path, 400, "the body did not arrive whole")


async def _unexpected(request: Request, error: Exception) -> Response:
    """Hide the traceback from the client; the server logs it."""
    return error_response(request.url.path, 500, UNEXPECTED)


def describe(problems: Sequence[Any]) -> tuple[str | None, str]:
    """Return the invalid field and a message that names it, from the first of pydantic's errors."""
    problem = problems[0]
    if problem["type"] == "json_invalid":
        where = problem["loc"][-1] if isinstance(problem["loc"][-1], int) else 0
        return None, f"the body is not JSON: {problem['ctx']['error']} at character {where}"
    loc = problem["loc"]  # `body.parameters.top_p`, or `body` for the body itself
    param = ".".join(str(part) for part in (loc[1:] if loc and loc[0] in SOURCES else loc))[:200] or None
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] in MESSAGES:
        message = MESSAGES[problem["type"]]
    elif isinstance(problem.get("input"), (str, int, float)):
        message += f", not {_shown(problem['input'])}"
    return param, f"{param or 'the body'}: {message}"


def _shown(value: str | int | float) -> str:
    """Return `value` as short ASCII text; a very long integer is not printed."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**SHOWN_CHARS:
        return "a number of more than 60 digits"
    text = ascii(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."
