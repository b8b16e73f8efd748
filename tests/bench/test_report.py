"""The report: every row against its goal, and the README's table."""

from __future__ import annotations

import pytest

from bench import record, report
from lars_agent.errors import ConfigError


def row(
    name: str, values: list[float], unit: str, better: str, goal: float | None = None, note: str = ""
) -> record.Row:
    ends = {"value": sorted(values)[len(values) // 2], "min": min(values), "max": max(values), "runs": len(values)}
    return {"name": name, "unit": unit, "better": better, "goal": goal, "note": note, **ends}


ROWS = [
    row("peak", [1.2], "ratio", "lower", goal=1.1),
    row("speedup", [2.5, 3.5, 3.0], "ratio", "higher", goal=2.0, note="paired"),
    row("speedup_at_its_best", [1.5], "ratio", "higher"),
    row("seconds", [7.25], "s", "lower"),
]


def test_each_row_is_held_against_its_goal():
    missed, met, _, free, count = report.lines({"memory": ROWS})
    assert missed.endswith("at most 1.1      missed")
    assert met.endswith("at least 2       met")
    assert free.endswith("7.25 s")
    assert count == "1 of 2 goals met"


def test_the_table_holds_the_rows_with_a_goal_and_their_variants_and_the_plots(tmp_path):
    record.write("memory", "python -m bench memory", ROWS, tmp_path, plots=["memory.png", "memory.svg"])
    table = report.full_tables(report.result_files(tmp_path), plots="../bench/results")
    rows = "| speedup | 3 (2.5 to 3.5) | at least 2 | met | paired |\n| speedup_at_its_best | 1.5 |  |  |  |"
    assert rows in table
    assert "seconds" not in table
    assert "(../bench/results/memory.svg)" in table
    assert "    python -m bench memory\n" in table


def test_what_stands_around_the_table_is_kept(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_between_markers(readme, "new")
    assert readme.read_text() == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"


def test_a_readme_without_a_place_for_the_table_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing\n")
    with pytest.raises(ConfigError, match="bench:begin"):
        report.write_between_markers(readme, "new")
    assert readme.read_text() == "nothing\n"


def test_a_report_of_a_folder_only_prints(bench, tmp_path):
    record.write("memory", "python -m bench memory", ROWS, tmp_path)
    done = bench("report", "--out", tmp_path)
    assert done.returncode == 0
    assert "1 of 2 goals met" in done.stdout


def test_a_report_without_results_says_what_to_run(bench, tmp_path):
    done = bench("report", "--out", tmp_path)
    assert done.returncode == 1
    assert "python -m bench memory --goals" in done.stderr


def test_the_methods_are_shown_at_the_rate_at_which_they_recall_most(tmp_path):
    scores = {"fact_rate": "higher", "style_rate": "higher", "text_rise": "lower"}
    rows = [
        row(f"{score}/{method}/{rate:g}", [facts, facts + 0.1], "ratio", better)
        for method, rate, facts in (("lora", 0.001, 0.2), ("lora", 0.004, 0.7), ("response", 0.002, 0.5))
        for score, better in scores.items()
    ]
    record.write("quality", "python -m bench quality", rows, tmp_path)
    table = report.full_tables(report.result_files(tmp_path), plots="")
    assert "| lora | 0.004 | 80% (70% to 80%) |" in table
    assert "0.001" not in table
    assert table.index("| lora |") < table.index("| response |")


def test_the_readme_shows_eight_claims_with_a_goal_missed_ones_too(tmp_path):
    words = {name: claim["readme"] for name, claim in record.claims().items() if "readme" in claim}
    assert len(words) == 8
    assert all("goal" in record.claims()[name] for name in words)
    record.write("memory", "python -m bench memory", [record.claimed("kills", [3], how="")], tmp_path)
    last = report.short_table(report.result_files(tmp_path), words).splitlines()[-1]
    assert last == f"| {words['kills']} | 3 kills | at least 350 | missed |"


def test_facts_that_were_corrected_once_are_a_table_of_their_own(tmp_path):
    shares = {"once_trained": 1.0, "once_unseen": 0.5, "once_others": 0.25}
    rows = [row(f"{kind}/recall/40", [share], "ratio", "higher") for kind, share in shares.items()]
    rows += [
        row("once_cpu_s/40/known_share=1", [900.0], "s", "lower"),
        row("fact_rate/lora/0.001", [0.2], "ratio", "higher"),
    ]
    rows += [row(f"{score}/lora/0.001", [0.2], "ratio", "higher") for score in ("style_rate", "text_rise")]
    record.write("quality", "python -m bench quality", rows, tmp_path)
    table = report.full_tables(report.result_files(tmp_path), plots="")
    assert "| recall/40 | 100% | 50% | 25% |" in table
    assert "| lora | 0.001 |" in table
    assert "once_cpu_s" not in table
