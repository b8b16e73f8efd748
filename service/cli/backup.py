"""`lars-agent backup` and `lars-agent restore`: of this device's own state by this process, else by the daemon."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lars_agent.errors import ConfigError
from lars_agent.files import read_plain
from service.cli.client import Client
from service.cli.options import Url
from service.cli.output import Json, print_result
from service.settings.load import Settings, SettingsSource, load_settings

if TYPE_CHECKING:
    from service.backup.encryption import Key, Lock
    from service.backup.manifest import BackupManifest
    from service.backup.restore import Restored

PASSPHRASE = "LARS_AGENT_BACKUP_PASSPHRASE"
PassphraseFile = Annotated[
    Path | None, typer.Option(help=f"File with the passphrase; {PASSPHRASE} or a prompt otherwise.")
]


def backup(
    to: Annotated[
        Path | None, typer.Option(help="Folder to make it in; backup.folder of the settings if left out.")
    ] = None,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Encrypt it (age): to keys, or with a passphrase.")
    ] = False,
    recipient: Annotated[list[str] | None, typer.Option(help="Public key to encrypt to; may be repeated.")] = None,
    passphrase_file: PassphraseFile = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a backup in one checked file, while the daemon serves or is stopped."""
    if url is None and _is_ours(load_settings()):
        made = _backup_here(to, encrypt, tuple(recipient or ()), passphrase_file)
    else:
        if passphrase_file is not None or (encrypt and not recipient):
            advice = "give --recipient, set backup.recipients, or run this as the daemon's user: sudo lars-agent backup"
            raise ConfigError(f"a passphrase is not sent to the daemon; {advice}")
        body = {"folder": None if to is None else str(to.absolute()), "recipients": recipient or []}
        made = Client(url).post("/backups", body)
    kind = "encrypted, " if made["encrypted"] else ""
    print_result(made, f"{made['path']} ({kind}{made['bytes']:,} bytes, read back and checked)", as_json)


def restore(
    file: Annotated[Path, typer.Argument(help="The backup.")],
    check: Annotated[bool, typer.Option("--check", help="Check the backup, and change nothing.")] = False,
    identity: Annotated[Path | None, typer.Option(help="File with the secret key of an encrypted one.")] = None,
    passphrase_file: PassphraseFile = None,
    ignore_erasures: Annotated[
        bool, typer.Option("--ignore-erasures", help="Restore although what was forgotten since may come back.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put the state in the backup FILE in the place of this one; the daemon must be stopped."""
    from service.backup import restore as restoring  # imports torch

    source, key = SettingsSource(), _key(identity, passphrase_file)
    if check:
        found = restoring.check_backup(file, source, key)
        return print_result(_manifest(found), f"{file} is whole: {_told(found)}", as_json)
    done = restoring.restore(file, source, key, ignore_erasures)
    replaced = None if done.replaced is None else str(done.replaced)
    values = {"replaced": replaced, "forgotten": done.forgotten, "versions": done.versions}
    values |= {"missing_model": done.missing_model, **_manifest(done.manifest)}
    return print_result(values, "\n".join(_lines(done)), as_json)


def _backup_here(
    to: Path | None, encrypt: bool, recipients: tuple[str, ...], passphrase_file: Path | None
) -> dict[str, Any]:
    from service.backup.make import make_backup  # imports torch
    from service.backup.nightly import make_kept
    from service.backup.restore import model_in_use
    from service.backup.swap import load_whole
    from service.process.clock import CLOCK_NAME, Clock

    settings = load_whole(SettingsSource())
    lock, now = _lock(settings, encrypt, recipients, passphrase_file), Clock(settings.data_dir / CLOCK_NAME).now

    def write(folder: Path) -> Any:
        return make_backup(settings, folder, lock, model_in_use(settings), now)

    made = make_kept(settings, write) if to is None else write(to.absolute()).file
    return {
        "path": str(made.path),
        "created": made.created.isoformat(),
        "bytes": made.bytes,
        "encrypted": made.encrypted,
    }


def _is_ours(settings: Settings) -> bool:
    """Return whether this process may read the state: then it needs no daemon, and keeps passphrases to itself."""
    folder, database = settings.data_dir, settings.database_path
    may_write = os.access(folder, os.R_OK | os.W_OK | os.X_OK) or not os.access(folder, os.F_OK)
    return may_write and (os.access(database, os.R_OK | os.W_OK) or not os.access(database, os.F_OK))


def _lock(settings: Settings, encrypt: bool, recipients: tuple[str, ...], passphrase_file: Path | None) -> Lock:
    from service.backup.encryption import Lock

    if recipients and passphrase_file:
        raise typer.BadParameter("a backup is encrypted to keys or with a passphrase, not both")
    if not recipients and (passphrase_file or (encrypt and PASSPHRASE in os.environ)):
        return Lock(passphrase=_passphrase(passphrase_file))
    keys = recipients or settings.backup.recipients
    return Lock(keys) if keys or not encrypt else Lock(passphrase=_passphrase(None, confirm=True))


def _key(identity: Path | None, passphrase_file: Path | None) -> Key:
    from service.backup.encryption import Key, read_identities

    identities = () if identity is None else read_identities(identity)
    return Key(identities, lambda: _passphrase(passphrase_file))


def _passphrase(file: Path | None, confirm: bool = False) -> str:
    """Return the passphrase: of the file, of the environment, or as somebody types it."""
    if file is not None:
        text = read_plain(file).decode().rstrip("\r\n")
    elif PASSPHRASE in os.environ:
        text = os.environ[PASSPHRASE]
    elif sys.stdin.isatty():
        text = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    else:
        raise typer.BadParameter(f"nobody can be asked for the passphrase; give --passphrase-file, or set {PASSPHRASE}")
    if not text:
        raise ConfigError("the passphrase is empty")
    return str(text)


def _manifest(found: BackupManifest) -> dict[str, Any]:
    base = None if found.base_model is None else asdict(found.base_model)
    return {"created": found.created, "version": found.version, "schema": found.schema, "base_model": base}


def _told(found: BackupManifest) -> str:
    versions = len([name for name in found.files if name.endswith("/manifest.json")])
    base = "" if found.base_model is None else f", for {found.base_model.name}"
    return f"made {found.created} by lars-agent {found.version}, with {versions} adapter versions{base}"


def _lines(done: Restored) -> list[str]:
    lines = [f"restored the state of {done.manifest.created}"]
    if done.forgotten or done.versions:
        gone = [f"{profile}@v{version}" for profile, versions in done.versions.items() for version in versions]
        learned = f", and the versions that had learned it: {', '.join(gone)}" if gone else ""
        lines.append(f"forgotten since then, and deleted from it again: {done.forgotten} pieces of feedback{learned}")
    if done.replaced is not None:
        lines.append(f"the state before lies in {done.replaced}; delete that once you do not need it")
    if done.missing_model is not None:
        lines.append(f"its base model is not on this device: lars-agent model pull {done.missing_model}")
    return [*lines, "start the daemon again: sudo systemctl start lars-agent, or lars-agent serve"]
