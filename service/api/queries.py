"""What may stand behind the question mark; a name that is not known is an error."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field

from service.api.fields import Body, Id, Profile, Tag
from service.api.trl import Format
from service.db import DEFAULT_PROFILE

PAGE = 100
LARGEST_PAGE = 1000


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies before the year 1 or after the year 9999") from None


IdleDecision = Annotated[
    AwareDatetime, AfterValidator(_in_utc), Field(description="Given before this moment, with its timezone.")
]


class PageQuery(Body):
    """Which part of a list."""

    profile: Profile | None = None
    limit: int = Field(default=PAGE, ge=1, le=LARGEST_PAGE, description="Rows on a page.")
    after: Id | None = Field(default=None, description="The id of the last row already seen.")


class ScheduledRunsQuery(Body):
    """Whose scheduled moments, and how many."""

    profile: Profile | None = None
    limit: int = Field(default=PAGE, ge=1, le=LARGEST_PAGE, description="The latest so many.")


class FeedbackQuery(PageQuery):
    """Which feedback."""

    before: IdleDecision | None = None
    tag: Tag | None = None


class DeleteQuery(Body):
    """Which feedback to delete: what matches all the filters given."""

    profile: Profile | None = None
    before: IdleDecision | None = None
    tag: Tag | None = None


class ProfileQuery(Body):
    """Whose adapters."""

    profile: Profile = DEFAULT_PROFILE


class AdaptersQuery(ProfileQuery):
    """Whose adapters, and whether to read all their bytes."""

    verify: bool = Field(default=False, description="Compare every file's sha256 with the manifest's.")


class NoQuery(Body):
    """Nothing; so that a misspelt or unsupported option is not silently passed over."""


class AdaptQuery(Body):
    """Whether to adapt, or only to say how it would be done."""

    dry_run: bool = Field(default=False, description="Answer with the plan and its predicted peak; begin nothing.")


class ExportQuery(Body):
    """Which feedback to export, and in which of TRL's forms."""

    format: Format = "messages"
    profile: Profile | None = None
    tag: Tag | None = None


class ImportQuery(Body):
    """Whose feedback it is, and a tag to find it again."""

    profile: Profile = DEFAULT_PROFILE
    tag: Tag | None = None
