"""Where does one environment step of SMAC go? Engine, messages, smacv2, TorchRL, this package, state inference.

    python benchmarks/smac_step.py --map 3m            # 1, 2 and 4 rollout threads
    python benchmarks/smac_step.py --table-only        # nothing is run; the table of what is there

Two environments play side by side, in turns within one run: TorchRL's SMACv2Env on smacv2 as it is (in TorchRL's
SerialEnv for one thread, in its ParallelEnv for more), and ``make_env`` with its guard and its transforms. Where
smacv2 cannot play on by itself (on SMACv1's maps it waits for ever for a second battle, and it does not know the unit
types of stalkers and zealots), the first one has this package's functions. Actions are legal ones that hurt nobody. The
stand-in's enemies do no harm either, so that no battle ends; those of StarCraft II do, and battles end. Resets are not
timed. All figures are CPU time of all processes in milliseconds, divided by the number of environments; only the column
"wall" is wall time, of one step of all of them.

- engine: CPU time of the engines' processes. Where SC2PATH leads to tests/sc2_standin it is the stand-in's, which says
  nothing of StarCraft II; the run says so.
- messages: pysc2's protocol in our process: protobuf and the websocket. It depends on the protobuf that is installed.
- smacv2: the rest of its step, observations, state and legal actions.
- TorchRL: the rest of the first environment, without the wait for its workers, in which TorchRL keeps a core busy.
- this package: the second environment without the engine, less the first one: also where ours is the quicker.
- inference: one batch of GlobeDiff, preset ``fast``, as ``algorithm=globediff`` configures it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

if __name__ == "__main__":  # workers import this file too, from a path that is in order already
    sys.path.pop(0)  # this script's folder: vmas.py in it would hide the vmas package

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, ParallelEnv, SerialEnv
from torchrl.envs.libs.smacv2 import SMACv2Env
from tqdm import tqdm

from globediff_torchrl import keys, make_env
from globediff_torchrl.envs.processes.children import with_descendants
from globediff_torchrl.envs.smac.install import missing
from globediff_torchrl.envs.smac.maps import SMACV1_MAPS, options, smac_map
from globediff_torchrl.starcraft import engine_builds, unset_empty_path
from globediff_torchrl.studies.cpu_time import Clocks, cpu_seconds, read_clocks
from globediff_torchrl.studies.measurements import arguments, markdown_table
from globediff_torchrl.tables import read_rows, write_rows
from globediff_torchrl.training.algorithms import make_team
from globediff_torchrl.training.config import compose

VARIANTS = ("torchrl", "ours")
PARTS = ("engine", "messages", "smacv2", "rest", "inference", "wall")
COLUMNS = ("map", "protobuf", "engine_is", "threads", "variant", "round", *PARTS)
HEADER = (
    *("map", "protobuf", "played by", "threads", "engine", "messages", "smacv2", "TorchRL", "this package"),
    *("inference", "wall, TorchRL alone", "wall, all", "this package adds", "the same without the engine"),
)
CLOCKS = ("messages", "smacv2", "waiting")
FOLDER = "SMAC_STEP_CLOCKS"  # environment variable: where each process writes its clocks
MOVES = slice(1, 6)  # stop and the four directions
WARM_UP = 20


# ----------------------------------------------------------------------------------------- clocks within each process
def start_clocks(folder: str) -> None:
    """In each process: the workers of an environment import this file before they make theirs."""
    from pysc2.lib.protocol import StarcraftProtocol
    from smacv2.env.starcraft2.starcraft2 import StarCraft2Env

    clock = Clocks(CLOCKS, Path(folder) / str(os.getpid()))
    for method in ("read", "write"):
        clock.wrap(StarcraftProtocol, method, "messages")
    for method in ("step", "get_obs", "get_state", "get_avail_actions"):
        clock.wrap(StarCraft2Env, method, "smacv2")
    clock.wrap(ParallelEnv, "_wait_for_workers", "waiting")
    from globediff_torchrl.envs.processes import parallel

    clock.wrap(parallel._Workers, "_wait_for_workers", "waiting")


if __name__ == "__mp_main__" and FOLDER in os.environ:
    start_clocks(os.environ[FOLDER])


def clocks(pids: list[int]) -> np.ndarray:
    return read_clocks([Path(os.environ[FOLDER]) / str(pid) for pid in pids], len(CLOCKS))


# -------------------------------------------------------------------------------------------------- the two variants
class PlainEnv(SMACv2Env):
    """SMACv2Env on smacv2 as it is, without a time limit, but for what it cannot play on without."""

    def _build_env(self, *args: Any, **kwargs: Any) -> Any:
        from globediff_torchrl.envs.smac.game import Game

        env = super()._build_env(*args, **kwargs)
        game = getattr(env, "env", env)
        game.episode_limit = 2**31 - 1
        # smacv2 waits until no unit is there, when the map has long sent the next ones; no step calls it
        game._kill_all_units = MethodType(Game._kill_all_units, game)
        if game.map_type == "stalkers_and_zealots":  # IndexError in smacv2
            enemy_type = game.get_unit_type_id
            game.get_unit_type_id = lambda unit, ally: (
                unit.unit_type - game._min_unit_type if ally else enemy_type(unit, ally)
            )
        return env


def plain_battle(name: str) -> EnvBase:
    game = smac_map(name)
    return PlainEnv(map_name=game.map_name, seed=100, **options(game, "official"))


def plain(name: str, num_envs: int) -> EnvBase:
    create = partial(plain_battle, name)
    return SerialEnv(1, create) if num_envs == 1 else ParallelEnv(num_envs, create, mp_start_method="spawn")


def ours(name: str, num_envs: int) -> EnvBase:
    family = "smac" if name in SMACV1_MAPS else "smacv2"
    return make_env(f"{family}/{name}", num_envs=num_envs, seed=100, max_steps=None)


class Runner:
    """One variant: its environment, its processes, and what a round of steps took."""

    def __init__(self, make: Callable[[str, int], EnvBase], name: str, num_envs: int) -> None:
        before = with_descendants([os.getpid()])
        self.env, self.num_envs = make(name, num_envs), num_envs
        self.data = self.env.reset()
        mine = [pid for pid in with_descendants([os.getpid()]) if pid not in before]
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in mine}
        self.engines = [pid for pid in mine if b"\0-listen\0" in commands[pid]]
        workers = {process.pid for process in multiprocessing.active_children()}
        self.workers = [pid for pid in mine if pid in workers]
        if len(self.engines) != num_envs:
            raise RuntimeError(f"{num_envs} environments have {len(self.engines)} engines")

    def actions(self) -> torch.Tensor:
        legal = self.data.get(keys.ACTION_MASK)[..., MOVES].float()
        idle = legal.sum(-1) == 0  # the dead, of a real battle
        drawn = torch.multinomial((legal + idle.unsqueeze(-1)).flatten(0, 1), 1).view(legal.shape[:-1]) + MOVES.start
        return torch.where(idle, 0, drawn)

    def round(self, steps: int) -> dict[str, float]:
        """Milliseconds of a step of one environment, by part; ``rest`` is what no clock has seen."""
        pids, seconds = [os.getpid(), *self.workers], dict.fromkeys(("cpu", "wall"), 0.0)
        clock, engine, working = clocks(pids), cpu_seconds(self.engines), cpu_seconds(self.workers)
        for _ in range(steps):
            self.data.set(keys.ACTION, self.actions())
            cpu, wall = time.process_time(), time.perf_counter()
            reading = self.env.step(self.data).get("next")
            seconds["cpu"] += time.process_time() - cpu
            seconds["wall"] += time.perf_counter() - wall
            over = bool(reading.get(keys.DONE).any())
            self.data = self.env.reset() if over else reading.exclude(keys.REWARD, "reward")
        messages, smacv2, waiting = clocks(pids) - clock
        total = seconds["cpu"] + cpu_seconds(self.workers) - working - waiting
        found = {"engine": cpu_seconds(self.engines) - engine, "messages": messages, "smacv2": smacv2}
        found["rest"] = total - messages - smacv2
        per_step = {part: 1e3 * value / steps / self.num_envs for part, value in found.items()}
        return {**per_step, "wall": 1e3 * seconds["wall"] / steps}


def inference(env: EnvBase, data: TensorDictBase) -> Callable[[int], float]:
    """Milliseconds of CPU time of a batch, by environment."""
    model = make_team(compose("smac", ["algorithm=globediff"]), env).state_model
    given = data.select(*model.in_keys, strict=False)

    @torch.no_grad()
    def run(calls: int) -> float:
        start = time.process_time()
        for _ in range(calls):
            model(given.copy())
        return 1e3 * (time.process_time() - start) / calls / given.batch_size[0]

    return run


# ----------------------------------------------------------------------------------------------------- runs and table
def measure(name: str, num_envs: int, args: argparse.Namespace, about: dict[str, str]) -> list[dict]:
    runners = {"torchrl": Runner(plain, name, num_envs), "ours": Runner(ours, name, num_envs)}
    rows = []
    try:
        infer = inference(runners["ours"].env, runners["ours"].data)
        infer(3)
        for runner in runners.values():
            runner.round(WARM_UP)
        for turn in tqdm(range(args.rounds), desc=f"{name}, {num_envs} threads"):
            for variant in VARIANTS if turn % 2 else reversed(VARIANTS):
                row = {**about, "map": name, "threads": num_envs, "variant": variant, "round": turn}
                found = runners[variant].round(args.steps)
                rows.append({**row, **{part: f"{value:.4f}" for part, value in found.items()}})
                if variant == "ours":
                    rows[-1]["inference"] = f"{infer(20):.4f}"
    finally:
        for runner in runners.values():
            runner.env.close()
    return rows


def table(rows: list[dict]) -> str:
    """Medians over the rounds; the shares are medians of each round's share."""
    groups: dict[tuple, dict[str, dict[str, dict[str, float]]]] = {}
    for row in rows:
        group = groups.setdefault((row["map"], row["protobuf"], row["engine_is"], int(row["threads"])), {})
        values = {part: float(row.get(part) or 0) for part in PARTS}
        values["client"] = values["messages"] + values["smacv2"] + values["rest"]
        group.setdefault(row["round"], {})[row["variant"]] = values
    lines = []
    for group in sorted(groups):
        pairs = [(turn["torchrl"], turn["ours"]) for turn in groups[group].values() if len(turn) == 2]

        def middle(value: Callable[[dict, dict], float], pairs=pairs) -> float:
            return statistics.median(value(plain, ours) for plain, ours in pairs)

        cells = [middle(lambda plain, _, part=part: plain[part]) for part in ("engine", "messages", "smacv2", "rest")]
        cells += [
            middle(lambda plain, ours: ours["client"] - plain["client"]),
            middle(lambda _, ours: ours["inference"]),
        ]
        walls = [middle(lambda plain, _: plain["wall"]), middle(lambda _, ours: ours["wall"])]
        whole = middle(lambda plain, ours: (ours["client"] - plain["client"]) / (plain["client"] + plain["engine"]))
        part = middle(lambda plain, ours: (ours["client"] - plain["client"]) / plain["client"])
        numbers = [*(f"{cell:.2f}" for cell in cells), *(f"{wall:.1f}" for wall in walls)]
        lines.append([*map(str, group), *numbers, f"{whole:+.0%}", f"{part:+.0%}"])
    return markdown_table(HEADER, lines)


def surroundings() -> dict[str, str]:
    """Which protobuf and which engine this is."""
    from google import protobuf
    from google.protobuf.internal import api_implementation

    standin = any(b"sc2_standin" in binary.open("rb").read(4096) for binary in engine_builds().values())
    if standin:
        os.environ.setdefault("SC2_STANDIN_DAMAGE", "0")  # nobody dies, so that no battle ends
        print("SC2PATH leads to tests/sc2_standin: the engine's share is the stand-in's, and says nothing of StarCraft")
    implementation = f"{protobuf.__version__} {api_implementation.Type()}"
    return {"protobuf": implementation, "engine_is": "stand-in" if standin else "StarCraft II"}


def main() -> None:
    parser = arguments(__doc__, rounds=30, output="runs/smac_step")
    parser.add_argument("--map", default="3m", help="of SMACv1, or e.g. zerg_5_vs_5")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2, 4], help="environments side by side")
    parser.add_argument("--steps", type=int, default=10, help="of each environment in a round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.output / "steps.csv"
    rows = read_rows(path)
    if not args.table_only:
        lacking = missing(smac_map(args.map).file)
        if lacking:
            sys.exit(f"This needs what is not here: {'; '.join(lacking)}. See docs/smac.md.")
        unset_empty_path()
        about = surroundings()
        with tempfile.TemporaryDirectory() as folder:
            os.environ[FOLDER] = folder
            start_clocks(folder)
            for num_envs in args.threads:
                new = measure(args.map, num_envs, args, about)
                same = {**about, "map": args.map, "threads": str(num_envs)}
                rows = [row for row in rows if any(row[name] != value for name, value in same.items())] + new
                write_rows(path, COLUMNS, rows)
                rows = read_rows(path)
    (args.output / "table.md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
