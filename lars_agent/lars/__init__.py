"""LARS: low-memory activation-rank subspace adapters (arXiv 2604.22783).

The names are imported when they are first used: the settings need `LarsConfig` in processes without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lars_agent.lars.config import LarsConfig
    from lars_agent.lars.forward import reply_logits
    from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter, attach
    from lars_agent.lars.layer import LarsLayer
    from lars_agent.lars.peft_config import register_with_peft
    from lars_agent.lars.pooling import Tokens
    from lars_agent.lars.state import load_adapter, save_adapter

__all__ = [
    "AdapterMemory",
    "Attachment",
    "LarsAdapter",
    "LarsConfig",
    "LarsLayer",
    "Tokens",
    "attach",
    "load_adapter",
    "register_with_peft",
    "reply_logits",
    "save_adapter",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("config", "layer", "pooling", "inject", "state", "forward", "peft_config"):
            if value := getattr(import_module(f"{__name__}.{module}"), name, None):
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
