"""A state model of one's own: the best linear map of x, fitted, saved, and used inside a training run."""

from tensordict import TensorDictBase
from torch import Tensor, nn

from globediff_torchrl import fit, keys, make_env, make_state_model, make_trainer
from globediff_torchrl.state_models import (
    STATE_MODELS,
    StateModel,
    StateModelLoss,
    key_beside,
    masked_mean,
    squared_error,
    unlocked,
)


class LinearStateModel(StateModel):
    """Reads ("agents", "aux_observation") [*B, n, d_x]; writes "inferred_state" and "inferred_mean" [*B, n, d_s]."""

    answer = "mean"  # what the actor reads, in the lines that a run begins with

    def __init__(self, aux_dim: int, state_dim: int, **common):
        super().__init__(aux_dim, state_dim, **common)  # keys, standardisation, infer_per
        self.net = nn.Linear(aux_dim, state_dim)
        self.mean_key = key_beside(self.inferred_key, None, keys.INFERRED_MEAN)  # in the group of inferred_key
        self.out_keys = [self.inferred_key, self.mean_key]
        self.config = {"aux_dim": aux_dim, "state_dim": state_dim, **common}  # saved beside the weights

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        tensordict = unlocked(tensordict)  # of memory-mapped data, which are locked, a shallow copy
        x, lead, n = self.read_aux(tensordict)  # standardised, one row an inference
        mean = self.restore_state(self.net(x))
        self.write(tensordict, self.inferred_key, mean, lead, n)
        self.write(tensordict, self.mean_key, mean, lead, n)
        return tensordict

    def make_loss(self) -> StateModelLoss:
        return LinearLoss(self)


class LinearLoss(StateModelLoss):
    """Every term whose name starts with "loss_" is added up and minimised; the others are logged."""

    out_keys = ["loss_linear"]

    def terms(self, x: Tensor, s: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        return {"loss_linear": masked_mean(squared_error(self.model.net(x), s), weights)}


STATE_MODELS["linear"] = LinearStateModel  # in the repository: a line of state_models/registry.py

env = make_env("vmas/trilateration", num_envs=64, seed=0)
model = make_state_model("linear", env)
data = env.rollout(50, break_when_any_done=False)
history = fit(model, data, steps=300, seed=0, progress=False)
model.save_pretrained("linear")
LinearStateModel.from_pretrained("linear")

# the whole pipeline with it, at a size for a look; without `overrides` but the first it is a real run
trainer = make_trainer(
    env="vmas/trilateration",
    algorithm="regressor",
    total_frames=400,
    output="runs/linear",
    overrides=[
        "algorithm.state_model.name=linear",
        "env.num_envs=8",
        "training.epochs=1",
        "pretrain.behaviour=random",
        "pretrain.frames=800",
        "pretrain.steps=50",
        "evaluation.final_episodes=8",
        "threads=1",
        "progress=false",
    ],
)
results = trainer.train()
