"""Make of a bundle that of a later version, for rehearse.sh: python variant.py BUNDLE TARGET VERSION KIND.

good            its database has a column more
dead            it ends at its start
dead_as_service it runs when it is tried, has changed the database, and ends at its start as a service
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import sys
import zipfile
from pathlib import Path

MIGRATION = '''"""A column more, in a rehearsal."""

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{next}", "{head}", None, None


def upgrade() -> None:
    """Add the column."""
    op.add_column("feedback", sa.Column("rehearsed", sa.Text))
'''
DEATH = {
    "good": "",
    "dead": "raise RuntimeError('this version is broken')\n",
    "dead_as_service": "import os\nif 'trial' not in os.environ.get('LARS_AGENT_DATA_DIR', ''):\n"
    "    import sqlite3\n"
    "    from pathlib import Path\n"
    "    from service.db.migrate import migrate\n"
    "    migrate(Path('/var/lib/lars-agent/lars-agent.db'))\n"
    "    raise RuntimeError('this version is broken')\n",
}
VERSIONS = "service/db/migrations/versions"


def changed(contents: dict[str, bytes], old: str, version: str, kind: str) -> dict[str, bytes]:
    """Return the files of the wheel in that version."""
    head = max(Path(name).name[:4] for name in contents if name.startswith(f"{VERSIONS}/0"))
    contents[f"{VERSIONS}/9999_rehearsed.py"] = MIGRATION.format(next="9999", head=head).encode()
    main = contents["service/server.py"].decode()
    contents["service/server.py"] = main.replace("import asyncio\n", f"import asyncio\n{DEATH[kind]}", 1).encode()
    told = contents[f"lars_agent-{old}.dist-info/METADATA"]
    contents[f"lars_agent-{old}.dist-info/METADATA"] = told.replace(
        f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode()
    )
    return {name.replace(f"lars_agent-{old}.", f"lars_agent-{version}."): data for name, data in contents.items()}


def main(bundle: Path, target: Path, version: str, kind: str) -> None:
    shutil.copytree(bundle, target, copy_function=lambda source, copy: Path(copy).hardlink_to(source))
    (wheel,) = (target / "wheels").glob("lars_agent-*.whl")
    old = wheel.name.split("-")[1]
    with zipfile.ZipFile(wheel) as archive:
        modes = {entry.filename: entry.external_attr for entry in archive.infolist()}
        contents = {name: archive.read(name) for name in modes if not name.endswith("/RECORD")}
    wheel.unlink()
    wheel = wheel.with_name(wheel.name.replace(f"-{old}-", f"-{version}-"))
    record = f"lars_agent-{version}.dist-info/RECORD"
    lines = [f"{record},,\n"]
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in changed(contents, old, version, kind).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = modes.get(name.replace(f"lars_agent-{version}.", f"lars_agent-{old}."), 0o644 << 16)
            archive.writestr(entry, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            lines.append(f"{name},sha256={digest},{len(data)}\n")
        archive.writestr(record, "".join(lines))
    sums = target / "SHA256SUMS"
    kept = [line for line in sums.read_text().splitlines() if "lars_agent-" not in line]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    sums.unlink()  # it is a link
    sums.write_text("\n".join([*kept, f"{digest}  wheels/{wheel.name}"]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
