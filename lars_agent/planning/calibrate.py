"""How long the pieces of a training step take here: measured on one layer of a model, and kept.

One decoder layer of the model's own shape with random weights and a small vocabulary is made and timed, which takes a
few seconds and the memory of one layer; no weight of the model is read.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lars_agent.files import make_folder, write_atomically
from lars_agent.lars.config import LarsConfig
from lars_agent.lars.forward import Batch, read_prompt, reply_hidden
from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter, attach
from lars_agent.memory.allocator import give_back
from lars_agent.memory.measure import rss_bytes
from lars_agent.models.quantize import quantize_in_place
from lars_agent.ops.adamw import FlatAdamW
from lars_agent.ops.attention import use_grouped_attention
from lars_agent.ops.losses import Vocabulary, chunked_cross_entropy
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.ops.quantized import Bits
from lars_agent.ops.saved_tensors import Saved, saved_activations
from lars_agent.ops.tiled_mlp import mlp_of
from lars_agent.planning.costs import Costs, Line

__all__ = ["Calibration", "Measured", "costs_of"]

FEW, MANY = 64, 512  # tokens that a line is drawn through
FAR = 2048  # tokens of the prompt that attention is timed with
ROWS = (8, 32)  # of a chunk of the loss
WORDS = 4096
PARAMETERS = 2**20
NUMBERS = 2**20
REPEATS = 3
MOST_OTHERS = 0.3  # cores that other processes may keep busy meanwhile
STEADY = 1.3  # how much longer or shorter the same work may take
PLAIN = MemoryPlan(recompute=False, prompt_chunk=10**6)


class Calibration:
    """The costs that were measured before, in one JSON file: device, model and threads by name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def costs(self, name: str, measure: Callable[[], Measured]) -> Costs:
        """The costs of that name; measured now where there are none, and kept unless the device was busy meanwhile.

        A file that is torn is replaced.
        """
        known = self._read()
        try:
            return Costs.from_dict(known[name])
        except (KeyError, TypeError, ValueError):
            measured = measure()
        if measured.steady:
            make_folder(self.path.parent)
            write_atomically(self.path, json.dumps(known | {name: measured.costs.as_dict()}, indent=1) + "\n")
        return measured.costs

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


@dataclass(frozen=True)
class Measured:
    """Costs, and whether this process had the device to itself while they were measured."""

    costs: Costs
    steady: bool


class OthersWork:
    """How busy other processes have been since this was made."""

    def __init__(self) -> None:
        self._started, self._busy_s, self._own_s = time.monotonic(), self._all(), time.process_time()

    def cores(self) -> float:
        """How many cores they kept busy, on average."""
        busy_s = self._all() - self._busy_s - (time.process_time() - self._own_s)
        return busy_s / (time.monotonic() - self._started)

    @staticmethod
    def _all() -> float:
        times = psutil.cpu_times()
        return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system")))


def costs_of(folder: Path, lars: LarsConfig, dtype: torch.dtype, weight_bits: Bits | None = None) -> Measured:
    """The costs of the model in `folder` under an adapter of `lars`, on as many threads as torch has now.

    `started_bytes` is right for the first call in a process.
    """
    before, others = rss_bytes(), OthersWork()
    with torch.random.fork_rng(devices=[]):
        seconds, steady = _seconds_of(folder, lars, dtype, weight_bits)
    steady = steady and others.cores() < MOST_OTHERS
    gc.collect()
    give_back()
    return Measured(Costs(**seconds, started_bytes=max(0, rss_bytes() - before)), steady)


def _seconds_of(
    folder: Path, lars: LarsConfig, dtype: torch.dtype, weight_bits: Bits | None
) -> tuple[dict[str, Any], bool]:
    """The fields of Costs that are seconds, and whether the same work took as long at the end."""
    model = _one_layer(folder, dtype, weight_bits)
    adapter = LarsAdapter.for_model(model, replace(lars, top_layers=0)).train()
    attachment = attach(model)
    read = _line(lambda tokens: _read_seconds(attachment, adapter, tokens))
    forward, backward = _passes(attachment, adapter)
    far = _read_seconds(attachment, adapter, FAR, chunk=MANY) - FAR / MANY * read.at(MANY)
    seconds = {
        "read": read,
        "attend": max(0.0, far) / (FAR**2 / 2),
        "forward": forward,
        "backward": backward,
        "mlp": _line(lambda tokens: _mlp_seconds(model, tokens)),
        "loss": _loss(model.config.get_text_config(decoder=True).hidden_size, dtype),
        "moments32": _moments(32),
        "moments8": _moments(8),
        "int8": _keeping("int8", dtype),
        "disk": _keeping("disk", dtype),
    }
    again = _read_seconds(attachment, adapter, MANY)
    return seconds, 1 / STEADY < again / read.at(MANY) < STEADY


def _one_layer(folder: Path, dtype: torch.dtype, weight_bits: Bits | None) -> PreTrainedModel:
    """A model of the same shape with one layer, random weights and few words."""
    config = AutoConfig.from_pretrained(folder)
    text = config.get_text_config(decoder=True)
    text.num_hidden_layers, text.vocab_size = 1, min(WORDS, text.vocab_size)
    text.max_position_embeddings = max(2 * FAR, text.max_position_embeddings)
    for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, token, 0)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()  # type: ignore[no-untyped-call]
    if weight_bits is not None:
        quantize_in_place(model, weight_bits, dtype)
    use_grouped_attention(model)
    return model


def _batch(prompt: int, reply: int) -> Batch:
    ids, mask = torch.ones(1, prompt + reply, dtype=torch.long), torch.ones(1, prompt + reply, dtype=torch.bool)
    return Batch(ids[:, :prompt], mask[:, :prompt], ids[:, prompt:], mask[:, prompt:], torch.ones(1))


def _seconds(work: Callable[[], object]) -> float:
    """Of the fastest of a few runs, after one to warm up."""
    work()
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def _line(seconds: Callable[[int], float]) -> Line:
    return _through(FEW, seconds(FEW), MANY, seconds(MANY))


def _through(few: int, at_few: float, many: int, at_many: float) -> Line:
    """The line through two points, with neither part below nothing."""
    each = max(0.0, (at_many - at_few) / (many - few))
    return Line(max(0.0, at_few - each * few), each)


def _read_seconds(attachment: Attachment, adapter: LarsAdapter, tokens: int, chunk: int | None = None) -> float:
    batch = _batch(tokens + 1, 0)
    return _seconds(
        lambda: read_prompt(attachment, adapter, AdapterMemory(), batch.prompt_ids, batch.prompt_mask, chunk or tokens)
    )


def _passes(attachment: Attachment, adapter: LarsAdapter) -> tuple[Line, Line]:
    """The layer with autograd: forward, and backward."""
    forward, backward = [], []
    for tokens in (FEW, MANY):
        run = partial(reply_hidden, attachment, adapter, _batch(1, tokens), PLAIN)
        forward.append(_seconds(run))
        backward.append(max(0.0, _seconds(partial(_there_and_back, run)) - forward[-1]))
    adapter.zero_grad()
    return _through(FEW, forward[0], MANY, forward[1]), _through(FEW, backward[0], MANY, backward[1])


def _there_and_back(run: Callable[[], Tensor]) -> None:
    run().float().sum().backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def _mlp_seconds(model: PreTrainedModel, tokens: int) -> float:
    mlps = [mlp for module in model.modules() if (mlp := mlp_of(module)) is not None]
    states = torch.ones(1, tokens, model.config.get_text_config(decoder=True).hidden_size, dtype=model.dtype)
    return _seconds(lambda: mlps[0](states)) if mlps else 0.0


def _loss(hidden: int, dtype: torch.dtype) -> Line:
    """For each word."""
    vocabulary, found = Vocabulary(torch.randn(WORDS, hidden).to(dtype)), []
    for rows in ROWS:
        states = torch.randn(rows, hidden).to(dtype).requires_grad_()
        targets = torch.zeros(rows, dtype=torch.long)
        found.append(_seconds(partial(chunked_cross_entropy, states, vocabulary, targets, rows)) / WORDS)
    return _through(ROWS[0], found[0], ROWS[1], found[1])


def _moments(bits: Any) -> float:
    optimizer = FlatAdamW([torch.nn.Parameter(torch.zeros(1024, PARAMETERS // 1024))], 0.01, bits)
    return _seconds(lambda: optimizer.step(1e-3)) / PARAMETERS


def _keeping(how: Saved, dtype: torch.dtype) -> float:
    """For each number, there and back."""
    states = torch.randn(1, NUMBERS // 1024, 1024).to(dtype).requires_grad_()

    def square() -> None:
        with saved_activations(torch.nn.Identity(), None, how):
            out = states.square()
        out.sum().backward()  # type: ignore[no-untyped-call]

    return _seconds(square) / NUMBERS
