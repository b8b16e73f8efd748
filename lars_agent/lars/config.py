"""What one LARS adapter is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from lars_agent.errors import ConfigError

PoolingName = Literal["sequence", "learned", "prompt", "response", "causal"]
TargetModules = str | tuple[str, ...]


@dataclass(frozen=True)
class LarsConfig:
    """Shape and behaviour of a LARS adapter (arXiv 2604.22783, section 3).

    Attributes:
        rank: R, the width of the activation-rank subspace.
        pooling: what each adapted layer reads, see `lars_agent.lars.pooling`.
        token_term: whether the adapter also sees each token, gated by the pooled vector.
        chunk: tokens in a chunk of `causal` pooling; ignored by the others.
        dropout: probability of dropping a rank while training.
        scale: a, the initial weight of the adapter's output.
        target_modules: `all-linear` (all but the output head), names as PEFT takes them, or one regular expression.
        top_layers: adapt the last so many decoder layers alone, 0 for all; nothing below them enters autograd.
    """

    rank: int = 16
    pooling: PoolingName = "response"
    token_term: bool = True
    chunk: int = 16
    dropout: float = 0.1
    scale: float = 0.5
    target_modules: TargetModules = "all-linear"
    top_layers: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lars.rank must be at least 1, not {self.rank}")
        if self.top_layers < 0:
            raise ConfigError(f"lars.top_layers must not be negative, not {self.top_layers}")
        if self.chunk < 1:
            raise ConfigError(f"lars.chunk must be at least 1 token, not {self.chunk}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"lars.dropout must lie in [0, 1), not {self.dropout}")
        if self.pooling not in get_args(PoolingName):
            raise ConfigError(f"lars.pooling must be one of {', '.join(get_args(PoolingName))}, not {self.pooling!r}")
        if not self.target_modules:
            raise ConfigError("lars.target_modules must name at least one module; use 'all-linear' for all of them")

    def as_dict(self) -> dict[str, object]:
        """The JSON form, the inverse of `from_dict`."""
        record = asdict(self)
        if isinstance(self.target_modules, tuple):
            record["target_modules"] = list(self.target_modules)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, object]) -> LarsConfig:
        """The config that `as_dict` wrote. Raises ConfigError for a key or a value that cannot be."""
        unknown = sorted(set(record) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown LARS setting {unknown[0]!r}; known are {[field.name for field in fields(cls)]}")
        values = dict(record)
        if isinstance(values.get("target_modules"), list):
            values["target_modules"] = tuple(values["target_modules"])  # type: ignore[arg-type]
        return cls(**values)  # type: ignore[arg-type]
