"""A worker that learns nothing but keeps the seam: job directory in, progress, checkpoint, candidate and result out.

    standin_worker.py [--reply LOSS] [--text LOSS] [--wait FILE] [--crash-at STEP] [--hang-at STEP] [--error TYPE]
                      [--deaf] JOB_DIR

`--wait`: steps go on until FILE exists. `--hang-at`: none comes after STEP, unless it has been resumed from there.
`--deaf`: SIGTERM is not heard.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 5


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reply", type=float, default=1.0)
    parser.add_argument("--text", type=float, default=3.0)
    parser.add_argument("--wait", type=Path)
    parser.add_argument("--crash-at", type=int)
    parser.add_argument("--hang-at", type=int)
    parser.add_argument("--error")
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("folder", type=Path)
    return parser.parse_args()


def checkpoint(folder: Path, step: int) -> None:
    (folder / f"checkpoint-{step}").mkdir(exist_ok=True)


def last_checkpoint(folder: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), default=0)


def append_progress(folder: Path, step: int, **values: object) -> None:
    line = {"time": time.time(), "phase": "training", "step": step, "steps": STEPS, "loss": 1.0, "pid": os.getpid()}
    line["elapsed_s"] = time.monotonic()
    with (folder / "progress.jsonl").open("a") as file:
        file.write(json.dumps({**line, **values}) + "\n")


def write_result(folder: Path, **values: object) -> None:
    temp = folder / ".result.tmp"
    temp.write_text(json.dumps({"steps": STEPS, "peak_bytes": 123_456, **values}))
    temp.rename(folder / "result.json")


def main() -> int:
    asked = parse()
    folder, stopping = asked.folder, []
    signal.signal(signal.SIGTERM, lambda *_: None if asked.deaf else stopping.append(True))
    assert folder.name.startswith(json.loads((folder / "job.json").read_text())["job_id"])  # elsewhere more is added
    step = last_checkpoint(folder)
    how = {"nice": os.nice(0), "scheduler": os.sched_getscheduler(0), "threads": os.environ["OMP_NUM_THREADS"]}
    append_progress(folder, step, resumed=step, **how)
    while step < STEPS or (asked.wait and not asked.wait.exists()):
        step += 1
        if step == asked.crash_at:
            raise MemoryError("the stand-in was told to crash")
        append_progress(folder, step)
        checkpoint(folder, step)
        if step == asked.hang_at:
            time.sleep(600)
        if stopping:
            return 75
        time.sleep(0.02)
    if asked.error:
        write_result(folder, status="failed", error="the budget cannot hold it", error_type=asked.error)
        return 0
    (folder / "candidate").mkdir(exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / "candidate" / name).write_text(f"{name} of {folder.name}")
    incumbent = {"reply_loss": 2.0, "text_loss": 3.0}
    candidate = {"reply_loss": asked.reply, "text_loss": asked.text}
    write_result(
        folder, status="succeeded", candidate=candidate, incumbent=incumbent, base=incumbent, losses={"train": 0.5}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
