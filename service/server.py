"""The daemon as a process: the base model fetched, uvicorn on its address."""

from __future__ import annotations

from collections.abc import Callable

import uvicorn

from lars_agent.errors import LarsError
from lars_agent.models.library import ModelLibrary
from service.app import create_app
from service.memory_limit import memory_limit
from service.sections import url_of
from service.settings import Settings

DRAIN_S = 10


class Server(uvicorn.Server):
    """A server that says where it can be reached once it can be."""

    def __init__(self, config: uvicorn.Config, tell: Callable[[str], None]) -> None:
        super().__init__(config)
        self._tell = tell

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listens, then tells the address."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            self._tell(f"dashboard: {url_of(self.config.host, port)}/")


def fetch_model(settings: Settings, tell: Callable[[str], None]) -> None:
    """The base model is there if it could be fetched; if not the reason was told, and the daemon goes on trying."""
    library = ModelLibrary(settings.models_dir)
    try:
        if settings.model.name == "default" and library.current() is not None:
            return
        library.pull(settings.model.name, tell)
    except LarsError as error:
        tell(f"the base model is not there yet: {error}")


def run(settings: Settings, tell: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT. Raises LarsError for what keeps it from starting."""
    settings.server.require_token()
    fetch_model(settings, tell)
    app = create_app(settings, memory_limit=memory_limit())
    config = uvicorn.Config(
        app,
        host=settings.server.host,
        port=settings.server.port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=DRAIN_S,
    )
    Server(config, tell).run()
