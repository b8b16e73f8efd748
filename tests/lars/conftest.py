from __future__ import annotations

import pytest
import torch

from lars_agent.lars import LarsAdapter


def shake(adapter: LarsAdapter, std: float = 0.2, seed: int = 1) -> LarsAdapter:
    """Random values in every parameter, so that nothing is hidden behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * std)
    return adapter.eval()


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
