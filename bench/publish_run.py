"""Publishes versions of the default profile, none in use: `python -m bench.publish_run MODEL STORE COUNT`."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.engine_run import publish
from lars_agent.lars import LarsConfig
from lars_agent.models.open import open_model, precision
from lars_agent.store.adapters import AdapterStore


def main(arguments: list[str]) -> int:
    """The exit status."""
    model, folder, count = arguments
    store, opened = AdapterStore(Path(folder)), open_model(Path(model), *precision("bfloat16"))
    for seed in range(int(count)):
        publish(store, opened, "default", LarsConfig(), seed)
    store.activate("default", None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
