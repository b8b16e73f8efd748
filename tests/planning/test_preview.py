"""What a model would need, read from its configuration: of a folder, the default model, and a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lars_agent.errors import ModelNotFound, ModelUnsupported
from lars_agent.models.library import ModelLibrary
from lars_agent.planning.preview import preview
from tests.tiny import save_tiny

BUDGET = 2 * 2**30
SHA = "5f" * 20
SIZES = {"config.json": 700, "model.safetensors": 9_000_000, "model.bin": 9_000_000, "tokenizer.json": 2_000}
DEFAULT = Path(__file__).parents[2] / ".cache" / "models" / "smollm2-135m-instruct"


@pytest.fixture
def tiny(tmp_path) -> Path:
    return save_tiny(tmp_path / "tiny")


@pytest.fixture
def hub(tiny) -> Iterator[str]:
    """A hub that has `org/tiny`, and nothing of it but its file list and its configuration."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, headers = b"", {"X-Error-Code": "RepoNotFound"}
            if self.path.startswith("/api/models/org/tiny"):
                files = [{"rfilename": name, "size": size} for name, size in SIZES.items()]
                body, headers = json.dumps({"id": "org/tiny", "sha": SHA, "siblings": files}).encode(), {}
            elif self.path == f"/org/tiny/resolve/{SHA}/config.json":
                body, headers = (tiny / "config.json").read_bytes(), {"ETag": '"e"', "X-Repo-Commit": SHA}
            self.send_response(200 if body else 404)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_folder_needs_what_its_model_and_training_take(tiny):
    found = preview(str(tiny), "float32", BUDGET)
    assert (found.name, found.download_bytes, found.fits) == ("tiny", 0, True)
    assert 0 < found.disk_bytes < found.serving_bytes < found.training_bytes < BUDGET
    assert not preview(str(tiny), "float32", found.least_training_bytes - 1).fits


def test_the_default_model_s_shape_is_shipped():
    found = preview("default", "bfloat16", BUDGET)
    assert (found.name, found.disk_bytes) == ("smollm2-135m-instruct", 269_030_016)
    assert found.download_bytes == 89 * 2**20
    four = preview("default", "int4", BUDGET)
    assert four.serving_bytes < found.serving_bytes - 150 * 2**20


def test_the_shipped_shape_is_that_of_the_model():
    if not DEFAULT.is_dir():
        pytest.skip("the default model is not here")
    model = ModelLibrary(DEFAULT.parent).get(DEFAULT.name)
    shipped, here = preview("default", "bfloat16", BUDGET), preview(str(model.folder), "bfloat16", BUDGET)
    assert (shipped.disk_bytes, shipped.fits) == (here.disk_bytes, here.fits)
    assert model.bytes == pytest.approx(shipped.disk_bytes, rel=0.05)


def test_of_a_hub_s_model_only_the_configuration_is_fetched(hub, tmp_path):
    def ask(reference: str) -> dict[str, Any]:
        environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-m", "lars_agent.planning.preview", reference, "auto", str(BUDGET)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return dict(json.loads(done.stdout))

    found = ask("org/tiny")
    assert (found["name"], found["fits"]) == ("org--tiny", True)
    assert found["download_bytes"] == sum(SIZES.values()) - SIZES["model.bin"]
    assert "the hub has no 'org/none'" in str(ask("org/none"))


def test_what_is_no_decoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(ModelUnsupported, match="no configuration"):
        preview(str(tmp_path), "auto", BUDGET)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ModelUnsupported, match="no configuration"):
        preview(str(tmp_path / "bad.gguf"), "auto", BUDGET)
    with pytest.raises(ModelNotFound):
        preview("nothing", "auto", BUDGET)
