"""The check of what another machine made of a job."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lars_agent.errors import AdapterCorrupt, AdapterIncompatible, JobInvalid, LarsError
from lars_agent.lars import LarsAdapter, save_adapter
from lars_agent.lars.config import LarsConfig
from lars_agent.models.open import empty_model
from lars_agent.training.check_result import check_result, main
from lars_agent.training.gate import Scores
from lars_agent.training.job_directory import CANDIDATE, TRAIN_FILE, JobResult, JobSpec, write_examples
from tests.tiny import save_tiny
from tests.training.conftest import FACTS

WEIGHTS = "adapter_model.safetensors"
LARS = LarsConfig(rank=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A job and what a worker has made of it."""
    folder = tmp_path_factory.mktemp("made") / "job"
    model = save_tiny(folder.parent / "model")
    JobSpec(job_id="j-1", profile="default", model_path=str(model), model_sha256="", lars=LARS).write(folder)
    write_examples(folder / TRAIN_FILE, FACTS)
    adapter = LarsAdapter.for_model(empty_model(model), LARS, seed=0)
    save_adapter(adapter, folder / CANDIDATE, base_model="tiny", revision=None)
    scores = Scores(reply_loss=1.0, text_loss=1.0)
    JobResult(status="succeeded", candidate=scores, incumbent=scores, learned=(FACTS[0].source_id,)).write(folder)
    return folder


@pytest.fixture
def job(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "job")


def test_what_the_worker_makes_is_sound(job):
    check_result(job, job)
    assert main([str(job), str(job)]) == 0


def not_a_number(folder):
    tensors = load_file(folder / CANDIDATE / WEIGHTS)
    save_file(tensors | {min(tensors): torch.full_like(tensors[min(tensors)], torch.nan)}, folder / CANDIDATE / WEIGHTS)


def another_shape(folder):
    tensors = load_file(folder / CANDIDATE / WEIGHTS)
    save_file({key: tensor.unsqueeze(0) for key, tensor in tensors.items()}, folder / CANDIDATE / WEIGHTS)


def another_configuration(folder):
    path = folder / CANDIDATE / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alpha": 99.0}))


def a_link(folder):
    moved = (folder / CANDIDATE / WEIGHTS).rename(folder / "elsewhere")
    (folder / CANDIDATE / WEIGHTS).symlink_to(moved)


def feedback_that_it_was_not_given(folder):
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"learned": ["f-of-somebody-else"]}))


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (not_a_number, AdapterCorrupt),
        (another_shape, AdapterIncompatible),
        (another_configuration, AdapterIncompatible),
        (a_link, AdapterCorrupt),
        (feedback_that_it_was_not_given, JobInvalid),
        (lambda folder: (folder / CANDIDATE / WEIGHTS).write_bytes(b"x" * 100), AdapterCorrupt),
        (lambda folder: (folder / "result.json").unlink(), JobInvalid),
    ],
)
def test_a_candidate_that_the_job_cannot_have_is_refused(job, damage, error, capsys):
    damage(job)
    with pytest.raises(LarsError) as refusal:
        check_result(job, job)
    assert type(refusal.value) is error
    assert main([str(job), str(job)]) == 1
    assert json.loads(capsys.readouterr().out)["type"] == error.__name__
