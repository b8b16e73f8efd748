"""Options and arguments that several commands share, and nouns, whose verb may be left out."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup


def _not_empty(text: str | None) -> str | None:
    if text is not None and not text.strip("./ "):
        raise typer.BadParameter(f"{text!r} is no id; `list` shows them")
    return text


Profile = Annotated[str, typer.Option(help="Profile.")]
AnyProfile = Annotated[str | None, typer.Option(help="Profile; all profiles by default.")]
Url = Annotated[str | None, typer.Option(envvar="LARS_AGENT_URL", help="Address of the daemon.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Most rows, the newest first.")]
Search = Annotated[str | None, typer.Option("--search", "-q", help="Only what holds these words.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.", callback=_not_empty)]
OptionalId = Annotated[
    str | None, typer.Argument(metavar="ID", help="By default the job that is at work.", callback=_not_empty)
]


class Noun(TyperGroup):
    """Commands on records of one kind; without a verb it is `list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the verb that was left out; a shell that completes the words (`resilient_parsing`) wants all verbs."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        if not args or (args[0].startswith("-") and args[0] not in self.get_help_option_names(ctx)):
            args = [self.left_out(args), *args]
        return super().parse_args(ctx, args)

    def left_out(self, args: list[str]) -> str:
        """Return the verb that `args` are the options of."""
        return "list"
