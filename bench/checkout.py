"""Whether the benchmarks run in a checkout of the repository, or from a package that was installed."""

from __future__ import annotations

from pathlib import Path

_ABOVE = Path(__file__).parents[1]
CHECKOUT: Path | None = _ABOVE if (_ABOVE / "pyproject.toml").is_file() and (_ABOVE / "bench").is_dir() else None


def results_folder() -> Path:
    """Where figures go unless told otherwise: into the repository, or under the current folder."""
    return Path("bench-results") if CHECKOUT is None else CHECKOUT / "bench" / "results"


def models_folder() -> Path:
    """Where base models lie: in the checkout's own cache, or where the daemon keeps its own."""
    if CHECKOUT is not None:
        return CHECKOUT / ".cache" / "models"
    from service.settings.load import load_settings

    return load_settings().models_dir
