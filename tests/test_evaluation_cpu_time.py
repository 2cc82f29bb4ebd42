"""CPU time goes to the innermost clock, and a process's is counted whole."""

import os
import time

import pytest

from globediff_torchrl.studies.cpu_time import Clocks, cpu_seconds, read_clocks


def busy(seconds):
    start = time.thread_time()
    while time.thread_time() - start < seconds:
        pass


class Engine:
    def step(self):
        busy(0.02)
        self.step_again()
        self.send()

    def step_again(self):
        busy(0.02)

    def send(self):
        busy(0.03)
        raise ConnectionError


def test_time_goes_to_the_innermost_clock_once_even_if_it_raises(tmp_path):
    clocks = Clocks(("steps", "messages"), tmp_path / "1")
    for method, clock in (("step", "steps"), ("step_again", "steps"), ("send", "messages")):
        clocks.wrap(Engine, method, clock)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            Engine().step()
    steps, messages = read_clocks([tmp_path / "1", tmp_path / "of a process that had none"], 2)
    assert steps == pytest.approx(0.08, rel=0.2) and messages == pytest.approx(0.06, rel=0.2)
    assert read_clocks([], 2).tolist() == [0, 0]


def test_the_time_of_a_process_grows_with_what_it_does():
    before = cpu_seconds([os.getpid()])
    busy(0.1)
    assert 0.1 <= cpu_seconds([os.getpid()]) - before + 0.02 < 5
    assert cpu_seconds([]) == 0
