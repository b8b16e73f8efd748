"""What a base model would need, before any weight is fetched: bytes to fetch, on disk, for replies and for training.

Only config.json and the sizes of files are read. A process of its own runs this (`python -m lars_agent.planning.preview
REFERENCE DTYPE BUDGET_BYTES`), so that the daemon does not load torch.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path

from transformers import AutoConfig

from lars_agent.errors import LarsError, ModelUnsupported, serialize_error
from lars_agent.lars.config import LarsConfig
from lars_agent.memory.measure import rss_bytes
from lars_agent.models import hub, sources
from lars_agent.models.arithmetic import precision
from lars_agent.models.weights import refuse_quantized
from lars_agent.planning.planner import ladder, needed_bytes
from lars_agent.planning.shape import ModelShape, shape_of
from lars_agent.planning.workload import Workload

# A usual night: eight short corrections a step, beside a passage of general text.
LESSON, PASSAGE, BATCH = (45, 15), (1, 127), 8  # tokens of prompt and reply; examples of a step
CACHED_TOKENS = 4096  # keys and values of the endpoint's prompts, in 16 bits
MIB = 2**20


@dataclass(frozen=True)
class Preview:
    """Predicted bytes; `training_bytes` is the peak of the fastest plan, `least_training_bytes` the least budget.

    `fits` tells whether the budget that was given allows training.
    """

    reference: str
    name: str
    download_bytes: int
    disk_bytes: int
    serving_bytes: int
    training_bytes: int
    least_training_bytes: int
    fits: bool


def preview(reference: str, dtype: str, budget_bytes: int) -> Preview:
    """Return what the model of `reference` would need under the setting `dtype`.

    Raises ModelNotFound, ModelUnsupported, Offline, ConfigError.
    """
    source = sources.resolve(reference)
    with tempfile.TemporaryDirectory(prefix="lars-agent-preview-") as name:
        folder = Path(name)
        download_bytes = _read_config(source.reference, folder)
        if not source.reference.endswith(".gguf"):  # which is converted to whole weights
            refuse_quantized(folder)
        try:
            number, bits = precision(dtype, folder)
            shape = shape_of(folder, LarsConfig(), number, bits)
            whole = shape_of(folder, LarsConfig())
        except (OSError, ValueError, KeyError) as error:
            raise ModelUnsupported(f"{reference} is no decoder that transformers knows: {error}") from error
    number_bytes, program = number.itemsize, rss_bytes()
    load = Workload(((LESSON,) * BATCH,), number_bytes, program, rehearsals=((PASSAGE,),))
    plans = ladder(shape, load, BATCH)
    return Preview(
        reference=source.reference,
        name=source.name,
        download_bytes=download_bytes,
        disk_bytes=whole.weight_bytes,
        serving_bytes=program + shape.weight_bytes + _cache_bytes(shape),
        training_bytes=plans[0].estimate.peak_bytes,
        least_training_bytes=needed_bytes(plans[-1]),
        fits=needed_bytes(plans[-1]) <= budget_bytes,
    )


def _cache_bytes(shape: ModelShape) -> int:
    return 2 * 2 * shape.layers * shape.key_width * CACHED_TOKENS


def _read_config(reference: str, folder: Path) -> int:
    """Put the model's config.json into `folder` and return how many bytes its pull fetches."""
    path = Path(reference)
    if reference == sources.DEFAULT:
        with as_file(files("lars_agent.data") / "default_model_config.json") as shipped:
            shutil.copyfile(shipped, folder / "config.json")
        return sources.WHEEL_MIB * MIB
    if path.suffix == ".gguf" or path.is_dir():
        try:
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name) if path.is_file() else None
            (config or AutoConfig.from_pretrained(path)).save_pretrained(folder)
        except Exception as error:  # the readers of damaged files have no common base
            raise ModelUnsupported(f"{reference} has no configuration that transformers knows: {error}") from error
        return 0
    return hub.find(reference, folder).bytes


def main(reference: str, dtype: str, budget_bytes: str) -> None:
    """Print the preview as JSON, or a known error, serialized, with exit status 1."""
    try:
        sys.stdout.write(json.dumps(asdict(preview(reference, dtype, int(budget_bytes)))))
    except LarsError as error:
        sys.stdout.write(json.dumps(serialize_error(error)))
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
