"""Compose the application from the settings; the only composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC
from functools import cache, partial
from typing import Any, TypedDict, Unpack

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from fastapi import APIRouter, Depends, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from lars_agent.errors import LarsError
from lars_agent.models.library import InstalledModel, ModelLibrary
from lars_agent.runtime.rpc import EngineOptions
from lars_agent.store.adapters import AdapterStore
from service.api import errors
from service.api.access import require_allowed
from service.api.client_limits import ClientLimits
from service.api.cross_origin import CrossOrigin
from service.api.daemon_metrics import DaemonCollector
from service.api.forwarded import ForwardedClient
from service.api.methods import MethodGuard, MethodTable
from service.api.middleware import GUARDS, RequestCounter, SafeHeaders, is_open
from service.api.ollama.content_type import AnyContentType
from service.api.openapi import complete
from service.api.request_log import RequestLog
from service.api.routers import GENERATING_PATHS, ROUTERS
from service.backup.make import clear_scratch
from service.backup.nightly import Backups
from service.backup.swap import finish
from service.cycle.context import CycleContext
from service.cycle.ratings import RatingsWatch
from service.cycle.supervisor import Supervisor
from service.daemon import Daemon
from service.dashboard import routes as dashboard
from service.db import Database
from service.housekeeping.eraser import Eraser
from service.housekeeping.housekeeper import Housekeeper
from service.process.access_token import AccessToken
from service.process.clock import CLOCK_NAME, Clock
from service.process.crash_loop import STARTS_NAME, StartupFailures
from service.process.data_lock import DataLock
from service.process.private_files import make_private
from service.process.version import package_version
from service.schedule.cron import ScheduleWindow
from service.schedule.device import DeviceReader
from service.schedule.idle_monitor import IdleMonitor
from service.schedule.scheduler import NightlyScheduler
from service.serving.adapter_switch import AdapterSwitch
from service.serving.engine_client import EngineClient
from service.serving.model_host import FindModel, ModelHost, OpenEngine
from service.serving.model_pull import ModelPull
from service.serving.profiles import Profiles
from service.serving.recorder import Recorder
from service.serving.sessions import Sessions
from service.settings.load import Settings, SettingsSource
from service.worker.memory_limit import GUARD_ONLY, MemoryLimit
from service.worker.preemption import RequestPreemption
from service.worker.process import DEFAULT_COMMAND, WorkerProcess
from service.worker.remote.leftovers import Leftovers

log = structlog.get_logger(__name__)

DEFAULT_MODEL = "default"
EVERYWHERE = errors.documented(*errors.EVERYWHERE)
EVERY_ROUTER = (*ROUTERS, dashboard.router)


class ComponentOverrides(TypedDict, total=False):
    """Components that replace the default ones; `memory_limit` limits the worker's memory.

    `source` is where the settings come from, by default nowhere but the program.
    """

    find_model: FindModel
    open_engine: OpenEngine
    worker_command: Sequence[str]
    memory_limit: MemoryLimit
    source: SettingsSource


def create_app(settings: Settings, **overrides: Unpack[ComponentOverrides]) -> FastAPI:
    """Return the application with its daemon. Raises DataInUse, DatabaseTooNew, DatabaseUnusable, ConfigError."""
    daemon = compose(settings, **overrides)
    app = App(
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
    every = [*app.routes, *(route for router in EVERY_ROUTER for route in router.routes)]
    routes = [route for route in every if isinstance(route, Route)]
    app.add_middleware(AnyContentType)
    app.add_middleware(MethodGuard, table=MethodTable(routes))
    app.add_middleware(ClientLimits, server=settings.server, generating=GENERATING_PATHS)
    for guard in reversed(GUARDS):  # the one added last is asked first
        app.add_middleware(guard, server=settings.server)
    if settings.server.allowed_origins:
        app.add_middleware(CrossOrigin, server=settings.server)
    app.add_middleware(RequestCounter, metrics=daemon.metrics)
    app.add_middleware(RequestLog, daemon=daemon, routes=routes)
    app.add_middleware(ForwardedClient, server=settings.server)
    app.router.routes.extend(_routes())
    dashboard.install(app)
    return app


class App(FastAPI):
    """The application, whose every answer has `SafeHeaders`, also that to an exception."""

    def openapi(self) -> dict[str, Any]:
        """Return the document that /openapi.json serves."""
        if self.openapi_schema is None:
            server = self.state.daemon.settings.server
            has_token = server.token is not None or bool(server.external_urls)
            self.openapi_schema = complete(super().openapi(), is_open=is_open, has_token=has_token)
        return self.openapi_schema

    def build_middleware_stack(self) -> ASGIApp:
        """Return FastAPI's stack, wrapped."""
        return SafeHeaders(super().build_middleware_stack())


@cache
def _routes() -> list[BaseRoute]:
    """Return the routes of all resources, made once in a process: they belong to no app and find the daemon in its."""
    router = APIRouter(responses=EVERYWHERE, dependencies=[Depends(require_allowed)])
    for one in EVERY_ROUTER:
        router.include_router(one)
    return router.routes


def compose(settings: Settings, **overrides: Unpack[ComponentOverrides]) -> Daemon:
    """Return the daemon with all its components; none of them runs yet. Raises as `create_app` does."""
    lock = DataLock(settings.data_dir)
    finish(settings.data_dir)
    clear_scratch(settings.data_dir)
    make_private(settings.data_dir)
    starts = StartupFailures(settings.data_dir / STARTS_NAME)
    starts.begin()
    try:
        return _connect(settings, lock, starts, overrides)
    except BaseException as error:
        if isinstance(error, LarsError):
            starts.exclude()
        lock.release()
        raise


def _connect(settings: Settings, lock: DataLock, starts: StartupFailures, overrides: ComponentOverrides) -> Daemon:
    (clock, db), store = open_database(settings), AdapterStore(settings.adapters_dir)
    command, memory_limit = overrides.get("worker_command", DEFAULT_COMMAND), overrides.get("memory_limit", GUARD_ONLY)
    worker = WorkerProcess(command, memory_limit=memory_limit, records=settings.elsewhere_dir)
    worker.use(settings.training)
    preemption = RequestPreemption(worker, settings.idle.resume_s)
    model_host = _model_host(settings, store, starts, preemption, overrides)
    find_base, base_only = model_host.require_model, starts.safe_mode
    switch = AdapterSwitch(store, model_host.engine, model_host.opened_engine, find_base, base_only=base_only)
    own = lambda: [pid for pid in (model_host.endpoint_pid, worker.pid) if pid is not None]  # noqa: E731
    device = DeviceReader(settings.data_dir, own, preemption.quiet_s, worker.running_threads)
    profiles, window = Profiles(db, store), ScheduleWindow(settings.schedule)
    monitor = IdleMonitor(settings, worker, read_state=device.read_device_state, window=window.state)
    periodic = BackgroundScheduler(timezone=UTC)
    housekeeper = Housekeeper(settings, db, store, switch, periodic, clock.for_ages, monitor.is_idle)
    context = CycleContext(settings, db, store, find_base, switch)
    leftovers = Leftovers(settings.elsewhere_dir, periodic)
    on_end = partial(_after_job, housekeeper, leftovers)
    supervisor = Supervisor(context, worker, watching=monitor.watching, on_end=on_end)
    schedule = NightlyScheduler(
        window, supervisor, db.scheduled_runs, profiles.names, monitor.decide_start, periodic, clock.is_behind
    )
    return Daemon(
        settings=settings,
        source=overrides.get("source") or SettingsSource(fixed=settings.model_dump()),
        lock=lock,
        clock=clock,
        db=db,
        store=store,
        profiles=profiles,
        worker=worker,
        preemption=preemption,
        model_host=model_host,
        model_pull=ModelPull(str(settings.data_dir)),
        switch=switch,
        recorder=Recorder(db, settings.learning),
        supervisor=supervisor,
        schedule=schedule,
        idle_monitor=monitor,
        starts=starts,
        periodic=periodic,
        housekeeper=housekeeper,
        leftovers=leftovers,
        eraser=Eraser(context, supervisor, housekeeper),
        ratings=RatingsWatch(context, periodic),
        sessions=Sessions(db, AccessToken(settings.server, settings.data_dir)),
        backups=Backups(settings, lambda: model_host.installed, periodic, clock.now, clock.is_behind),
    )


def _after_job(housekeeper: Housekeeper, leftovers: Leftovers) -> None:
    """Go on with what has waited for the end of a job: feedback may have been deleted while it worked with that."""
    housekeeper.forget_soon()
    leftovers.clean_soon()


def open_database(settings: Settings) -> tuple[Clock, Database]:
    """Return the clock of what is recorded, and the database."""
    clock = Clock(settings.data_dir / CLOCK_NAME)
    db = Database(settings.database_path, clock.now)
    clock.begin(db.newest)
    return clock, db


def _model_host(
    settings: Settings,
    store: AdapterStore,
    starts: StartupFailures,
    preemption: RequestPreemption,
    overrides: ComponentOverrides,
) -> ModelHost:
    def report(message: str) -> None:
        log.info("model_pull", message=message)
        host.loading = message

    host = ModelHost(
        store,
        overrides.get("find_model") or partial(find_model, settings, report),
        overrides.get("open_engine") or partial(open_engine, settings),
        keep_alive_s=settings.runtime.keep_alive_s,
        base_only=starts.safe_mode,
        on_busy=preemption.set_busy,
    )
    return host


def find_model(settings: Settings, on_progress: Callable[[str], None]) -> InstalledModel:
    """Return the model that the settings name, or that `lars-agent model use` chose; fetch it if it is missing."""
    library = ModelLibrary(settings.models_dir)
    chosen = library.current() if settings.model.name == DEFAULT_MODEL else None
    return chosen or library.pull(settings.model.name, on_progress)


def open_engine(settings: Settings, installed: InstalledModel) -> EngineClient:
    """Open the generation engine on an installed model, in a process of its own."""
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
        costs_file=str(settings.costs_file),
    )
    return EngineClient(options)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    daemon: Daemon = app.state.daemon
    daemon.start()
    try:
        yield
    finally:
        await run_in_threadpool(daemon.close)
