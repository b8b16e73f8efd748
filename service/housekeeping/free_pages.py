"""The last traces of deleted text: pages in the database's log, and unused room in the pages of its file."""

from __future__ import annotations

from datetime import timedelta

from service.housekeeping.sweep import Sweep

SMALL_BYTES = 16 * 2**20  # of a file that is rewritten at once; a larger one keeps writers waiting for seconds
LONGEST_WAIT = timedelta(days=1)  # of a deletion for the device to be idle
MOST_FREE = 0.25  # of the file


def clear_free_pages(sweep: Sweep) -> None:
    """Empty the log, and rewrite the file where a deletion waits for it or much of it is free.

    A large file waits until the device is idle, a day at most. A reader may keep the log for a while: then the stage
    `free_pages` stays open, for the next round.
    """
    with sweep.step("free_pages"):
        db = sweep.db
        waiting = db.erasures.pending("free_pages")
        size_bytes, free_bytes = db.page_bytes()
        is_overdue = any(abs(sweep.now - erasure.created) > LONGEST_WAIT for erasure in waiting)
        is_wanted = bool(waiting) or free_bytes > MOST_FREE * size_bytes
        if is_wanted and (size_bytes <= SMALL_BYTES or is_overdue or sweep.is_idle()):
            db.compact()
            if db.empty_log():
                for erasure in waiting:
                    db.erasures.mark(erasure, "free_pages")
        else:
            db.empty_log()
