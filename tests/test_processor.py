import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from lars_agent.processor import FreeCores, OtherLoad, core_count

SPUN_S = 0.4  # of processor time
SPINNING = f"import time; end = time.process_time() + {SPUN_S}\nwhile time.process_time() < end: pass"


def spin(niceness=0):
    subprocess.run([sys.executable, "-c", f"import os; os.nice({niceness})\n{SPINNING}"], check=True)


@contextmanager
def affinity(cores):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_other_processes_that_work_are_noticed():
    started, others = time.monotonic(), OtherLoad()
    spin()
    assert others.cores() * (time.monotonic() - started) > 0.5 * SPUN_S


@pytest.mark.skipif(os.getpriority(os.PRIO_PROCESS, 0) > 0, reason="what runs here has a low priority itself")
def test_those_that_give_way_are_told_from_those_that_do_not():
    urgent, all_of_them, started = OtherLoad(urgent_only=True), OtherLoad(), time.monotonic()
    spin(niceness=19)
    nice_s = (all_of_them.cores() - urgent.cores()) * (time.monotonic() - started)  # long, where others are urgent
    assert nice_s > 0.1 * SPUN_S  # the kernel counts by what runs at its ticks


def test_only_cores_that_this_process_may_use_are_counted():
    with affinity({min(os.sched_getaffinity(0))}):
        assert core_count() == 1
        assert FreeCores()() == 1


def test_a_busy_device_has_fewer_free_cores():
    free = FreeCores()
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        time.sleep(2)
        assert free() == 1
    finally:
        for one in spinning:
            one.kill()
            one.wait()
