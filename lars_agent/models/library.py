"""Installed base models: pull, check, select.

    <folder>/smollm2-135m-instruct/   config.json, *.safetensors, tokenizer.json, model.json
    <folder>/downloads/<name>/        complete files of an unfinished pull, for the next attempt
    <folder>/current                  the name of the selected model
    <folder>/.<name>.lock             flock of the process that pulls a model of that name
    <folder>/.<name>.tmp/             temporary folder of a pull; left by a killed one, removed by the next
    <folder>/.<name>.removed/         a model that is being deleted; left by a killed removal, see `sweep`

A model is built in a temporary folder and renamed when it is complete. It is named after the last part of its
reference, followed by a hash of the reference if another model has that name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lars_agent.errors import ModelCorrupt, ModelNotFound
from lars_agent.files import fsync_folder, make_folder, publish_folder, raise_disk_full, read_plain, write_atomically
from lars_agent.models import sources
from lars_agent.models.check import check_folder
from lars_agent.models.hub import Progress
from lars_agent.models.sources import Source
from lars_agent.models.weights import MODEL_FILE, weight_files, weights_digest
from lars_agent.records import from_json, parse_json, record

CURRENT_FILE = "current"
NAME = re.compile(r"\w[\w.-]{0,219}", re.ASCII)  # of a folder; see `lars_agent.models.sources`
DOWNLOADS = "downloads"


@record("model", ModelCorrupt)
class InstalledModel:
    """A base model on this device; model.json holds all fields but `folder`.

    Attributes:
        reference: the argument of its pull; `revision` is the commit or checksum that it was resolved to.
        sha256: the digest of its weights (`lars_agent.models.weights.weights_digest`).
        bytes: size of its folder. `installed`: ISO 8601, UTC.
        limits: reasons why it is not good for everything.
    """

    name: str
    folder: Path
    reference: str
    revision: str | None
    sha256: str
    bytes: int
    installed: str
    limits: tuple[str, ...] = ()


class ModelLibrary:
    """The models under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def pull(self, reference: str = sources.DEFAULT, progress: Progress | None = None) -> InstalledModel:
        """Install the model of `reference` unless it is installed, and return it.

        `reference` is `default`, a hub id (`org/name`, `org/name@revision`), a Hugging Face folder or a `.gguf` file.
        `progress` receives a message for each step. Raises Offline, ModelCorrupt, ModelIncomplete, ModelNotFound,
        ModelUnsupported or DiskFull, and then nothing is installed.
        """
        source, on_progress = sources.resolve(reference), progress or (lambda message: None)
        installed = self._find(source)
        if installed is None:
            with self._lock(source.name, on_progress):
                installed = self._find(source) or self._install(source, on_progress)
        return installed

    def list(self) -> list[InstalledModel]:
        """Return the installed models, by name."""
        records = sorted(self.folder.glob(f"*/{MODEL_FILE}")) if self.folder.is_dir() else []
        return [self._read(record.parent) for record in records if not record.parent.name.startswith(".")]

    def get(self, reference: str) -> InstalledModel:
        """Return the model installed from `reference`, else that of this name. Raises ModelCorrupt, ModelNotFound."""
        with contextlib.suppress(ModelNotFound):
            if (model := self._find(sources.resolve(reference))) is not None:
                return model
        return self._named(reference)

    def use(self, reference: str) -> InstalledModel:
        """Select the model for the daemon's next start. Raises ModelNotFound."""
        model = self.get(reference)
        write_atomically(self.folder / CURRENT_FILE, model.name + "\n")
        return model

    def current(self) -> InstalledModel | None:
        """Return the model selected by `use`, None if there is none. Raises ModelNotFound if it was removed."""
        path = self.folder / CURRENT_FILE
        return self._named(read_plain(path).decode(errors="replace").strip()) if path.is_file() else None

    def sweep(self) -> None:
        """Delete what a killed `remove` left."""
        for leftover in self.folder.glob(".*.removed"):
            shutil.rmtree(leftover, ignore_errors=True)

    def remove(self, reference: str) -> int:
        """Delete the model, with what is left of its downloads; return the bytes freed. Raises ModelNotFound."""
        model = self.get(reference)
        current = self.folder / CURRENT_FILE
        if current.is_file() and read_plain(current).decode(errors="replace").strip() == model.name:
            current.unlink()
        doomed, downloads = self.folder / f".{model.name}.removed", self.folder / DOWNLOADS / model.name
        model.folder.rename(doomed)
        fsync_folder(self.folder)
        freed = sum(_size(folder) for folder in (doomed, downloads))
        shutil.rmtree(doomed)
        shutil.rmtree(downloads, ignore_errors=True)
        return freed

    def verify(self, reference: str) -> InstalledModel:
        """Check the weights against their recorded digest. Raises ModelCorrupt, ModelIncomplete."""
        model = self.get(reference)
        digest = weights_digest(weight_files(model.folder))
        if digest != model.sha256:
            raise ModelCorrupt(
                f"the weights in {model.folder} have changed since they were installed ({digest[:12]}...); "
                f"remove the folder and run: lars-agent model pull {model.reference}"
            )
        return model

    def _find(self, source: Source) -> InstalledModel | None:
        """Return the model installed from `source` under either name; None if there is none."""
        folders = [self.folder / name for name in (source.name, source.unique_name)]
        models = [self._read(folder) for folder in folders if (folder / MODEL_FILE).is_file()]
        return next((model for model in models if source.matches(model.reference)), None)

    def _named(self, name: str) -> InstalledModel:
        """Return the installed model of that name. Raises ModelNotFound."""
        if NAME.fullmatch(name) and (self.folder / name / MODEL_FILE).is_file():
            return self._read(self.folder / name)
        raise ModelNotFound(f"no model {name!r} in {self.folder}; run: lars-agent model pull {name}")

    @contextlib.contextmanager
    def _lock(self, name: str, on_progress: Progress) -> Iterator[None]:
        """Hold the lock for pulls of that name, waiting for other processes."""
        path = make_folder(self.folder) / f".{name}.lock"
        with raise_disk_full(path):
            lock = path.open("ab")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_progress(f"waiting for another pull of {name} to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _install(self, source: Source, on_progress: Progress) -> InstalledModel:
        """Fetch, check and publish the model of `source` under its own name, or its unique one if that is taken."""
        taken = source.name in (CURRENT_FILE, DOWNLOADS) or os.path.lexists(self.folder / source.name)
        name = source.unique_name if taken else source.name
        downloads = make_folder(self.folder / DOWNLOADS / name)
        temp = self.folder / f".{name}.tmp"
        shutil.rmtree(temp, ignore_errors=True)
        try:
            with raise_disk_full(temp):
                revision = source.build(downloads, make_folder(temp), on_progress)
            self._complete(temp, name, source.reference, revision, on_progress)
            publish_folder(temp, self.folder / name)
            shutil.rmtree(downloads, ignore_errors=True)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
            with contextlib.suppress(OSError):
                downloads.rmdir()  # only if empty
        installed = self._read(self.folder / name)
        limits = "".join(f"; {limit}" for limit in installed.limits)
        on_progress(f"installed {installed.name}, {installed.bytes / 2**20:,.0f} MiB{limits}")
        return installed

    def _complete(self, temp: Path, name: str, reference: str, revision: str | None, on_progress: Progress) -> None:
        """Check that the folder is a complete model and write its model.json."""
        weight_files(temp)
        on_progress("checking that it replies and learns as it should")
        limits = check_folder(temp)
        on_progress("checking the weights")
        record = {
            "name": name,
            "reference": reference,
            "revision": revision,
            "sha256": weights_digest(weight_files(temp)),
            "bytes": _size(temp),
            "installed": datetime.now(UTC).isoformat(timespec="seconds"),
            "limits": limits,
        }
        write_atomically(temp / MODEL_FILE, json.dumps(record, indent=2) + "\n")

    def _read(self, folder: Path) -> InstalledModel:
        try:
            values = parse_json(read_plain(folder / MODEL_FILE))
            return from_json(InstalledModel, {"folder": folder, **values})
        except (OSError, ValueError, TypeError, ModelCorrupt) as error:
            raise ModelCorrupt(
                f"{folder / MODEL_FILE} cannot be read ({error}); remove its folder and pull the model again"
            ) from error


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
