"""How jax and jaxmarl come in: late, silently, and with what they compile kept on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from globediff_torchrl.errors import UserError

CACHE_SWITCH = "GLOBEDIFF_JAX_CACHE"  # "off": nothing is kept; otherwise a folder


def check_installed() -> None:
    """Raises UserError where jax or jaxmarl is not installed; imports neither."""
    missing = [name for name in ("jax", "jaxmarl") if importlib.util.find_spec(name) is None]
    if missing:
        raise _missing(" and ".join(missing))


def _missing(what: str) -> UserError:
    return UserError(f"smax environments need {what}, missing here: pip install -e '.[smax]' in the checkout.")


def load_battles() -> ModuleType:
    """The module :mod:`globediff_torchrl.envs.smax.battle`, with the compilation cache switched on.

    Raises:
        UserError: jax or jaxmarl is not installed, or jax is set to what no battle runs on.
    """
    check_installed()
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)  # it tells of each accelerator that is not there
    try:
        with _silent():
            _check_settings()
            from globediff_torchrl.envs.smax import battle
    except ImportError as error:  # installed in part, or another version
        raise _missing(f"a part of jax or jaxmarl ({error})") from error
    _keep_compiled()
    return battle


def _check_settings() -> None:
    ours = "jax" not in sys.modules
    import jax

    if ours and jax.config.jax_platforms is None:
        # battles run on the CPU; with a GPU's plugin jax would take three quarters of the memory that torch needs there
        jax.config.update("jax_platforms", "cpu")
    if jax.config.jax_enable_x64:
        raise UserError(
            "smax environments compute in 32 bits, as jaxmarl does, but jax is set to 64: unset JAX_ENABLE_X64, or "
            "call jax.config.update('jax_enable_x64', False) before they are made."
        )
    try:
        jax.devices("cpu")
    except (AssertionError, RuntimeError) as error:  # an accelerator without its plugin is asserted away
        raise UserError(
            f"jax cannot run on JAX_PLATFORMS={jax.config.jax_platforms} ({error or 'no such platform here'}); "
            "expected platforms that this jax has, cpu among them, as battles run there: unset JAX_PLATFORMS, or name "
            "cpu too."
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """jaxmarl prints when it is imported, and puts its own idea of the standard streams into ``sys``."""
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    before, sink = {name: getattr(sys, name) for name in names}, io.StringIO()
    for name in names:
        setattr(sys, name, sink)
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


def _keep_compiled() -> None:
    """A battle takes 10 to 30 seconds to compile, for each batch size: once a machine is enough."""
    import jax

    asked = os.environ.get(CACHE_SWITCH, "")
    if asked == "off" or jax.config.jax_compilation_cache_dir is not None:
        return
    folder = Path(asked).expanduser() if asked else _cache_folder()
    if folder is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder / _processor()))


def _cache_folder() -> Path | None:
    """The user's own; None for a user who has no home."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME, and no entry in passwd: a container run under a bare number
        return None
    return home / "globediff_torchrl" / "jax"


def _processor() -> str:
    """A name of this kind of processor: compiled code may not run on another one that shares the home directory."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
