"""`python -m bench.base_model REFERENCE DTYPE DEVICE MODELS`: the base model is on this disk, ready to be measured.

A process of its own, whose work (fetching, making random weights, quantizing at the first open) is in no figure and
whose pages are in nobody's memory. Prints the model's folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.random_model import is_named_config, make_random_model
from lars_agent.errors import ConfigError, LarsError
from lars_agent.models.library import ModelLibrary


def folder_of(reference: str, models: Path) -> Path:
    """The folder of `default`, a named config (random weights, made at first use), a folder, or an installed name.

    Raises ModelNotFound, Offline.
    """
    library = ModelLibrary(models)
    if is_named_config(reference):
        return make_random_model(reference, models, tokenizer=library.pull("default").folder)
    if reference == "default":
        return library.pull(reference).folder
    if (Path(reference) / "config.json").is_file():
        return Path(reference)
    return library.get(reference).folder


def open_once(folder: Path, dtype: str) -> None:
    """The files that opening in `dtype` writes beside the weights are there. Raises ModelError, ConfigError."""
    from lars_agent.models.open import open_model, precision

    open_model(folder, *precision(dtype))


def require_device(name: str) -> None:
    """Raises ConfigError where torch finds no such device."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no GPU here; leave out --device cuda")


if __name__ == "__main__":
    try:
        require_device(sys.argv[3])
        found = folder_of(sys.argv[1], Path(sys.argv[4]))
        open_once(found, sys.argv[2])
    except LarsError as error:
        sys.exit(str(error))
    print(found)
