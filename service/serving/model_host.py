"""Load and unload the base model, and submit requests to it."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import structlog

from lars_agent.errors import LarsError, ModelLoading
from lars_agent.models.library import InstalledModel
from lars_agent.runtime.embedded import Embedded, Input
from lars_agent.runtime.request import GenerationRequest, Ticket
from lars_agent.store.adapters import AdapterStore
from service.alarms import Alarm
from service.process.crash_loop import require_adapters
from service.process.idle_timer import IdleTimer
from service.serving.engine_client import EngineClient
from service.settings.load import Settings

log = structlog.get_logger(__name__)

RETRY_S = 60.0  # at most, after a model could not be loaded: the network may come back
FIRST_RETRY_S = 1.0  # twice as long each time
HALT_S = 1.0
RETRY_SLEEP_S = 0.2  # until an engine that is in use is looked at again
CLOSE_S = 0.5  # for replies that were cancelled to end

FindModel = Callable[[], InstalledModel]
OpenEngine = Callable[[InstalledModel], EngineClient]
ServeProfiles = Callable[[EngineClient, InstalledModel], None]


class ModelHost:
    """Loads the model that `find_model` returns into the engine that `open_engine` opens, and submits requests to it.

    Until both have succeeded, requests raise ModelLoading, and `loading` says what is being done. Failures are retried
    after a growing delay of at most `retry_s`, and `loading_error` holds the last one. After `keep_alive_s` without a
    request (0: never) the engine is closed; the next request opens it again, as it does an engine whose process has
    ended. With `base_only` the base model serves every profile, and a request that names a version raises SafeMode.
    `on_busy` is called with the first of the unfinished requests and after the last one. `engines_lost` counts the
    engines whose process had ended by itself.
    """

    def __init__(
        self,
        store: AdapterStore,
        find_model: FindModel,
        open_engine: OpenEngine,
        retry_s: float = RETRY_S,
        keep_alive_s: float = 0.0,
        base_only: bool = False,
        on_busy: Callable[[bool], None] = lambda busy: None,
    ) -> None:
        self._store, self._find_model, self._open_engine, self._retry_s = store, find_model, open_engine, retry_s
        self._closing = threading.Event()
        self._loader: threading.Thread | None = None
        self._engine: EngineClient | None = None
        self._changing = threading.RLock()  # held by whoever opens the engine or closes it
        self._users = 0  # of the engine, just now
        self._base_only = base_only
        self._keep_alive_s = keep_alive_s or math.inf
        self._timer = IdleTimer(self._keep_alive_s, self._sleep)
        self._counting = threading.Lock()
        self._tickets: set[Ticket] = set()  # those whose replies are unfinished
        self._embedding = 0  # calls for embeddings that are unfinished
        self._on_busy = on_busy
        self._serve_profiles: ServeProfiles = lambda engine, installed: None
        self._served: Callable[[str], int | None] = lambda profile: None  # by the engine opened last, closed or not
        self.engines_lost = 0
        self.installed: InstalledModel | None = None
        self.loading: str | None = None
        self.loading_error: str | None = None
        self.problems: list[Alarm] = []

    def use(self, settings: Settings) -> None:
        """Keep the model after the next reply for as long as `settings` say."""
        self._keep_alive_s = settings.runtime.keep_alive_s or math.inf

    def start(self, serve_profiles: ServeProfiles, when_ready: Callable[[], None]) -> None:
        """Load the model in a thread, then call `when_ready`; `serve_profiles` prepares every engine that is opened."""
        self._serve_profiles = serve_profiles
        self._loader = threading.Thread(target=self._load, args=(when_ready,), name="loading", daemon=True)
        self._loader.start()

    def halt(self) -> None:
        """Stop loading models."""
        self._closing.set()
        if self._loader is not None:
            self._loader.join(HALT_S)

    def close(self) -> None:
        """Cancel unfinished replies and close the engine."""
        self.halt()
        self._timer.close()
        self.cancel()
        if not self._changing.acquire(timeout=HALT_S):
            return  # just being opened; that process ends with this one
        engine, self._engine = self._engine, None
        self._changing.release()
        if engine is not None:
            engine.close(CLOSE_S)

    def cancel(self) -> None:
        """Cancel the unfinished replies."""
        with self._counting:
            tickets = list(self._tickets)
        for ticket in tickets:
            ticket.cancel()

    def submit(self, request: GenerationRequest, keep_alive_s: float | None = None) -> Ticket:
        """Submit a request, after which the model stays for `keep_alive_s` (None: as configured; infinity: for good).

        Raises ModelLoading, SafeMode, and what the engine raises.
        """
        if self._base_only:
            if isinstance(request.version, int):
                require_adapters(self._base_only)
            request = replace(request, version=None)
        with self.engine() as engine:
            ticket = engine.submit(request)
            with self._counting:
                self._tickets.add(ticket)
                if len(self._tickets) == 1 and not self._embedding:
                    self._set_busy(True)
            ticket.add_done_callback(self._end)
        self._timer.restart(self._keep_alive_s if keep_alive_s is None else keep_alive_s)
        return ticket

    def _end(self, ticket: Ticket) -> None:
        with self._counting:
            self._tickets.remove(ticket)
            if not self._tickets and not self._embedding:
                self._set_busy(False)

    def embed(self, inputs: Sequence[Input], truncate: bool, keep_alive_s: float | None = None) -> list[Embedded]:
        """Return embeddings by the base model; see `submit`, and `Embedder.embed` in the engine process."""
        with self.engine() as engine, self._embedding_counted():
            found = engine.embed(inputs, truncate)
        self._timer.restart(self._keep_alive_s if keep_alive_s is None else keep_alive_s)
        return found

    @contextlib.contextmanager
    def _embedding_counted(self) -> Iterator[None]:
        """Count the block as an unfinished request."""
        with self._counting:
            self._embedding += 1
            if self._embedding == 1 and not self._tickets:
                self._set_busy(True)
        try:
            yield
        finally:
            with self._counting:
                self._embedding -= 1
                if not self._embedding and not self._tickets:
                    self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        self._timer.set_busy(busy)
        self._on_busy(busy)

    def load(self, keep_alive_s: float | None = None) -> None:
        """Load the model and keep it for `keep_alive_s`; see `submit`."""
        with self.engine():
            self._timer.restart(self._keep_alive_s if keep_alive_s is None else keep_alive_s)

    def unload(self) -> None:
        """Unload the model once the unfinished replies are complete."""
        self._timer.restart(0.0)

    def serving(self) -> dict[str, int | None]:
        """Return the version that serves each profile with adapters, and `default`; empty while the model loads."""
        if self.installed is None:
            return {}
        return {name: self._served(name) for name in {"default", *self._store.profiles()}}

    @property
    def endpoint_pid(self) -> int | None:
        """Return the id of the engine process; None while the model is unloaded."""
        engine = self._engine
        return None if engine is None else engine.pid

    @property
    def unfinished(self) -> int:
        """Number of the replies that are being made or wait for their turn."""
        return len(self._tickets)

    @property
    def unloads_at(self) -> float:
        """When the model will be unloaded if nobody asks until then, seconds since the epoch; infinity for never."""
        return self._timer.ends

    @property
    def is_asleep(self) -> bool:
        """True if the model is unloaded until the next request."""
        return self.installed is not None and self._engine is None

    def require_model(self) -> InstalledModel:
        """Return the base model in use. Raises ModelLoading."""
        if self.installed is None:
            raise ModelLoading(f"Loading model: {self.loading_error}" if self.loading_error else "Loading model")
        return self.installed

    @contextlib.contextmanager
    def engine(self) -> Iterator[EngineClient]:
        """Provide the engine, opened again if it was closed or has ended; it is not unloaded within the block.

        Raises ModelLoading, and what opening raises.
        """
        self.require_model()  # before it is waited for
        with self._changing:
            engine = self._open_again()
            self._users += 1
        try:
            yield engine
        finally:
            with self._changing:
                self._users -= 1

    @contextlib.contextmanager
    def opened_engine(self) -> Iterator[EngineClient | None]:
        """Provide the engine if it is open, else None; it is neither opened nor unloaded within the block."""
        with self._changing:
            engine = self._engine
            yield engine if engine is not None and engine.is_alive else None

    def _open_again(self) -> EngineClient:
        installed = self.require_model()
        engine = self._engine
        if engine is not None and not engine.is_alive:
            log.warning("engine_lost")
            self.engines_lost += 1
            self._engine = None
            engine.close()
        if self._engine is None:
            self._engine = self._opened(installed)
            self._timer.restart(self._keep_alive_s)
        return self._engine

    def _sleep(self) -> None:
        """Unload the model after a time without requests."""
        with self._changing:
            if self._users or self._tickets:
                self._timer.restart(max(RETRY_SLEEP_S, self._timer.after_s))
                return
            engine, self._engine = self._engine, None
            if engine is None:
                return
            engine.close()
        log.info("model_unloaded")

    def _load(self, when_ready: Callable[[], None]) -> None:
        retry_s = FIRST_RETRY_S
        while not self._closing.is_set():
            retry_s = min(2 * retry_s, self._retry_s)
            try:
                self.loading = "looking for it"
                installed = self._find_model()
                self.loading = "reading its weights"
                with self._changing:
                    engine = self._opened(installed)
                    if not self._closing.is_set():
                        self.installed, self._engine, self.loading_error = installed, engine, None
            except LarsError as error:
                self.loading, self.loading_error = f"trying again in {retry_s:.0f} s", str(error)
                log.warning("model_not_loaded", error=str(error), retry_s=retry_s)
            except Exception as error:
                self.loading = f"trying again in {retry_s:.0f} s"
                self.loading_error = f"unexpected {type(error).__name__}; the daemon's log says more"
                log.exception("model_not_loaded")
            else:
                self.loading = None
                if self._closing.is_set():
                    engine.close()
                    return
                self._timer.restart()
                self._begin_work(when_ready)
                return
            self._closing.wait(retry_s)

    def _begin_work(self, when_ready: Callable[[], None]) -> None:
        try:
            when_ready()
        except Exception as error:
            message = f"nothing is learned until the daemon is started again: {error}"
            self.problems.append(Alarm("not_learning", message))
            log.exception("work_not_begun")

    def _opened(self, installed: InstalledModel) -> EngineClient:
        """Open an engine that serves every profile."""
        engine = self._open_engine(installed)
        try:
            self._serve_profiles(engine, installed)
        except BaseException:
            engine.close()
            raise
        self._served = engine.serving
        log.info("model_loaded", model=installed.reference, sha256=installed.sha256[:12])
        return engine
