"""Measurements of the device, on trees like those of real devices and on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import psutil
import pytest

from service.schedule import device as probes
from service.schedule.idle_policy import DeviceState


def tree(folder: Path, entries: dict[str, dict[str, str]]) -> None:
    for name, files in entries.items():
        (folder / name).mkdir(parents=True)
        for file, text in files.items():
            (folder / name / file).write_text(text + "\n")


def test_hottest_sensor_counts_and_one_that_is_not_connected_does_not(tmp_path):
    assert probes.celsius(tmp_path) is None
    zones = {
        f"thermal_zone{i}": {"temp": text} for i, text in enumerate(("41000", "67500", "-274000", "many", "180000"))
    }
    tree(tmp_path / "class/thermal", {**zones, "cooling_device0": {"temp": "99000"}})
    assert probes.celsius(tmp_path) == 67.5


def test_memory_pressure_is_that_of_some_programs_in_the_last_ten_seconds(tmp_path):
    assert probes.memory_pressure(tmp_path) is None
    (tmp_path / "pressure").mkdir()
    pressure = tmp_path / "pressure/memory"
    pressure.write_text("some avg10=12.34 avg60=1.00 avg300=0.10 total=1\nfull avg10=3.00 avg60=0 avg300=0 total=1\n")
    assert probes.memory_pressure(tmp_path) == 12.34
    pressure.write_text("some\n")
    assert probes.memory_pressure(tmp_path) is None


def logind(tmp_path: Path, *values: object) -> list[str]:
    """What `busctl --json=short get-property` prints for these values."""
    said = tmp_path / "said"
    said.write_text("\n".join(json.dumps({"type": "x", "data": value}) for value in values))
    return ["sh", "-c", f"cat {said}"]


def test_idle_time_of_people_comes_from_logind(tmp_path):
    assert probes.away_s(logind(tmp_path, False, 0)) == 0.0
    assert probes.away_s(logind(tmp_path, True, 0)) == float("inf")
    ago = probes.away_s(logind(tmp_path, True, int((time.time() - 90) * 1e6)))
    assert ago is not None
    assert 89 < ago < 120


@pytest.mark.parametrize("command", [["/nonexistent/busctl"], ["false"], ["echo", "nonsense"], ["echo", '{"data": 1}']])
def test_people_are_unknown_without_logind(command):
    assert probes.away_s(command) is None


def test_processor_use_excludes_our_own_processes_and_their_children(monkeypatch):
    monkeypatch.setattr(probes, "BETWEEN_S", 0.0)
    busy = "import time\nend = time.process_time() + 20.0\nwhile time.process_time() < end: pass"
    nested = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])"
    ours = probes.Processor(lambda: [os.getpid()])
    theirs = probes.Processor(lambda: [])
    with subprocess.Popen([sys.executable, "-c", nested]) as process:
        for _ in range(40):  # beside other tests it may wait for its share of the processor
            time.sleep(0.5)
            counted, name = theirs.others()
            left_out, _ = ours.others()
            assert counted is not None
            assert left_out is not None
            if left_out < counted - 0.1:
                break
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()
    assert counted > 0.1
    assert left_out < counted - 0.1
    assert name is not None


def test_values_read_on_this_machine_are_plausible(tmp_path):
    assert probes.available_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    free = probes.free_disk_bytes(tmp_path)
    assert free is not None
    assert free > 0
    assert probes.free_disk_bytes(tmp_path / "nowhere") is None
    load = probes.Processor().load(0)
    assert load is not None
    assert load >= 0.0
    assert probes.Processor().load(10_000) == 0.0


def test_reader_reads_every_value_of_the_device_state(tmp_path, monkeypatch):
    read: dict[str, object] = {}
    monkeypatch.setattr(probes, "DeviceState", lambda **values: read.update(values))
    probes.DeviceReader(tmp_path, lambda: [], lambda: 0.0, lambda: 0).read_device_state("open")
    assert set(read) == {field.name for field in fields(DeviceState)}
