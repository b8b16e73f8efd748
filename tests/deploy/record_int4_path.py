"""Note the figures of `bench.serve.int4_path` that an emulated processor printed: `record_int4_path.py FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.__main__ import PROGRAM
from bench.record import RESULTS, circumstances
from bench.serve.parts import RUNS
from bench.suite import Suite

if __name__ == "__main__":
    figures = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()[-1])
    RUNS.append(RESULTS, {"part": "int4_path", "figures": figures, **circumstances()})
    Suite("serve", f"{PROGRAM} serve", (RUNS,)).write(RESULTS)
