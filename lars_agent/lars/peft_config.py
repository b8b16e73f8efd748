"""Hugging Face's PEFT and `adapter_config.json`: PEFT can read it, and says in words that it cannot apply LARS.

PEFT looks the `peft_type` up in a table of its own methods, so that by itself it ends with KeyError: 'LARS'. A layer of
LARS needs to know which tokens are the prompt's, which PEFT's layers are not told; hence there is no tuner to register.
"""

from __future__ import annotations

from dataclasses import field, make_dataclass
from typing import Any

from lars_agent.errors import ModelUnsupported
from lars_agent.lars.config import LarsConfig
from lars_agent.lars.state import PEFT_TYPE
from lars_agent.records import to_dict


def register_with_peft() -> None:
    """Let PEFT read the configuration of LARS adapters; `PeftModel.from_pretrained` then raises ModelUnsupported."""
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    configs: dict[Any, Any] = PEFT_TYPE_TO_CONFIG_MAPPING  # by strings, too, although their types do not say so
    tuners: dict[Any, Any] = PEFT_TYPE_TO_TUNER_MAPPING
    own = [(name, Any, field(default=value)) for name, value in to_dict(LarsConfig()).items()]
    configs[PEFT_TYPE] = make_dataclass("LarsPeftConfig", own, bases=(PeftConfig,))
    tuners[PEFT_TYPE] = _refuse


def _refuse(model: Any, configs: Any, adapter_name: str) -> None:
    raise ModelUnsupported(
        f"PEFT has no layers for LARS, so that it cannot apply the adapter {adapter_name!r}: load it by "
        "lars_agent.lars.load_adapter(model, folder), and run the model within lars_agent.lars.attach(model).call(...)"
    )
