"""Run the daemon as a process: fetch the base model, serve with uvicorn, handle signals and systemd."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from lars_agent.errors import LarsError
from lars_agent.memory.allocator import be_thrifty
from service.app import create_app, find_model
from service.connections import LimitedServer
from service.daemon import Daemon
from service.process import log
from service.process.sd_notify import SdNotify, Watchdog
from service.process.shutdown import CUT_S, DRAIN_S
from service.reload import reload
from service.settings.load import Settings, SettingsSource
from service.settings.server import url_of
from service.worker.memory_limit import memory_limit


class Server(LimitedServer):
    """The server, which reports its address once it listens and closes the daemon; `load` reads the settings."""

    def __init__(
        self, app: FastAPI, settings: Settings, report: Callable[[str], None], load: Callable[[], Settings]
    ) -> None:
        super().__init__(
            app,
            settings.server,
            app.state.daemon.connections,
            access_log=False,
            proxy_headers=False,  # see `service.api.forwarded`
            server_header=False,
            log_level="warning",
            **({"log_config": None} if log.is_journal() else {}),
            timeout_graceful_shutdown=CUT_S,
        )
        daemon: Daemon = app.state.daemon
        self._daemon, self._report, self._load = daemon, report, load
        self._systemd = SdNotify.from_environment(os.environ)
        self._pulse = Watchdog(self._systemd, daemon.status)
        self._in_terminal = _is_terminal()
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, then report the address, and to systemd that it is ready."""
        await super().startup(sockets)
        if self.started:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
            self._systemd.notify("READY=1")
            self._pulse.start()
            port = self.servers[0].sockets[0].getsockname()[1]
            self._report(f"dashboard: {url_of(self.config.host, port)}/")

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Ask the worker to end while requests are drained, then close everything."""
        self._pulse.stop()
        self._systemd.notify("STOPPING=1", "STATUS=closing")
        _begin_after(0.0, self._daemon.begin_closing)
        late = _begin_after(DRAIN_S, self._daemon.model_host.cancel)
        await super().shutdown(sockets)  # type: ignore[arg-type]
        late.cancel()

    def _hang_up(self) -> None:
        """Reload the settings, or stop if SIGHUP came because the terminal was closed."""
        if self._in_terminal and not _is_terminal():
            self.should_exit = True
            return
        task = asyncio.create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        async with self._reloading:
            self._systemd.notify_reloading()
            await run_in_threadpool(reload, self._daemon, self._load)
            self._systemd.notify("READY=1")


def _begin_after(delay_s: float, action: Callable[[], None]) -> threading.Timer:
    """Run `action` in a thread after `delay_s`, where it may wait for a lock while the event loop continues."""
    timer = threading.Timer(delay_s, action)
    timer.daemon = True
    timer.start()
    return timer


def _is_terminal() -> bool:
    """Return True if standard input is an open terminal."""
    try:
        return sys.stdin.isatty()
    except (AttributeError, ValueError):  # started without one
        return False


def run(settings: Settings, report: Callable[[str], None], source: SettingsSource) -> None:
    """Serve until SIGTERM or SIGINT; at SIGHUP reload the settings. Raises LarsError if it cannot start."""
    be_thrifty()
    log.configure(settings.log.level)
    source = source.take_token()
    try:
        find_model(settings, report)
    except LarsError as error:  # the daemon tries again
        report(f"the base model is not there yet: {error}")
    serve(create_app(settings, memory_limit=memory_limit(), source=source), settings, report, source.load)


def serve(app: FastAPI, settings: Settings, report: Callable[[str], None], load: Callable[[], Settings]) -> None:
    """Serve `app` until SIGTERM or SIGINT; at SIGHUP reload the settings by `load`."""
    Server(app, settings, report, load).run()
