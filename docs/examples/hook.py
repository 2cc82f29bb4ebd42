"""A hook of one's own: how large the actions are, one column of progress.csv, remembered over a resume."""

from tensordict import TensorDictBase
from torchrl.trainers import Trainer
from torchrl.trainers.trainers import TrainerHookBase

from globediff_torchrl import keys, make_trainer


class ActionSize(TrainerHookBase):
    """Logs the mean absolute action of each batch, and the largest mean so far."""

    def __init__(self) -> None:
        self.largest = 0.0

    def __call__(self, batch: TensorDictBase) -> dict[str, float]:
        size = float(batch[keys.ACTION].abs().mean())
        self.largest = max(self.largest, size)
        return {"action_size": size, "action_size_largest": self.largest}

    def state_dict(self) -> dict:
        return {"largest": self.largest}

    def load_state_dict(self, state_dict: dict) -> None:
        self.largest = state_dict["largest"]

    def register(self, trainer: Trainer, name: str = "action_size") -> None:
        trainer.register_op("pre_steps_log", self)  # gets the whole batch before the update; what it returns is logged
        trainer.register_module(name, self)  # its state_dict goes into the checkpoints


trainer = make_trainer(
    env="vmas/hunt",
    algorithm="mappo",
    total_frames=480,
    output="runs/hook",
    # at a size for a look
    overrides=["env.num_envs=8", "training.epochs=1", "evaluation.final_episodes=8", "threads=1", "progress=false"],
)
ActionSize().register(trainer)
trainer.train()
