"""What an agent reads of the inferred state: which estimates, and seen from where."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase, set_skip_existing
from torch import Tensor

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.layout import FeatureLayout
from globediff_torchrl.policies.networks import read

READS = {
    "sample": (keys.INFERRED_STATE,),
    "samples": (keys.HYPOTHESES,),
    "mean": (keys.INFERRED_MEAN,),
    "blend": (keys.INFERRED_BLEND,),
    "mean_sample": (keys.INFERRED_MEAN, keys.INFERRED_STATE),
    "mean_spread": (keys.INFERRED_MEAN, keys.HYPOTHESES),
}
VIEWS = ("auto", "relative", "absolute")


def ego_matrix(layout: FeatureLayout, agents: int) -> Tensor:
    """The linear map ``[n, d_s, d_s]`` that turns a state into each agent's own view of it.

    Row blocks are whole entities. For agent ``i``: what belongs to agent ``i`` first, then what belongs to ``i + 1``,
    ``i + 2``, ... (modulo ``n``), then what belongs to nobody; every position but the own one is given relative to
    the own one. Velocities, rotations and flags stay as they are.

    Raises:
        UserError: an agent has no entity with a position in the layout, its coordinates stand in several features, or
            another position has more or fewer of them.
    """
    slices = layout.slices
    own = {}
    for feature in layout.features:
        if feature.kind == "position" and feature.owner is not None:
            own.setdefault(feature.owner, slices[feature.full_name])  # an agent's own row comes before its goals
    missing = [agent for agent in range(agents) if agent not in own]
    if missing:
        raise UserError(
            f"a relative view needs the position of every agent in the state, but the layout has none for agents "
            f"{missing}; known features: {', '.join(layout.names)}. Use view=absolute."
        )
    _check_positions(layout, own)
    matrix = torch.zeros(agents, layout.size, layout.size)
    for agent in range(agents):

        def turn(feature, agent=agent):  # the sort is stable: within one owner the layout's order stays
            return agents if feature.owner is None else (feature.owner - agent) % agents

        row = 0
        for feature in sorted(layout.features, key=turn):
            columns = slices[feature.full_name]
            for offset in range(feature.size):
                matrix[agent, row, columns.start + offset] = 1.0
                if feature.kind == "position" and columns != own[agent]:
                    matrix[agent, row, own[agent].start + offset] -= 1.0
                row += 1
    return matrix


def _check_positions(layout: FeatureLayout, own: dict[int, slice]) -> None:
    """Refuses positions that cannot be taken from one another number by number."""
    positions = [feature for feature in layout.features if feature.kind == "position"]
    entities = [feature.entity for feature in positions]
    sizes = {where.stop - where.start for where in own.values()}
    for feature in positions:
        if {feature.size} != sizes or entities.count(feature.entity) > 1:
            raise UserError(
                f"a relative view expects one position of each entity, all with as many coordinates, got "
                f"{', '.join(f'{other.full_name} of size {other.size}' for other in positions)}: make one feature of "
                f"an entity's coordinates, or use view=absolute."
            )


class EgoView(TensorDictModuleBase):
    """Selects what the actor reads of the inference and turns it towards each agent.

    Reads, by ``reads`` (shapes ``[*B, n, ...]``):
        * ``"sample"``: ``("agents", "inferred_state") [d_s]``, one posterior sample, as in the paper;
        * ``"samples"``: ``("agents", "hypotheses") [S, d_s]``, concatenated;
        * ``"mean"``: ``("agents", "inferred_mean") [d_s]``;
        * ``"blend"``: ``("agents", "inferred_blend") [d_s]``: of each dim the mean, or the sample as far as x leaves it
          open;
        * ``"mean_sample"``: both the mean and the sample;
        * ``"mean_spread"``: the mean, and the standard deviation of the hypotheses in the agent's own frame.

    Writes:
        ``("agents", "view") [*B, n, d_v]``, ``d_v`` = ``d_s``, ``S d_s`` or ``2 d_s``.

    Args:
        agents: number of agents ``n``.
        state_dim: size ``d_s`` of the state.
        layout: what the state's numbers are; needed by ``view="relative"``.
        reads: see above.
        view: ``"relative"`` (own entity first, positions relative to the own one: learnt from much faster than
            absolute ones), ``"absolute"``, or ``"auto"``: relative where the layout allows it.
        hypotheses: number ``S`` of hypotheses, for ``reads="samples"``.

    Raises:
        UserError: an unknown name, a relative view that the layout cannot give; in forward, an inference that is
            missing or of another size.
    """

    def __init__(
        self,
        agents: int,
        state_dim: int,
        layout: FeatureLayout | None = None,
        *,
        reads: str = "blend",
        view: str = "auto",
        hypotheses: int = 1,
        out_key: NestedKey = keys.VIEW,
    ) -> None:
        super().__init__()
        if reads not in READS:
            raise unknown("reads", reads, READS)
        if view not in VIEWS:
            raise unknown("view", view, VIEWS)
        self.reads = reads
        self.expected = (hypotheses, state_dim) if reads == "samples" else (state_dim,)
        self.in_keys = list(READS[reads])
        self.out_keys = [out_key]
        self.size = state_dim * (hypotheses if reads == "samples" else len(READS[reads]))
        self.extra = state_dim * (len(READS[reads]) - 1)  # what stands behind the mean
        matrix = None
        if view != "absolute":
            try:
                if layout is None:
                    raise UserError("a relative view needs the state's layout: pass layout=env.task.state_layout.")
                matrix = ego_matrix(layout, agents)
            except UserError:
                if view == "relative":
                    raise
        self.view = "absolute" if matrix is None else "relative"
        self.register_buffer("matrix", matrix, persistent=False)  # follows from the layout: not a weight

    def turn(self, state: Tensor) -> Tensor:
        """``[*B, n, d_s] -> [*B, n, d_s]``."""
        if self.matrix is None:
            return state
        return torch.einsum("nij,...nj->...ni", self.matrix, state)

    def _turn_hypotheses(self, hypotheses: Tensor) -> Tensor:
        if self.matrix is None:
            return hypotheses
        return torch.einsum("nij,...nsj->...nsi", self.matrix, hypotheses)

    def _check_sizes(self, values: list[Tensor]) -> None:
        for key, value in zip(self.in_keys, values):
            found = tuple(value.shape[-len(self.expected) :])
            if found != self.expected:
                what = "[S, d_s]" if len(self.expected) == 2 else "d_s"
                raise UserError(
                    f"the actor expects {key} with {what} = {list(self.expected)}, got {list(found)}: it was made for "
                    "another state model or environment; pass make_actor(env, state_model) the one in front of it."
                )

    @set_skip_existing(None)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        expected = (
            "a state model that writes it in front of the actor, TensorDictSequential(state_model, actor): put one "
            "there, or make the actor with reads=None"
        )
        values = read(tensordict, self.in_keys, f"reads={self.reads!r} needs", expected)
        self._check_sizes(values)
        if self.reads == "samples":
            view = self._turn_hypotheses(values[0]).flatten(-2)
        elif self.reads == "mean_spread":
            spread = self._turn_hypotheses(values[1]).std(-2, correction=0)
            view = torch.cat([self.turn(values[0]), spread], -1)
        else:
            view = torch.cat([self.turn(value) for value in values], -1)
        return tensordict.set(self.out_keys[0], view)
