"""The harness of all benchmarks: what makes rows together, and what is measured again."""

from __future__ import annotations

import json

import pytest

from bench import record, report
from bench.suite import Store, Suite, parts_store

HERE = record.processor()


def pairs(figures):
    """A ratio of two parts, and a row of each part that was run."""
    made = [{"name": part, "value": value} for part, value in figures.items()]
    if {"a", "b"} <= figures.keys():
        made.append({"name": "ratio", "value": figures["a"] / figures["b"]})
    return [
        {"unit": "s", "goal": 1, "better": "lower", "runs": 1, "min": 0, "max": 0, "note": ""} | row for row in made
    ]


def store() -> Store:
    return parts_store("runs.jsonl", pairs)


def suite(**options) -> Suite:
    return Suite("area", "a command", (store(),), **options)


def measured(folder, *lines):
    for part, figures, processor in lines:
        store().append(folder, {"part": part, "figures": figures, "machine": {"cpu": processor}})


def test_figures_of_two_processors_make_no_row_together_and_each_row_tells_its_own(tmp_path):
    measured(tmp_path, ("a", 8.0, "one"), ("b", 4.0, "one"), ("a", 2.0, "other"))
    rows = {row["name"]: (row["value"], row["cpu"]) for row in suite().write(tmp_path)}
    assert rows == {"a": (2.0, "other"), "b": (4.0, "one"), "ratio": (2.0, "one")}
    table = report.full_tables(report.result_files(tmp_path), "plots")
    assert f"Measured on: {HERE}." in table
    assert "measured on one |" in table


def test_what_no_processor_decides_is_counted_together(tmp_path):
    measured(tmp_path, ("a", 8.0, "one"), ("b", 4.0, "other"))
    rows = {row["name"]: (row["value"], row["cpu"]) for row in suite(on_any_processor=True).write(tmp_path)}
    assert rows["ratio"] == (2.0, "one and other")


@pytest.mark.parametrize(("processor", "again"), [(HERE, []), (None, []), ("another", ["a"])])
def test_what_another_processor_measured_is_measured_again(tmp_path, processor, again):
    measured(tmp_path, ("a", 8.0, processor))
    ran = []
    suite().measure(store(), [{"part": "a"}], lambda subject: ran.append(subject["part"]) or {"figures": 1.0}, tmp_path)
    assert ran == again
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["machine"]["cpu"] == (HERE if again else processor)
