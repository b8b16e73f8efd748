"""The report: every row against its goal, printed, and as tables in docs/benchmarks.md and README.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from lars_agent.errors import ConfigError
from lars_agent.files import write_atomically

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
ONCE = dict.fromkeys(("once_trained", "once_unseen", "once_others"), ".0%")
SCORES = {"fact_rate": ".0%", "style_rate": ".0%", "text_rise": "+.1%"}
Row = Mapping[str, Any]
Rows = Sequence[Row]
Files = Mapping[str, Mapping[str, Any]]


def result_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Every result file in `folder` by its area."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")))
    return {record["area"]: record for record in found if "rows" in record}


def judged(row: Row) -> tuple[str, str]:
    """The goal in words, and `met` or `missed`; both empty for a row without a goal."""
    if row["goal"] is None:
        return "", ""
    higher = row["better"] == "higher"
    met = row["value"] >= row["goal"] if higher else row["value"] <= row["goal"]
    return f"{'at least' if higher else 'at most'} {row['goal']:g}", "met" if met else "missed"


def lines(areas: Mapping[str, Rows]) -> Iterator[str]:
    """A line for each row, and at the end how many goals are met."""
    for area, rows in areas.items():
        for row in rows:
            figure, (goal, verdict) = f"{row['value']:,.6g} {row['unit']}", judged(row)
            yield f"{area:8} {row['name']:84} {figure:>16}  {goal:16} {verdict}".rstrip()
    if verdicts := [judged(row)[1] for rows in areas.values() for row in rows if row["goal"] is not None]:
        yield f"{verdicts.count('met')} of {len(verdicts)} goals met"


def full_tables(files: Files, plots: str) -> str:
    """Each area's command, its rows with a goal (each before its variants) or by arm and method, and its figures.

    `plots` is the path of the folder of the figures, relative to the page.
    """
    parts: list[str] = []
    for area, record in files.items():
        rows = record["rows"]
        claims = [row for claim in rows if claim["goal"] is not None for row in _with_variants(claim, rows)]
        lines = [[*_cells(row["name"], row), _note(row, record["machine"]["cpu"])] for row in claims]
        claimed = _table("| row | measured | goal | | |", lines)
        if tables := list(filter(None, (claimed, _by_arm(rows), _by_method(rows)))):
            parts += [f"## {area}\n\n    {record['command']}", f"Measured on: {record['machine']['cpu']}.", *tables]
            parts += [f"![{name}]({plots}/{name})" for name in record.get("plots", []) if name.endswith(".svg")]
    return "\n\n".join(parts)


def short_table(files: Files, words: Mapping[str, str]) -> str:
    """The rows of the README; `words` is how it calls each of them."""
    rows = {row["name"]: row for record in files.values() for row in record["rows"]}
    chosen = (_cells(text, rows[name]) for name, text in words.items() if name in rows)
    return _table("| row | measured | goal | |", chosen)


def write_between_markers(page: Path, text: str) -> None:
    """Replace what stands between the two markers of `page`. Raises ConfigError where it lacks them."""
    marked = f"{BEGIN}\n\n{text}\n\n{END}"
    content, count = re.subn(
        f"{BEGIN}.*?{END}", lambda found: marked, page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    if not count:
        raise ConfigError(f"{page} has no lines {BEGIN} and {END}; put them where the table belongs")
    write_atomically(page, content)


def _with_variants(claim: Row, rows: Rows) -> Iterator[Row]:
    """The row, and those without a goal whose name continues its own: other terms of the comparison."""
    yield claim
    yield from (row for row in rows if row["goal"] is None and row["name"].startswith(claim["name"] + "_"))


def _note(row: Row, processor: str) -> str:
    """The row's note, with the processor that it was measured on if that is another than the file's."""
    own = row.get("cpu") or processor
    return row["note"] if own == processor else "; ".join(filter(None, (row["note"], f"measured on {own}")))


def _figure(row: Row, form: str = ",.4g") -> str:
    spread = f" ({row['min']:{form}} to {row['max']:{form}})" if row["runs"] > 1 else ""
    unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
    return f"{row['value']:{form}}{unit}{spread}"


def _cells(name: str, row: Row) -> list[str]:
    return [name, _figure(row), *judged(row)]


def _table(head: str, rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; empty without rows."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *lines]) if lines else ""


def _by_arm(rows: Rows) -> str:
    """A table of `once_<kind>/<arm>/<facts>` rows: what answers, and the shares of right replies."""
    head = "| facts, corrected once | corrected wording | other wordings | not told to questions about others |"
    return _table(head, ([run, *figures] for run, _, figures in _scores(rows, ONCE)))


def _by_method(rows: Rows) -> str:
    """A table of `score/method/rate` rows: each method at the rate at which it recalls most facts."""
    head = "| method | rate | facts, held-out phrasings | style, unseen questions | general-text loss |"
    best: dict[str, list[str]] = {}
    for name, _, figures in sorted(_scores(rows, SCORES), key=itemgetter(1, 0), reverse=True):
        method, rate = name.split("/")
        best.setdefault(method, [method, rate, *figures])
    return _table(head, best.values())


def _scores(rows: Rows, forms: Mapping[str, str]) -> Iterator[tuple[str, float, list[str]]]:
    """For rows `<score>/<name>`, each name's first value and its figures; `forms` has all scores and their formats."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        score, _, name = row["name"].partition("/")
        if score in forms:
            found.setdefault(name, []).append(row)
    for name, scores in found.items():
        yield name, scores[0]["value"], [_figure(row, form) for row, form in zip(scores, forms.values(), strict=True)]
