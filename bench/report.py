"""Every row of bench/results against its goal: printed, and as the README's table. `lars-agent bench report`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lars_agent.errors import ConfigError
from lars_agent.files import write_atomically

SHIPPED = Path(__file__).parent / "results"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
Rows = Sequence[Mapping[str, Any]]


def result_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Every result file in `folder` by its area."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")))
    return {record["area"]: record for record in found if "rows" in record}


def verdict(row: Mapping[str, Any]) -> str:
    """`met` or `missed`; empty for a row without a goal."""
    if row["goal"] is None:
        return ""
    met = row["value"] >= row["goal"] if row["better"] == "higher" else row["value"] <= row["goal"]
    return "met" if met else "missed"


def goal(row: Mapping[str, Any]) -> str:
    if row["goal"] is None:
        return ""
    return f"{'at least' if row['better'] == 'higher' else 'at most'} {row['goal']:g}"


def lines(areas: Mapping[str, Rows]) -> Iterator[str]:
    """A line for each row, and at the end how many goals are met."""
    verdicts: list[str] = []
    for area, rows in areas.items():
        for row in rows:
            verdicts.append(verdict(row))
            figure = f"{row['value']:,.6g} {row['unit']}"
            yield f"{area:8} {row['name']:84} {figure:>16}  {goal(row):16} {verdicts[-1]}".rstrip()
    if goals := len(verdicts) - verdicts.count(""):
        yield f"{verdicts.count('met')} of {goals} goals met"


def table(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows with a goal, each before its variants, as Markdown: a table for each area, under the command that
    measures it.
    """
    parts: list[str] = []
    for record in files.values():
        rows = [row for claim in record["rows"] if claim["goal"] is not None for row in _with_variants(claim, record)]
        if rows:
            head = [f"    {record['command']}", "", "| row | measured | goal | | |", "|---|---|---|---|---|"]
            parts.append("\n".join([*head, *map(_cells, rows)]))
            parts += [f"![{name}](bench/results/{name})" for name in record.get("plots", []) if name.endswith(".svg")]
    return "\n\n".join(parts)


def write_table(readme: Path, text: str) -> None:
    """`readme` holds `text` between its two markers. Raises ConfigError where it lacks them."""
    old = readme.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"{readme} has no lines {BEGIN} and {END}; put them where the table belongs")
    write_atomically(readme, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _with_variants(claim: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The row, and those without a goal whose name goes on where its name ends: other terms of the comparison."""
    yield claim
    yield from (row for row in record["rows"] if row["goal"] is None and row["name"].startswith(claim["name"] + "_"))


def _cells(row: Mapping[str, Any]) -> str:
    spread = f" ({row['min']:,.4g} to {row['max']:,.4g})" if row["runs"] > 1 else ""
    unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
    return f"| {row['name']} | {row['value']:,.4g}{unit}{spread} | {goal(row)} | {verdict(row)} | {row['note']} |"
