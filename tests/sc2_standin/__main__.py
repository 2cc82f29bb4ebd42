"""The process that pysc2 starts: ``SC2_x64 -listen 127.0.0.1 -port N -dataDir ... -tempDir ...``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback

from . import log
from .knobs import Knobs
from .protocol import Closed, Connection, accept, listen


class Process:
    """Start and exit, each with one line in the log, whatever ends it (but for SIGKILL, which nobody outlives)."""

    def __init__(self, knobs: Knobs):
        self.knobs, self.parent, self.ended = knobs, os.getppid(), False
        signal.signal(signal.SIGTERM, lambda *_: self.end("sigterm"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which then end their engines
        log.write(knobs.log, f"start {os.getpid()}")
        started = len(log.read_log(knobs.log).started) if knobs.log else 1
        self.faulty = not knobs.faulty_starts or started <= knobs.faulty_starts
        self.steps = 0

    def end(self, reason: str, code: int = 0) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # pysc2 sends it again and again until the process is gone
        if not self.ended:
            self.ended = True
            log.write(self.knobs.log, f"exit {os.getpid()} {reason}")
        os._exit(code)

    def idle(self) -> None:
        """A test that was killed must not leave engines behind."""
        if os.getppid() != self.parent:
            self.end("orphan")

    def before_step(self) -> None:
        """The faults that a test asked for."""
        self.steps += 1
        if self.faulty and self.steps == self.knobs.crash_at:
            self.end("crash", code=1)
        while self.faulty and self.steps == self.knobs.freeze_at:
            self.idle()
            time.sleep(0.1)


def serve(connection: Connection, engine, process: Process) -> None:
    """Answer one client until it goes or asks the game to quit."""
    while not engine.quitting:
        answer = engine.answer(connection.receive(), process.before_step)
        connection.send(answer)


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def run(process: Process, arguments: list[str]) -> None:
    server = listen(option(arguments, "-listen"), int(option(arguments, "-port")))
    from .engine import Engine  # protobuf takes a while to import: clients may already knock

    engine = Engine(process.knobs)
    while not engine.quitting:
        connection = accept(server, process.idle)
        if connection is not None:
            with contextlib.suppress(Closed):
                serve(connection, engine, process)
            connection.close()


def main(arguments: list[str]) -> None:
    process = Process(Knobs.from_environ())
    if process.faulty and process.knobs.refuse:
        print("sc2_standin refuses to start, as it was asked to", file=sys.stderr)
        process.end("refused", code=1)
    try:
        run(process, arguments)
    except BaseException:  # a fault of the stand-in itself: say so, and leave a line in the log
        traceback.print_exc()
        process.end("error", code=1)
    process.end("quit")


if __name__ == "__main__":
    main(sys.argv[1:])
