"""The centralised critic V(s): read in training only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.modules import ValueNorm

from globediff_torchrl import keys
from globediff_torchrl.policies.networks import Network, feature_size, make_trunk, orthogonal
from globediff_torchrl.policies.recurrent import make_head
from globediff_torchrl.task import ONE_COPY, task_of


class _ValueHead(Network):
    """``V = mu + sigma v``: the network regresses normalised returns, the value is in units of the return."""

    def __init__(
        self, agents: int, trunk: nn.Sequential, features: int, value_norm: ValueNorm | None, team_wide: bool
    ) -> None:
        super().__init__(agents, trunk)
        self.team_wide = team_wide
        self.head = orthogonal(nn.Linear(features, 1), 1.0)
        # in a tuple, so that it is no submodule: the loss owns the norm, updates it, and saves it. A functional loss
        # would take a submodule's statistics for its own, which part from the norm's once the loss is moved
        self._value_norm = (value_norm,)

    @property
    def value_norm(self) -> ValueNorm | None:
        return self._value_norm[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _ValueHead:
        norm = self.value_norm
        if norm is not None:  # what moves the critic moves the norm, which it cannot do without
            norm._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def decode(self, encoded: Tensor) -> Tensor:
        value = self.head(encoded)
        if self.team_wide:
            value = value.unsqueeze(-2).expand(*value.shape[:-1], self.agents, 1)
        norm = self.value_norm
        return value if norm is None else norm.denormalize(value)


def make_critic(
    env: EnvBase,
    value_norm: ValueNorm | None = None,
    *,
    inputs: Sequence[NestedKey] = (keys.STATE,),
    hidden_sizes: Sequence[int] = (64, 64),
    activation: str = "tanh",
    layer_norm: bool = False,
    input_norm: str = "running",
    recurrent: str = "none",
) -> TensorDictModuleBase:
    """The critic V(s).

    Reads:
        the keys of ``inputs``, by default ``"state" [*B, d_s]``. Not the time: the value after a time limit is
        bootstrapped, so that it does not depend on the time, and that of the last moment is never trained on.

    Writes:
        ``("agents", "state_value") [*B, n, 1]``; with team-wide inputs the same value for every agent.

    Args:
        env: gives the shapes and the device; of several copies (TorchRL's SerialEnv) pass one.
        value_norm: the running normaliser that is also given to ``MAPPOLoss``. The network then outputs normalised
            values, as the head of MAPPO's reference does, and the module the true ones. ``MAPPOLoss`` alone would
            normalise a raw output: returns of 0 to 20 are fitted three times more slowly that way. ``critic.to(...)``
            moves it along; ``critic.state_dict()`` does not hold it: save the loss, or the norm beside the critic.
        inputs: what it reads.
        hidden_sizes, activation, layer_norm: as of the actor.
        input_norm: as of the actor: in a training loop of your own, ``"running"`` needs
            :func:`~globediff_torchrl.policies.update_input_statistics`.
        recurrent: ``"none"`` or ``"gru"``, as for the actor. The hidden state is ``"critic_hidden" [*B, h]`` with
            team-wide inputs, else ``("agents", "critic_hidden") [*B, n, h]``; no environment carries it, the training
            does.

    Raises:
        UserError: an environment without a task, or without what is to be read.
    """
    agents = task_of(env, "make_critic", ONE_COPY).n_agents
    in_keys = [tuple(key) if not isinstance(key, str) else key for key in inputs]
    size = sum(feature_size(env, key, "critic") for key in in_keys)
    trunk = make_trunk(size, hidden_sizes, activation=activation, layer_norm=layer_norm, input_norm=input_norm)
    team_wide = all(isinstance(key, str) for key in in_keys)
    features = hidden_sizes[-1] if len(hidden_sizes) else size
    network = _ValueHead(agents, trunk, features, value_norm, team_wide)
    hidden_key = keys.TEAM_CRITIC_HIDDEN if team_wide else keys.CRITIC_HIDDEN
    return make_head(network, features, recurrent, in_keys, [keys.STATE_VALUE], hidden_key).to(env.device)
