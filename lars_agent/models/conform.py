"""Store the weights of a pulled model under the names and in the shapes that the model takes them.

Repositories keep older names, experts one by one, or a model without its head's prefix; transformers converts them each
time it loads such files. Here it does so once, so that the files can be mapped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from lars_agent.errors import ModelCorrupt, ModelIncomplete, ModelUnsupported
from lars_agent.files import write_atomically
from lars_agent.models.open import empty_model, unsupported_tensors, untaken
from lars_agent.models.weights import INDEX_FILE, SINGLE_FILE, weight_files
from lars_agent.ops.safetensors_io import TensorFiles, tensor_file


def conform_weights(folder: Path) -> bool:
    """Convert the weights in `folder` if the model would not take them as they are; return True if it did.

    Raises ModelIncomplete, ModelUnsupported for what is left over, or ModelCorrupt.
    """
    files, model = weight_files(folder), empty_model(folder)
    try:
        names = TensorFiles(files).names
    except SafetensorError as error:
        raise ModelCorrupt(f"the weights in {folder} cannot be read ({error}); pull the model again") from error
    lacking = set(model.state_dict()) - set(names) - set(model.all_tied_weights_keys)
    if not lacking and not untaken(model, names):
        return False
    loaded = _loaded(folder)
    tensors = {name: x for name, x in loaded.state_dict().items() if name not in loaded.all_tied_weights_keys}
    for path in files:
        path.unlink()
    (folder / INDEX_FILE).unlink(missing_ok=True)
    write_atomically(folder / SINGLE_FILE, tensor_file(tensors))
    return True


def _loaded(folder: Path) -> PreTrainedModel:
    """Return the model as transformers loads it, if it takes all of the files and they have all of it."""
    options: dict[str, Any] = {"dtype": "auto", "output_loading_info": True}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    except Exception as error:  # its own conversions raise whatever they like
        raise ModelUnsupported(f"transformers does not load the weights in {folder}: {error}") from error
    model: PreTrainedModel = loaded[0]
    unexpected, lacking = (sorted(loaded[1][kind]) for kind in ("unexpected_keys", "missing_keys"))
    if unexpected:
        raise unsupported_tensors(unexpected, folder)
    if lacking:
        count, first = len(lacking), lacking[0]
        raise ModelIncomplete(f"the files in {folder} lack {count} weights, {first!r} first; choose another model")
    return model
