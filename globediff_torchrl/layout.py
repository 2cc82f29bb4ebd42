"""What each number of an observation or of the state is: entity, feature, kind, owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import torch

from globediff_torchrl.errors import UserError, unknown

KINDS = {
    "position": "absolute 2-d coordinates",
    "offset": "2-d coordinates relative to something",
    "velocity": "2-d",
    "rotation": "cosine and sine of an angle",
    "angular_velocity": "radians a second",
    "range": "a distance",
    "sensor": "readings of a lidar or a camera",
    "flag": "0 or 1",
    "type": "one-hot unit type",
    "health": "hit points or shield",
    "action": "an action taken earlier",
    "time": "share of the episode",
    "other": "anything else",
}


@dataclass(frozen=True)
class Feature:
    """One named feature: ``size`` numbers that belong together.

    Args:
        entity: what it describes, e.g. ``"agent_0"`` or ``"target"``.
        name: which property of it, e.g. ``"position"``.
        kind: one of :data:`KINDS`; a ``"position"`` is made relative to an agent, the others say how to draw and name.
        size: how many numbers.
        owner: index of the agent that the entity is, or belongs to; None where it is shared.
    """

    entity: str
    name: str
    kind: str
    size: int = 1
    owner: int | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise unknown("feature kind", self.kind, KINDS)
        if self.size < 1:
            raise UserError(f"Feature {self.full_name} needs a size of at least 1, got {self.size}.")

    @property
    def full_name(self) -> str:
        return f"{self.entity}.{self.name}"


@dataclass(frozen=True)
class FeatureLayout:
    """The features of a vector, in order.

    Example:
        >>> layout = FeatureLayout((Feature("agent_0", "position", "position", 2, owner=0),
        ...                         Feature("target", "position", "position", 2)))
        >>> layout.slices["target.position"]
        slice(2, 4, None)
        >>> layout.select("target.*")
        tensor([2, 3])
    """

    features: tuple[Feature, ...]

    def __post_init__(self):
        object.__setattr__(self, "features", tuple(self.features))
        if len(set(self.names)) != len(self.features):
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise UserError(f"A FeatureLayout needs unique names; repeated: {', '.join(repeated)}.")

    @classmethod
    def numbered(cls, size: int, entity: str = "agent") -> FeatureLayout:
        """The layout of numbers of which nothing is known: ``<entity>.f0``, ``<entity>.f1``, ..."""
        return cls(tuple(Feature(entity, f"f{i}", "other") for i in range(size)))

    @cached_property
    def size(self) -> int:
        """How many numbers the vector has."""
        return sum(feature.size for feature in self.features)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Full names, ``entity.feature``, in order."""
        return tuple(feature.full_name for feature in self.features)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Full name -> where its numbers are."""
        slices, start = {}, 0
        for feature in self.features:
            slices[feature.full_name] = slice(start, start + feature.size)
            start += feature.size
        return slices

    @cached_property
    def entities(self) -> tuple[str, ...]:
        """Entities in order of first appearance."""
        return tuple(dict.fromkeys(feature.entity for feature in self.features))

    def match(self, patterns: str | Sequence[str]) -> tuple[Feature, ...]:
        """Features whose full name matches one of the shell patterns, in the layout's order.

        Raises:
            UserError: where a pattern matches nothing; the message lists the known names.
        """
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.names):
                raise unknown("feature", pattern, self.names)
        return tuple(f for f in self.features if any(fnmatchcase(f.full_name, pattern) for pattern in patterns))

    def select(self, patterns: str | Sequence[str]) -> torch.Tensor:
        """Indices ``[k]`` (long) of the numbers whose features match; see :meth:`match`."""
        ranges = [torch.arange(self.size)[self.slices[feature.full_name]] for feature in self.match(patterns)]
        return torch.cat(ranges) if ranges else torch.zeros(0, dtype=torch.long)

    def tokens(self) -> torch.Tensor:
        """Indices ``[entities, channels]`` (long), one row an entity, -1 where an entity lacks the feature.

        A feature name has the same columns in every row, so that one network can read all entities.
        """
        widths: dict[str, int] = {}
        for feature in self.features:
            widths[feature.name] = max(widths.get(feature.name, 0), feature.size)
        columns, width = {}, 0
        for name, size in widths.items():
            columns[name] = width
            width += size
        table = torch.full((len(self.entities), width), -1, dtype=torch.long)
        for feature in self.features:
            row, column = self.entities.index(feature.entity), columns[feature.name]
            table[row, column : column + feature.size] = torch.arange(self.size)[self.slices[feature.full_name]]
        return table

    def labels(self) -> tuple[str, ...]:
        """A name for each number: ``target.position.x``, ``line.rotation.cos``, ``agent.lidar.7``."""
        endings = {"position": "xy", "offset": "xy", "velocity": "xy", "rotation": ("cos", "sin")}
        labels = []
        for feature in self.features:
            ends = endings.get(feature.kind, ())
            if feature.size == 1:
                labels.append(feature.full_name)
            elif len(ends) == feature.size:
                labels.extend(f"{feature.full_name}.{end}" for end in ends)
            else:
                labels.extend(f"{feature.full_name}.{i}" for i in range(feature.size))
        return tuple(labels)
