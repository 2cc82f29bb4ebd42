"""From the names of what a team does not see to a mask over its observations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from globediff_torchrl.errors import UserError
from globediff_torchrl.layout import Feature, FeatureLayout

_SCOPE = re.compile(r"^(agents|agent_(\d+))\.(?=.+\.)")


def resolve_hidden(
    hide: str | Sequence[str] | None, layout: FeatureLayout, n_agents: int
) -> tuple[tuple[str, ...], Tensor]:
    """What patterns hide: canonical names and a mask ``[n, d_o]`` (bool), True where visible.

    Args:
        hide: shell patterns over the observation's feature names, e.g. ``"target.offset"`` or ``"*.velocity"``. An
            ``"agents."`` before them changes nothing; ``"agent_0."`` hides from agent 0 only.
        layout: the observation's.
        n_agents: size of the team.

    Raises:
        UserError: where a pattern matches no feature, or an agent does not exist.

    Example:
        >>> names, visible = resolve_hidden(["target.offset"], layout, n_agents=2)
        >>> names
        ('agents.target.offset',)
    """
    several = isinstance(hide, Iterable) and not isinstance(hide, str)
    patterns = () if hide is None else tuple(hide) if several else (hide,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise UserError(
            f"hide must be a list of feature names, or None for nothing, got {hide!r}: known are "
            f"{', '.join(layout.names)}."
        )
    visible = torch.ones(n_agents, layout.size, dtype=torch.bool)
    names: dict[str, None] = {}
    for pattern in patterns:
        scope = _SCOPE.match(pattern)
        rows, prefix = slice(None), "agents"
        if scope is not None:
            pattern = pattern[scope.end() :]
            if scope.group(2) is not None:
                agent, prefix = int(scope.group(2)), scope.group(1)
                if agent >= n_agents:
                    raise UserError(f"hide names {prefix}, but the team has agents 0 to {n_agents - 1}.")
                rows = slice(agent, agent + 1)
        for feature in _match(layout, pattern):
            visible[rows, layout.slices[feature.full_name]] = False
            names[f"{prefix}.{feature.full_name}"] = None
    return tuple(names), visible


def _match(layout: FeatureLayout, pattern: str) -> tuple[Feature, ...]:
    try:
        return layout.match(pattern)
    except UserError as error:  # the state's names begin with entities such as carrier_0, which hide no observation
        raise UserError(
            f"{error} From one agent alone: its index and one of these, e.g. agent_0.{layout.names[-1]}."
        ) from error
