"""An environment that may crash, hang or leak, made into one that does not: crashes are caught, counted and mended."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data.tensor_specs import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from globediff_torchrl.envs.legal import LegalRandomActions
from globediff_torchrl.envs.processes.children import Printed
from globediff_torchrl.envs.processes.life import Life
from globediff_torchrl.envs.transforms import put
from globediff_torchrl.errors import TrainingError, UserError
from globediff_torchrl.keys import (
    CRASHED,
    CRASHES,
    ENGINE_MEMORY,
    ENGINE_PROCESSES,
    SUCCESS,
    TERMINATED,
    TRUNCATED,
)

SEED_STEP = 100_003  # a rebuilt environment draws its seed far from those of the other workers

logger = logging.getLogger(__name__)


class GuardedEnv(LegalRandomActions, EnvBase):
    """One unbatched environment, in a thread of its own, replaced by a new one whenever it crashes.

    A crash is a step or a reset that raises (but no :class:`UserError`, which goes through) or does not answer in time.
    In a step, it ends the episode: under ``"next"`` the last reading is repeated with reward 0, ``"done"`` and
    ``"truncated"`` True, ``"terminated"`` and ``"success"`` False, ``"crashed"`` True. The next reset makes a new
    environment. Beside the environment's own keys it writes ``"crashed"`` ``[1]`` (bool), ``"crashes"`` ``[1]``
    (int64, so far), ``"engine_memory"`` ``[1]`` (float32, MB that the environment's child processes hold) and
    ``"engine_processes"`` ``[1]`` (int64, how many they are), both measured at resets, and ``"truncated"`` where the
    environment has none. Other attributes are the environment's.

    Ctrl-C within a call goes through and ends the environment, which may still be within that call: the next reset
    makes a new one, a step before it answers as a crashed one does. No crash is counted.

    Child processes that the environment starts by ``subprocess`` die with it, with :meth:`close`, and with this process
    however that ends (Linux). What they print, where the environment does not say where to, is not seen: the message of
    a crash has the last lines.

    Args:
        create_env: makes the environment; called again after a crash. If it has a method ``kill``, that is called
            before ``close`` to end one that may not answer; it may itself hang or raise.
        step_timeout, reset_timeout: seconds; making an environment has ``reset_timeout``, too.
        retries: crashes in a row, without an episode between them that went well, that are mended.
        restart_every: a new environment after so many episodes, for simulators that leak; None for never.
        seed: with which ``create_env`` seeds its environments, until :meth:`set_seed` says another, to the one that is
            there or, after a crash, to the next. The environments made later get other ones, derived from it: none
            repeats the episodes of the one before.
        pause: seconds before a new environment is made after a crash; doubled with each further one in a row.

    Raises:
        TrainingError: more crashes in a row than ``retries``.
        UserError: the environment is batched, or raised it.

    Example:
        >>> env = GuardedEnv(lambda: StarCraftEnv("3m"), step_timeout=30, restart_every=500)
    """

    def __init__(
        self,
        create_env: Callable[[], EnvBase],
        *,
        step_timeout: float = 60,
        reset_timeout: float = 180,
        retries: int = 3,
        restart_every: int | None = None,
        seed: int | None = None,
        pause: float = 1.0,
    ) -> None:
        self.create_env, self.pause = create_env, pause
        self.step_timeout, self.reset_timeout = step_timeout, reset_timeout
        self.retries, self.restart_every = retries, restart_every
        self.crash_count, self._in_a_row, self._last_crash = 0, 0, ""
        self._seed, self._made = seed, 0
        self._told = False  # whether set_seed was called; if not, the first environment has create_env's seed
        self._episodes, self._steps = 0, 0
        self._memory, self._processes = 0.0, 0
        self._life: Life | None = None
        self._reading: TensorDictBase | None = None
        life = self._living()
        if life.env.batch_size:
            life.close()
            raise UserError(
                f"GuardedEnv guards one environment of batch size [], got one of {list(life.env.batch_size)}: "
                f"put parallel_env around several GuardedEnv."
            )
        super().__init__(device=life.env.device, batch_size=[])
        self._make_specs(life.env)

    def _make_specs(self, env: EnvBase) -> None:
        def flag() -> Categorical:
            return Categorical(2, (1,), dtype=torch.bool, device=self.device)

        ours = {CRASHED: flag(), ENGINE_MEMORY: Unbounded((1,), device=self.device)}
        for key in (CRASHES, ENGINE_PROCESSES):
            ours[key] = Unbounded((1,), dtype=torch.int64, device=self.device)
        observation = env.full_observation_spec.clone()
        self._read_keys = list(observation.keys(True, True))
        self.observation_spec = Composite({**dict(observation.items()), **ours}, device=self.device)
        self.action_spec = env.full_action_spec.clone()
        if not env.full_state_spec.is_empty():
            self.state_spec = env.full_state_spec.clone()
        self.reward_spec = env.full_reward_spec.clone()
        done = {key: spec.clone() for key, spec in env.full_done_spec.items()}
        self.done_spec = Composite({**done, **({} if TRUNCATED in done else {TRUNCATED: flag()})}, device=self.device)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        asked = None if tensordict is None else tensordict.get("_reset", None)
        if asked is None or asked.any() or self._reading is None:
            self._reading = self._begin_episode(kwargs)
        return self._complete(self._reading.select(*self._read_keys, *self.done_keys, strict=False))

    def _begin_episode(self, kwargs: dict[str, Any]) -> TensorDictBase:
        """The first reading of a new episode, if need be of a new environment."""
        if self._life is not None and self._steps:  # the episode before has ended, or was cut short, in good health
            self._in_a_row = 0
            self._episodes += 1
        self._steps = 0
        if self._life is not None and self.restart_every and self._episodes >= self.restart_every:
            self._end_life()
        while True:
            life = self._living()
            try:
                reading = life.call(partial(life.env.reset, **kwargs), self.reset_timeout)
            except UserError:
                raise
            except Exception as error:
                self._crash("a reset", error)
                continue
            self._memory, self._processes = life.memory(), life.processes()
            return reading.to(self.device)  # that of the guard, which may have been moved

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        life = self._responsive()
        if life is None:  # it has crashed, or a call was interrupted, and nobody has asked for a new episode
            return self._crashed_step()
        try:
            reading = life.call(partial(_one_step, life.env, tensordict.to(life.env.device)), self.step_timeout)
        except UserError:
            raise
        except Exception as error:
            self._crash(f"step {self._steps + 1} of an episode", error)
            return self._crashed_step()
        self._steps += 1
        self._reading = reading = reading.to(self.device)
        return self._complete(reading.copy())

    def _crashed_step(self) -> TensorDictBase:
        nothing = self.full_observation_spec.zero()
        reading = nothing if self._reading is None else self._reading.select(*self._read_keys).clone()
        if SUCCESS in self._read_keys:
            reading.get(SUCCESS).zero_()
        for key, value in self.full_done_spec.zero().items(True, True):
            name = key if isinstance(key, str) else key[-1]
            reading.set(key, value.fill_(name != TERMINATED))
        return self._complete(reading.update(self.full_reward_spec.zero()), crashed=True)

    def _complete(self, reading: TensorDictBase, crashed: bool = False) -> TensorDictBase:
        if TRUNCATED not in reading:
            reading.set(TRUNCATED, torch.zeros(1, dtype=torch.bool, device=self.device))
        ours = {CRASHED: crashed, CRASHES: self.crash_count}
        ours |= {ENGINE_MEMORY: self._memory, ENGINE_PROCESSES: self._processes}
        for key, value in ours.items():
            put(reading, key, torch.full((1,), value, device=self.device))
        return reading

    def _responsive(self) -> Life | None:
        """The environment that is there, None where there is none; one whose call Ctrl-C has interrupted is ended."""
        if self._life is not None and self._life.thread.lost:
            self._end_life()
        return self._life

    def _living(self) -> Life:
        """The environment that is there, or a new one."""
        while self._responsive() is None:
            if self._in_a_row > self.retries:
                raise TrainingError(
                    f"the environment crashed {self._in_a_row} times in a row, {self.crash_count} times in all; at "
                    f"most {self.retries} in a row are mended. The last was in {self._last_crash}. Run "
                    f"globediff-doctor to see whether the simulator works here, and look for what each crash said in "
                    f"the output above."
                )
            if self._in_a_row:
                time.sleep(self.pause * 2 ** (self._in_a_row - 1))
            try:
                self._life = self._new_life()
            except UserError:
                raise
            except Exception as error:
                self._crash("starting it", error)
        return self._life

    def _new_life(self) -> Life:
        self._printed = Printed()
        life = Life(self.create_env, self.reset_timeout, self._printed)
        self._made += 1
        if self._seed is not None and (self._told or self._made > 1):
            seed = (self._seed + SEED_STEP * (self._made - 1)) % 2**31
            try:
                life.call(lambda: life.env.set_seed(seed), self.reset_timeout)
            except BaseException:
                life.kill()
                raise
        return life

    def _end_life(self) -> None:
        life, self._life, self._episodes = self._life, None, 0
        if life is not None:
            life.close()

    def _crash(self, where: str, error: Exception) -> None:
        life, self._life, self._episodes = self._life, None, 0
        self.crash_count += 1
        self._in_a_row += 1
        line = traceback.extract_tb(error.__traceback__)[-1]
        self._last_crash = f"{where}: {type(error).__name__}: {error} ({line.filename}:{line.lineno})"
        if last := self._printed.last_lines():
            self._last_crash += f"; the engine printed last: {' | '.join(last)}"
        logger.warning("crash %d of an environment, in %s", self.crash_count, self._last_crash)
        if life is not None:
            life.kill()

    def _set_seed(self, seed: int | None) -> None:
        self._seed, self._made, self._told = seed, 0, True
        life = self._responsive()
        if life is not None:  # else the next one is seeded when it is made
            life.call(lambda: life.env.set_seed(seed), self.reset_timeout)
            self._made = 1

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Closes the environment and ends its processes; once closed, does nothing."""
        self._end_life()
        self.is_closed = True

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            life = self.__dict__.get("_life")
            if name.startswith("_") or life is None:
                raise
            return getattr(life.env, name)


def _one_step(env: EnvBase, tensordict: TensorDictBase) -> TensorDictBase:
    """What comes next, without the checks of ``env.step``: those of whoever steps the guard are the same."""
    reading = env._step(tensordict)
    env._complete_done(env.full_done_spec, reading)
    return reading
