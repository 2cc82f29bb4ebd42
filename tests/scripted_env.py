"""An environment that crashes, hangs and refuses to start when it is told to; for the tests of the guard."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from globediff_torchrl.envs.processes.guard import GuardedEnv


class ScriptedEnv(EnvBase):
    """Counts its steps; an episode has ``length`` of them. ``script`` says what goes wrong, by name of the event.

    Args:
        folder: where events that happen once leave their mark, and each environment made a line with its seed.
        script: ``"crash"`` / ``"hang"`` / ``"die"`` (the process) at that step of an episode, ``"refuse"`` that many
            starts, ``"hang_reset"`` / ``"crash_reset"`` True, ``"once"`` True where it happens once, ``"child"`` True
            for a child process, ``"prints"`` what a child prints, the last line to its standard error.
    """

    def __init__(self, folder, script=None, length=5, seed=None, worker=0):
        super().__init__(device="cpu", batch_size=[])
        self.folder, self.script, self.length, self.worker = Path(folder), script or {}, length, worker
        flag = Categorical(2, (1,), dtype=torch.bool)
        agents = Composite(
            observation=Unbounded((2, 3)), active_mask=Categorical(2, (2, 1), dtype=torch.bool), shape=(2,)
        )
        self.observation_spec = Composite(agents=agents, state=Unbounded((4,)), success=flag.clone())
        self.action_spec = Composite(agents=Composite(action=Bounded(-1, 1, (2, 1)), shape=(2,)))
        self.reward_spec = Composite(agents=Composite(reward=Unbounded((2, 1)), shape=(2,)))
        self.done_spec = Composite(done=flag.clone(), terminated=flag.clone())
        self.seed, self.count, self.child = seed, 0, None
        if self.script.get("prints"):
            *lines, last = self.script["prints"]
            command = "".join(f"echo '{line}'; " for line in lines)
            subprocess.run(["sh", "-c", f"{command} echo '{last}' >&2"])
        if self.happens("refuse", self.starts() + 1 <= self.script.get("refuse", 0)):
            self.note("refused")
            raise ConnectionError("no engine today")
        if self.script.get("child"):
            self.child = subprocess.Popen(["sleep", "1000"])
        self.note(f"made {seed}")

    def note(self, line):
        with (self.folder / f"log{self.worker}").open("a") as file:
            file.write(line + "\n")

    def log(self):
        file = self.folder / f"log{self.worker}"
        return file.read_text().splitlines() if file.exists() else []

    def starts(self):
        return sum(line == "refused" for line in self.log())

    def happens(self, name, due):
        if not due or name not in self.script or self.script.get("worker", self.worker) != self.worker:
            return False
        mark = self.folder / f"mark{self.worker}"
        if self.script.get("once"):
            if mark.exists():
                return False
            mark.touch()
        return True

    def reading(self):
        agents = TensorDict(
            {"observation": torch.full((2, 3), float(self.count)), "active_mask": torch.ones(2, 1, dtype=torch.bool)},
            [2],
        )
        state = torch.tensor([float(self.count), float(self.seed or 0), float(self.worker), float(os.getpid())])
        return {"agents": agents, "state": state, "success": torch.tensor([self.count == self.length])}

    def _reset(self, tensordict=None, **kwargs):
        if self.happens("hang_reset", True):
            time.sleep(1000)
        if self.happens("crash_reset", True):
            raise ConnectionError("lost in reset")
        self.count = 0
        no = torch.zeros(1, dtype=torch.bool)
        return TensorDict({**self.reading(), "done": no, "terminated": no.clone()}, [])

    def _step(self, tensordict):
        self.count += 1
        if self.happens("die", self.count == self.script.get("die")):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.happens("hang", self.count == self.script.get("hang")):
            if self.child is not None:
                os.kill(self.child.pid, signal.SIGSTOP)
            time.sleep(1000)
        if self.happens("crash", self.count == self.script.get("crash")):
            raise ConnectionError("lost the engine")
        end = torch.tensor([self.count == self.length])
        reading = self.reading()
        reading["agents"]["reward"] = torch.ones(2, 1)
        return TensorDict({**reading, "done": end, "terminated": end.clone()}, [])

    def _set_seed(self, seed):
        self.seed = seed
        self.note(f"seed {seed}")

    def close(self, **kwargs):
        self.note("closed")
        if self.child is not None:
            self.child.terminate()
            self.child.wait()
        super().close(**kwargs)


def scripted(folder, script, seed=None):
    return ScriptedEnv(folder, script, seed=seed, worker=(seed or 0) % 10)


def guarded(folder, script=None, seed=None, **kwargs):
    limit = 1.0 if any("hang" in name for name in script or {}) else 60.0  # a busy machine takes a second to answer
    settings = {"pause": 0.02, "step_timeout": limit, "reset_timeout": limit, "seed": seed, **kwargs}
    return GuardedEnv(partial(scripted, folder, script or {}, seed), **settings)
