"""Limits on the rendering of a chat template, which is a program that somebody else wrote.

Jinja's sandbox keeps it from files and objects, not from loops inside of loops. A template is compiled to Python, so
that a trace function sees each of its lines and can end it, in any thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jinja2 import Environment, TemplateError

from lars_agent.memory.measure import rss_bytes

LONGEST_S = 1.0  # of processor time: a paused process does not count
MOST_BYTES = 512 * 2**20  # that this process may grow by meanwhile
MOST_CALLS = 100  # of its macros and loops inside of each other: far from Python's own limit, where clean-up fails too
LOOK_S = 0.001  # between two looks at the memory
COMPILED = "<template>"  # the file name of what Jinja compiles


@contextmanager
def bounded_rendering() -> Iterator[None]:
    """Raise TemplateError from a template rendered in the block that takes too long or too much, or calls itself."""
    began, start_bytes, looked, depth = time.thread_time(), rss_bytes(), 0.0, 0

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal looked, depth
        passed = time.thread_time() - began
        if passed > LONGEST_S:
            raise TemplateError(f"the chat template takes longer than {LONGEST_S:.0f} s; choose another model")
        if passed - looked > LOOK_S:
            looked = passed
            if rss_bytes() - start_bytes > MOST_BYTES:
                raise TemplateError(f"the chat template takes more than {MOST_BYTES:,} bytes; choose another model")
        if frame.f_code.co_filename != COMPILED:
            return None
        depth += (event == "call") - (event == "return")
        if depth > MOST_CALLS:
            raise TemplateError(f"the chat template calls itself more than {MOST_CALLS} times; choose another model")
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    except (RecursionError, MemoryError) as error:
        raise TemplateError(f"the chat template takes too much ({error!r:.80}); choose another model") from error
    finally:
        sys.settrace(before)


def require_no_power(template: str) -> None:
    """Raise TemplateError for the operator **: one huge power is one step, which nothing can end."""
    if any(kind == "operator" and token == "**" for _, kind, token in Environment().lex(template)):
        raise TemplateError("the chat template computes powers, which may never end; choose another model")
