"""Every setting, its default and its unit.

`Settings(...)` holds just what it is given; `load_settings` reads the machine: files, then the environment, then what
the command line says, the later wins.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from lars_agent.errors import ConfigError

ENV_PREFIX = "LARS_AGENT_"
SYSTEM_FILE = Path("/etc/lars-agent/config.toml")
USER_FILE = Path("~/.config/lars-agent/config.toml")
CLIENT_VARIABLES = frozenset({"LARS_AGENT_CONFIG", "LARS_AGENT_TOKEN", "LARS_AGENT_URL"})  # read by the command line

Layer = tuple[str, Mapping[str, Any]]  # where settings come from, and what they are


def default_data_dir() -> Path:
    """The folder systemd gives the service (`$STATE_DIRECTORY`), or the user's own data folder."""
    state_directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state_directory) if state_directory else platformdirs.user_data_path("lars-agent")


def is_loopback(host: str) -> bool:
    """Whether `host` is this device and cannot be reached from another."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Section(BaseModel):
    """A table of the configuration file; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(Section):
    """Where the daemon listens, and whom it answers."""

    host: str = Field(
        default="127.0.0.1", description="Address to listen on. Anything but this device itself needs a token."
    )
    port: int = Field(default=8321, ge=0, le=65535, description="TCP port; 0 for any free one.")
    max_body_bytes: int = Field(default=1_000_000, ge=1, description="Largest request body, bytes.")
    max_import_bytes: int = Field(default=64_000_000, ge=1, description="Largest body of POST /feedback/import, bytes.")
    allowed_hosts: tuple[str, ...] = Field(
        default=("localhost", "127.0.0.1", "[::1]"),
        description="Host names (without port) by which the daemon may be called; `host` is always one of them.",
    )
    token: SecretStr | None = Field(
        default=None, min_length=1, description="Bearer token every request must carry; none if unset."
    )

    @model_validator(mode="after")
    def _stranger_needs_token(self) -> Self:
        if self.token is None and not is_loopback(self.host):
            raise ValueError(f"server.host {self.host!r} can be reached from other devices; set server.token first")
        return self


class Model(Section):
    """The base model."""

    name: str = Field(
        default="default", min_length=1, description="Installed model to serve: `default`, a hub id, a folder."
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="Compute type of the base model; auto is bfloat16 where the processor has it."
    )


class Memory(Section):
    """The one dial from which a training plan follows."""

    budget_bytes: int = Field(
        default=2 * 1024**3, ge=1, description="Peak resident memory of the training worker, bytes."
    )


class Lars(Section):
    """Shape of the adapters, as `lars_agent.lars.config.LarsConfig`."""

    rank: int = Field(default=16, ge=1, description="Width of the activation-rank subspace.")
    pooling: Literal["sequence", "learned", "prompt", "response", "causal"] = Field(
        default="response", description="What each adapted layer reads."
    )
    token_term: bool = Field(default=True, description="Whether the adapter also sees each token.")
    chunk: int = Field(default=16, ge=1, description="Tokens in a chunk of `causal` pooling.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Probability of dropping a rank while training.")
    scale: float = Field(default=0.5, allow_inf_nan=False, description="Initial weight of the adapter's output.")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description="Layers to adapt, as PEFT names them."
    )


class Training(Section):
    """How an adapter is trained, as `lars_agent.training.loop.TrainConfig`, and on how many threads."""

    steps: int = Field(default=160, ge=1, description="Optimizer steps.")
    batch_size: int = Field(default=8, ge=1, description="Examples read at once.")
    accumulation: int = Field(default=1, ge=1, description="Batches in one step.")
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False, description="Peak learning rate.")
    weight_decay: float = Field(
        default=0.01, ge=0, allow_inf_nan=False, description="AdamW's weight decay, on matrices only."
    )
    warmup_steps: int = Field(default=10, ge=0, description="Steps until the peak learning rate.")
    clip_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="Largest 2-norm of the gradient.")
    evaluate_every: int = Field(default=20, ge=1, description="Steps between two held-out measurements.")
    checkpoint_every: int = Field(default=20, ge=1, description="Steps between two checkpoints.")
    patience: int = Field(
        default=0, ge=0, description="Measurements without a better held-out loss before stopping; 0 is off."
    )
    rehearsal_batch: int = Field(default=1, ge=0, description="Passages of general text in a step; 0 is off.")
    rehearsal_weight: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="How much staying like the base model counts on them."
    )
    max_seq_len: int = Field(default=1024, ge=1, description="Longest prompt and reply together, tokens.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of the adapter, the data order and the dropout.")
    threads: int = Field(default=0, ge=0, description="Threads of the training worker; 0 for every core.")


class Gate(Section):
    """When a candidate replaces the incumbent, as `lars_agent.training.gate.GatePolicy`."""

    min_reply_gain: float = Field(default=0.02, ge=0, lt=1, description="Least relative fall of the reply loss.")
    max_text_rise: float = Field(
        default=0.03, ge=0, allow_inf_nan=False, description="Largest relative rise of the text loss."
    )


class Curation(Section):
    """Which examples are learned, as `lars_agent.training.curate.CurationPolicy`."""

    max_chars: int = Field(default=16_000, ge=1, description="Longest prompt and reply together, characters.")
    heldout_share: float = Field(default=0.2, ge=0, le=1, description="Share of the examples to judge by.")
    min_heldout: int = Field(default=4, ge=1, description="Least number of examples to judge by.")
    max_heldout: int = Field(default=64, ge=1, description="Largest number of examples to judge by.")


class Schedule(Section):
    """When the device learns by itself."""

    enabled: bool = Field(default=True, description="Whether it learns without being asked.")
    cron: str = Field(default="0 3 * * *", description="Minute, hour, day, month, weekday; five fields, as in crontab.")
    timezone: str | None = Field(
        default=None, description="IANA name such as Europe/Berlin; the device's own if unset."
    )
    misfire_grace_s: int = Field(default=3600, ge=1, description="Seconds by which a run may start late.")


class Runtime(Section):
    """The generation engine."""

    threads: int = Field(default=0, ge=0, description="Threads that generate; 0 for every core.")
    queue_size: int = Field(default=8, ge=1, description="Requests that may wait for their turn.")


class Settings(BaseSettings):
    """All settings of the daemon."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, protected_namespaces=()
    )

    data_dir: Path = Field(default_factory=default_data_dir, description="Folder of the database, models and adapters.")
    server: Server = Server()
    model: Model = Model()
    memory: Memory = Memory()
    lars: Lars = Lars()
    training: Training = Training()
    gate: Gate = Gate()
    curation: Curation = Curation()
    schedule: Schedule = Schedule()
    runtime: Runtime = Runtime()

    @property
    def database_path(self) -> Path:
        """The SQLite file."""
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
    def models_dir(self) -> Path:
        """Root of the installed base models."""
        return self.data_dir / "models"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments alone: reading the machine is `load_settings`' part."""
        return (init_settings,)


def load_settings(config_file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this machine; `config_file` takes the user's file's place.

    `overrides` is nested as the sections are (`{"server": {"port": 80}}`). Raises ConfigError that names the key and
    where it stands.
    """
    files = [SYSTEM_FILE, config_file or USER_FILE.expanduser()]
    layers = [_read_file(file, required=file is config_file) for file in files]
    layers += [("the environment", _read_environment()), ("the command line", overrides or {})]
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged = _merge(merged, layer)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigError(_describe(error, layers)) from error


def _read_file(file: Path, *, required: bool) -> Layer:
    """What `file` sets; nothing if it is missing and not `required`."""
    try:
        return str(file), tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if required:
            raise ConfigError(f"there is no configuration file {file}") from error
        return str(file), {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"the configuration file {file} cannot be read: {error}") from error


def _read_environment() -> Mapping[str, Any]:
    """What `LARS_AGENT_*` variables set."""
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
    """`below` with the values of `above` put in, table by table."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(value, Mapping) and isinstance(under, Mapping) else value
    return merged


def _describe(error: ValidationError, layers: Sequence[Layer]) -> str:
    """The first problem as one line: the key, what is wrong with it, and where it stands."""
    problem = error.errors(include_url=False, include_context=False)[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        words = f"unknown setting {key!r}"
    else:
        words = f"{key}: {problem['msg'].removeprefix('Value error, ')}"
        shown = problem["input"]
        words += f", not {shown!r}" if isinstance(shown, (str, int, float)) and "token" not in key else ""
    origin = next((name for name, layer in reversed(layers) if _holds(layer, path)), None)
    return f"{words} (in {origin})" if origin else words


def _holds(layer: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether `layer` sets the first two parts of `path` (a section and its key)."""
    value: Any = layer
    for part in path[:2]:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True
