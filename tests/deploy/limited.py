"""Stands for the daemon in `limit_in_vm.sh`: its real cgroup and its real worker process, but no model and no torch.

GET /                   process id, and what holds the worker
GET /run/MIB/SECONDS    a worker has taken MIB under a budget of BUDGET_MIB, slept, and ended: how
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from service.worker.memory_limit import MemoryLimit, memory_limit
from service.worker.process import WorkerProcess

BUDGET_MIB = 128
PORT = 8321
WORKER = """
import sys, time
taken = [bytearray(b"x" * 2**20) for _ in range(int(sys.argv[1]))]
time.sleep(float(sys.argv[2]))
"""


def run(limit: MemoryLimit, mib: str, seconds: str) -> dict[str, Any]:
    worker = WorkerProcess((sys.executable, "-c", WORKER, mib, seconds), memory_limit=limit)
    with tempfile.TemporaryDirectory() as name:
        ending = worker.run(Path(name), BUDGET_MIB * 2**20)
        record = json.loads((Path(name) / "worker.json").read_text())
    assert ending is not None
    return {
        **record,
        "exit_status": ending.exit_status,
        "peak_bytes": ending.limit.peak_bytes,
        "words": str(ending.failure()),
    }


def handler(limit: MemoryLimit) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.path.strip("/").split("/")
            state = {"pid": os.getpid(), "limit": limit.kind, "reason": limit.reason}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(run(limit, *asked[1:]) if asked[0] == "run" else state).encode())

    return Handler


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), handler(memory_limit())).serve_forever()
