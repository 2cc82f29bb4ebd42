"""Several environments in processes of their own, as one: TorchRL's ParallelEnv with an end that is always an end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, ParallelEnv, SerialEnv

from globediff_torchrl.envs.legal import LegalRandomActions
from globediff_torchrl.envs.processes.children import die_with_parent, end_with_parent
from globediff_torchrl.errors import TrainingError, UserError, check_count

START_METHOD = "spawn"  # a forked child inherits the locks of torch's threads, but not the threads that would free them
IDLE_LIMIT = "1000000"  # seconds a worker waits for its next command; TorchRL's own limit is under three hours
NAP = 1e-4  # seconds between two looks at whether the workers are done
CALLS = ("reset", "step", "step_and_maybe_reset", "set_seed")

_for_life = contextlib.ExitStack()


def parallel_env(create: Callable[..., EnvBase], num_envs: int, seeds: list[int | None] | None = None) -> EnvBase:
    """``num_envs`` environments as one of batch size ``[num_envs]``, each in a process of its own.

    Each process has one torch thread, ends with this one however that ends, and leaves Ctrl-C to it. One environment
    runs in this process. What a worker raises ends all of them and is raised here. ``rand_action`` draws among the
    legal actions where there is an ``("agents", "action_mask")``. ``close`` may be called again.

    Args:
        create: makes an environment of batch size ``[]``; a function that can be imported, a partial of one, or a
            closure that cloudpickle takes. Called with ``seed=`` where there are seeds.
        num_envs: how many.
        seeds: one for each; None leaves the seed to ``create``.

    Raises:
        UserError: the numbers do not fit, or a worker raised one.
        TrainingError: a worker raised something else, or died.

    A program that calls it stands under ``if __name__ == "__main__":``, as each process imports it anew.
    """
    check_count("num_envs", num_envs, "1 runs in this process")
    if seeds is not None and len(seeds) != num_envs:
        raise UserError(f"seeds must be one for each of the {num_envs} environments, got {len(seeds)} of them.")
    kwargs = [{}] * num_envs if seeds is None else [{"seed": seed} for seed in seeds]
    return _OneEnv(1, create, create_env_kwargs=kwargs) if num_envs == 1 else _Workers(create, kwargs)


class _OneEnv(LegalRandomActions, SerialEnv):
    """One environment in this process, with a batch dimension."""

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        """SerialEnv's, without the detour through buffers: as a copy, too, but made at once."""
        if self.is_closed or tensordict.get("_step", None) is not None or self.device != self._envs[0].device:
            return super()._step(tensordict)
        given = tensordict.select(*self._env_input_keys, strict=False)
        return torch.stack([self._envs[0]._step(given[0])])

    def close(self, *, raise_if_closed: bool = False) -> None:
        with _same_threads():
            super().close(raise_if_closed=False)


class _Workers(LegalRandomActions, ParallelEnv):
    """TorchRL's ParallelEnv that ends all its workers when one of them ends, and says why."""

    def __init__(self, create: Callable[..., EnvBase], kwargs: list[dict[str, Any]]) -> None:
        context = multiprocessing.get_context(START_METHOD)
        pipes = [context.Pipe(duplex=False) for _ in kwargs]
        # not plain attributes: those that are not there yet are looked for in the workers
        self.__dict__.update(_errors=[reader for reader, _ in pipes], _processes=[], is_closed=True)
        before = multiprocessing.active_children()
        told = [{"errors": writer, "owner": os.getpid(), "kwargs": given} for (_, writer), given in zip(pipes, kwargs)]
        try:
            with _same_threads(), _environment("BATCHED_PIPE_TIMEOUT", IDLE_LIMIT), self._explained(before):
                super().__init__(
                    len(kwargs),
                    partial(_make_in_worker, create),
                    create_env_kwargs=told,
                    mp_start_method=START_METHOD,
                    num_threads=torch.get_num_threads(),
                    num_sub_threads=1,
                    daemon=True,  # a run that ends without close() would wait for workers that wait for it
                )
                self.start()
        finally:
            for _, writer in pipes:
                writer.close()  # else no pipe would tell that its worker has gone

    def _wait_for_workers(self, workers_range: Any) -> None:
        """TorchRL's own wait keeps a core busy, which the workers need: look, and sleep in between."""
        flags, looks = self._shm_done_flags, 0
        waited_for = [self._worker_indices[index] for index in workers_range]
        while not all(flags[index] for index in waited_for):
            looks += 1
            if looks % 1000 == 0 and not all(process.is_alive() for process in self._not_closed()):
                break  # TorchRL's wait says so
            time.sleep(NAP)
        super()._wait_for_workers(workers_range)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        with self._explained():
            return super()._reset(tensordict, **kwargs)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        with self._explained():
            return super()._step(tensordict)

    def step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        with self._explained():
            return super().step_and_maybe_reset(tensordict)

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        with self._explained():
            return super().set_seed(seed, static_seed=static_seed)

    @contextlib.contextmanager
    def _explained(self, before: list | None = None) -> Iterator[None]:
        """Within it, what a worker's end makes TorchRL raise becomes the reason for that end, and all workers end.

        With ``before``, the processes there were, it also learns which ones are the workers.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            self._learn(before)
            reason = self._reason()
            if reason is None:
                raise
            self._abandon()
            raise reason from error
        self._learn(before)

    def _learn(self, before: list | None) -> None:
        if before is not None:
            self._processes.extend(child for child in multiprocessing.active_children() if child not in before)

    def _reason(self) -> UserError | None:
        """What the first worker to fail has said; None where all are well."""
        for index, reader in enumerate(self._errors):
            with contextlib.suppress(EOFError, OSError):
                if reader.poll(0):
                    kind, message = reader.recv()
                    return kind(f"environment {index} of {len(self._errors)}: {message}")
        left = self._not_closed()
        for process in left:
            process.join(0.1)
        codes = [str(process.exitcode) for process in left if process.exitcode is not None]
        if not codes and self._processes:
            return None
        return TrainingError(
            f"of {len(self._errors)} environment processes, {len(codes) or 'some'} died without a word (exit code "
            f"{', '.join(codes) or 'unknown'}; -9 is a kill, often for want of memory). A program that makes several "
            f'environments needs its main part under if __name__ == "__main__":. Try num_envs=1 to see more.'
        )

    def _cleanup_failed_worker_startup(self) -> None:
        """TorchRL asks those to close that have not begun, which makes them print a traceback each."""
        for process in self._workers:
            process.kill()
        for process in self._workers:
            process.join(2.0)
        super()._cleanup_failed_worker_startup()

    def _not_closed(self) -> list:
        """TorchRL itself ends and closes the other workers where it sees that one has died; those answer to nothing."""
        return [process for process in self._processes if not process._closed]

    def _abandon(self) -> None:
        for process in self._not_closed():
            process.terminate()
        for process in self._not_closed():
            process.join(2.0)
            if process.exitcode is None:
                process.kill()
                process.join(2.0)
        self.is_closed = True

    def close(self, *, raise_if_closed: bool = False) -> None:
        if self.is_closed:
            return
        with _same_threads(), contextlib.suppress(OSError, EOFError, RuntimeError):
            super().close(raise_if_closed=False)
        self._abandon()  # nothing where all have ended
        for reader in self._errors:
            reader.close()


def _make_in_worker(create: Callable[..., EnvBase], errors: Connection, owner: int, kwargs: dict) -> EnvBase:
    """Makes the environment of one worker, which tells ``errors`` of what it raises."""
    if os.getpid() == owner:  # for its specs
        return create(**kwargs)
    end_with_parent()
    _for_life.enter_context(die_with_parent())  # this thread makes and runs the environment, and ends with the process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the owner decides
    with _telling(errors):
        env = create(**kwargs)
    for name in CALLS:
        setattr(env, name, _telling(errors)(getattr(env, name)))
    return env


@contextlib.contextmanager
def _telling(errors: Connection) -> Iterator[None]:
    """Sends what is raised within it through a pipe, before it ends the process."""
    try:
        yield
    except BaseException as error:
        ours = isinstance(error, UserError)
        message = str(error) if ours else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            errors.send((type(error) if ours else TrainingError, message))
        if ours:
            raise SystemExit(1) from None  # without a traceback: it says what is to be said
        raise


@contextlib.contextmanager
def _same_threads() -> Iterator[None]:
    """TorchRL changes torch's number of threads when workers start and end."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
