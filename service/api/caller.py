"""The caller of a request: the owner of the device, or a person whose token is bound to one profile.

`service.api.middleware` tells it of each request, from a token or a session, and has `caller()` say it to whatever
answers. `service.api.access` says which routes a bound caller may use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.datastructures import Headers

from lars_agent.errors import LarsError
from lars_agent.store.names import DEFAULT_PROFILE


class ProfileNotFound(LarsError):
    """There is no such profile for the caller, whoever else has one."""


class OwnerOnly(LarsError):
    """The caller's token is bound to a profile, and only the owner may do this."""


@dataclass(frozen=True)
class Caller:
    """Who asks: the owner, who may do everything (`profile` None), or who may use one profile alone."""

    profile: str | None = None


OWNER = Caller()
_caller: ContextVar[Caller] = ContextVar("caller", default=OWNER)


def caller() -> Caller:
    """Return who has sent the request that is being answered; the owner outside of any."""
    return _caller.get()


@contextmanager
def answering(who: Caller) -> Iterator[None]:
    """Answer a request of `who` within the block, and in the tasks and threads that it starts."""
    before = _caller.set(who)
    try:
        yield
    finally:
        _caller.reset(before)


def given_token(headers: Headers) -> str:
    """Return the token of a request, from `Authorization` or, as Anthropic's clients send it, from `x-api-key`."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()


def default_profile() -> str:
    """Return the profile of a request that names none: the caller's own, or `default`."""
    return caller().profile or DEFAULT_PROFILE


def own_or_any(profile: str | None) -> str | None:
    """Return the profile of a filter: a bound caller's own where none is named, as it is all that there is."""
    return caller().profile if profile is None else profile


def require_owner(what: str) -> None:
    """Raise OwnerOnly unless the owner asks; `what` is that which only the owner may do."""
    if (own := caller().profile) is not None:
        raise OwnerOnly(f"your token is for the profile {own}; only the owner of this device may {what}")


def owners_wish(keep_alive_s: float | None) -> float | None:
    """Return for how long the model is to stay loaded, which is the owner's to say; None is the setting."""
    return keep_alive_s if caller().profile is None else None


def require_own(profile: str) -> str:
    """Return the name of a profile that the caller may use. Raises ProfileNotFound, whether it exists or not."""
    own = caller().profile
    if own is not None and profile != own:
        raise ProfileNotFound(f"there is no profile {profile!a:.70}; your token is for {own}")
    return profile
