"""The real default model for tests: pulled once into the repository's own cache."""

from __future__ import annotations

from pathlib import Path

from lars_agent.models.library import ModelLibrary

CACHE = Path(__file__).parent.parent / ".cache" / "models"


def default_model_folder() -> Path:
    """The folder of the converted default model."""
    return ModelLibrary(CACHE).pull("default").folder
