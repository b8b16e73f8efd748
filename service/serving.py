"""The part of the daemon that replies: it loads the base model and moves the pointer to the adapter in use."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from lars_agent.errors import AdapterError, AdapterIncompatible, LarsError, ModelLoading
from lars_agent.runtime.request import GenerationRequest, Ticket
from lars_agent.store.adapters import AdapterStore
from service.parts import BaseModel

log = structlog.get_logger(__name__)

RETRY_S = 60.0  # after a model could not be loaded: the network may come back
HALT_S = 5.0


class InstalledModel(BaseModel, Protocol):
    """What the daemon asks of the installed base model."""

    @property
    def name(self) -> str:
        """What it is called here."""


class Generator(Protocol):
    """What the daemon asks of `lars_agent.runtime.engine.Engine`."""

    def submit(self, request: GenerationRequest) -> Ticket:
        """A reply that is being made."""

    def swap(self, profile: str) -> int | None:
        """The store's active version serves the profile."""

    def serve_base(self, profile: str) -> None:
        """The base model serves the profile, whatever the store calls active."""

    def serving(self, profile: str) -> int | None:
        """The version that serves the profile."""

    def close(self, timeout_s: float = 10.0) -> None:
        """Nothing is generated any more."""


FindModel = Callable[[], InstalledModel]
OpenEngine = Callable[[InstalledModel, Callable[[bool], None]], Generator]


class Serving:
    """Replies from the model that `find_model` gives and `open_engine` opens, with the adapters of `store`.

    Until both have come through every request is answered with ModelLoading. Where they fail they are tried again
    every `retry_s`, and `loading_error` says why; `problems` says what was wrong with an adapter at the start.
    `pointer` is held while a profile is moved to another version.
    """

    def __init__(
        self, store: AdapterStore, find_model: FindModel, open_engine: OpenEngine, retry_s: float = RETRY_S
    ) -> None:
        self._store, self._find_model, self._open_engine, self._retry_s = store, find_model, open_engine, retry_s
        self._closing = threading.Event()
        self.pointer = threading.Lock()
        self._loader: threading.Thread | None = None
        self._engine: Generator | None = None
        self.installed: InstalledModel | None = None
        self.loading_error: str | None = None
        self.problems: list[str] = []

    def start(self, on_busy: Callable[[bool], None], when_ready: Callable[[], None]) -> None:
        """The model is being loaded, in a thread of its own; `when_ready` is called there once it replies."""
        self._loader = threading.Thread(target=self._load, args=(on_busy, when_ready), name="loading", daemon=True)
        self._loader.start()

    def halt(self) -> None:
        """No model will be loaded any more."""
        self._closing.set()
        if self._loader is not None:
            self._loader.join(HALT_S)

    def close(self) -> None:
        """Nothing is generated any more."""
        self.halt()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def submit(self, request: GenerationRequest) -> Ticket:
        """A reply that is being made. Raises ModelLoading, and what the engine raises."""
        return self.require_engine().submit(request)

    def swap(self, profile: str) -> int | None:
        """The store's active version serves the profile. Raises ModelLoading, and what the engine raises."""
        return self.require_engine().swap(profile)

    def serving(self) -> dict[str, int | None]:
        """The version that serves each profile that has adapters, and `default`; empty while the model loads."""
        engine = self._engine
        return {} if engine is None else {name: engine.serving(name) for name in {"default", *self._store.profiles()}}

    def activate(self, profile: str, version: int | None) -> int | None:
        """`version` serves the profile. Raises what verifying and loading it raises; the incumbent then still does."""
        engine, base_sha256 = self.require_engine(), self.require_model().sha256
        with self.pointer, self._restored(profile):
            self._store.activate(profile, version, base_sha256)
            return engine.swap(profile)

    def rollback(self, profile: str) -> int | None:
        """The parent of the version in use serves the profile. Raises as `activate` does."""
        engine, base_sha256 = self.require_engine(), self.require_model().sha256
        with self.pointer, self._restored(profile):
            self._store.rollback(profile, base_sha256)
            return engine.swap(profile)

    def require_model(self) -> InstalledModel:
        """The base model in use. Raises ModelLoading."""
        if self.installed is None:
            raise self._not_yet()
        return self.installed

    def require_engine(self) -> Generator:
        """The engine. Raises ModelLoading."""
        if self._engine is None:
            raise self._not_yet()
        return self._engine

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

    def _load(self, on_busy: Callable[[bool], None], when_ready: Callable[[], None]) -> None:
        while not self._closing.is_set():
            try:
                self._open(on_busy)
            except LarsError as error:
                self.loading_error = str(error)
                log.warning("model_not_loaded", error=str(error), retry_s=self._retry_s)
                self._closing.wait(self._retry_s)
            except Exception as error:
                self.loading_error = f"unexpected {type(error).__name__}; the daemon's log says more"
                log.exception("model_not_loaded")
                self._closing.wait(self._retry_s)
            else:
                if self._engine is not None:
                    self._begin_work(when_ready)
                return

    def _begin_work(self, when_ready: Callable[[], None]) -> None:
        try:
            when_ready()
        except Exception as error:
            self.problems.append(f"nothing is learned until the daemon is started again: {error}")
            log.exception("work_not_begun")

    def _open(self, on_busy: Callable[[bool], None]) -> None:
        installed = self._find_model()
        engine = self._open_engine(installed, on_busy)
        try:
            for profile in self._store.profiles():
                self._begin(engine, profile, installed.sha256)
        except BaseException:
            engine.close()
            raise
        if self._closing.is_set():
            engine.close()
            return
        self.installed, self._engine, self.loading_error = installed, engine, None
        log.info("model_loaded", model=installed.reference, sha256=installed.sha256[:12])

    def _begin(self, engine: Generator, profile: str, base_sha256: str) -> None:
        """The profile is served: by its active version, or by the latest ancestor that can, or by the base model.

        Damage moves the pointer. A version for another base model, or of a newer lars-agent, keeps it: it is sound, and
        serves again when that model, or that lars-agent, is back.
        """
        while True:
            try:
                engine.swap(profile)
                return
            except AdapterIncompatible as error:
                engine.serve_base(profile)
                words = f"{error}; until then {profile} uses the base model"
                self.problems.append(words)
                log.warning("adapter_set_aside", profile=profile, words=words)
                return
            except AdapterError as error:
                fallback = self._step_back(profile, base_sha256)
                words = f"{error}; {profile} now uses {'the base model' if fallback is None else f'v{fallback}'}"
                self.problems.append(words)
                log.warning("adapter_fallback", profile=profile, words=words)

    def _step_back(self, profile: str, base_sha256: str) -> int | None:
        """The pointer stands on the parent, or on the base model where the parent cannot serve either."""
        try:
            return self._store.rollback(profile, base_sha256)
        except AdapterError:
            self._store.activate(profile, None)
            return None
