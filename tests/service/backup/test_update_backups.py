"""Backups that deploy/install.sh has made before it installs a new version; the daemon tidies their folder."""

from __future__ import annotations

import re
from pathlib import Path

from service.backup.folder import OF_UPDATES, UPDATES_KEPT, backups_in
from tests.service.backup.conftest import back_up
from tests.service.housekeeping.test_housekeeper import keeper_of

INSTALL = Path(__file__).parents[3] / "deploy" / "install.sh"


def test_the_newest_ones_are_kept_and_nothing_else_is_touched(house):
    folder = house.settings.data_dir / OF_UPDATES
    folder.mkdir(mode=0o700)
    made = [back_up(house.settings, folder).file.path for _ in range(UPDATES_KEPT + 2)]
    (folder / "notes.txt").write_text("mine")
    keeper_of(house).tidy()
    assert {path.name for path in folder.iterdir()} == {"notes.txt", *(path.name for path in made[-UPDATES_KEPT:])}


def test_none_keeps_what_was_deleted_since(house):
    folder = house.settings.data_dir / OF_UPDATES
    folder.mkdir(mode=0o700)
    feedback_id = house.correct(1)[0]
    back_up(house.settings, folder)
    house.db.erasures.feedback(feedback_id)
    later = back_up(house.settings, folder).file.path
    keeper_of(house).forget()
    assert [one.path for one in backups_in(folder)] == [later]


def test_it_is_the_folder_of_the_installer():
    script = INSTALL.read_text(encoding="utf-8")
    assert set(re.findall(r'\$STATE/([a-z]+-backups)"', script)) == {OF_UPDATES}
    assert re.search(rf'mkdir -p "\$STATE/{OF_UPDATES}".*\n.*backup --to "\$STATE/{OF_UPDATES}"', script)
