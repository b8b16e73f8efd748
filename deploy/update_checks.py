"""Questions that install.sh has about a database and a daemon; the standard library alone, under any Python from 3.11.

prepare STATE        copy the state folder into STATE/update/trial, for a daemon that is tried
copy SOURCE TARGET   copy a database, also while somebody writes to it
restore STATE        put STATE/update/before.db back if the schema has changed since; keep what came in between
answers URL [reply]  exit 0 once the daemon is healthy, and has replied; $TOKEN is its token
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

DATABASE = "lars-agent.db"
NOT_COPIED = {"models", "jobs", "update", "update-backups", "daemon.lock", "starts.json"}
ONES = ("interactions", "feedback", "erasures")  # tables of what people did
TIMEOUT_S = 60.0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def prepare(state: Path) -> None:
    """Copy `state` into a folder in it; the models are a link, and jobs stay behind, so that none is trained twice."""
    trial = state / "update" / "trial"
    shutil.rmtree(trial, ignore_errors=True)
    trial.mkdir(parents=True, mode=0o700)
    for item in sorted(state.iterdir()):
        if item.name in NOT_COPIED or item.name.startswith((".", DATABASE)):
            continue
        if item.is_dir():
            shutil.copytree(item, trial / item.name, ignore=shutil.ignore_patterns(".*"))  # what is being written
        elif item.is_file():
            shutil.copy2(item, trial / item.name)
    if (state / "models").is_dir():
        (trial / "models").symlink_to(state / "models")
    if (state / DATABASE).exists():
        copy(state / DATABASE, trial / DATABASE)
        with closing(sqlite3.connect(trial / DATABASE)) as database, database:
            database.execute("UPDATE jobs SET status = 'cancelled' WHERE status IN ('queued', 'running', 'paused')")


def copy(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, with its write-ahead log, onto the disk."""
    if not source.exists():
        return
    target.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    temp = target.with_name(f".{target.name}.tmp")
    temp.unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as database, closing(sqlite3.connect(temp)) as copied:
        database.backup(copied)
        copied.execute("PRAGMA journal_mode = DELETE")  # one file
    with temp.open("rb+") as file:
        os.fsync(file.fileno())
    for suffix in ("-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    temp.rename(target)


def restore(state: Path) -> None:
    """Undo a migration: the copy from before it takes the database's place, with the rows that came since."""
    database, before, joined = state / DATABASE, state / "update" / "before.db", state / "update" / "joined.db"
    aside = state / f"{DATABASE}.from-the-update"
    if not before.exists():
        return say("the database is as it was")
    copy(before, joined)
    try:
        if schema(database) == schema(before):
            return say("the database is as it was, with all that came meanwhile")
        copy(database, aside)
        came = add_what_came(joined, aside)
        with closing(sqlite3.connect(database)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:  # the rows do not fit, or the new version has damaged the file
        say(f"the database is the one from before; what came since does not fit into it ({error}), and is in {aside}")
        if not aside.exists():
            shutil.copy2(database, aside)
        copy(before, joined)
    else:
        aside.unlink()
        told = ", ".join(f"{count} {name}" for name, count in came.items() if count) or "nothing"
        say(f"the database has its earlier schema again; came since and kept: {told}")
    copy(joined, database)
    return None


def schema(path: Path) -> str:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def add_what_came(older: Path, newer: Path) -> dict[str, int]:
    """Add to `older` the rows that only `newer` has, and delete what was deleted there on a person's behalf."""
    came = {}
    with closing(sqlite3.connect(older)) as database:
        database.execute("ATTACH ? AS newer", (str(newer),))
        with database:
            known, theirs = columns(database, "main"), columns(database, "newer")
            for table in ONES:
                shared = ", ".join(name for name in known.get(table, ()) if name in theirs.get(table, ()))
                if shared:
                    if table == "erasures":
                        forget_again(database)
                    came[table] = database.execute(
                        f"INSERT INTO main.{table} ({shared}) SELECT {shared} FROM newer.{table} "
                        f"WHERE id NOT IN (SELECT id FROM main.{table})"
                    ).rowcount
    return came


def forget_again(database: sqlite3.Connection) -> None:
    rows = database.execute("SELECT feedback FROM newer.erasures WHERE id NOT IN (SELECT id FROM main.erasures)")
    ids = [(one,) for (listed,) in rows.fetchall() for one in json.loads(listed)]
    database.execute("PRAGMA secure_delete = ON")
    database.executemany("DELETE FROM main.feedback WHERE id = ?", ids)


def columns(database: sqlite3.Connection, name: str) -> dict[str, list[str]]:
    tables = database.execute(f"SELECT name FROM {name}.sqlite_master WHERE type = 'table'").fetchall()
    return {table: [row[1] for row in database.execute(f"PRAGMA {name}.table_info({table})")] for (table,) in tables}


def answers(url: str, reply: str = "") -> None:
    """Ask for the daemon's health, and for a reply. Raises OSError, ValueError."""
    ask(f"{url}/health")  # 503 until the model is loaded
    if reply:
        body = json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 4}}).encode()
        if "generated_text" not in json.loads(ask(f"{url}/generate", body)):
            raise ValueError("it gave no reply")


def ask(url: str, body: bytes | None = None) -> bytes:
    token = os.environ.get("TOKEN")
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, body, headers), timeout=TIMEOUT_S) as response:
        return bytes(response.read())


def main(command: str, *arguments: str) -> None:
    if command == "answers":
        return answers(*arguments)
    return {"prepare": prepare, "copy": copy, "restore": restore}[command](*map(Path, arguments))  # type: ignore[operator]


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, ValueError, sqlite3.Error, shutil.Error) as error:
        sys.exit(str(error))
