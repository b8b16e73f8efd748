"""How long each part of closing may take, in seconds from the signal on; all together it is over within ten.

The worker is asked to end at the signal. Requests in flight are answered meanwhile, for `DRAIN_S`; then their replies
are cancelled, and they have until `CUT_S` to be told so. Then all is closed; the worker is waited for until `WORKER_S`.
"""

from __future__ import annotations

DRAIN_S = 5.5
CUT_S = 6  # whole, as uvicorn wants it
WORKER_S = 7.5
