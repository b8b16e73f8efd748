"""The dtype to compute in: timed, kept, and apart from what weights are stored in."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from lars_agent.errors import ConfigError
from lars_agent.models import arithmetic
from lars_agent.models.arithmetic import Arithmetic, compute_dtype, precision, timed
from lars_agent.models.open import open_model
from lars_agent.ops.quantized import QuantizedLinear
from tests.tiny import save_tiny

SLOW_BFLOAT16, FAST_BFLOAT16 = Arithmetic(bfloat16=3.0, float32=1.0), Arithmetic(bfloat16=1.0, float32=2.0)


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(arithmetic, "timed", lambda: SLOW_BFLOAT16)


@pytest.mark.parametrize("name", ["auto", "int8", "int4"])
@pytest.mark.parametrize(("times", "dtype"), [(SLOW_BFLOAT16, torch.float32), (FAST_BFLOAT16, torch.bfloat16)])
def test_the_faster_one_is_computed_in(monkeypatch, name, times, dtype):
    monkeypatch.setattr(arithmetic, "timed", lambda: times)
    assert compute_dtype(name) == dtype


def test_what_a_setting_names_is_not_timed(monkeypatch):
    monkeypatch.delattr(arithmetic, "timed")
    assert compute_dtype("float32") == torch.float32
    assert compute_dtype("bfloat16") == torch.bfloat16
    with pytest.raises(ConfigError, match="not 'float16'"):
        compute_dtype("float16")


def test_the_answer_is_kept_so_that_a_job_goes_on_as_it_began(monkeypatch, tmp_path, slow):
    file = tmp_path / "state" / "costs.json"
    assert compute_dtype("auto", file) == torch.float32
    monkeypatch.setattr(arithmetic, "timed", lambda: FAST_BFLOAT16)
    assert compute_dtype("auto", file) == torch.float32
    (times,) = json.loads(file.read_text()).values()
    assert times == {"bfloat16": 3.0, "float32": 1.0}


def test_weights_stored_in_16_bits_stay_so_where_float32_is_faster(tmp_path, slow):
    folder = save_tiny(tmp_path / "m")
    assert precision("auto", folder) == (torch.float32, 16)
    assert precision("float32", folder) == (torch.float32, None)
    assert precision("int8", folder) == (torch.float32, 8)
    model = open_model(folder, *precision("auto", folder)).model
    assert model.dtype == torch.float32
    assert any(isinstance(module, QuantizedLinear) for module in model.modules())


def test_weights_stored_in_float32_are_used_as_they_lie(tmp_path, slow):
    folder = save_tiny(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    assert precision("auto", folder) == (torch.float32, None)


def test_a_folder_without_a_model_is_left_to_whoever_opens_it(tmp_path, slow):
    assert precision("auto", tmp_path) == (torch.float32, None)


def test_a_processor_that_emulates_bfloat16_gets_float32():
    """oneDNN without the instructions that only some processors have; it goes on saying that it supports bfloat16."""
    code = "from lars_agent.models.arithmetic import timed; t = timed(); print(t.bfloat16 / t.float32, t.fastest)"
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    ratio, fastest = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout.split()
    assert (fastest == "torch.float32") == (float(ratio) > 1)
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert fastest == "torch.float32"


def test_other_programs_do_not_decide():
    """Beside two that never wait for each core, the answer is that of a calm moment, also in the child's own words."""
    code = "from lars_agent.models.arithmetic import timed; t = timed(); print(t.fastest, t.bfloat16 / t.float32)"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        beside = [
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
            for _ in range(2)
        ]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    calm = timed.__wrapped__()
    if not 0.8 < calm.bfloat16 / calm.float32 < 1.25:  # neither is much faster: either answer is right
        assert {done.stdout.split()[0] for done in beside} == {str(calm.fastest)}


def test_it_is_timed_once_in_a_process():
    assert timed() is timed()
    assert min(timed().bfloat16, timed().float32) > 0
