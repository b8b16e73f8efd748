"""Deadlines of the shutdown, in seconds from the signal on; it takes ten at most.

The worker is asked to end at the signal. Requests in flight may finish until `DRAIN_S`; then they are cancelled, and
their clients have until `CUT_S` to receive the error. Then everything is closed; the worker has until `WORKER_S`.
"""

from __future__ import annotations

DRAIN_S = 5.5
CUT_S = 6  # whole, as uvicorn wants it
WORKER_S = 7.5
