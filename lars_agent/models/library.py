"""The base models installed on this device: pulled once, checked, and one of them in use.

    <folder>/smollm2-135m-instruct/   config.json, *.safetensors, tokenizer.json, model.json
    <folder>/downloads/<name>/        the files that a pull has fetched whole, for the next attempt; removed at the end
    <folder>/current                  the name of the model in use
    <folder>/.<name>.lock             held by whoever pulls a model of that name, from whatever process
    <folder>/.<name>.tmp/             what a pull is at; left by a dead one, removed by the next

A model is made in a temporary folder and renamed when it is whole, so there is never half a model. It is named after
the last part of its reference; where another reference has that name already, a hash of the reference follows it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lars_agent.errors import ModelCorrupt, ModelNotFound
from lars_agent.files import make_folder, publish_folder, raise_disk_full, write_atomically
from lars_agent.models import sources
from lars_agent.models.check import check_folder
from lars_agent.models.weights import MODEL_FILE, weight_files, weights_digest

Progress = Callable[[str], None]
CURRENT_FILE = "current"
DOWNLOADS = "downloads"


@dataclass(frozen=True)
class InstalledModel:
    """A base model on this device.

    Attributes:
        reference: what it was pulled by; `revision` is the commit or checksum that this meant at the time.
        sha256: the digest of its weights (`lars_agent.models.weights.weights_digest`).
        bytes: size of its folder. `installed`: ISO 8601, UTC.
    """

    name: str
    folder: Path
    reference: str
    revision: str | None
    sha256: str
    bytes: int
    installed: str

    def as_dict(self) -> dict[str, object]:
        """The JSON form."""
        return asdict(self) | {"folder": str(self.folder)}


class ModelLibrary:
    """The models under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def pull(self, reference: str = sources.DEFAULT, progress: Progress | None = None) -> InstalledModel:
        """The model that `reference` means is installed; nothing is fetched if it is there already.

        `reference` is `default`, a hub id (`org/name`, `org/name@revision`), a Hugging Face folder or a `.gguf` file.
        `progress` is told each step in words. Raises Offline, ModelCorrupt, ModelIncomplete, ModelNotFound,
        ModelUnsupported or DiskFull, and then nothing is installed.
        """
        source, tell = sources.resolve(reference), progress or (lambda words: None)
        installed = self._find(source)
        if installed is None:
            with self._pulling(source.name, tell):
                installed = self._find(source) or self._install(source, self._free_name(source), tell)
        return installed

    def list(self) -> list[InstalledModel]:
        """The installed models, by name."""
        records = sorted(self.folder.glob(f"*/{MODEL_FILE}")) if self.folder.is_dir() else []
        return [self._read(record.parent) for record in records if not record.parent.name.startswith(".")]

    def get(self, reference: str) -> InstalledModel:
        """The model installed from that reference, or else the one of that name, which a path never is.

        Raises ModelCorrupt, or ModelNotFound that says what to run.
        """
        with contextlib.suppress(ModelNotFound):
            found = self._find(sources.resolve(reference))
            if found is not None:
                return found
        return self._named(reference)

    def use(self, reference: str) -> InstalledModel:
        """The model is the one in use from the daemon's next start on. Raises ModelNotFound."""
        model = self.get(reference)
        write_atomically(self.folder / CURRENT_FILE, model.name + "\n")
        return model

    def current(self) -> InstalledModel | None:
        """The model chosen by `use`, None when none was. Raises ModelNotFound when it has gone."""
        path = self.folder / CURRENT_FILE
        return self._named(path.read_text(encoding="utf-8").strip()) if path.is_file() else None

    def verify(self, reference: str) -> InstalledModel:
        """Every weight file of the model has the bytes it was installed with. Raises ModelCorrupt, ModelIncomplete."""
        model = self.get(reference)
        digest = weights_digest(weight_files(model.folder))
        if digest != model.sha256:
            raise ModelCorrupt(
                f"the weights in {model.folder} have changed since they were installed ({digest[:12]}...); "
                f"remove the folder and run: lars-agent model pull {model.reference}"
            )
        return model

    def _find(self, source: sources.Source) -> InstalledModel | None:
        """The model installed from the reference of `source`, under whichever name; None where there is none."""
        folders = [self.folder / name for name in (source.name, source.other_name)]
        models = [self._read(folder) for folder in folders if (folder / MODEL_FILE).is_file()]
        return next((model for model in models if source.is_meant_by(model.reference)), None)

    def _named(self, name: str) -> InstalledModel:
        """The installed model of that name. Raises ModelNotFound."""
        if re.fullmatch(r"\w[\w.-]*", name) and (self.folder / name / MODEL_FILE).is_file():
            return self._read(self.folder / name)
        raise ModelNotFound(f"no model {name!r} in {self.folder}; run: lars-agent model pull {name}")

    def _free_name(self, source: sources.Source) -> str:
        """The name that a model of `source` gets: its own, or its other one where that is taken."""
        taken = source.name in (CURRENT_FILE, DOWNLOADS) or os.path.lexists(self.folder / source.name)
        return source.other_name if taken else source.name

    @contextlib.contextmanager
    def _pulling(self, name: str, tell: Progress) -> Iterator[None]:
        """Within the block nobody else pulls a model of that name; `tell` is told if that has to be waited for."""
        path = make_folder(self.folder) / f".{name}.lock"
        with raise_disk_full(path):
            lock = path.open("ab")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"waiting for another pull of {name} to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _install(self, source: sources.Source, name: str, tell: Progress) -> InstalledModel:
        """The model of `source` is fetched, checked and named `name`."""
        downloads = make_folder(self.folder / DOWNLOADS / name)
        temp = self.folder / f".{name}.tmp"
        shutil.rmtree(temp, ignore_errors=True)
        try:
            with raise_disk_full(temp):
                revision = source.build(downloads, make_folder(temp), tell)
            self._seal(temp, name, source.reference, revision, tell)
            publish_folder(temp, self.folder / name)
            shutil.rmtree(downloads, ignore_errors=True)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
            with contextlib.suppress(OSError):
                downloads.rmdir()  # where nothing was fetched, nothing is kept
        installed = self._read(self.folder / name)
        tell(f"installed {installed.name}, {installed.bytes / 2**20:,.0f} MiB")
        return installed

    def _seal(self, temp: Path, name: str, reference: str, revision: str | None, tell: Progress) -> None:
        """The folder is checked to be a whole model, and its record is in it."""
        files = weight_files(temp)
        check_folder(temp)
        tell("checking the weights")
        record = {
            "name": name,
            "reference": reference,
            "revision": revision,
            "sha256": weights_digest(files),
            "bytes": sum(path.stat().st_size for path in temp.rglob("*") if path.is_file()),
            "installed": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_atomically(temp / MODEL_FILE, json.dumps(record, indent=2) + "\n")

    def _read(self, folder: Path) -> InstalledModel:
        try:
            record = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
            return InstalledModel(folder=folder, **record)
        except (OSError, ValueError, TypeError) as error:
            raise ModelCorrupt(
                f"{folder / MODEL_FILE} cannot be read ({error}); remove its folder and pull the model again"
            ) from error
