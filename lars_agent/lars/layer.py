"""The LARS layer: the bias and gate of one linear layer, given a pooled activation.

Tenison et al., *Parameter Efficiency Is Not Memory Efficiency* (arXiv 2604.22783), section 3; the paper's symbols are
in the comments. See `pooling.py` for the pooled vector.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INIT_STD = 0.01
FFN_FACTOR = 4


class Response(NamedTuple):
    """A layer's response to K pooled vectors: a bias for its output, and the gate of the per-token term."""

    bias: Tensor  # (B, K, O)
    gate: Tensor  # (B, K, R), in (0, 2)


class LarsLayer(nn.Module):
    """Compute the bias of one frozen linear layer from a pooled activation.

        h = A x_pool;  n = LayerNorm(h);  g = sigmoid(t1 G_x x_pool + t2 G_h n);  h = n + g M
        h = dropout(h);  h = h + FFN(h);  bias = a B h

    B starts at zero, so an untrained adapter leaves the model unchanged. All parameters are float32, whatever the base
    model's dtype.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        dropout: float,
        scale: float,
        learned_pool: bool = False,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.down = nn.Parameter(torch.randn(rank, in_features) * INIT_STD)  # A
        self.norm = nn.LayerNorm(rank)
        self.gate_input = nn.Parameter(torch.zeros(rank, in_features))  # G_x
        self.gate_rank = nn.Parameter(torch.zeros(rank, rank))  # G_h
        self.temperature_input = nn.Parameter(torch.ones(()))  # t1
        self.temperature_rank = nn.Parameter(torch.ones(()))  # t2
        self.mix = nn.Parameter(torch.eye(rank))  # M
        self.dropout = nn.Dropout(dropout)
        self.ffn_in = nn.Linear(rank, FFN_FACTOR * rank)
        self.ffn_out = nn.Linear(FFN_FACTOR * rank, rank)
        self.up = nn.Parameter(torch.zeros(out_features, rank))  # B
        self.scale = nn.Parameter(torch.tensor(scale))  # a
        self.pool_query = nn.Parameter(torch.zeros(in_features)) if learned_pool else None  # w_p

    def forward(self, pooled: Tensor) -> Response:
        """Return the response to `pooled` (B, K, H): a bias (B, K, O) and the token gate (B, K, R)."""
        pooled = pooled.to(self.down.dtype)
        n = self.norm(F.linear(pooled, self.down))  # (B, K, R)
        logits = self.temperature_input * F.linear(pooled, self.gate_input)
        logits = logits + self.temperature_rank * F.linear(n, self.gate_rank)
        g = torch.sigmoid(logits)  # (B, K, R)
        h = self.dropout(n + g @ self.mix)
        h = h + self.ffn_out(F.gelu(self.ffn_in(h)))
        return Response(F.linear(self.scale * h, self.up), 2 * g)

    def token_delta(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return the per-token term a B(gate * (A x_t)), (B, S, O), for `x` (B, S, H) and `gate` (B, S or 1, R).

        A is constant in this term (it is trained through the pooled vector), and a is multiplied in before B, so that
        autograd saves (B, S, R) and neither input nor output.
        """
        low = F.linear(x.to(self.down.dtype), self.down.detach())  # (B, S, R)
        return F.linear(self.scale * (gate * low), self.up)
