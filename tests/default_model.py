"""The real default model for tests: pulled once into the repository's own cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from examples.running import Daemon
from lars_agent.models.library import ModelLibrary

START_S = 120
CACHE = Path(__file__).parent.parent / ".cache" / "models"


@contextmanager
def default_daemon(state: Path, settings: Mapping[str, str]) -> Iterator[Daemon]:
    """A daemon on `state` with the default model, ready to reply; it may be killed and started again meanwhile."""
    default_model_folder()
    (state / "models").symlink_to(CACHE)
    running = Daemon(state, settings)
    running.start()
    try:
        running.wait_until_healthy(START_S)
        yield running
    finally:
        running.http.close()
        kill(running)


def kill(running: Daemon) -> None:
    """End the daemon's process as kill -9 does."""
    assert running.process is not None
    running.process.kill()
    running.process.wait()


def default_model_folder() -> Path:
    """The folder of the converted default model."""
    return ModelLibrary(CACHE).pull("default").folder
