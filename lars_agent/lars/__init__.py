"""LARS: low-memory activation-rank subspace adapters (arXiv 2604.22783)."""

from lars_agent.lars.config import LarsConfig
from lars_agent.lars.forward import reply_logits
from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter, attach
from lars_agent.lars.layer import LarsLayer
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
    "reply_logits",
    "save_adapter",
]
