"""A device beside the CPU on a machine that has none: the CPU's numbers under the name "other".

An operation on tensors of both devices raises, as it does with CUDA (but for numbers without dims and for indices on
the CPU). Import it in a process of its own: torch has then an accelerator for the rest of that process. What asks for
"cuda" by name (memory statistics, CUDA's random streams) is not seen this way.
"""

from __future__ import annotations

import contextlib
import sys

import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "other"
COPIES = {"copy_", "_to_copy", "set_"}
TAKES_CPU_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_"}


class OtherTensor(torch.Tensor):
    """Holds its numbers in ``raw``, a tensor of the CPU."""

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> OtherTensor:
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, raw.size(), device=torch.device(NAME, 0), **layout)
        tensor.raw = raw
        return tensor

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return run(op, args, kwargs or {})

    def __deepcopy__(self, memo):
        copy = OtherTensor(self.detach().raw.clone())
        copy.requires_grad_(self.requires_grad)
        copy._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), copy)

    def __reduce_ex__(self, protocol):
        return restored, (self.detach().raw.clone(),)

    def __repr__(self, **kwargs):
        return f"other({self.raw!r})"

    def tolist(self):
        return self.detach().raw.tolist()


def restored(raw: torch.Tensor) -> torch.Tensor:
    """What a file gives back: on the CPU, as with ``map_location="cpu"``."""
    return raw


def run(op, args, kwargs):
    """The operation on the CPU's numbers; what comes out is on the device of what went in, or the one asked for."""
    name = op._schema.name.split("::")[1]
    given, tree = pytree.tree_flatten((args, kwargs))
    tensors = [value for value in given if isinstance(value, torch.Tensor)]
    there = [value for value in tensors if isinstance(value, OtherTensor)]
    here = [value for value in tensors if not isinstance(value, OtherTensor) and value.ndim]
    if name in TAKES_CPU_INDICES and isinstance(args[0], OtherTensor):
        here = [value for value in args[2:3] if not isinstance(value, OtherTensor) and value.ndim]
    if there and here and name not in COPIES:
        sizes = [[list(tensor.shape) for tensor in tensors] for tensors in (here, there)]
        raise RuntimeError(f"{name} on two devices: sizes {sizes[0]} on cpu, {sizes[1]} on {NAME}")
    device = kwargs.get("device")
    goes_there = bool(there) if device is None else torch.device(device).type == NAME
    if name == "copy_":
        goes_there = isinstance(args[0], OtherTensor)
    raw = [_on_cpu(value) for value in given]
    args, kwargs = pytree.tree_unflatten(raw, tree)
    out = op(*args, **{**kwargs, **({"pin_memory": False} if "pin_memory" in kwargs else {})})
    same = {} if name == "_to_copy" else {id(was): now for was, now in zip(raw, given) if isinstance(now, torch.Tensor)}

    def back(value):
        if not isinstance(value, torch.Tensor) or id(value) in same:
            return same.get(id(value), value)
        return OtherTensor(value) if goes_there else value

    return pytree.tree_map(back, out)


def _on_cpu(value):
    if isinstance(value, OtherTensor):
        return value.raw
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _made_there(make):
    """``torch.tensor`` and ``as_tensor``, which know no device of Python's."""

    def made(*args, device=None, **kwargs):
        if device is None or torch.device(device).type != NAME:
            return make(*args, device=device, **kwargs)
        grad = kwargs.pop("requires_grad", False)
        return make(*args, **kwargs).to(NAME).requires_grad_(grad)

    return made


class _DeviceModule:
    """What torch and tensordict ask of the module of a device; its random stream is the CPU's."""

    device = staticmethod(lambda *args: contextlib.nullcontext())
    synchronize = set_rng_state = staticmethod(lambda *args: None)
    get_rng_state = staticmethod(lambda *args: torch.zeros(1, dtype=torch.uint8))
    device_count = staticmethod(lambda: 1)


def _register() -> None:
    _setup_privateuseone_for_python_backend(NAME)
    module = type(getattr(torch, NAME))
    for name, value in vars(_DeviceModule).items():
        if not name.startswith("__"):
            setattr(module, name, value)
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: run(op, args, kwargs), "PrivateUse1")
    globals()["_library"] = library  # it is undone where nobody holds it
    torch.tensor, torch.as_tensor = _made_there(torch.tensor), _made_there(torch.as_tensor)
    torch.serialization.add_safe_globals([restored])


def admit() -> None:
    """Lets safetensors, TorchRL and the package take the device; each has a list of those that it knows."""
    import safetensors.torch as files  # before the package takes its functions by name

    save, load = files.save_file, files.load_file
    files.save_file = lambda tensors, *args, **kwargs: save({k: v.cpu() for k, v in tensors.items()}, *args, **kwargs)
    files.load_file = lambda file, device="cpu": {k: v.to(device) for k, v in load(file).items()}

    import torchrl.envs.batched_envs as batched
    from torchrl.collectors import Collector

    import globediff_torchrl.training  # noqa: F401  now all that check a device are there

    Collector._get_sync_fn = lambda self, device: lambda *args: None
    batched.BatchedEnvBase._find_sync_values = lambda self: (lambda *args: None,) * 2
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("globediff_torchrl") and hasattr(module, "check_device"):
            module.check_device = torch.device


_register()
