"""AdamW over one flat vector, its moments in 32 bits or in 8.

An adapter is thousands of small tensors. Here they and their gradients are views of one vector each, so that a step is
a few operations on long chunks, clipping is one norm, and only one chunk's temporaries are allocated.

In 8 bits the moments take 2 bytes a parameter instead of 8 (block-wise quantization, Dettmers et al., arXiv
2110.02861): each block of 128 has its own scale. Of the second moment the square root is stored, never rounded to 0,
and rounded stochastically: AdamW changes it by less than one level of 256, and rounding to nearest would freeze it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from lars_agent.errors import StateMismatch

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
BLOCK = 128
CHUNK = 2048 * BLOCK  # elements whose moments are in float32 at once


class FlatAdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) on `parameters`, which become views of one vector.

    Matrices decay by `weight_decay`; vectors, norms and scalars do not. `bits` is that of the moments. Every parameter
    has a gradient from the start, so that one that receives none decays all the same.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float, bits: Literal[8, 32] = 32) -> None:
        ordered = sorted(parameters, key=lambda parameter: parameter.dim() < 2)  # matrices first; stable
        sizes = [parameter.numel() for parameter in ordered]
        length = -(-sum(sizes) // BLOCK) * BLOCK
        self.weight_decay, self.step_count = weight_decay, 0
        self.decaying = sum(parameter.numel() for parameter in ordered if parameter.dim() >= 2)
        self.values, self.gradient = torch.zeros(length), torch.zeros(length)
        for parameter, size, end in zip(ordered, sizes, torch.tensor(sizes).cumsum(0).tolist(), strict=True):
            where = slice(end - size, end)
            self.values[where] = parameter.detach().flatten()
            parameter.data = self.values[where].view(parameter.shape)
            parameter.grad = self.gradient[where].view(parameter.shape)
        self._parameters, self.bits = ordered, bits
        self.moments = _moments(bits, length)

    def clip(self, max_norm: float) -> None:
        """Scale the gradient to a 2-norm of at most `max_norm`."""
        norm = torch.linalg.vector_norm(self.gradient)
        self.gradient *= (max_norm / (norm + 1e-6)).clamp(max=1.0)

    def step(self, learning_rate: float) -> None:
        """Take one step and zero the gradient."""
        self.step_count += 1
        self.values[: self.decaying] *= 1.0 - learning_rate * self.weight_decay
        correction1, correction2 = 1.0 - BETA1**self.step_count, 1.0 - BETA2**self.step_count
        for start in range(0, len(self.values), CHUNK):
            chunk = slice(start, min(start + CHUNK, len(self.values)))
            gradient = self.gradient[chunk]
            first, root = self.moments.read(chunk)
            first.lerp_(gradient, 1.0 - BETA1)
            root.square_().mul_(BETA2).addcmul_(gradient, gradient, value=1.0 - BETA2).sqrt_()
            self.moments.write(chunk, first, root, self.step_count)
            self.values[chunk].addcdiv_(
                first, root.div_(correction2**0.5).add_(EPSILON), value=-learning_rate / correction1
            )
        self.gradient.zero_()

    def release(self) -> None:
        """Free gradients and moments; the parameters keep their values and can no longer be trained."""
        for parameter in self._parameters:
            parameter.grad = None
        self.gradient = torch.zeros(0)
        self.moments = _moments(self.bits, 0)

    def state(self) -> dict[str, Tensor]:
        """Return the state for `load`, without the parameters' values."""
        return {"step": torch.tensor(self.step_count)} | vars(self.moments)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state`, whose moments may be of other bits. Raises StateMismatch for another optimizer's state."""
        bits, self.bits = self.bits, 8 if "first_scale" in state else 32
        self.moments = _moments(self.bits, len(self.values))
        own: dict[str, Tensor] = vars(self.moments)
        for key in sorted((own.keys() | {"step"}) ^ state.keys()):
            raise StateMismatch(f"optimizer tensor {key!r} is {'unexpected' if key in state else 'missing'}")
        for key, tensor in own.items():
            if tensor.shape != state[key].shape or tensor.dtype != state[key].dtype:
                raise StateMismatch(f"optimizer tensor {key!r} has another shape or type; it is of another plan")
            tensor.copy_(state[key])
        self.step_count = int(state["step"])
        self.use_bits(bits)

    def use_bits(self, bits: Literal[8, 32]) -> None:
        """Convert the moments to `bits`."""
        if bits == self.bits:
            return
        length = len(self.gradient)  # 0 after `release`
        moments = _moments(bits, length)
        for start in range(0, length, CHUNK):
            chunk = slice(start, min(start + CHUNK, length))
            moments.write(chunk, *self.moments.read(chunk), self.step_count)
        self.moments, self.bits = moments, bits


class _Moments32:
    """The first moment, and the square root of the second; `read` returns float32 copies."""

    def __init__(self, length: int) -> None:
        self.first, self.root = torch.zeros(length), torch.zeros(length)

    def read(self, chunk: slice) -> tuple[Tensor, Tensor]:
        return self.first[chunk].clone(), self.root[chunk].clone()

    def write(self, chunk: slice, first: Tensor, root: Tensor, step: int) -> None:
        self.first[chunk], self.root[chunk] = first, root


class _Moments8:
    """The same in blocks of 8-bit levels, each with its scale."""

    def __init__(self, length: int) -> None:
        blocks = length // BLOCK
        self.first, self.first_scale = torch.zeros(blocks, BLOCK, dtype=torch.int8), torch.zeros(blocks, 1)
        self.root, self.root_scale = torch.zeros(blocks, BLOCK, dtype=torch.uint8), torch.zeros(blocks, 1)

    def read(self, chunk: slice) -> tuple[Tensor, Tensor]:
        rows = slice(chunk.start // BLOCK, chunk.stop // BLOCK)
        first = self.first[rows].float().mul_(self.first_scale[rows])
        return first.flatten(), self.root[rows].float().mul_(self.root_scale[rows]).flatten()

    def write(self, chunk: slice, first: Tensor, root: Tensor, step: int) -> None:
        rows = slice(chunk.start // BLOCK, chunk.stop // BLOCK)
        first, root = first.view(-1, BLOCK), root.view(-1, BLOCK)
        self.first_scale[rows] = first.abs().amax(dim=1, keepdim=True) / 127
        self.root_scale[rows] = root.amax(dim=1, keepdim=True) / 255
        self.first[rows] = _divided(first, self.first_scale[rows]).round_().to(torch.int8)
        generator = torch.Generator().manual_seed(step * 1_000_003 + rows.start)  # needs no checkpoint
        levels = _divided(root, self.root_scale[rows]).add_(torch.rand(root.shape, generator=generator)).floor_()
        self.root[rows] = levels.clamp_(max=255).maximum((root > 0).float()).to(torch.uint8)


def _moments(bits: Literal[8, 32], length: int) -> _Moments32 | _Moments8:
    return _Moments8(length) if bits == 8 else _Moments32(length)


def _divided(numbers: Tensor, scale: Tensor) -> Tensor:
    """Return `numbers` / `scale`; 0 for blocks of scale 0."""
    return numbers / scale.where(scale > 0, torch.ones_like(scale))
