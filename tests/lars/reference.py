"""LARS in plain tensor operations, written from the paper's equations and from nothing else in this repository."""

from __future__ import annotations

import math

import torch


def reference_bias(p: dict[str, torch.Tensor], x_pool: torch.Tensor) -> torch.Tensor:
    """a B h for one pooled vector (H,), in evaluation mode."""
    h = p["down"] @ x_pool
    mean = h.mean()
    variance = ((h - mean) ** 2).mean()
    n = (h - mean) / torch.sqrt(variance + 1e-5) * p["norm.weight"] + p["norm.bias"]
    z = p["temperature_input"] * (p["gate_input"] @ x_pool) + p["temperature_rank"] * (p["gate_rank"] @ n)
    g = 1 / (1 + torch.exp(-z))
    h = n + g @ p["mix"]
    inner = p["ffn_in.weight"] @ h + p["ffn_in.bias"]
    gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    h = h + p["ffn_out.weight"] @ gelu + p["ffn_out.bias"]
    return p["scale"] * (p["up"] @ h)


def reference_gate(p: dict[str, torch.Tensor], x_pool: torch.Tensor) -> torch.Tensor:
    """g2 = 2 sigmoid(t1 G_x x_pool + t2 G_h n), the gate of the per-token term."""
    h = p["down"] @ x_pool
    n = (h - h.mean()) / torch.sqrt(((h - h.mean()) ** 2).mean() + 1e-5) * p["norm.weight"] + p["norm.bias"]
    z = p["temperature_input"] * (p["gate_input"] @ x_pool) + p["temperature_rank"] * (p["gate_rank"] @ n)
    return 2 / (1 + torch.exp(-z))


def mean_plus_last(tokens: torch.Tensor) -> torch.Tensor:
    """(H,) of tokens (S, H)."""
    return tokens.mean(dim=0) + tokens[-1]
