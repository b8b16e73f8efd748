"""The only composition root: settings in, an application out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from lars_agent.errors import LarsError
from lars_agent.models.library import ModelLibrary
from lars_agent.runtime.rpc import EngineOptions
from lars_agent.store.adapters import AdapterStore
from service.api import (
    adapters,
    errors,
    feedback,
    generate,
    interactions,
    jobs,
    metrics,
    ollama,
    openai,
    openai_models,
    operation,
    scheduled_runs,
)
from service.daemon import Daemon
from service.dashboard import routes as dashboard
from service.db import DEFAULT_PROFILE, Database
from service.engine_process import EngineProcess
from service.housekeeping.housekeeper import Housekeeper
from service.jobs import Supervisor
from service.lifecycle.data_lock import DataLock
from service.lifecycle.starts import STARTS_NAME, Starts
from service.memory_limit import GUARD_ONLY, MemoryLimit
from service.metrics.state import DaemonCollector
from service.middleware import GUARDS, RequestCounter
from service.night.idle import Sight, Window
from service.night.lookout import Lookout
from service.night.schedule import Nightly
from service.night.shift import Shift
from service.recorder import Recorder
from service.serving import FindModel, Generator, InstalledModel, OpenEngine, Serving
from service.settings import Settings
from service.version import package_version
from service.worker_process import DEFAULT_COMMAND

log = structlog.get_logger(__name__)

DEFAULT_MODEL = "default"
EVERYWHERE = errors.documented(400, 401, 403, 405, 413, 422, 500)
ROUTERS = (
    generate.router,
    openai.router,
    openai_models.router,
    ollama.router,
    feedback.router,
    interactions.router,
    adapters.router,
    jobs.router,
    scheduled_runs.router,
    operation.router,
    metrics.router,
    dashboard.router,
)


def create_app(
    settings: Settings,
    *,
    find_model: FindModel | None = None,
    open_engine: OpenEngine | None = None,
    worker_command: Sequence[str] = DEFAULT_COMMAND,
    memory_limit: MemoryLimit = GUARD_ONLY,
    look: Callable[[Window], Sight] | None = None,
) -> FastAPI:
    """The application; its daemon starts and stops with it.

    `memory_limit` holds the worker to its budget, `look` sees the device; the other keywords take the place of the real
    parts. Raises DataInUse, DatabaseTooNew, DatabaseUnusable, ConfigError.
    """
    daemon = compose(
        settings,
        find_model=find_model,
        open_engine=open_engine,
        worker_command=worker_command,
        memory_limit=memory_limit,
        look=look,
    )
    app = FastAPI(
        title="lars-agent",
        version=package_version(),
        description="A language model on this device that learns from what its user says about its replies.",
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; the dashboard's router has /docs
        redoc_url=None,
        responses=EVERYWHERE,
    )
    app.state.daemon = daemon
    daemon.metrics.registry.register(DaemonCollector(daemon))
    errors.install(app)
    for guard in reversed(GUARDS):  # the one added last is asked first
        app.add_middleware(guard, server=settings.server)
    app.add_middleware(RequestCounter, metrics=daemon.metrics)
    for router in ROUTERS:
        app.include_router(router)
    dashboard.mount_static(app)
    return app


def compose(
    settings: Settings,
    *,
    find_model: FindModel | None = None,
    open_engine: OpenEngine | None = None,
    worker_command: Sequence[str] = DEFAULT_COMMAND,
    memory_limit: MemoryLimit = GUARD_ONLY,
    look: Callable[[Window], Sight] | None = None,
) -> Daemon:
    """Every part, wired; nothing runs yet."""
    settings.server.require_token()
    lock = DataLock(settings.data_dir)
    starts = Starts(settings.data_dir / STARTS_NAME)
    starts.begin()
    try:
        db = Database(settings.database_path)
        store = AdapterStore(settings.adapters_dir)
        serving = Serving(
            store,
            find_model or model_finder(settings),
            open_engine or engine_opener(settings),
            keep_alive_s=settings.runtime.keep_alive_s,
            base_only=starts.safe_mode,
        )
        supervisor = Supervisor(
            settings,
            db,
            store,
            base_model=serving.require_model,
            endpoint=serving,
            pointer=serving.pointer,
            worker_command=worker_command,
            memory_limit=memory_limit,
        )
        lookout = Lookout(
            settings.data_dir,
            own=lambda: [pid for pid in (serving.endpoint_pid, supervisor.worker_pid) if pid is not None],
            quiet_s=supervisor.quiet_s,
            worker_threads=supervisor.running_threads,
        )
        shift = Shift(
            settings,
            supervisor.worker,
            work=lambda: supervisor.work,
            sight=look or lookout,
            window=lambda begun: schedule.window(begun=begun),
        )
        supervisor.on_begin = shift.begin
        schedule = Nightly(settings.schedule, supervisor, db.scheduled_runs, profile_lister(db, store), shift.judge)
        housekeeper = Housekeeper(settings, db, store, serving.pointer)
        supervisor.on_end = housekeeper.forget_soon  # feedback may have been deleted while the job worked with it
    except BaseException as error:
        if isinstance(error, LarsError):
            starts.refused()
        lock.release()
        raise
    return Daemon(settings, lock, db, store, serving, Recorder(db), supervisor, schedule, shift, starts, housekeeper)


def model_finder(settings: Settings) -> FindModel:
    """Finds the model that the settings name, or `lars-agent model use` chose; fetches it where it is not there."""
    library = ModelLibrary(settings.models_dir)

    def find() -> InstalledModel:
        chosen = library.current() if settings.model.name == DEFAULT_MODEL else None
        return chosen or library.pull(settings.model.name, lambda words: log.info("model_pull", words=words))

    return find


def engine_opener(settings: Settings) -> OpenEngine:
    """Opens the generation engine on an installed model, in a process of its own."""

    def open_engine(installed: InstalledModel, on_busy: Callable[[bool], None]) -> Generator:
        runtime = settings.runtime
        options = EngineOptions(
            model_path=str(installed.folder),
            dtype=settings.model.dtype,
            adapters_path=str(settings.adapters_dir),
            threads=runtime.threads,
            queue_size=runtime.queue_size,
            parallel=runtime.parallel,
            prefix_bytes=runtime.prefix_cache_bytes,
            deadline_s=runtime.deadline_s,
        )
        return EngineProcess(options, on_busy)

    return open_engine


def profile_lister(db: Database, store: AdapterStore) -> Callable[[], list[str]]:
    """Lists the profiles that learn by night, or forget: `default`, and all that have feedback or ever had adapters."""
    return lambda: sorted({DEFAULT_PROFILE, *db.feedback.profiles(), *store.profiles()})


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    daemon: Daemon = app.state.daemon
    daemon.start()
    try:
        yield
    finally:
        await run_in_threadpool(daemon.close)
