"""The training worker of a daemon whose disk becomes full: `python -m bench.faulty_worker JOB_DIR`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench.faults_filling import fill_at_write, fill_once
from bench.faulty_daemon import Fault
from lars_agent.training.worker import main as work

if __name__ == "__main__":
    fault = Fault.told()
    kind, _, what = (fault.fill_at or "").partition(" ")
    if kind == "file":
        fill = fill_once(Path(fault.filler or ""), Path(fault.report), what)
        fill_at_write(Path(os.environ["LARS_AGENT_DATA_DIR"]), what, fill)
    sys.exit(work(sys.argv[1:]))
