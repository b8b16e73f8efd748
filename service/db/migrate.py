"""Migration of the database file, in one transaction."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from service.db.engine import address_for_reading, create, failures_named, writing
from service.db.errors import DatabaseTooNew, DatabaseUnusable

HEADER = b"SQLite format 3\0"
SCRIPTS = Path(__file__).with_name("migrations")


def migrate(path: Path, scripts: Path = SCRIPTS) -> None:
    """Create or migrate the file `path` to the newest migration in `scripts`.

    Raises DatabaseTooNew, DatabaseUnusable, DatabaseBusy, DiskFull, or a migration's error; the file is then unchanged.
    """
    config = _config(scripts)
    found, known = revision(path), known_revisions(scripts)
    if found is not None and found not in known:  # refused before anything opens the file for writing
        raise DatabaseTooNew(
            f"the database {path} has schema {found}, this lars-agent knows up to {known[0]}; "
            "install the newer lars-agent again, or restore the backup made before the upgrade"
        )
    engine = create(path)
    try:
        with writing(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def known_revisions(scripts: Path = SCRIPTS) -> list[str]:
    """Return the names of the migrations, the newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config(scripts)).walk_revisions()]


def _config(scripts: Path) -> Config:
    config = Config(attributes={})
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


def revision(path: Path) -> str | None:
    """Return the file's migration, or None for an empty file, without writing. Raises DatabaseUnusable."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    with path.open("rb") as file:  # SQLite itself takes a very short file for an empty database
        if file.read(len(HEADER)) != HEADER:
            raise DatabaseUnusable(f"the file {path} is no SQLite database; restore a backup or move it away")
    with failures_named(path), closing(sqlite3.connect(address_for_reading(path), uri=True)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return None
        if "alembic_version" not in tables:
            raise DatabaseUnusable(f"{path} is a database of another program (tables {sorted(tables)}); move it away")
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return None if row is None else str(row[0])
