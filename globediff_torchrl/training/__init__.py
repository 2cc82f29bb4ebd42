from globediff_torchrl.training.factory import make_trainer, trainer_from_config
from globediff_torchrl.training.mappo import Advantages, BatchValueNorm, Minibatches, make_loss
from globediff_torchrl.training.recurrent import ChunkMinibatches, RecurrentAdvantages
from globediff_torchrl.training.results import load_policy
from globediff_torchrl.training.trainer import MAPPOTrainer, announce

__all__ = [
    "Advantages",
    "BatchValueNorm",
    "ChunkMinibatches",
    "MAPPOTrainer",
    "Minibatches",
    "RecurrentAdvantages",
    "announce",
    "load_policy",
    "make_loss",
    "make_trainer",
    "trainer_from_config",
]
