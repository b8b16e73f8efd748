"""The installed settings file, the systemd unit and the install script."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from bench.ops.exposure import exposure_of
from service.process.shutdown import CUT_S, DRAIN_S, WORKER_S
from service.settings.example_config import default_config
from service.settings.load import Settings

REPOSITORY = Path(__file__).parents[2]
DEPLOY, UNIT = REPOSITORY / "deploy", REPOSITORY / "systemd" / "lars-agent.service"
USER_UNIT = UNIT.with_name("lars-agent-user.service")
SCRIPTS = sorted([*DEPLOY.glob("*.sh"), *Path(__file__).parent.glob("*.sh")])
MAX_EXPOSURE = 1.5  # of 10, as `systemd-analyze security` counts

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_settings_file_is_the_generated_one() -> None:
    assert (DEPLOY / "config.toml").read_text() == default_config(), (
        "run: python -m service.settings.example_config > deploy/config.toml"
    )


def test_the_settings_file_changes_nothing_as_it_is_and_every_line_of_it_is_a_setting() -> None:
    text = (DEPLOY / "config.toml").read_text()
    assert Settings(**tomllib.loads(text)) == Settings()
    enabled = tomllib.loads(re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE))
    settings = Settings(**enabled)
    for name, section in Settings().model_dump(exclude={"data_dir"}).items():
        assert set(enabled[name]) == set(section)
        unset = {key for key, value in section.items() if value is None}
        assert {key: value for key, value in settings.model_dump()[name].items() if key not in unset} == {
            key: value for key, value in section.items() if key not in unset
        }


@needs_systemd
@pytest.mark.parametrize("unit", [UNIT, USER_UNIT], ids=lambda unit: unit.name)
def test_systemd_knows_every_line_of_the_unit(unit, tmp_path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE))
    done = run("systemd-analyze", "verify", "--recursive-errors=no", str(copy))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_users_unit_stops_and_restarts_as_the_machines_does() -> None:
    same = re.compile(
        r"^(?:Type|Notify|Watchdog|Timeout|ExecReload|Restart|Kill|Delegate|OOM|UMask|Environment)\w*=.*", re.M
    )
    machines, users = (set(same.findall(unit.read_text())) for unit in (UNIT, USER_UNIT))
    assert {line for line in machines - users if not line.startswith("EnvironmentFile=")} == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shell_scripts_are_sound(script) -> None:
    assert run("bash", "-n", str(script)).stderr == ""
    if shutil.which("shellcheck"):
        done = run("shellcheck", "--severity", "warning", "--exclude", "SC2155", str(script))
        assert (done.returncode, done.stdout) == (0, "")


def test_a_damaged_bundle_and_one_for_another_python_are_refused(tmp_path) -> None:
    """The part of install.sh that reads a bundle, alone: the rest wants root."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "platform").write_text("Python 2.7 m68k\n")
    names = run("sha256sum", str(bundle / "platform")).stdout.replace(f"{bundle}/", "")
    (bundle / "SHA256SUMS").write_text(names)
    script = (DEPLOY / "install.sh").read_text().removesuffix('main "$@"\n')
    opening = f'{script}\nbundle="$1" OPT={tmp_path}; open_bundle'
    refused = run("bash", "-c", opening, "install.sh", str(bundle))
    assert "is for Python 2.7 m68k, this machine has Python 3" in refused.stderr
    (bundle / "platform").write_text("Python 2.7 m68K\n")
    damaged = run("bash", "-c", opening, "install.sh", str(bundle))
    assert "is damaged; copy it again" in damaged.stderr
    assert [refused.returncode, damaged.returncode] == [1, 1]


def test_unit_gives_the_daemon_enough_time_to_stop() -> None:
    lines = UNIT.read_text().splitlines()
    assert {"Type=notify", "NotifyAccess=main", "WatchdogSec=60", "ExecReload=/bin/kill -HUP $MAINPID"} <= set(lines)
    stop_s = next(int(line.split("=")[1]) for line in lines if line.startswith("TimeoutStopSec="))
    assert stop_s > 2 * max(DRAIN_S, CUT_S, WORKER_S)


@needs_systemd
def test_unit_has_a_low_exposure_score() -> None:
    assert exposure_of(UNIT) <= MAX_EXPOSURE


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_an_unknown_option_is_wrong_use(script) -> None:
    done = run("bash", str(DEPLOY / script), "--colour")
    assert done.returncode == 2
    assert "--colour" in done.stderr


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_help_says_what_it_does_to_which_folders(script) -> None:
    done = run("bash", str(DEPLOY / script), "--help")
    assert done.returncode == 0
    assert f"sudo deploy/{script}" in done.stdout
    assert "#" not in done.stdout


def test_a_python_that_is_too_old_is_refused_before_anything_is_made(tmp_path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\ncase "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac\n')
    old.chmod(0o755)
    if os.geteuid() != 0 or shutil.which("systemctl") is None:
        pytest.skip("the script asks for root and systemd first")
    before = Path("/opt/lars-agent").exists()
    done = run("bash", str(DEPLOY / "install.sh"), PYTHON=str(old))
    assert done.returncode == 1
    assert "Python 3.9.2" in done.stderr
    assert Path("/opt/lars-agent").exists() == before


def test_installing_without_root_is_refused() -> None:
    if os.geteuid() != 0:
        command: tuple[str, ...] = ("bash",)
    elif shutil.which("setpriv"):
        command = ("setpriv", "--reuid", "65534", "--clear-groups", "bash")
    else:
        pytest.skip("root here, and no setpriv to be somebody else")
    script = (DEPLOY / "install.sh").read_text()  # given as text: the repository may lie where nobody may look
    done = run(*command, "-c", script, "install.sh")
    assert done.returncode == 1
    assert "must be run as root" in done.stderr
