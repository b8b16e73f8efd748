"""Good files of every kind: those that a daemon has written in one cycle, and a GGUF file of a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx

from bench.child import until
from bench.daemon import training_worker, worker_message
from bench.faults.clients import Clients, within
from bench.faults.scenario import MODELS, TINY_NAME, DaemonUnderTest
from lars_agent.errors import LarsError
from lars_agent.models.weights import MODEL_FILE
from lars_agent.training.checkpoint import checkpoints
from service.settings.load import write_changes

CONFIG = Path(__file__).parents[1] / "configs" / "quick.toml"
LIMIT_S = 900.0
WIDTH, INNER, HEADS, KEY_WIDTH, LAYERS = 32, 48, 4, 16, 2
# The files of each kind that are damaged, relative to its folder; the others of the folder stay as they are.
KINDS = {
    "adapter": ("adapter_config.json", "adapter_model.safetensors"),
    "store": (
        "default/v0001/manifest.json",
        "default/v0001/adapter_model.safetensors",
        "default/active",
        "default/last",
    ),
    "database": ("lars-agent.db",),
    "settings": ("config.toml", "settings.json"),
    "model": tuple(
        f"tiny/{name}"
        for name in (
            *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
            *("chat_template.jinja", "model.safetensors", MODEL_FILE),
        )
    ),
    "gguf": ("model.gguf",),
    "job": ("job.json", "plan.json", "progress.jsonl", "result.json", "train.jsonl", "heldout.jsonl"),
    "checkpoint": ("progress.json", "state.safetensors", "best.safetensors"),
    "lines": ("feedback.jsonl",),
}


def make_good(scratch: Path, good: Path) -> None:
    """Run one cycle of a daemon in `scratch`, and put a folder of each kind of its files into `good`.

    Raises LarsError where the cycle does not succeed.
    """
    with DaemonUnderTest.quick(scratch, "good") as running:
        running.restart()
        running.wait_until_healthy(LIMIT_S)
        job = Clients(running.url, "good", cycling=False).cycle(within(LIMIT_S))
        if job is None or job.status != "succeeded":
            raise LarsError(f"the cycle that makes the good files did not succeed ({job}): {running.log_tail()}")
        running.ask()
        exported = httpx.get(f"{running.url}/feedback/export", params={"format": "preference"}, timeout=LIMIT_S).text
        running.stop()
    gather(running.state, scratch / MODELS / TINY_NAME, exported, good)


def gather(state: Path, model: Path, exported: str, good: Path) -> None:
    """Copy what is in the state folder of that daemon to a folder of each kind, and make the kinds it lacks."""
    (job,) = (state / "jobs").glob("j-*")
    shutil.copytree(state / "adapters" / "default" / "v0001", good / "adapter")
    shutil.copytree(state / "adapters", good / "store")
    shutil.copytree(job, good / "job", ignore=shutil.ignore_patterns("candidate"))
    shutil.copytree(model, good / "model" / "tiny")
    for kind in ("database", "settings", "gguf", "lines"):
        (good / kind).mkdir()
    shutil.copyfile(state / "lars-agent.db", good / "database" / "lars-agent.db")
    shutil.copyfile(CONFIG, good / "settings" / "config.toml")
    write_changes(good / "settings", {"schedule": {"cron": "0 4 * * *"}, "learning": {"profiles": {"guest": False}}})
    (good / "lines" / "feedback.jsonl").write_text(exported, encoding="utf-8")
    write_gguf(good / "gguf" / "model.gguf")
    again = Path(
        shutil.copytree(job, state / "again", ignore=shutil.ignore_patterns("candidate", "result.json", "plan.json"))
    )
    with training_worker(again, 1):
        if not until(lambda: checkpoints(again), LIMIT_S):
            raise LarsError(f"the worker writes no checkpoint: {worker_message(again)}")
        newest = checkpoints(again)[0]
        shutil.copytree(newest, good / "checkpoint" / newest.name)


def files_of(good: Path, kind: str) -> list[Path]:
    """The files of the kind that are damaged, relative to its folder."""
    folder = good / kind
    inner = next(folder.glob("checkpoint-*"), folder)
    return [path.relative_to(folder) for name in KINDS[kind] if (path := inner / name).is_file()]


def write_gguf(path: Path) -> None:
    """Write a llama with random weights and a byte-level tokenizer."""
    import gguf
    import numpy as np

    from bench.models import SPECIAL, TEMPLATE, byte_tokenizer

    rng, vocabulary = np.random.default_rng(0), byte_tokenizer().get_vocab()
    tokens = [*sorted(vocabulary, key=lambda token: vocabulary[token]), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "block_count": LAYERS,
        "context_length": 512,
        "embedding_length": WIDTH,
        "head_count": HEADS,
    }.items():
        getattr(writer, f"add_{name}")(value)
    for name, value in {"feed_forward_length": INNER, "head_count_kv": HEADS * KEY_WIDTH // WIDTH}.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (KEY_WIDTH, WIDTH), "attn_v": (KEY_WIDTH, WIDTH)}
    shapes |= {"attn_output": (WIDTH, WIDTH), "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH)}
    shapes |= {"ffn_down": (WIDTH, INNER), "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
    tensors = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    tensors |= {f"blk.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in shapes.items()}
    for name, shape in tensors.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def resign(folder: Path) -> None:
    """Give a damaged checkpoint the digests of what it holds now, as who damages it on purpose would."""
    from lars_agent.files import sha256_of

    path = folder / "progress.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["sha256"] = {name: sha256_of(folder / name) for name in record["sha256"]}
    path.write_text(json.dumps(record), encoding="utf-8")
