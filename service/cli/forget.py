"""`lars-agent forget`, and deleting one record: what was deleted, and the versions that had learned it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.client import Client, path_of
from service.cli.options import Profile, Url
from service.cli.output import Json, print_result


def forget(
    record_id: Annotated[str | None, typer.Argument(metavar="ID", help="Of feedback or of an interaction.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that was said and corrected as the profile.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to delete all.")] = False,
    profile: Profile = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete feedback ID, interaction ID, or all of a profile; no version that learned it replies from then on."""
    if everything == bool(record_id):
        raise typer.BadParameter("give an ID, or --all")
    if everything and not yes:
        typer.confirm(f"Delete everything that was said and corrected as {profile}?", abort=True, err=True)
    if everything:
        delete(Client(url), path_of("profiles", profile), as_json)
    else:
        kind = "interactions" if (record_id or "").startswith(("i-", "resp_")) else "feedback"
        delete(Client(url), path_of(kind, record_id or ""), as_json)


def delete(client: Client, path: str, as_json: bool) -> None:
    """Delete what is at `path` and print what went with it."""
    answer = client.delete(path)
    erasure_id = answer["erasure_id"]
    erasure = client.get(path_of("erasures", erasure_id)) if erasure_id else None
    print_result({**answer, "erasure": erasure}, _words(erasure), as_json)


def _words(erasure: dict[str, Any] | None) -> str:
    if erasure is None:
        return "there was nothing to delete"
    gone = [f"{name}@v{version}" for name, versions in erasure["versions"].items() for version in versions]
    counts = f"{len(erasure['feedback'])} pieces of feedback, {erasure['interactions']} interactions"
    learned = f"deleted with it, as they had learned it: {', '.join(gone)}" if gone else "no adapter had learned it"
    return f"deleted {counts}; {learned} ({erasure['id']}){_backups(erasure['backups'])}"


def _backups(older: int | None) -> str:
    """Return what is to be done about backups that may hold it."""
    if older is None:
        return "\nbackup.folder is not there: backups in it may hold this until the next one is made"
    if not older:
        return ""
    return (
        f"\n{older} older backups may hold this until the next one is made, and are then deleted unless "
        "backup.prune_forgotten is off; lars-agent backup makes it now. Copies elsewhere are yours to delete"
    )
