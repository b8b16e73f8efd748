"""The part `schemathesis_cases`: requests drawn from the OpenAPI page, with the token and without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from bench.faults.scenario import DaemonUnderTest
from bench.ops.settings import OpsSettings
from bench.record import CHECKOUT
from lars_agent.errors import LarsError

TOKEN = "a token for schemathesis"
START_LIMIT_S, REQUEST_S, SAID = 600.0, 60, 2000
# At random, of an operation in one run; about three thousand more come of the limits in the schema.
EXAMPLES, OPERATIONS = 100, 80
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
)
SERVER_ERROR = "ServerError"
EXCLUDED = "^/(models|events)"  # what asks the network for models, and a stream that never ends


def schemathesis_cases(settings: OpsSettings, folder: Path) -> dict[str, Any]:
    """Run after run, by turns with the token and without it, until there are enough cases; what was wrong."""
    cases, runs = Counter[str](), list[dict[str, Any]]()
    server_errors, undocumented, unanswered = Counter[str](), Counter[str](), Counter[str]()
    with DaemonUnderTest.quick(folder, "cases") as running:
        running.settings = {**running.settings, "server__token": TOKEN}
        running.start()
        running.wait_until_healthy(START_LIMIT_S)
        while cases.total() < settings.cases or len(runs) < 2:
            kind = ("authorised", "unauthorised")[len(runs) % 2]
            examples = min(EXAMPLES, max(1, (settings.cases - cases.total()) // (2 * OPERATIONS)))
            report = _run(running, kind, settings.seed + len(runs), examples, folder)
            runs.append(report["test_cases"])
            cases[kind] += report["test_cases"]["generated"]
            print(f"{cases.total():,} cases: {report['test_cases']}", flush=True)
            for found in report["failures"]:
                counts = server_errors if found["type"] == SERVER_ERROR else undocumented
                counts[f"{found['title']}: {', '.join(found['operations'])}"] += found["count"]
            for found in report["errors"]:
                unanswered[found["title"]] += found["count"]
        running.stop()
    return {
        "cases": dict(cases),
        "server_errors": dict(server_errors),
        "undocumented": dict(undocumented),
        "unanswered": dict(unanswered),
    }


def _run(running: DaemonUnderTest, kind: str, seed: int, examples: int, folder: Path) -> dict[str, Any]:
    """The report of one run. Raises LarsError where there is none."""
    path = folder / "schemathesis.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{running.url}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--continue-on-failure", "--no-shrink", "--exclude-path-regex", EXCLUDED]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--request-timeout", str(REQUEST_S)]
    command += ["--suppress-health-check", "all", "--warnings", "off", "--report-json-path", str(path)]
    if kind == "authorised":
        command += ["--header", f"Authorization: Bearer {TOKEN}"]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "bench.ops.json_lines", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    said = (done.stdout + done.stderr)[-SAID:]
    if not path.exists():
        raise LarsError(f"schemathesis has made no report (exit status {done.returncode}): {said}")
    with (folder / "schemathesis.log").open("a", encoding="utf-8") as log:
        log.write(done.stdout)
    return dict(json.loads(path.read_text(encoding="utf-8")))
