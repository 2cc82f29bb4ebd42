"""The labels of a study's algorithms, such as ``globediff+reads-sample``, and the folders that are called by them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from globediff_torchrl.errors import UserError

LONGEST = 255  # bytes of a folder's name that file systems take
# entries with which a run needs other pairs (x, s) than the environment's other ones: another x or world, another
# reader of x, another number or behaviour
OTHER_PAIRS = re.compile(r"(?:aux|infer_per|pretrain\.(?:frames|behaviour)|experiment|env\.[\w.]+)=.*")


def label_parts(label: str) -> list[str]:
    """The algorithm's name and its entries.

    Example:
        >>> label_parts("globediff++kwargs.box-0.3+reads-sample")
        ['globediff', '+kwargs.box-0.3', 'reads-sample']
    """
    return re.split(r"(?<!\+)\+", label)  # a second + is hydra's own


def shared_suffix(labels: Iterable[str]) -> str:
    """What all labels end with, in whole entries, and what therefore tells none from another; "" of a single label.

    Example:
        >>> shared_suffix(["mappo+seeds-2+frames-9", "globediff+reads-sample+frames-9"])
        '+frames-9'
    """
    entries = [label_parts(label)[:0:-1] for label in set(labels)]  # the last one first; the name is no entry
    shared = []
    for at_this_place in zip(*entries) if len(entries) > 1 else ():
        if len(set(at_this_place)) > 1:
            break
        shared.insert(0, f"+{at_this_place[0]}")
    return "".join(shared)


def run_name(algorithm: str, overrides: Sequence[str]) -> str:
    """The folder of an algorithm's runs, by which those on disk are found, and the algorithm's label in all tables.

    Args:
        algorithm: with its own entries: ``"globediff+algorithm.reads=sample"``.
        overrides: the entries of all algorithms.

    Raises:
        UserError: they make too long a name.
    """
    label = re.sub(r"algorithm\.|state_model\.|env\.", "", "+".join([algorithm, *overrides])).replace("=", "-")
    return _checked(re.sub(r"[^\w.+-]+", "_", label))


def dataset_name(entries: Iterable[str], seed: int) -> str:
    """The folder of the offline data, which all runs share whose entries ask for the same pairs.

    Raises:
        UserError: they make too long a name.
    """
    found = [OTHER_PAIRS.search(entry) for entry in entries]
    # it goes through hydra, which has a use for brackets
    other = [re.sub(r"[^\w.-]+", "_", match[0].replace("=", "-")) for match in found if match]
    name = "-".join(["dataset", *other, f"seed{seed}"])
    return _checked(f"{name}.lock").removesuffix(".lock")  # beside it while it is collected


def _checked(name: str) -> str:
    length = len(os.fsencode(name))
    if length > LONGEST:
        raise UserError(
            f"a run's entries are expected to make a folder's name of {LONGEST} bytes at most, got {length} from "
            f"{name[:40]}...: put them into a file of configs/experiment, and name that by experiment=."
        )
    return name
