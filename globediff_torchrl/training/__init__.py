from globediff_torchrl.training.results import load_policy
from globediff_torchrl.training.trainer import MAPPOTrainer, announce, make_trainer, trainer_from_config

__all__ = ["MAPPOTrainer", "announce", "load_policy", "make_trainer", "trainer_from_config"]
