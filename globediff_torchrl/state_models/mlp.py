"""The regressor: s_hat = f(x), the mean of all states that x allows."""

from typing import Any

from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.modules import MLP

from globediff_torchrl import keys
from globediff_torchrl.errors import check_count
from globediff_torchrl.state_models.base import COMMON, StateModel
from globediff_torchrl.state_models.numerics import masked_mean, squared_error
from globediff_torchrl.state_models.objective import StateModelLoss
from globediff_torchrl.state_models.presets import REGRESSOR_PRESETS, with_preset
from globediff_torchrl.state_models.reading import key_beside, unlocked


class MLPStateModel(StateModel):
    """Infer the state by regression, MAPPO (MLP) of the paper: one point, the average of what x allows.

    Reads ``("agents", "aux_observation")`` ``[*B, n, d_x]``; writes ``("agents", "inferred_state")`` and
    ``("agents", "inferred_mean")`` ``[*B, n, d_s]``, which are equal.

    Args:
        aux_dim, state_dim: d_x and d_s.
        preset: ``"tuned"`` (2 x 256) or ``"paper"`` (4 x 1024, Table 4). width, layers: override it.
        mean_key: by default in the group of ``inferred_key``; the others as :class:`StateModel`.

    Raises:
        UserError: an unknown preset or a size below 1; in forward, a missing or wrongly shaped x.

    Example:
        >>> model = MLPStateModel(aux_dim=8, state_dim=12)
        >>> model(TensorDict({("agents", "aux_observation"): torch.randn(5, 3, 8)}, [5]))
    """

    answer = "mean"
    overridable = execution_only = (*COMMON, "mean_key")
    table_lr = 3e-4  # Table 4

    def __init__(
        self,
        aux_dim: int,
        state_dim: int,
        preset: str = "tuned",
        *,
        width: int | None = None,
        layers: int | None = None,
        mean_key: NestedKey | None = None,
        **common: Any,
    ):
        super().__init__(aux_dim, state_dim, **common)
        settings = with_preset(REGRESSOR_PRESETS, preset, {"width": width, "layers": layers})
        activation = settings.pop("activation")
        for name, value in settings.items():
            check_count(name, value, "leave it away for the preset's")
        self.preset = preset
        self.mean_key = key_beside(self.inferred_key, mean_key, keys.INFERRED_MEAN)
        cells = [settings["width"]] * settings["layers"]
        self.net = MLP(aux_dim, state_dim, num_cells=cells, activation_class=activation)
        self.out_keys = [self.inferred_key, self.mean_key]
        self.config = {
            **settings, "aux_dim": aux_dim, "state_dim": state_dim, "preset": preset, "mean_key": mean_key,
            **common,
        }  # fmt: skip

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the mean state to both out_keys; into a shallow copy where the tensordict is locked."""
        tensordict = unlocked(tensordict)
        x, lead, n = self.read_aux(tensordict)
        mean = self.restore_state(self.net(x))
        self.write(tensordict, self.inferred_key, mean, lead, n)
        self.write(tensordict, self.mean_key, mean, lead, n)
        return tensordict

    def make_loss(self) -> "RegressorLoss":
        """The :class:`RegressorLoss` of this model."""
        return RegressorLoss(self)


class RegressorLoss(StateModelLoss):
    """Mean squared error of the standardised state: ``loss_regression``. Reads what :class:`StateModelLoss` reads."""

    out_keys = ["loss_regression"]

    def terms(self, x: Tensor, s: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        return {"loss_regression": masked_mean(squared_error(self.model.net(x), s), weights)}
