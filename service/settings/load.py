"""All settings together, and where they come from; each one is described in `sections.py`.

`Settings(...)` holds just what it is given; `load_settings` reads the machine: files, then what was changed over the
API, then the environment, then what the command line says, the later wins.
"""

from __future__ import annotations

import ctypes
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from lars_agent.errors import ConfigError
from lars_agent.files import read_plain, write_atomically
from lars_agent.lars.config import LarsConfig
from lars_agent.records import parse_json
from lars_agent.training.curate import CurationPolicy
from lars_agent.training.gate import GatePolicy
from service.settings.backup import Backup
from service.settings.sections import (
    Idle,
    Learning,
    Log,
    Memory,
    Model,
    Recall,
    Retention,
    Runtime,
    Schedule,
)
from service.settings.server import Server
from service.settings.training import Training

ENV_PREFIX = "LARS_AGENT_"
SYSTEM_FILE = Path("/etc/lars-agent/config.toml")
USER_FILE = Path("~/.config/lars-agent/config.toml")
CHANGES_FILE = "settings.json"  # in the state folder; the files that people write stay as they are
CHANGED = "the settings page"
CLIENT_VARIABLES = frozenset(
    {"LARS_AGENT_BACKUP_PASSPHRASE", "LARS_AGENT_TOKEN", "LARS_AGENT_URL"}
)  # read by the command line
TOKEN_VARIABLES = frozenset({"LARS_AGENT_TOKEN", "LARS_AGENT_SERVER", "LARS_AGENT_SERVER__TOKEN"})

Layer = tuple[str, Mapping[str, Any]]  # where settings come from, and what they are


def default_data_dir() -> Path:
    """Return the service's state folder (`$STATE_DIRECTORY`), or the user's data folder."""
    state_directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state_directory) if state_directory else platformdirs.user_data_path("lars-agent")


class Settings(BaseSettings):
    """All settings of the daemon."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, protected_namespaces=()
    )

    data_dir: Path = Field(default_factory=default_data_dir, description="Folder of the database, models and adapters.")
    server: Server = Server()
    model: Model = Model()
    memory: Memory = Memory()
    lars: LarsConfig = LarsConfig()
    training: Training = Training()
    gate: GatePolicy = GatePolicy()
    curation: CurationPolicy = CurationPolicy()
    schedule: Schedule = Schedule()
    idle: Idle = Idle()
    runtime: Runtime = Runtime()
    recall: Recall = Recall()
    learning: Learning = Learning()
    retention: Retention = Retention()
    backup: Backup = Backup()
    log: Log = Log()

    @property
    def worker_bytes(self) -> int:
        """Return the training worker's budget: the whole budget less the endpoint's prefix cache."""
        return max(1, self.memory.budget_bytes - self.runtime.prefix_cache_bytes)

    @property
    def database_path(self) -> Path:
        """Return the path of the SQLite file."""
        return self.data_dir / "lars-agent.db"

    @property
    def adapters_dir(self) -> Path:
        """Root of the adapter store."""
        return self.data_dir / "adapters"

    @property
    def jobs_dir(self) -> Path:
        """Root of the job directories."""
        return self.data_dir / "jobs"

    @property
    def elsewhere_dir(self) -> Path:
        """Folder of the records of what may be left on other machines."""
        return self.data_dir / "elsewhere"

    @property
    def costs_file(self) -> Path:
        """Return the path of the measured costs of a training step on this device."""
        return self.data_dir / "costs.json"

    @property
    def models_dir(self) -> Path:
        """Root of the installed base models."""
        return self.data_dir / "models"

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # pydantic-settings passes the sources by name
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **others: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the arguments only; `load_settings` reads files and environment."""
        return (init_settings,)


@dataclass(frozen=True)
class SettingsSource:
    """Where settings come from: files, what was changed over the API, the environment, the command line.

    Attributes:
        config_file: replaces the user's file.
        overrides: of the command line, nested as the sections are: `{"server": {"port": 80}}`.
        fixed: values in place of this machine's files and environment.
        taken: of the environment that the process had at its start, see `take_token`.
    """

    config_file: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] | None = None
    taken: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Settings:
        """Return the settings. Raises ConfigError with the key's origin."""
        return settings_of(self.layers())

    def take_token(self) -> SettingsSource:
        """Remove the token from the environment, which child processes inherit, and return a source that knows it."""
        held = {name: section for name, section in _read_environment().items() if name == "server"}
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_void_p
        for name in [name for name in os.environ if name.upper() in TOKEN_VARIABLES]:
            value = libc.getenv(os.fsencode(name))
            if value is not None:  # the kernel shows the environment of the start: /proc/PID/environ
                ctypes.memset(value, 0, len(os.fsencode(os.environ[name])))
            del os.environ[name]
        return replace(self, taken=held)

    def layers(self, changes: Mapping[str, Any] | None = None) -> list[Layer]:
        """Return all that is set, what wins last; `changes` stand for those that were made over the API."""
        if self.fixed is not None:
            below, above = [("the program", self.fixed)], list[Layer]()
        else:
            files = [SYSTEM_FILE, self.config_file or USER_FILE.expanduser()]
            below = [_read_file(file, required=file is self.config_file) for file in files]
            above = [("the environment", _merge(self.taken, _read_environment())), ("the command line", self.overrides)]
        data_dir = Path(_merged([*below, *above]).get("data_dir") or default_data_dir())
        own = self.changes(data_dir) if changes is None else changes
        return [*below, (CHANGED, own), *above]

    def changes(self, data_dir: Path) -> dict[str, Any]:
        """Return what was changed over the API. Raises ConfigError."""
        file = data_dir / CHANGES_FILE
        try:
            changes = parse_json(read_plain(file))
        except (
            FileNotFoundError,
            NotADirectoryError,
            PermissionError,
        ):  # there are none, or the service's are not ours
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{file} cannot be read: {error}; delete it to undo what was changed there") from error
        if not isinstance(changes, dict):
            raise ConfigError(f"{file} holds no settings; delete it")
        return changes

    def with_changes(self, data_dir: Path, values: Mapping[str, Any]) -> tuple[dict[str, Any], Settings]:
        """Return the changes with these `values` too, by key (`schedule.cron`; None takes one back), and the settings.

        Writes nothing. Raises ConfigError.
        """
        changes = {name: dict(section) for name, section in self.changes(data_dir).items()}
        for name, value in values.items():
            section, _, key = name.partition(".")
            changes.setdefault(section, {}).pop(key, None)
            if value is not None:
                changes[section][key] = value
        kept = {name: section for name, section in changes.items() if section}
        return kept, settings_of(self.layers(kept))


def write_changes(data_dir: Path, changes: Mapping[str, Any]) -> None:
    """Keep what was changed over the API for the next start. Raises DiskFull, ConfigError if it cannot be written."""
    file = data_dir / CHANGES_FILE
    try:
        write_atomically(file, json.dumps(changes, indent=1) + "\n")
    except OSError as error:
        advice = "check the owner of its folder, and that its disk is not mounted read-only"
        raise ConfigError(f"the change cannot be kept in {file} ({error.strerror}); {advice}") from error


def load_settings(config_file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Load this machine's settings, see `SettingsSource`. Raises ConfigError with the key's origin."""
    return SettingsSource(config_file, overrides or {}).load()


def settings_of(layers: Sequence[Layer]) -> Settings:
    """Return the settings that the layers make, the last winning. Raises ConfigError with the key's origin."""
    try:
        return Settings(**_merged(layers))
    except ValidationError as error:
        raise ConfigError(_describe(error, layers)) from error


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged = _merge(merged, layer)
    return merged


def _read_file(file: Path, *, required: bool) -> Layer:
    """Return the settings in `file`; none if it is missing and not `required`."""
    try:
        return str(file), tomllib.loads(read_plain(file).decode())
    except FileNotFoundError as error:
        if required:
            raise ConfigError(f"there is no configuration file {file}") from error
        return str(file), {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration file {file} cannot be read: {error}") from error


def _read_environment() -> Mapping[str, Any]:
    """Return the settings in `LARS_AGENT_*` variables."""
    for variable in sorted(os.environ):
        name = variable.removeprefix(ENV_PREFIX).split("__")[0].lower()
        ours = variable.startswith(ENV_PREFIX) and variable not in CLIENT_VARIABLES
        if ours and name not in Settings.model_fields:
            raise ConfigError(f"unknown setting {name!r} (in the environment variable {variable})")
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise ConfigError(f"the environment: {error}") from error


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above` put in, table by table."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(value, Mapping) and isinstance(under, Mapping) else value
    return merged


def _describe(error: ValidationError, layers: Sequence[Layer]) -> str:
    """Return the first problem as one line: the key, the problem, and the file or variable."""
    problem = error.errors(include_url=False, include_context=False)[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        message = f"unknown setting {key!r}"
    else:
        message = f"{key}: {problem['msg'].removeprefix('Value error, ')}"
        shown = problem["input"]
        message += f", not {shown!r}" if isinstance(shown, (str, int, float)) and "token" not in key else ""
    origin = origin_of(path[:2], layers)
    return f"{message} (in {origin})" if origin else message


def origin_of(path: Sequence[str], layers: Sequence[Layer]) -> str | None:
    """Return where a key's value comes from: the last of the layers that sets it; None for the default."""
    return next((name for name, layer in reversed(layers) if _holds(layer, path)), None)


def _holds(layer: Any, path: Sequence[str]) -> bool:
    """Return True if `layer` sets `path` (a section and its key)."""
    return not path or (isinstance(layer, Mapping) and path[0] in layer and _holds(layer[path[0]], path[1:]))
