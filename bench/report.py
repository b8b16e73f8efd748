"""The report: every row against its goal, printed, and as tables in docs/benchmarks.md and README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lars_agent.errors import ConfigError
from lars_agent.files import write_atomically

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
ONCE = ("once_trained", "once_unseen", "once_others")
Row = Mapping[str, Any]
Rows = Sequence[Row]
Files = Mapping[str, Mapping[str, Any]]


def result_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Every result file in `folder` by its area."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")))
    return {record["area"]: record for record in found if "rows" in record}


def verdict(row: Row) -> str:
    """`met` or `missed`; empty for a row without a goal."""
    if row["goal"] is None:
        return ""
    met = row["value"] >= row["goal"] if row["better"] == "higher" else row["value"] <= row["goal"]
    return "met" if met else "missed"


def goal(row: Row) -> str:
    """The goal in words; empty for a row without one."""
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


def full_tables(files: Files, plots: str) -> str:
    """Each area's command, its rows with a goal (each before its variants) or by method, and its figures.

    `plots` is the path of the folder of the figures, relative to the page.
    """
    parts: list[str] = []
    for area, record in files.items():
        claims = [row for claim in record["rows"] if claim["goal"] is not None for row in _with_variants(claim, record)]
        table = ["| row | measured | goal | | |", "|---|---|---|---|---|", *map(_cells, claims)] if claims else []
        others = [lines for lines in (_by_arm(record["rows"]), _by_method(record["rows"])) if lines]
        if tables := [table] if table else others:
            parts += [f"## {area}\n\n    {record['command']}", *("\n".join(lines) for lines in tables)]
            parts += [f"![{name}]({plots}/{name})" for name in record.get("plots", []) if name.endswith(".svg")]
    return "\n\n".join(parts)


def short_table(files: Files, words: Mapping[str, str]) -> str:
    """The rows of the README; `words` is how it calls each of them."""
    rows = {row["name"]: row for record in files.values() for row in record["rows"]}
    chosen = [(text, rows[name]) for name, text in words.items() if name in rows]
    lines = [f"| {text} | {_figure(row)} | {goal(row)} | {verdict(row)} |" for text, row in chosen]
    return "\n".join(["| row | measured | goal | |", "|---|---|---|---|", *lines])


def write_between_markers(page: Path, text: str) -> None:
    """Replace what stands between the two markers of `page`. Raises ConfigError where it lacks them."""
    old = page.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"{page} has no lines {BEGIN} and {END}; put them where the table belongs")
    write_atomically(page, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _with_variants(claim: Row, record: Mapping[str, Any]) -> Iterator[Row]:
    """The row, and those without a goal whose name continues its own: other terms of the comparison."""
    yield claim
    yield from (row for row in record["rows"] if row["goal"] is None and row["name"].startswith(claim["name"] + "_"))


def _figure(row: Row, form: str = ",.4g") -> str:
    spread = f" ({row['min']:{form}} to {row['max']:{form}})" if row["runs"] > 1 else ""
    unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
    return f"{row['value']:{form}}{unit}{spread}"


def _cells(row: Row) -> str:
    return f"| {row['name']} | {_figure(row)} | {goal(row)} | {verdict(row)} | {row['note']} |"


def _by_arm(rows: Rows) -> list[str]:
    """A table of `once_<kind>/<arm>/<facts>` rows: what answers, and the shares of right replies."""
    shares: dict[str, dict[str, str]] = {}
    for row in rows:
        kind, _, run = row["name"].partition("/")
        if kind in ONCE:
            shares.setdefault(run, {})[kind] = _figure(row, ".0%")
    table = ["| facts, corrected once | corrected wording | other wordings | not told to questions about others |"]
    table += ["|---|---|---|---|"]
    table += [f"| {run} | {' | '.join(found[kind] for kind in ONCE)} |" for run, found in shares.items()]
    return table if shares else []


def _by_method(rows: Rows) -> list[str]:
    """A table of `score/method/rate` rows: each method at the rate at which it recalls most facts."""
    scores = {tuple(row["name"].split("/")): row for row in rows if row["name"].count("/") == 2}
    best: dict[str, tuple[float, str]] = {}
    for (score, method, rate), row in scores.items():
        if score == "fact_rate":
            best[method] = max(best.get(method, (-1.0, "")), (row["value"], rate))
    table = ["| method | rate | facts, held-out phrasings | style, unseen questions | general-text loss |"]
    table.append("|---|---|---|---|---|")
    for method, (_, rate) in sorted(best.items(), key=lambda item: -item[1][0]):
        cells = [
            _figure(scores[score, method, rate], form)
            for score, form in (("fact_rate", ".0%"), ("style_rate", ".0%"), ("text_rise", "+.1%"))
        ]
        table.append(f"| {method} | {rate} | {' | '.join(cells)} |")
    return table if best else []
