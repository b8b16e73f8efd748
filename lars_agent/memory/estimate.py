"""How many bytes a training step will take, term by term, before anything is loaded.

What is resident through the whole step (program, weights, adapter, optimizer, KV cache, what autograd keeps), and on
top of it the largest of the scratch spaces, of which only one exists at a time. The terms are counted from the shapes;
the few factors that stand for what a library allocates on the way are the constants below.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from lars_agent.memory.plan import Plan
from lars_agent.memory.shape import ModelShape

__all__ = ["Estimate", "Workload", "estimate"]

FLOAT32 = 4
MOMENT_BYTES = {32: 8.0, 8: 2.0625}  # of both moments of one parameter; in 8 bits with a scale for each block of 128
STARTED_BYTES = 75_000_000  # what modules, threads and the first call of every operator add to the program
HIDDEN_COPIES = 16  # (tokens, H) arrays alive in one layer's forward and backward pass
INTERMEDIATE_COPIES = 8  # (tokens, I) arrays, likewise
READ_HIDDEN_COPIES, READ_INTERMEDIATE_COPIES = 8, 4  # without autograd
KEY_COPIES = 4  # the prefix's keys and values with the reply's behind them, and their gradients
LOGIT_COPIES = 4  # float32 (rows, V) arrays alive in a chunked loss
MASK_BYTES = 6  # of one query and key: as transformers makes it (1 byte), and as attention turns it to numbers


@dataclass(frozen=True)
class Workload:
    """What a step has to hold.

    Attributes:
        prompt, reply: tokens of the longest prompt and of the longest reply.
        number_bytes: of one weight or activation: 4 in float32, 2 in bfloat16.
        program_bytes: what the process holds before the model is opened.
    """

    prompt: int
    reply: int
    number_bytes: int
    program_bytes: int


@dataclass(frozen=True)
class Estimate:
    """Bytes of each term; see `estimate` for what they mean."""

    program: int
    weights: int
    adapter: int
    gradients: int
    optimizer: int
    kv_cache: int
    pooled: int
    activations: int
    scratch: int

    @property
    def peak_bytes(self) -> int:
        """All terms together."""
        return sum(self.as_dict().values())

    def as_dict(self) -> dict[str, int]:
        """The terms by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def estimate(shape: ModelShape, load: Workload, plan: Plan) -> Estimate:
    """The bytes of a training step of `shape` under `plan`."""
    return Estimate(
        program=load.program_bytes + STARTED_BYTES,
        weights=shape.parameters * load.number_bytes,
        adapter=shape.adapter_parameters * FLOAT32,
        gradients=shape.adapter_parameters * FLOAT32,
        optimizer=int(shape.adapter_parameters * MOMENT_BYTES[plan.optimizer_bits]),
        kv_cache=_kv_cache(shape, load, plan),
        pooled=_pooled(shape, plan),
        activations=_activations(shape, load, plan),
        scratch=max(_reading(shape, load, plan), _layer(shape, load, plan), _loss(shape, plan)),
    )


def _kept_tokens(shape: ModelShape, load: Workload) -> int:
    """Tokens of the prompt in the cache."""
    return load.prompt if shape.window is None else min(load.prompt, shape.window)


def _acting_tokens(shape: ModelShape, load: Workload) -> int:
    """Tokens of one example that enter autograd."""
    return load.reply if shape.response else load.prompt + load.reply


def _kv_cache(shape: ModelShape, load: Workload, plan: Plan) -> int:
    """Keys and values of the prompt in every layer; the other poolings read no prompt beforehand."""
    if not shape.response:
        return 0
    tokens = plan.micro_batch * _kept_tokens(shape, load)
    return 2 * shape.layers * shape.key_width * tokens * load.number_bytes


def _pooled(shape: ModelShape, plan: Plan) -> int:
    """float32 for each adapted layer: the prompt's sum and last token, their pooled vector, and the bias it gives."""
    return plan.micro_batch * (3 * shape.adapted_in + 2 * shape.adapted_out) * FLOAT32


def _activations(shape: ModelShape, load: Workload, plan: Plan) -> int:
    """What autograd keeps of the layers: their inputs alone, or, without recomputation, all that is in them."""
    tokens = plan.micro_batch * _acting_tokens(shape, load)
    if plan.recompute:
        return shape.layers * tokens * shape.hidden * load.number_bytes
    return shape.layers * _one_layer(shape, load, plan, tokens)


def _one_layer(shape: ModelShape, load: Workload, plan: Plan, tokens: int) -> int:
    """One layer's activations and their gradients over `tokens`, and the keys that its attention reads."""
    width = HIDDEN_COPIES * shape.hidden + INTERMEDIATE_COPIES * shape.intermediate
    keys = plan.micro_batch * (_kept_tokens(shape, load) if shape.response else 0) * shape.key_width
    return (tokens * width + KEY_COPIES * keys) * load.number_bytes


def _layer(shape: ModelShape, load: Workload, plan: Plan) -> int:
    """One layer's forward and backward pass over the tokens in autograd, and the attention mask."""
    acting = _acting_tokens(shape, load)
    keys = load.prompt + load.reply
    mask = plan.micro_batch * acting * keys * MASK_BYTES
    return _one_layer(shape, load, plan, plan.micro_batch * acting) + mask


def _reading(shape: ModelShape, load: Workload, plan: Plan) -> int:
    """One layer's pass over a chunk of the prompt, without autograd."""
    if not shape.response:
        return 0
    tokens = plan.micro_batch * min(plan.prompt_chunk, load.prompt)
    width = READ_HIDDEN_COPIES * shape.hidden + READ_INTERMEDIATE_COPIES * shape.intermediate
    return tokens * (width * load.number_bytes + load.prompt * MASK_BYTES) + tokens * shape.intermediate * FLOAT32


def _loss(shape: ModelShape, plan: Plan) -> int:
    """The logits of a chunk of reply tokens, and what becomes of them."""
    return LOGIT_COPIES * plan.loss_chunk * shape.vocabulary * FLOAT32
