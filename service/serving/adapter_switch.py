"""Put adapter versions in use: the store's pointer and the engine move together, or neither does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from types import EllipsisType

import structlog

from lars_agent.errors import AdapterError, AdapterIncompatible
from lars_agent.models.library import InstalledModel
from lars_agent.store.adapters import AdapterStore
from service.alarms import Alarm, AlarmCode
from service.process.crash_loop import require_adapters
from service.serving.engine_client import EngineClient

log = structlog.get_logger(__name__)

ANY = ...  # whatever is active


class SwapFailed(AdapterError):
    """A version could not be activated; the message names the active one."""


def label(version: int | None) -> str:
    """Return the name of an adapter version for messages."""
    return "the base model" if version is None else f"v{version}"


class AdapterSwitch:
    """Changes the version that serves a profile, one change at a time; methods may be called from any thread.

    One rule holds for an active version that cannot serve, at the start and after a failed change: damage moves the
    pointer to the nearest ancestor that is sound, which has passed the gate once, or to the base model where there is
    none. A version for another base model, or of a newer lars-agent, keeps the pointer: it is sound, and serves again
    when that model, or that lars-agent, is back; until then the base model serves.

    `engine` opens the engine if it is closed, `opened_engine` gives None then.

    Attributes:
        problems: what is wrong with active adapters, each until another version of the profile is put in use.
        swaps: versions put in use since the start.
    """

    def __init__(
        self,
        store: AdapterStore,
        engine: Callable[[], AbstractContextManager[EngineClient]],
        opened_engine: Callable[[], AbstractContextManager[EngineClient | None]],
        base_model: Callable[[], InstalledModel],
        base_only: bool = False,
    ) -> None:
        self._store, self._engine, self._opened_engine = store, engine, opened_engine
        self._base_model, self._base_only = base_model, base_only
        self._lock = threading.RLock()
        self.problems: list[Alarm] = []
        self.swaps = 0

    def held(self) -> AbstractContextManager[object]:
        """Keep other threads from changing the version of any profile within the block."""
        return self._lock

    def activate(
        self, profile: str, version: int | None, *, unless_moved_from: int | EllipsisType | None = ANY
    ) -> int | None:
        """Load and check `version`, then have it serve the profile; return what serves.

        Raises SafeMode, ModelLoading, what loading the version raises, and SwapFailed where another version than
        `unless_moved_from` is active, or the incumbent is damaged as well. In every other case the incumbent stays.
        """
        base_sha256 = self._require_adapters()
        with self._lock, self._engine() as engine:
            incumbent = self._active(profile)
            if unless_moved_from is not ANY and incumbent not in (unless_moved_from, version):
                raise SwapFailed(
                    f"{label(version)} was published, but {label(incumbent)} has been put in use meanwhile and stays so"
                )
            try:
                self._move(engine, profile, version, base_sha256)
            except Exception as error:
                self._restore(profile, version, incumbent, base_sha256, error)
                raise
        return version

    def rollback(self, profile: str) -> int | None:
        """Have the parent of the active version serve the profile. Raises AdapterNotFound, and as `activate` does."""
        self._require_adapters()
        with self._lock:
            return self.activate(profile, self._store.parent(profile))

    def withdraw(self, profile: str, versions: Collection[int]) -> None:
        """Delete `versions` for good; nothing that they reply is given out once this returns.

        Where one of them is active, its nearest sound ancestor that stays serves instead, or the base model.
        """
        with self._lock, self._opened_engine() as engine:
            if is_affected := self._active(profile) in versions:
                self._store.move(profile, self.without(profile, versions))
            self._store.erase(profile, versions)
            if engine is not None:
                engine.forget(profile, sorted(versions))
                if is_affected and not self._base_only:
                    self._serve_active(engine, profile, self._base_model().sha256)
            log.info("adapters_withdrawn", profile=profile, versions=sorted(versions), active=self._active(profile))

    def remove(self, profile: str, version: int) -> None:
        """Delete a version for good, with the replies that it is giving; none that is in use goes back to it.

        Raises AdapterNotFound, AdapterInUse; nothing is deleted then.
        """
        with self._lock, self._opened_engine() as engine:
            self._store.remove(profile, version)
            if engine is not None:
                engine.forget(profile, [version])

    def without(self, profile: str, versions: Collection[int]) -> int | None:
        """Return the version that would serve once `versions` were withdrawn."""
        with self._lock:
            active = self._active(profile)
            if active not in versions:
                return active
            return next((one for one in self._store.sound_ancestors(profile, None) if one not in versions), None)

    def serve_profiles(self, engine: EngineClient, installed: InstalledModel) -> None:
        """Have `engine`, which has just been opened on `installed`, serve the active version of every profile."""
        for profile in self._store.profiles():
            if self._base_only:
                engine.swap(profile, None)
            else:
                self._serve_active(engine, profile, installed.sha256)

    def _require_adapters(self) -> str:
        """Return the digest of the base model in use. Raises SafeMode, ModelLoading."""
        installed = self._base_model()
        require_adapters(self._base_only)
        return installed.sha256

    def _active(self, profile: str) -> int | None:
        """Return the active version; a pointer that cannot be read points to none."""
        with contextlib.suppress(AdapterError):
            return self._store.active(profile)
        return None

    def _move(self, engine: EngineClient, profile: str, version: int | None, base_sha256: str) -> None:
        """Prepare the version, then move the pointer and the engine: what can fail, fails before the pointer moves."""
        self._prepare(engine, profile, version, base_sha256)
        started = time.perf_counter()
        self._store.move(profile, version)
        engine.swap(profile, version)
        swap_ms = round(1000 * (time.perf_counter() - started), 3)
        self.swaps += 1
        self.problems = [problem for problem in self.problems if problem.profile != profile]
        log.info("adapter_in_use", profile=profile, version=version, swap_ms=swap_ms)

    def _prepare(self, engine: EngineClient, profile: str, version: int | None, base_sha256: str) -> None:
        """Load and verify the version. Raises AdapterError where its files cannot serve.

        The engine verifies what it loads; the files of a version that it has in memory are verified here.
        """
        if version is not None and not engine.prepare(profile, version):
            self._store.verify(profile, version, base_sha256)

    def _restore(
        self, profile: str, version: int | None, incumbent: int | None, base_sha256: str, error: Exception
    ) -> None:
        """Put the incumbent back in use after `error`. Raises SwapFailed where another version has to take its place.

        The engine that died in between is opened again: it may have been opened by somebody else on the moved pointer.
        """
        failed = f"{label(version)} could not be put in use ({error})"
        try:
            if self._active(profile) != incumbent:
                self._store.move(profile, incumbent)
            with self._engine() as engine:
                self._serve_active(engine, profile, base_sha256)
        except Exception as second:
            raise SwapFailed(f"{failed}, nor could {label(incumbent)} be put back ({second})") from error
        if (kept := self._active(profile)) != incumbent:
            raise SwapFailed(f"{failed}; {label(kept)} is in use because {label(incumbent)} is damaged") from error

    def _serve_active(self, engine: EngineClient, profile: str, base_sha256: str) -> None:
        """Have `engine` serve the active version, or what takes its place by the rule of the class."""
        while True:
            try:
                version = self._store.active(profile)
                self._prepare(engine, profile, version, base_sha256)
                engine.swap(profile, version)
                return
            except AdapterIncompatible as error:
                engine.swap(profile, None)
                self.note("adapter_set_aside", f"{error}; until then {profile} uses the base model", profile)
                return
            except AdapterError as error:
                fallback = next(self._store.sound_ancestors(profile, base_sha256), None)
                self._store.move(profile, fallback)
                self.note("adapter_fallback", f"{error}; {profile} now uses {label(fallback)}", profile)

    def note(self, alarm: AlarmCode, message: str, profile: str) -> None:
        """Add a problem, once however often the engine is opened."""
        log.warning(alarm, profile=profile, message=message)
        problem = Alarm(alarm, message, profile)
        if problem not in self.problems:
            self.problems.append(problem)
