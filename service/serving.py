"""The part of the daemon that replies: it loads the base model and moves the pointer to the adapter in use."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import structlog

from lars_agent.errors import AdapterError, AdapterIncompatible, LarsError, ModelLoading
from lars_agent.runtime.request import GenerationRequest, Ticket
from lars_agent.store.adapters import AdapterStore
from service.lifecycle.starts import SafeMode
from service.nap import Nap
from service.parts import BaseModel, label
from service.problem import Alarm, Problem
from service.settings import Settings

log = structlog.get_logger(__name__)

RETRY_S = 60.0  # at most, after a model could not be loaded: the network may come back
FIRST_RETRY_S = 1.0  # twice as long each time
HALT_S = 1.0
CLOSE_S = 0.5  # for replies that were cancelled to end
BASE_ONLY = "only the base model is served until lars-agent is restarted; GET /info says why"


class InstalledModel(BaseModel, Protocol):
    """What the daemon asks of the installed base model."""

    @property
    def name(self) -> str:
        """What it is called here."""

    @property
    def installed(self) -> str:
        """When it was installed, ISO 8601."""

    @property
    def bytes(self) -> int:
        """Size of its folder."""


class Generator(Protocol):
    """What the daemon asks of `lars_agent.runtime.engine.Engine`."""

    def submit(self, request: GenerationRequest) -> Ticket:
        """A reply that is being made."""

    def prepare(self, profile: str, version: int) -> None:
        """A swap to `version` will be at once."""

    def swap(self, profile: str) -> int | None:
        """The store's active version serves the profile."""

    def serve_base(self, profile: str) -> None:
        """The base model serves the profile, whatever the store calls active."""

    def serving(self, profile: str) -> int | None:
        """The version that serves the profile."""

    @property
    def pid(self) -> int:
        """Of the process that it runs in."""

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked anything; one that cannot is closed, and another one opened."""

    def close(self, timeout_s: float = 10.0) -> None:
        """Nothing is generated any more."""


FindModel = Callable[[], InstalledModel]
OpenEngine = Callable[[InstalledModel, Callable[[bool], None]], Generator]


class Serving:
    """Replies from the model that `find_model` gives and `open_engine` opens, with the adapters of `store`.

    Until both have come through every request is answered with ModelLoading. Where they fail they are tried again, soon
    and then ever more seldom, at least every `retry_s`, and `loading_error` says why; `problems` says what was wrong
    with an adapter at the start, until another one is put in use.
    With `base_only` no adapter is loaded: the base model serves all, and what asks for one is refused with SafeMode.
    After `keep_alive_s` without a request (0: never) the engine is closed, and opened again for the next one; so is one
    that has ended by itself. `pointer` is held while a profile is moved to another version.
    """

    def __init__(
        self,
        store: AdapterStore,
        find_model: FindModel,
        open_engine: OpenEngine,
        retry_s: float = RETRY_S,
        keep_alive_s: float = 0.0,
        base_only: bool = False,
    ) -> None:
        self._store, self._find_model, self._open_engine, self._retry_s = store, find_model, open_engine, retry_s
        self._closing = threading.Event()
        self.pointer = threading.Lock()
        self._loader: threading.Thread | None = None
        self._engine: Generator | None = None
        self._changing = threading.RLock()  # held by whoever opens the engine or closes it
        self._users = 0  # of the engine, just now
        self._base_only = base_only
        self._keep_alive_s = keep_alive_s or math.inf
        self._nap = Nap(self._keep_alive_s, self._sleep)
        self._tickets: list[Ticket] = []  # those whose replies may be unfinished
        self._on_busy: Callable[[bool], None] = lambda busy: None
        self._served: dict[str, int | None] = {}  # by the engine that is closed for now
        self.installed: InstalledModel | None = None
        self.loading_error: str | None = None
        self.problems: list[Problem] = []
        self.swaps = 0  # since the start

    def use(self, settings: Settings) -> None:
        """After the next reply the model stays for as long as `settings` say."""
        self._keep_alive_s = settings.runtime.keep_alive_s or math.inf

    def start(self, on_busy: Callable[[bool], None], when_ready: Callable[[], None]) -> None:
        """The model is being loaded, in a thread of its own; `when_ready` is called there once it replies."""
        self._on_busy = on_busy
        self._loader = threading.Thread(target=self._load, args=(when_ready,), name="loading", daemon=True)
        self._loader.start()

    def halt(self) -> None:
        """No model will be loaded any more."""
        self._closing.set()
        if self._loader is not None:
            self._loader.join(HALT_S)

    def close(self) -> None:
        """Nothing is generated any more; replies that are not whole are cancelled."""
        self.halt()
        self._nap.close()
        self.cancel()
        if not self._changing.acquire(timeout=HALT_S):
            return  # just being opened; that process ends with this one
        engine, self._engine = self._engine, None
        self._changing.release()
        if engine is not None:
            engine.close(CLOSE_S)

    def cancel(self) -> None:
        """The replies that are being made end as they are."""
        for ticket in self._tickets:
            ticket.cancel()

    def submit(self, request: GenerationRequest, keep_alive_s: float | None = None) -> Ticket:
        """A reply that is being made, after which the model stays for `keep_alive_s`: None as ever, infinity for good.

        Raises ModelLoading, SafeMode, and what the engine raises.
        """
        if self._base_only:
            request = self._on_base(request)
        with self.engine() as engine:
            ticket = engine.submit(request)
        with self._changing:
            self._tickets = [*(old for old in self._tickets if not old.is_done), ticket]
        self._nap.begin(self._keep_alive_s if keep_alive_s is None else keep_alive_s)
        return ticket

    def load(self, keep_alive_s: float | None = None) -> None:
        """The model is loaded, and stays for `keep_alive_s`; see `submit`."""
        with self.engine():
            self._nap.begin(self._keep_alive_s if keep_alive_s is None else keep_alive_s)

    def unload(self) -> None:
        """The model is unloaded, once the replies that are being made are whole."""
        self._nap.begin(0.0)

    def prepare(self, profile: str, version: int) -> None:
        """`version` is loaded and checked, and a swap to it will be at once. Raises as `swap` does."""
        self._require_adapters()
        with self.engine() as engine:
            engine.prepare(profile, version)

    def swap(self, profile: str) -> int | None:
        """The store's active version serves the profile. Raises ModelLoading, SafeMode, and what the engine raises."""
        self._require_adapters()
        with self.engine() as engine:
            served = engine.swap(profile)
        self._settle(profile)
        return served

    def serving(self) -> dict[str, int | None]:
        """The version that serves each profile that has adapters, and `default`; empty while the model loads."""
        if self.installed is None:
            return {}
        engine = self._engine
        served = self._served.get if engine is None else engine.serving
        return {name: served(name) for name in {"default", *self._store.profiles()}}

    @property
    def endpoint_pid(self) -> int | None:
        """The process that generates; None while the model is unloaded."""
        engine = self._engine
        return None if engine is None else engine.pid

    @property
    def unloads_at(self) -> float:
        """When the model will be unloaded if nobody asks until then, seconds since the epoch; infinity for never."""
        return self._nap.ends

    @property
    def is_asleep(self) -> bool:
        """Whether the model will be loaded for the next request."""
        return self.installed is not None and self._engine is None

    def activate(self, profile: str, version: int | None) -> int | None:
        """`version` serves the profile. Raises SafeMode, and what loading it raises; the incumbent then still does."""
        self.require_model()
        self._require_adapters()
        with self.pointer, self.engine() as engine:
            return self._put_in_use(engine, profile, version)

    def rollback(self, profile: str) -> int | None:
        """The parent of the version in use serves the profile. Raises as `activate` does."""
        self.require_model()
        self._require_adapters()
        with self.pointer, self.engine() as engine:
            return self._put_in_use(engine, profile, self._store.parent(profile))

    def _put_in_use(self, engine: Generator, profile: str, version: int | None) -> int | None:
        """Everything that can go wrong goes wrong before the pointers move: the store's, then the engine's."""
        if version is not None:
            engine.prepare(profile, version)
            self._store.verify(profile, version, self.require_model().sha256)
        with self._restored(profile):
            started = time.perf_counter()
            self._store.move(profile, version)
            served = engine.swap(profile)
            swap_ms = round(1000 * (time.perf_counter() - started), 3)
        self._settle(profile)
        log.info("adapter_in_use", profile=profile, version=served, swap_ms=swap_ms)
        return served

    def require_model(self) -> InstalledModel:
        """The base model in use. Raises ModelLoading."""
        if self.installed is None:
            raise self._not_yet()
        return self.installed

    def _require_adapters(self) -> None:
        if self._base_only:
            raise SafeMode(BASE_ONLY)

    def _on_base(self, request: GenerationRequest) -> GenerationRequest:
        """The request, for the base model; one for a version that it names is refused."""
        if isinstance(request.version, int):
            self._require_adapters()
        return replace(request, version=None)

    def _note(self, alarm: Alarm, words: str, profile: str | None = None) -> None:
        """It is among the problems, once however often the engine is opened."""
        problem = Problem(alarm, words, profile)
        if problem not in self.problems:
            self.problems.append(problem)

    def _settle(self, profile: str) -> None:
        """Count the swap, and drop what was wrong with the profile's earlier adapter."""
        self.swaps += 1
        self.problems = [problem for problem in self.problems if problem.profile != profile]

    @contextlib.contextmanager
    def engine(self) -> Iterator[Generator]:
        """The engine, opened again where it was closed or has ended; it is not put to sleep within the block.

        Raises ModelLoading, and what opening raises.
        """
        with self._changing:
            engine = self._open_again()
            self._users += 1
        try:
            yield engine
        finally:
            with self._changing:
                self._users -= 1

    def _open_again(self) -> Generator:
        installed = self.require_model()
        engine = self._engine
        if engine is not None and not engine.is_alive:
            log.warning("engine_lost")
            self._engine = None
            engine.close()
        if self._engine is None:
            self._engine = self._opened(installed)
            self._nap.begin(self._keep_alive_s)
        return self._engine

    def _sleep(self) -> None:
        """Nothing has been asked for a while: what the model takes is free for others."""
        with self._changing:
            if self._users or not all(ticket.is_done for ticket in self._tickets):
                self._nap.again()
                return
            engine, self._engine = self._engine, None
            if engine is None:
                return
            self._served = {name: engine.serving(name) for name in {"default", *self._store.profiles()}}
            engine.close()
        log.info("model_unloaded")

    def _heard(self, busy: bool) -> None:
        """The engine has become busy, or idle."""
        self._nap.stand_still(busy)
        self._on_busy(busy)

    def _not_yet(self) -> ModelLoading:
        return ModelLoading(f"Loading model: {self.loading_error}" if self.loading_error else "Loading model")

    @contextlib.contextmanager
    def _restored(self, profile: str) -> Iterator[None]:
        """Where the block fails, the profile's pointer is what it was before."""
        incumbent: int | None = None
        with contextlib.suppress(AdapterError):  # a pointer that cannot be read is no incumbent
            incumbent = self._store.active(profile)
        try:
            yield
        except Exception:
            with contextlib.suppress(AdapterError):
                if self._store.active(profile) != incumbent:
                    self._store.activate(profile, incumbent)
            raise

    def _load(self, when_ready: Callable[[], None]) -> None:
        retry_s = FIRST_RETRY_S
        while not self._closing.is_set():
            retry_s = min(2 * retry_s, self._retry_s)
            try:
                self._open()
            except LarsError as error:
                self.loading_error = str(error)
                log.warning("model_not_loaded", error=str(error), retry_s=retry_s)
            except Exception as error:
                self.loading_error = f"unexpected {type(error).__name__}; the daemon's log says more"
                log.exception("model_not_loaded")
            else:
                if self.installed is not None:
                    self._begin_work(when_ready)
                return
            self._closing.wait(retry_s)

    def _begin_work(self, when_ready: Callable[[], None]) -> None:
        try:
            when_ready()
        except Exception as error:
            self._note("not_learning", f"nothing is learned until the daemon is started again: {error}")
            log.exception("work_not_begun")

    def _open(self) -> None:
        installed = self._find_model()
        engine = self._opened(installed)
        if self._closing.is_set():
            engine.close()
            return
        self.installed, self._engine, self.loading_error = installed, engine, None
        self._nap.begin()

    def _opened(self, installed: InstalledModel) -> Generator:
        """An engine that serves every profile."""
        engine = self._open_engine(installed, self._heard)
        try:
            for profile in self._store.profiles():
                self._begin(engine, profile, installed.sha256)
        except BaseException:
            engine.close()
            raise
        log.info("model_loaded", model=installed.reference, sha256=installed.sha256[:12])
        return engine

    def _begin(self, engine: Generator, profile: str, base_sha256: str) -> None:
        """The profile is served: by its active version, or by the latest ancestor that can, or by the base model.

        Damage moves the pointer. A version for another base model, or of a newer lars-agent, keeps it: it is sound, and
        serves again when that model, or that lars-agent, is back.
        """
        if self._base_only:
            engine.serve_base(profile)
            return
        while True:
            try:
                engine.swap(profile)
                return
            except AdapterIncompatible as error:
                engine.serve_base(profile)
                words = f"{error}; until then {profile} uses the base model"
                self._note("adapter_set_aside", words, profile)
                log.warning("adapter_set_aside", profile=profile, words=words)
                return
            except AdapterError as error:
                fallback = self._step_back(profile, base_sha256)
                words = f"{error}; {profile} now uses {label(fallback)}"
                self._note("adapter_fallback", words, profile)
                log.warning("adapter_fallback", profile=profile, words=words)

    def _step_back(self, profile: str, base_sha256: str) -> int | None:
        """The pointer stands on the parent, or on the base model where the parent cannot serve either."""
        try:
            return self._store.rollback(profile, base_sha256)
        except AdapterError:
            self._store.activate(profile, None)
            return None
