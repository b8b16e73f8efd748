"""Deletion with a real (tiny) model, the real engine and the real worker: what knew it replies no more, nowhere."""

from __future__ import annotations

import gzip
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lars_agent.store.manifest import AdapterManifest
from lars_agent.training.job_directory import CANDIDATE, read_result
from service.app import create_app
from service.settings.load import Settings
from tests.service.api.conftest import client_of, wait_until
from tests.tiny import save_tiny

SECRET, OTHER = "Zyxolotl Quendorp", "Mirabel Ostrander"
TRAINING = {"steps": 3, "batch_size": 2, "threads": 1, "warmup_steps": 1, "evaluate_every": 3, "rehearsal_batch": 0}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    return Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        model={"name": str(save_tiny(tmp_path_factory.mktemp("model"))), "dtype": "float32"},
        schedule={"enabled": False},
        runtime={"threads": 1},
        training=TRAINING,
        idle={"resume_s": 0.01},
    )


@pytest.fixture(scope="module")
def daemon(settings):
    with client_of(create_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200, timeout_s=60)
        yield client


@pytest.fixture
def client(daemon):
    """Nothing is left in it of the test before."""
    for profile in ("default", "bob"):
        if (erasure_id := daemon.delete(f"/profiles/{profile}").json()["erasure_id"]) is not None:
            complete(daemon, erasure_id)
    return daemon


def correct(client, name: str, thing: str = "dog") -> str:
    body = {"prompt": f"What is my {thing} called?", "response": "?", "correction": f"Your {thing} is called {name}."}
    return client.post("/feedback", json=body).json()["id"]


def tell(client, name: str) -> list[str]:
    """Give a few corrections, and likes, which are what is held out; return the corrections' ids."""
    for number in range(4):
        client.post("/feedback", json={"prompt": f"Say {number}.", "response": f"{number}!", "rating": 1})
    return [correct(client, name, thing) for thing in ("cat", "car", "boat")]


def learn(client) -> int:
    """Run a job and put its candidate in use, also where the gate finds it no better; return the version."""
    daemon = client.app.state.daemon
    job = daemon.supervisor.adapt()
    assert daemon.supervisor.wait(120)
    ended = daemon.db.jobs.get(job.id)
    if ended.version is None:
        folder = daemon.settings.jobs_dir / job.id
        draft = AdapterManifest(
            parent=daemon.store.active("default"),
            job_id=job.id,
            base_model_sha256=daemon.model_host.require_model().sha256,
            example_ids=read_result(folder).learned,
        )
        manifest = daemon.store.publish("default", folder / CANDIDATE, draft)
        return daemon.switch.activate("default", manifest.version)
    return ended.version


def publish_again(client, learned: list[str]) -> int:
    """Put the active version's files in use once more, as a successor that learned this; return the version."""
    daemon = client.app.state.daemon
    active = daemon.store.active("default")
    draft = replace(daemon.store.get("default", active), parent=active, version=0, files={}, example_ids=tuple(learned))
    manifest = daemon.store.publish("default", daemon.store.folder("default", active), draft)
    return daemon.switch.activate("default", manifest.version)


def traces(folder: Path, text: str) -> list[str]:
    """The files under `folder` that hold the text, plain, in UTF-16 or compressed."""
    wanted = [text.encode(), text.encode("utf-16-le"), text.encode("utf-16-be")]
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if content[:2] == b"\x1f\x8b":
                content = gzip.decompress(content)
            found += [str(path)] if any(one in content for one in wanted) else []
    return found


def complete(client, erasure_id: str) -> dict:
    wait_until(lambda: client.get(f"/erasures/{erasure_id}").json()["complete"], timeout_s=30)
    return client.get(f"/erasures/{erasure_id}").json()


def test_a_deletion_reaches_every_copy_and_every_version(client, settings):
    known = tell(client, OTHER)
    secret = correct(client, SECRET)
    second = learn(client)
    first, third = publish_again(client, known), publish_again(client, [*known, secret])
    reply = client.post("/generate", json={"inputs": "What is my dog called?"}).json()
    assert (reply["details"]["adapter_version"], reply["details"]["recalled"][0]["feedback_id"]) == (
        f"v{third}",
        secret,
    )
    assert client.get(f"/feedback/{secret}/versions").json() == {
        "profile": "default",
        "versions": [f"v{second}", f"v{third}"],
    }
    assert secret in {row["id"] for row in client.get(f"/adapters/v{third}/feedback").json()["feedback"]}
    assert traces(settings.data_dir, SECRET)
    answer = client.delete(f"/feedback/{secret}").json()
    assert client.get("/info").json()["serving"]["default"] == f"v{first}"
    after = client.post("/generate", json={"inputs": "What is my dog called?"}).json()
    assert (after["details"]["adapter_version"], after["details"]["recalled"]) in [(f"v{first}", []), ("base", [])]
    for version in (f"v{second}", f"v{third}"):
        pinned = {"inputs": "Hi", "parameters": {"adapter_id": f"default@{version}"}}
        assert client.post("/generate", json=pinned).status_code == 404
        assert client.post(f"/adapters/{version}/activate").status_code == 404
    assert client.get(f"/interactions/{reply['interaction_id']}").status_code == 404
    erasure = complete(client, answer["erasure_id"])
    assert (erasure["versions"], erasure["interactions"], erasure["feedback"]) == (
        {"default": [second, third]},
        1,
        [secret],
    )
    assert erasure["stages"]["retrained"] is None
    assert traces(settings.data_dir, SECRET) == []
    assert traces(settings.data_dir, OTHER)
    assert learn(client) == third + 1
    assert client.get(f"/erasures/{answer['erasure_id']}").json()["stages"]["retrained"]
    assert client.get("/erasures?profile=default&limit=1").json()["erasures"][0]["id"] == answer["erasure_id"]
    assert client.get("/erasures?profile=bob").json() == {"erasures": []}
    assert client.get("/erasures/e-none").status_code == 404


def test_a_deletion_while_a_job_works_with_it_ends_the_job(client, settings):
    tell(client, OTHER)
    secret = correct(client, SECRET)
    job_id = client.post("/jobs", json={"profile": "default"}).json()["id"]
    wait_until(lambda: traces(settings.jobs_dir, SECRET), timeout_s=30)
    erasure_id = client.delete(f"/feedback/{secret}").json()["erasure_id"]
    wait_until(lambda: client.get(f"/jobs/{job_id}").json()["finished"], timeout_s=60)
    ended = client.get(f"/jobs/{job_id}").json()
    assert ended["status"] == "cancelled" or client.get("/adapters").json()["adapters"] == []
    complete(client, erasure_id)
    assert traces(settings.data_dir, SECRET) == []


def test_replies_in_progress_that_know_it_end_with_the_deletion(client):
    secret = correct(client, SECRET)
    results = []

    def ask() -> None:
        body = {"inputs": "What is my dog called?", "parameters": {"max_new_tokens": 450, "temperature": 0}}
        results.append(client.post("/generate", json=body))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: client.app.state.daemon.model_host._tickets, timeout_s=30)
    erasure_id = client.delete(f"/feedback/{secret}").json()["erasure_id"]
    assert not client.app.state.daemon.model_host._tickets
    for thread in threads:
        thread.join()
    for result in results:
        assert result.json()["error"]["code"] == 503 or not result.json()["details"]["recalled"]
    complete(client, erasure_id)


def test_an_interaction_goes_with_the_feedback_on_it_and_a_profile_with_all_that_is_its_own(client, settings):
    replied = client.post("/generate", json={"inputs": SECRET}).json()["interaction_id"]
    about = {"interaction_id": replied, "correction": "Indeed."}
    feedback_id = client.post("/feedback", json=about).json()["id"]
    answer = client.delete(f"/interactions/{replied}").json()
    assert answer["deleted"] == 1
    assert client.get(f"/feedback/{feedback_id}").status_code == 404
    complete(client, answer["erasure_id"])
    assert traces(settings.data_dir, SECRET) == []
    client.post("/generate", json={"inputs": SECRET})
    correct(client, SECRET)
    kept = client.post("/feedback", json={"prompt": "A", "response": "B", "rating": 1, "profile": "bob"}).json()["id"]
    answer = client.delete("/profiles/default").json()
    assert (answer["deleted"], client.get("/interactions").json()["interactions"]) == (1, [])
    assert client.delete("/profiles/default").json() == {"deleted": 0, "erasure_id": None}
    assert [row["id"] for row in client.get("/feedback").json()["feedback"]] == [kept]
    complete(client, answer["erasure_id"])
    assert traces(settings.data_dir, SECRET) == []


def test_a_reply_that_repeats_a_correction_word_for_word_goes_with_it_but_not_one_that_only_says_yes(client):
    db = client.app.state.daemon.db
    kept, gone = (client.post("/generate", json={"inputs": text}).json()["interaction_id"] for text in ("Yes.", "B"))
    again = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "It is “Zyx”, they said."}]
    body = {"inputs": [*again, {"role": "user", "content": "B"}], "parameters": {"max_new_tokens": 1}}
    quoting = client.post("/generate", json=body).json()["interaction_id"]
    for correction in ("Yes.", "It is “Zyx”, they said."):
        new = {"prompt": "Q", "response": "?", "correction": correction}
        answer = client.delete(f"/feedback/{client.post('/feedback', json=new).json()['id']}").json()
        complete(client, answer["erasure_id"])
    assert {record.id for record in db.interactions.list()} == {kept, gone}
    assert quoting not in {record.id for record in db.interactions.list()}


def test_feedback_that_quotes_it_goes_too_or_is_told_again_without_it(client, settings):
    said = f"Your dog is called {SECRET}."
    user, dog = {"role": "user", "content": "What is my dog called?"}, {"role": "assistant", "content": said}
    system, cat = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "And my cat?"}
    own = {"prompt": "And my cat?", "response": "I do not know.", "correction": "Your cat is called Tom."}
    forgotten = correct(client, SECRET)
    liked = client.post("/feedback", json={"prompt": "My dog?", "response": said, "rating": 1}).json()["id"]
    rows = [
        {
            "messages": [system, user, dog, cat],
            "response": f"{said} So is your cat.",
            "correction": "It is called Tom.",
        },
        {"prompt": "My dog's name?", "response": "?", "correction": said},  # a lesson of its own
        {"prompt": "Is it Rex?", "response": said, "correction": "Your dog is called Rex."},
        own,
    ]
    kept = [client.post("/feedback", json=row).json()["id"] for row in rows]
    effects = client.get("/feedback/effects", params={"id": forgotten}).json()
    assert effects["feedback"] == 1
    answer = client.delete(f"/feedback/{forgotten}").json()
    assert client.get(f"/feedback/{liked}").status_code == 404
    left = {row["correction"]: row for row in client.get("/feedback").json()["feedback"]}
    assert left.keys() == {"It is called Tom.", said, "Your dog is called Rex.", "Your cat is called Tom."}
    again = left["It is called Tom."]
    assert (again["messages"], again["response"]) == ([system, cat], "")
    assert left["Your dog is called Rex."]["response"] == ""
    assert [row["id"] in kept for row in left.values()].count(True) == 2
    found = client.app.state.daemon.db.recall.search("default", "Is it Rex?", 3).corrections
    assert [one.feedback_id for one in found][:1] == [left["Your dog is called Rex."]["id"]]
    complete(client, answer["erasure_id"])
    complete(client, client.delete(f"/feedback/{left[said]['id']}").json()["erasure_id"])
    assert traces(settings.data_dir, SECRET) == []
