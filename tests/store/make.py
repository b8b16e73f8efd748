"""Candidates and drafts for the store's tests; the store never looks inside the files."""

from __future__ import annotations

from pathlib import Path

from lars_agent.store import AdapterManifest

BASE_SHA256 = "b" * 64


def make_candidate(folder: Path, content: str = "weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LARS"}\n')
    (folder / "adapter_model.safetensors").write_bytes(content.encode() * 1000)
    return folder


def make_draft(parent: int | None = None) -> AdapterManifest:
    return AdapterManifest(
        parent=parent,
        job_id="j-1",
        base_model="smollm2-135m-instruct",
        base_model_sha256=BASE_SHA256,
        example_ids=("f-1", "f-2"),
        config={"rank": 16},
        losses={"heldout": 1.25},
    )
