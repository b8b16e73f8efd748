"""What the benchmarks need is asked for before anything runs."""

from __future__ import annotations

import pytest

from bench import __main__ as bench_cli
from service.commands import bench as forwarding


def without(name: str):
    return lambda package: None if package == name else object()


@pytest.mark.parametrize(("package", "words"), [("peft", "PEFT"), ("matplotlib", "matplotlib")])
def test_a_missing_extra_is_named_with_what_to_run(monkeypatch, capsys, package, words):
    monkeypatch.setattr(bench_cli, "find_spec", without(package))
    with pytest.raises(SystemExit) as ended:
        bench_cli.main(["memory", "--methods", "lora"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert words in said
    assert "pip install 'lars-agent[bench]'" in said


def test_a_daemon_without_the_benchmarks_says_what_to_install(monkeypatch):
    monkeypatch.setattr(forwarding, "find_spec", without("bench"))
    with pytest.raises(forwarding.LarsError, match="pip install"):
        forwarding.bench(["report"])
