"""Processor time of another process, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from bench.cpu import each_us, spent_by, spent_s

_BURN = """
import sys, threading, time
def burn():
    while time.thread_time() < 0.05: pass
burner = threading.Thread(target=burn)
burner.start()
burner.join()
print("burnt", flush=True)
sys.stdin.read()
"""


def test_threads_that_ended_count() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        assert 0.05 <= spent_s(process.pid) < 60
        process.communicate()


def test_it_is_the_time_that_the_process_itself_knows() -> None:
    before = time.process_time()
    assert before <= spent_s(os.getpid()) <= time.process_time()


def test_several_processes_may_share_a_name() -> None:
    own = os.getpid()
    one, two = (spent_by({"both": pids})["both"] for pids in ([own], [own, own]))
    assert two >= 2 * one


def test_a_process_that_is_gone_is_an_error() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
        with pytest.raises(OSError, match="Invalid argument"):
            spent_s(process.pid)


def test_costs_are_told_for_each_thing_done() -> None:
    before, after = {"client": 1.0, "daemon": 2.0}, {"client": 1.5, "daemon": 4.0}
    assert each_us(before, after, 1000) == pytest.approx({"client": 500, "daemon": 2000})
