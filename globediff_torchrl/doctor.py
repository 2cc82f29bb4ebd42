"""Is this machine ready, for StarCraft II above all? What is there, what is missing, and how to mend it.

``globediff-doctor``, or ``python -m globediff_torchrl.doctor``. Exit code 0 if nothing that was asked for fails: VMAS
always, SMAX and SMAC with ``--require``, a launch with ``--launch``. It looks before it imports, so that it can tell of
what is missing; it uses no network.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __package__:
    from globediff_torchrl.starcraft import ENGINE, MAPS, engine_builds, game_folder, named_folder
else:  # run as a file, so that torch may be missing: the package imports it, the file beside this one does not
    from starcraft import ENGINE, MAPS, engine_builds, game_folder, named_folder

CORE = ("torch", "torchrl", "tensordict", "vmas", "hydra-core")
SMAX = ("jax", "jaxmarl")
SMAC = ("pysc2", "s2clientprotocol", "smacv2")
FIXES = {
    "core": "pip install -e . in the checkout",
    "smax": "pip install -e '.[smax]' in the checkout",
    "smac": "pip install pysc2 -c constraints-smac.txt, in the checkout with a venv of its own; see docs/smac.md",
    "smacv2": "it is on no package index: install it from a copy of the repository oxwhirl/smacv2, see docs/smac.md",
    "protobuf": "pip install 'protobuf<3.21', which s2clientprotocol and smacv2 1.0 need; see docs/smac.md",
}
OLDEST_BUILD = 55958  # 3.16.1, the first that pysc2 starts
OFFICIAL_BUILD = 75689  # 4.10, of the published results
NEWEST_PROTOBUF = (3, 20)  # the newest that takes the published modules of s2clientprotocol
MAPS_ZIP = "smacv2/env/starcraft2/maps/SMAC_Maps/SMAC_Maps.zip"
PORTS = 16
LOW_MEMORY = 2.0  # GB


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``family``: who needs it (``"core"``, ``"smax"``, ``"smac"``, ``"launch"``)."""

    family: str
    state: str
    text: str
    fix: str = ""

    @property
    def bad(self) -> bool:
        return self.state == "missing"

    def __str__(self) -> str:
        return f"{self.state:8} {self.text}" + (f" -> {self.fix}" if self.fix else "")


def pins() -> dict[str, str]:
    """The versions that this package was tested with, by package; empty where it is not installed itself."""
    try:
        wanted = importlib.metadata.requires("globediff_torchrl") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w-]+)==([\w.]+)", line) for line in wanted)
    return {match[1]: match[2] for match in found if match}


def installed_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


def check_packages(family: str, names: tuple[str, ...]) -> Iterator[Finding]:
    """Which of the packages are installed, and whether in the tested version; imports none."""
    tested, good = pins(), []
    for name in names:
        fix = FIXES.get(name, FIXES[family])
        if importlib.util.find_spec({"hydra-core": "hydra"}.get(name, name)) is None:
            yield Finding(family, "missing", f"python package {name}", fix)
            continue
        version = installed_version(name)
        if name in tested and version.split("+")[0] != tested[name]:
            yield Finding(family, "warning", f"{name} {version}, tested with {tested[name]}", fix)
        else:
            good.append(f"{name} {version}")
    if good:
        yield Finding(family, "ok", "python packages " + ", ".join(good))


def check_protobuf() -> Iterator[Finding]:
    """Whether the engine's messages can be read, and by which implementation."""
    try:
        there = importlib.util.find_spec("google.protobuf") is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        yield Finding("smac", "missing", "python package protobuf", FIXES["protobuf"])
        return
    version = installed_version("protobuf")
    if importlib.util.find_spec("s2clientprotocol") is None:
        number = re.match(r"(\d+)\.(\d+)", version)
        if number is not None and (int(number[1]), int(number[2])) > NEWEST_PROTOBUF:
            text = f"protobuf {version}, which does not take s2clientprotocol's modules as they are published"
            yield Finding("smac", "warning", text, FIXES["protobuf"])
        else:
            yield Finding("smac", "ok", f"protobuf {version}")
        return
    try:
        importlib.import_module("s2clientprotocol.sc2api_pb2")
        kind = importlib.import_module("google.protobuf.internal.api_implementation").Type()
    except Exception as error:  # protobuf raises TypeError where its version does not fit
        said = str(error).splitlines()[0][:80] if str(error) else ""
        yield Finding("smac", "missing", f"a protobuf that reads s2clientprotocol ({said})", FIXES["protobuf"])
        return
    slow = "in pure Python: with upb an environment step without the engine is 1.5 times as fast"
    state, text, fix = ("warning", slow, "docs/smac.md, section on upb") if kind == "python" else ("ok", kind, "")
    yield Finding("smac", state, f"protobuf {version} reads the engine's messages {text}", fix)


def check_game() -> Iterator[Finding]:
    """StarCraft II's folder and the versions of the engine in it."""
    named = named_folder()
    fix = "unpack StarCraft II for Linux 4.10 there, or set SC2PATH to where it is; see docs/smac.md"
    if not game_folder().is_dir():
        yield Finding("smac", "missing", f"StarCraft II: no folder {named}", fix)
        return
    builds = engine_builds()
    if not builds:
        yield Finding("smac", "missing", f"the engine: no {ENGINE} in {named}", fix)
        return
    newest = max(builds)
    text = f"StarCraft II in {named}, builds {', '.join(map(str, sorted(builds)))}"
    if not os.access(builds[newest], os.X_OK):
        yield Finding("smac", "missing", f"{text}, but it may not be executed", f"chmod +x {builds[newest]}")
    elif newest < OLDEST_BUILD:
        yield Finding("smac", "missing", f"{text}: pysc2 needs {OLDEST_BUILD} or newer", fix)
    elif newest != OFFICIAL_BUILD:
        yield Finding("smac", "warning", text, f"published results are of build {OFFICIAL_BUILD} (4.10)")
    else:
        yield Finding("smac", "ok", text)


def check_maps() -> Iterator[Finding]:
    """SMAC's maps, in the game's folder; nothing to say where there is no such folder."""
    from globediff_torchrl.envs.smac.maps import SMACV1_MAPS

    folder = game_folder() / MAPS
    if not game_folder().is_dir():
        return
    found = {path.name.removesuffix(".SC2Map") for path in folder.glob("*.SC2Map")}
    lacking = [name for name in (*SMACV1_MAPS, "32x32_flat") if name not in found]
    if not lacking:
        yield Finding("smac", "ok", f"all {len(SMACV1_MAPS)} maps of SMAC and 32x32_flat of SMACv2 in {folder}")
        return
    some = ", ".join(lacking[:6]) + (f" and {len(lacking) - 6} more" if len(lacking) > 6 else "")
    fix = f"unpack {MAPS_ZIP}, in a clone of smacv2 (the installed package lacks it), into {folder}"
    yield Finding("smac", "missing", f"maps {some}", fix)


def check_machine() -> Iterator[Finding]:
    """Ports, memory, and engines that somebody left behind."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(PORTS):
            sockets.append(socket.socket())
            sockets[-1].bind(("127.0.0.1", 0))
        yield Finding("smac", "ok", f"{PORTS} free ports on 127.0.0.1")
    except OSError as error:
        yield Finding(
            "smac", "missing", f"free ports on 127.0.0.1 ({error})", "end programs that hold many connections"
        )
    finally:
        for each in sockets:
            each.close()
    info = Path("/proc/meminfo")
    if info.exists():
        free = int(re.search(r"MemAvailable:\s+(\d+)", info.read_text(encoding="utf-8"))[1]) / 2**20
        text = f"{free:.1f} GB of memory available, {os.cpu_count()} processors"
        low = free < LOW_MEMORY
        yield Finding("smac", "warning" if low else "ok", text, "use fewer env.num_envs" if low else "")


def check_leftovers() -> Iterator[Finding]:
    from globediff_torchrl.envs.processes.children import engines

    running = engines()
    orphans = [str(pid) for pid, parent in running if parent == 1]
    if orphans:
        yield Finding("smac", "warning", f"{len(orphans)} engines whose program is gone", f"kill {' '.join(orphans)}")
    elif running:
        yield Finding("smac", "ok", f"{len(running)} engines run, each of a program that runs, too")


def check_launch(name: str, family: str) -> Iterator[Finding]:
    """Ten random steps of an environment."""
    began = time.monotonic()
    try:
        from globediff_torchrl.envs import make_env

        # the run's own limits: what is slow here is slow there, too
        env = make_env(name, num_envs=1, **({"retries": 0} if name.startswith("smac") else {}))
        try:
            env.rollout(10, break_when_any_done=False)
        finally:
            env.close()
    except Exception as error:
        said = " ".join(str(error).split())[:1000]
        yield Finding(
            family, "missing", f"{name} does not run: {type(error).__name__}: {said}", "mend what stands above"
        )
    else:
        yield Finding(family, "ok", f"{name} runs: ten steps, {time.monotonic() - began:.0f} s with its start")


def examine(launch: str | None) -> Iterator[Finding]:
    """All findings, the cheap ones first; ``launch``: an environment's name, ``"none"``, or None for what is there."""
    seen: list[Finding] = []

    def passed(findings: Iterator[Finding]) -> Iterator[Finding]:
        for finding in findings:
            seen.append(finding)
            yield finding

    yield from passed(check_packages("core", CORE))
    yield from passed(check_packages("smax", SMAX))
    yield from passed(check_packages("smac", SMAC))
    yield from passed(check_protobuf())
    yield from passed(check_game())
    yield from passed(check_machine())
    if any(finding.bad for finding in seen if finding.family == "core"):
        return  # nothing of this package can be imported
    yield from passed(check_maps())
    yield from passed(check_leftovers())
    if launch == "none":
        return
    yield from passed(check_launch("vmas/hunt", "core"))
    if launch is not None:
        yield from check_launch(launch, "launch")
    elif not any(finding.bad for finding in seen if finding.family == "smac"):
        yield from check_launch("smac/3m", "smac")


def main(arguments: list[str] | None = None) -> int:
    """Prints the findings and a verdict for each family.

    Returns:
        the exit code: 1 if something that was asked for fails.
    """
    parser = argparse.ArgumentParser(prog="globediff-doctor", description=__doc__.split("\n\n")[0])
    parser.add_argument("--require", action="append", default=[], choices=["vmas", "smax", "smac"], help="must work")
    parser.add_argument(
        "--launch", metavar="NAME", help="an environment to run for ten steps (3m, smax/3m); none for no launch at all"
    )
    options = parser.parse_args(arguments)
    launch = options.launch
    if launch not in (None, "none") and "/" not in launch:
        launch = f"smac/{launch}"
    findings = []
    for finding in examine(launch):
        findings.append(finding)
        print(finding, flush=True)
    asked = {"core", "launch", *options.require}
    for family, title in (("core", "VMAS"), ("smax", "SMAX"), ("smac", "SMAC and SMACv2")):
        bad = sum(finding.bad for finding in findings if finding.family == family)
        print(f"{title}: {f'not ready, {bad} missing' if bad else 'ready'}")
    return int(any(finding.bad for finding in findings if finding.family in asked))


if __name__ == "__main__":
    sys.exit(main())
