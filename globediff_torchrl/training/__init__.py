from globediff_torchrl.training.factory import make_trainer, trainer_from_config
from globediff_torchrl.training.results import load_policy
from globediff_torchrl.training.trainer import MAPPOTrainer, announce

__all__ = ["MAPPOTrainer", "announce", "load_policy", "make_trainer", "trainer_from_config"]
