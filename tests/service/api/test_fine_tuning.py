"""OpenAI's files and fine-tuning, with OpenAI's own client; the worker is a stand-in."""

from __future__ import annotations

import json
import sys
from datetime import timedelta

import openai
import pytest

from service.db import Database
from service.db.records import now_utc
from service.housekeeping.housekeeper import Housekeeper
from tests.service.api.conftest import wait_until
from tests.service.house import STANDIN

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Where is box {n}?"},
            {"role": "assistant", "content": f"On shelf {n}."},
        ]
    }
    for n in range(4)
]
JSONL = "\n".join(map(json.dumps, ROWS)).encode()


def gpt_of(client) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://127.0.0.1:8321/v1", api_key="none", max_retries=0, http_client=client)


def upload(gpt, content: bytes = JSONL, name: str = "boxes.jsonl", **options):
    return gpt.files.create(file=(name, content), purpose="fine-tune", **options)


@pytest.fixture
def gate(tmp_path):
    """The stand-in worker goes on while this file exists."""
    return tmp_path / "release"


@pytest.fixture
def gpt(start, settings, gate):
    client = start(settings, worker_command=(sys.executable, str(STANDIN), "--wait", str(gate)))
    wait_until(lambda: client.get("/health").status_code == 200)
    return gpt_of(client)


def ended(gpt, job_id: str):
    wait_until(lambda: gpt.fine_tuning.jobs.retrieve(job_id).finished_at is not None)
    return gpt.fine_tuning.jobs.retrieve(job_id)


def test_a_file_is_learned_from_and_published(gpt, gate):
    file = upload(gpt)
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(JSONL), "boxes.jsonl", "fine-tune")
    assert gpt._client.get("/feedback").json()["total"] == 0
    job = gpt.fine_tuning.jobs.create(
        model="base",
        suffix="alice",
        training_file=file.id,
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": "auto"}}},
        metadata={"who": "me"},
    )
    assert (job.status, job.training_file, job.fine_tuned_model, job.metadata) == (
        "queued",
        file.id,
        None,
        {"who": "me"},
    )
    stored = gpt._client.get(f"/feedback?profile=alice&file={file.id}").json()["feedback"]
    assert [row["correction"] for row in reversed(stored)] == [f"On shelf {n}." for n in range(4)]
    with pytest.raises(openai.ConflictError, match="profile alice"):
        gpt.fine_tuning.jobs.create(model="default", training_file=file.id)
    wait_until(lambda: gpt.fine_tuning.jobs.retrieve(job.id).status == "running")
    assert gpt.fine_tuning.jobs.pause(job.id).status == "running"
    assert gpt.fine_tuning.jobs.resume(job.id).status == "running"
    gate.touch()
    job = ended(gpt, job.id)
    assert (job.status, job.fine_tuned_model, job.error) == ("succeeded", "alice@v1", None)
    assert (job.seed, job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (7, 3, "auto")
    spec = gpt._client.get(f"/jobs/{job.id}").json()["spec"]
    assert (spec["training"]["epochs"], spec["training"]["seed"]) == (3, 7)
    newest, *_, started, created = gpt.fine_tuning.jobs.list_events(job.id, limit=2)  # page by page
    assert ("v1" in newest.message, started.message, created.level) == (True, "Started", "info")
    assert list(gpt.fine_tuning.jobs.checkpoints.list(job.id)) == []
    assert [one.id for one in gpt.fine_tuning.jobs.list(limit=1)] == [job.id]
    assert gpt.models.retrieve(job.fine_tuned_model).id == "alice@v1"


def test_what_the_gate_rejects_has_failed_in_its_words(start, settings):
    client = start(settings, worker_command=(sys.executable, str(STANDIN), "--reply", "9"))
    wait_until(lambda: client.get("/health").status_code == 200)
    gpt = gpt_of(client)
    job = ended(gpt, gpt.fine_tuning.jobs.create(model="default", training_file=upload(gpt).id).id)
    assert (job.status, job.fine_tuned_model, job.error.code) == ("failed", None, "candidate_rejected")
    assert job.error.message == client.get(f"/jobs/{job.id}").json()["error"]
    event = next(iter(gpt.fine_tuning.jobs.list_events(job.id)))
    assert (event.level, event.message) == ("error", job.error.message)


def test_a_file_comes_back_as_it_was_and_goes_with_all_that_it_taught(gpt, gate):
    rows = [
        *ROWS,
        {
            "input": {"messages": [{"role": "user", "content": "Who?"}]},
            "preferred_output": [{"role": "assistant", "content": "Ann."}],
            "non_preferred_output": [{"role": "assistant", "content": "Bob."}],
        },
    ]
    file = upload(gpt, "\n".join(map(json.dumps, rows)).encode())
    assert [json.loads(line) for line in gpt.files.content(file.id).text.splitlines()] == rows
    gate.touch()
    job = ended(gpt, gpt.fine_tuning.jobs.create(model="default", training_file=file.id).id)
    assert job.fine_tuned_model == "default@v1"
    one = gpt._client.get("/feedback?q=who").json()["feedback"][0]["id"]
    gpt._client.delete(f"/feedback/{one}")
    assert [json.loads(line) for line in gpt.files.content(file.id).text.splitlines()] == ROWS
    gone = gpt.files.delete(file.id)
    assert (gone.id, gone.deleted) == (file.id, True)
    assert len(gpt._client.get(f"/erasures/{gone.erasure_id}").json()["feedback"]) == 4
    assert gpt._client.get("/feedback").json()["total"] == 0
    for ask in (gpt.files.retrieve, gpt.files.content, gpt.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(file.id)


def test_an_unused_file_is_deleted_to_the_last_row_or_expires(gpt):
    first, second = upload(gpt), upload(gpt, expires_after={"anchor": "created_at", "seconds": 3600})
    assert second.expires_at - second.created_at == 3600
    assert first.expires_at - first.created_at == 30 * 86_400
    assert [one.id for one in gpt.files.list(order="asc", limit=1)] == [first.id, second.id]
    assert [one.id for one in gpt.files.list(purpose="batch")] == []
    daemon = gpt._client.app.state.daemon
    later = Housekeeper(
        daemon.settings, daemon.db, daemon.store, daemon.switch, daemon.periodic, lambda: now_utc() + timedelta(hours=2)
    )
    assert later.tidy().files == 1
    assert [one.id for one in gpt.files.list()] == [first.id]
    erasure = gpt._client.get(f"/erasures/{gpt.files.delete(first.id).erasure_id}").json()
    assert len(erasure["feedback"]) == 4
    assert daemon.db.imports.remove_unfinished() == 0
    with daemon.db.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM feedback").scalar() == 0
    assert b"On shelf" not in daemon.db.path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "error", "param"),
    [
        ({"training_file": "file-none"}, openai.NotFoundError, "training_file"),
        ({"model": "gpt-4o-mini"}, openai.NotFoundError, None),
        ({"model": "default@v1"}, openai.UnprocessableEntityError, "model"),
        ({"suffix": "Alice!"}, openai.UnprocessableEntityError, "suffix"),
        ({"suffix": "alice"}, openai.UnprocessableEntityError, "suffix"),
        ({"validation_file": "file-2"}, openai.UnprocessableEntityError, "validation_file"),
        ({"method": {"type": "dpo"}}, openai.UnprocessableEntityError, "method.type"),
        ({"hyperparameters": {"n_epochs": 0}}, openai.UnprocessableEntityError, None),
        ({"hyperparameters": {"learning_rate_multiplier": 99999}}, openai.UnprocessableEntityError, None),
        ({"integrations": [{"type": "wandb"}]}, openai.UnprocessableEntityError, "integrations"),
    ],
)
def test_what_cannot_be_done_is_refused_and_takes_up_nothing(resident, changes, error, param):
    gpt = gpt_of(resident)
    file = upload(gpt)
    with pytest.raises(error) as refused:
        gpt.fine_tuning.jobs.create(**{"model": "default", "training_file": file.id} | changes)
    assert param is None or refused.value.param == param
    assert resident.get("/feedback").json()["total"] == 0
    assert gpt.files.delete(file.id).deleted


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"files": {"file": ("a", JSONL)}}, "purpose"),
        ({"files": {"file": ("a", JSONL)}, "data": {"purpose": "batch"}}, "purpose"),
        ({"data": {"purpose": "fine-tune"}}, "file"),
        ({"files": {"file": ("a", b"")}, "data": {"purpose": "fine-tune"}}, "body"),
        ({"files": {"file": ("a", JSONL + b"\n{}")}, "data": {"purpose": "fine-tune"}}, "line 5"),
        ({"files": {"file": ("a", JSONL)}, "data": {"purpose": "fine-tune", "x": "y"}}, "'x'"),
        ({"files": {"file": ("a", JSONL)}, "data": {"purpose": "fine-tune" * 200}}, "file"),
        ({"files": [("file", ("a", JSONL)), ("file", ("b", JSONL))]}, "file"),
        ({"json": {"purpose": "fine-tune"}}, "file"),
        ({"content": b"--x\r\nnonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "file"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "file"),
        (
            {"files": {"file": ("a", JSONL)}, "data": {"purpose": "fine-tune", "expires_after[anchor]": "created_at"}},
            "expires_after[seconds]",
        ),
    ],
)
def test_a_form_that_is_wrong_is_refused_and_stores_nothing(resident, form, param):
    answer = resident.post("/v1/files", **form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text
    assert resident.get("/v1/files").json()["data"] == []


def test_a_file_may_be_as_large_as_an_import_and_survives_a_restart(start, settings):
    server = settings.server.model_copy(update={"max_body_bytes": 100, "max_import_bytes": 2000})
    client = start(settings.model_copy(update={"server": server}))
    file = upload(gpt_of(client))
    assert client.post("/v1/files", files={"file": ("a", JSONL * 9)}, data={"purpose": "fine-tune"}).status_code == 413
    client.app.state.daemon.db.engine.dispose()
    db = Database(settings.database_path)
    assert [record.correction for record in db.files.each(file.id)] == [f"On shelf {n}." for n in range(4)]
    assert (db.files.get(file.id).name, list(db.feedback.each())) == ("boxes.jsonl", [])
    db.close()
