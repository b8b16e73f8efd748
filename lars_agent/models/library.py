"""The base models installed on this device: pulled once, checked, and one of them in use.

    <folder>/smollm2-135m-instruct/   config.json, *.safetensors, tokenizer.json, model.json
    <folder>/downloads/               what a pull has fetched so far; it goes on from there, and is removed at the end
    <folder>/current                  the name of the model in use

A model is made in a temporary folder and renamed when it is whole, so there is never half a model.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lars_agent.errors import LarsError, ModelCorrupt, ModelNotFound
from lars_agent.files import make_folder, publish_folder, raise_disk_full, write_atomically
from lars_agent.models import sources
from lars_agent.models.open import MODEL_FILE, open_tokenizer, weight_files, weights_digest

Progress = Callable[[str], None]
CURRENT_FILE = "current"
DOWNLOADS = "downloads"


@dataclass(frozen=True)
class InstalledModel:
    """A base model on this device.

    Attributes:
        reference: what it was pulled by; `revision` is the commit or checksum that this meant at the time.
        sha256: the digest of its weights (`lars_agent.models.open.weights_digest`).
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
        source = sources.resolve(reference)
        with contextlib.suppress(ModelNotFound):
            return self.get(source.name)
        tell = progress or (lambda words: None)
        make_folder(self.folder)
        downloads = make_folder(self.folder / DOWNLOADS / source.name)
        temp = self.folder / f".{source.name}.tmp"
        shutil.rmtree(temp, ignore_errors=True)
        try:
            with raise_disk_full(temp):
                revision = source.build(downloads, make_folder(temp), tell)
            self._seal(temp, source, revision, tell)
            publish_folder(temp, self.folder / source.name)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
        shutil.rmtree(downloads, ignore_errors=True)
        installed = self.get(source.name)
        tell(f"installed {installed.name}, {installed.bytes / 2**20:,.0f} MiB")
        return installed

    def list(self) -> list[InstalledModel]:
        """The installed models, by name."""
        records = sorted(self.folder.glob(f"*/{MODEL_FILE}")) if self.folder.is_dir() else []
        return [self._read(record.parent) for record in records if not record.parent.name.startswith(".")]

    def get(self, reference: str) -> InstalledModel:
        """The installed model of that name or reference. Raises ModelNotFound that says what to run."""
        with contextlib.suppress(LarsError):
            name = sources.resolve(reference).name
            if (self.folder / name / MODEL_FILE).is_file():
                return self._read(self.folder / name)
        if re.fullmatch(r"[\w.-]+", reference) and (self.folder / reference / MODEL_FILE).is_file():
            return self._read(self.folder / reference)
        raise ModelNotFound(f"no model {reference!r} in {self.folder}; run: lars-agent model pull {reference}")

    def use(self, reference: str) -> InstalledModel:
        """The model is the one in use from the daemon's next start on. Raises ModelNotFound."""
        model = self.get(reference)
        write_atomically(self.folder / CURRENT_FILE, model.name + "\n")
        return model

    def current(self) -> InstalledModel | None:
        """The model chosen by `use`, None when none was. Raises ModelNotFound when it has gone."""
        path = self.folder / CURRENT_FILE
        return self.get(path.read_text(encoding="utf-8").strip()) if path.is_file() else None

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

    def _seal(self, temp: Path, source: sources.Source, revision: str | None, tell: Progress) -> None:
        """The folder is checked to be a whole model, and its record is in it."""
        files = weight_files(temp)
        open_tokenizer(temp)
        tell("checking the weights")
        record = {
            "name": source.name,
            "reference": source.reference,
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
            raise ModelCorrupt(f"{folder / MODEL_FILE} cannot be read ({error}); pull the model again") from error
