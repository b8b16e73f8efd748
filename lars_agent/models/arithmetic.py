"""The dtype to compute in on this processor, chosen by timing.

What a processor says of itself does not tell: many take bfloat16 but emulate it, three times as slowly as float32, and
one without any may be fast in float32. Weights need not be stored in what is computed in, see `precision`.
"""

from __future__ import annotations

import platform
import time
import timeit
from functools import cache, partial
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import AutoConfig

from lars_agent.calibration import Calibration
from lars_agent.errors import ConfigError
from lars_agent.ops.quantized import Bits
from lars_agent.records import record

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WEIGHT_BITS: dict[str, Bits] = {"int8": 8, "int4": 4}
STORED_IN_16_BITS = (torch.bfloat16, torch.float16)
ROWS, OUTPUTS, INPUTS = 256, 1536, 576  # of the product that is timed; of a few rows all dtypes are about as fast
REPEATS = 7


@record("arithmetic")
class Arithmetic:
    """Processor seconds of a product of `ROWS` rows in each dtype."""

    bfloat16: float
    float32: float

    @property
    def fastest(self) -> torch.dtype:
        """The dtype with the shorter time."""
        return torch.bfloat16 if self.bfloat16 <= self.float32 else torch.float32


def compute_dtype(name: str, costs_file: str | Path | None = None) -> torch.dtype:
    """Return the dtype of activations for the setting `name`: `auto`, `bfloat16`, `float32`, `int8` or `int4`.

    `auto`, and with it `int8` and `int4`, is the dtype in which this device multiplies faster: timed once, and kept in
    `costs_file` if given. Raises ConfigError for another name.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto" and name not in WEIGHT_BITS:
        raise ConfigError(f"model.dtype must be auto or one of {', '.join([*DTYPES, *WEIGHT_BITS])}, not {name!r}")
    if costs_file is None:
        return timed().fastest
    return Calibration(Path(costs_file)).get(Arithmetic, timing_name(), lambda: (timed(), True)).fastest


def timing_name() -> str:
    """Return the name by which this device's times are kept."""
    return f"{platform.node()}, torch {torch.__version__}: products of {ROWS} rows"


def precision(name: str, folder: Path, costs_file: str | Path | None = None) -> tuple[torch.dtype, Bits | None]:
    """Return `dtype` and `weight_bits` of `lars_agent.models.open.open_model` for the model in `folder` (its
    config.json suffices) under the setting `name`, see `compute_dtype`.

    Where `auto` is float32, weights that are stored in 16 bits stay so, and are widened as they are multiplied: half
    the memory, mapped and shared, and the same numbers. Raises ConfigError.
    """
    dtype = compute_dtype(name, costs_file)
    if name == "auto" and dtype == torch.float32 and _stored_dtype(folder) in STORED_IN_16_BITS:
        return dtype, 16
    return dtype, WEIGHT_BITS.get(name)


@cache
def timed() -> Arithmetic:
    """Time both dtypes, in turns, on one thread and in its processor time, which other programs do not take part in."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dice = torch.Generator().manual_seed(0)
    x, weight = torch.randn(ROWS, INPUTS, generator=dice), torch.randn(OUTPUTS, INPUTS, generator=dice)
    products = {name: partial(F.linear, x.to(dtype), weight.to(dtype)) for name, dtype in DTYPES.items()}
    turns = [
        {name: timeit.timeit(product, timer=time.thread_time, number=1) for name, product in products.items()}
        for _ in range(REPEATS + 1)
    ]
    torch.set_num_threads(threads)
    return Arithmetic(**{name: min(turn[name] for turn in turns[1:]) for name in products})  # the first prepares


def _stored_dtype(folder: Path) -> torch.dtype | None:
    try:
        dtype = AutoConfig.from_pretrained(folder).dtype
    except Exception:  # whoever opens the model says what is wrong with its files
        return None
    return dtype if isinstance(dtype, torch.dtype) else None
