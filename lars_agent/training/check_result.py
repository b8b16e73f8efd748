"""Check what another machine made of a job: `python -m lars_agent.training.check_result JOB_DIR RESULT_DIR`.

The candidate in JOB_DIR is loaded as strictly as any adapter of somebody else's: plain files, the job's own
configuration, tensors of the base model's names and shapes, no numbers that training does not make. The result.json in
RESULT_DIR may name only examples of the job. Exit status: 0, or 1 with the error as JSON on stdout.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lars_agent.errors import AdapterIncompatible, JobInvalid, LarsError, serialize_error
from lars_agent.lars.state import load_adapter, read_config
from lars_agent.models.open import empty_model
from lars_agent.training.job_directory import CANDIDATE, TRAIN_FILE, JobSpec, read_examples, read_result


def check_result(folder: Path, result_folder: Path) -> None:
    """Raise JobInvalid for a result, AdapterCorrupt or AdapterIncompatible for a candidate that the job cannot have."""
    spec, result = JobSpec.read(folder), read_result(result_folder)
    if result is None or result.candidate is None or result.incumbent is None:
        raise JobInvalid("the result holds no scores")
    known = {example.source_id for example in read_examples(folder / TRAIN_FILE)}
    if strange := set(result.learned) - known:
        raise JobInvalid(f"the result names {min(strange)!r:.100}, which is no example of the job")
    if read_config(folder / CANDIDATE) != spec.lars:
        raise AdapterIncompatible("the candidate has another configuration than the job")
    load_adapter(empty_model(Path(spec.model_path)), folder / CANDIDATE)


def main(arguments: list[str]) -> int:
    """Check the folders in `arguments`, and return the exit status."""
    try:
        check_result(*map(Path, arguments))
    except (LarsError, OSError) as error:
        found = error if isinstance(error, LarsError) else JobInvalid(str(error))
        sys.stdout.write(json.dumps(serialize_error(found)) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
