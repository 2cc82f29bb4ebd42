"""MAPPO's update as hooks of TorchRL's Trainer: advantages, minibatches, one optimisation step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torchrl.data import SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.modules import PopArtValueNorm, ValueNorm
from torchrl.objectives import ValueEstimators
from torchrl.objectives.multiagent import MAPPOLoss
from torchrl.trainers import Trainer
from torchrl.trainers.trainers import OptimizationStepper, TrainerHookBase

from globediff_torchrl import keys
from globediff_torchrl.errors import TrainingError, UserError
from globediff_torchrl.policies.recurrent import memories
from globediff_torchrl.training.rows import RowStorage


def make_loss(
    actor: ProbabilisticTensorDictSequential,
    critic: TensorDictModuleBase,
    value_norm: ValueNorm | None,
    *,
    gamma: float,
    lmbda: float,
    clip_epsilon: float,
    clip_value: bool,
    entropy_coeff: float,
    critic_coeff: float,
) -> MAPPOLoss:
    """TorchRL's ``MAPPOLoss`` with the project's keys and ``MultiAgentGAE`` as value estimator.

    The loss gets the actor alone. It replays the ``inferred_state`` that the rollout stored: the ratio is 1 at the
    first epoch, and no epoch pays for a denoising step. Advantages are normalised once, by :class:`Advantages`.
    The entropy term is left out at ``entropy_coeff=0``: a tanh-normal has no closed form and would be sampled for it.

    Raises:
        UserError: a critic that does not write ``("agents", "state_value")``, or a whole policy for the actor.
    """
    if not isinstance(actor, ProbabilisticTensorDictSequential) or keys.INFERRED_STATE in actor.out_keys:
        raise UserError(
            f"make_loss expects the actor alone, as make_actor gives it, got a {type(actor).__name__} that writes "
            f"{list(actor.out_keys)}: the loss replays the inference that the rollout stored, so give it what stands "
            f"behind the state model, and the whole policy to the collector."
        )
    if keys.STATE_VALUE not in critic.out_keys:
        raise UserError(
            f"make_loss expects a critic that writes {keys.STATE_VALUE} [*B, n, 1], a value for each agent, got one "
            f"that writes {critic.out_keys}: set its out_keys, or take make_critic(env)."
        )
    norms = {id(head.value_norm) for head in critic.modules() if hasattr(head, "value_norm")}
    if norms and norms != {id(value_norm)}:
        raise UserError(
            "make_loss expects the value norm that the critic was made with, or None for both, got "
            f"{type(value_norm).__name__} beside a critic with another or none: norm = BatchValueNorm(shape=1), "
            "make_critic(env, norm), make_loss(actor, critic, norm, ...)."
        )
    loss = MAPPOLoss(
        actor,
        critic,
        value_norm=value_norm,
        clip_epsilon=clip_epsilon,
        clip_value=clip_value,
        entropy_bonus=entropy_coeff > 0,
        entropy_coeff=entropy_coeff,
        critic_coeff=critic_coeff,
        loss_critic_type="l2",
        normalize_advantage=False,
        functional=False,  # one copy of the networks: nothing is swapped in and out at each call
    )
    loss.set_keys(
        value=keys.STATE_VALUE,
        advantage=keys.ADVANTAGE,
        value_target=keys.VALUE_TARGET,
        reward=keys.REWARD,
        done=keys.DONE,
        terminated=keys.TERMINATED,
    )
    loss.loss_mask_key = keys.ACTIVE_MASK
    loss.make_value_estimator(ValueEstimators.MAGAE, gamma=gamma, lmbda=lmbda, deactivate_vmap=True)
    if any(memories(critic)):
        loss.value_estimator.value_network = None  # RecurrentAdvantages gives it the values at both ends of each step
    return loss


class BatchValueNorm(PopArtValueNorm):
    """The running value norm, updated once a batch by :class:`Advantages`, on the values of living agents alone.

    ``MAPPOLoss`` would update it at every minibatch, and with the targets of the dead among them. Every batch counts
    the same either way: the average decays by 1e-5 an update.
    """

    def update(self, value_target: torch.Tensor) -> None:
        """Does nothing: the loss calls it, see :meth:`observe`."""

    def observe(self, value_target: torch.Tensor, state_value: torch.Tensor) -> torch.Tensor:
        """Adds the value targets ``[M, 1]`` of one batch to the statistics.

        Returns ``state_value`` as the critic would now write it: the same outputs of its network in the new units. The
        clip of the value compares with it, and would else take the norm's own move for one of the critic's.
        """
        outputs = self.normalize(state_value)
        super().update(value_target)
        return self.denormalize(outputs)


def normalize(advantage: torch.Tensor, active: torch.Tensor | None) -> torch.Tensor:
    """Standardises ``[*B, n, 1]`` over the whole batch and all agents, by the statistics of the living ones."""
    chosen = advantage if active is None else advantage[active.expand_as(advantage)]
    if chosen.numel() < 2:  # every episode of it, or all but one number, has crashed: there is no spread
        return torch.zeros_like(advantage)
    return (advantage - chosen.mean()) / chosen.std().clamp(min=1e-5)


class Advantages(TrainerHookBase):
    """Generalised advantage estimates of a collected batch, normalised over the batch and the agents.

    Reads the reward, ``done`` and ``terminated`` under ``"next"`` and the critic's inputs at both ends of each step:
    after a truncation the value of the true last state is bootstrapped, after a termination it is not.
    Writes ``advantage``, ``value_target`` and ``state_value``, each ``[B, T, n, 1]`` under ``"agents"``. Once for each
    batch: a :class:`BatchValueNorm` would count it again.
    """

    def __init__(self, loss: MAPPOLoss) -> None:
        self.loss = loss

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        self.loss.value_estimator(batch)
        active, norm = batch.get(keys.ACTIVE_MASK, None), self.loss.value_norm
        if isinstance(norm, BatchValueNorm):
            target = batch.get(keys.VALUE_TARGET)
            target = target if active is None else target[active].unsqueeze(-1)
            if len(target):
                batch.set(keys.STATE_VALUE, norm.observe(target, batch.get(keys.STATE_VALUE)))
        return batch.set(keys.ADVANTAGE, normalize(batch.get(keys.ADVANTAGE), active))

    def register(self, trainer: Trainer, name: str = "advantages") -> None:
        trainer.register_op("batch_process", self)


class Minibatches(TrainerHookBase):
    """Random minibatches without replacement from what the update reads of the last batch, and nothing else.

    Args:
        loss: names the keys to keep.
        frames: frames in a batch.
        minibatches: minibatches an epoch, all of the same size.
        device: where they are kept, the networks'.

    Raises:
        UserError: the frames do not divide into them, or actor or critic has a memory, which single frames have no use
            for: see :class:`~globediff_torchrl.training.ChunkMinibatches`.
    """

    unit = "frames"
    successive = False  # whether a sample's last dimension is time

    def __init__(self, loss: MAPPOLoss, frames: int, minibatches: int, device: torch.device | str = "cpu") -> None:
        if not self.successive:
            self._refuse_memories(loss)
        if frames % minibatches:
            raise UserError(
                f"a batch of {frames} {self.unit} does not divide into training.minibatches={minibatches} equal parts; "
                f"choose a divisor, e.g. {next(count for count in range(minibatches, 0, -1) if frames % count == 0)}."
            )
        self.keys = [
            *loss.actor_network.in_keys,
            *loss.critic_network.in_keys,
            keys.ACTION,
            keys.ACTION_LOG_PROB,
            keys.ADVANTAGE,
            keys.VALUE_TARGET,
            keys.STATE_VALUE,
            keys.ACTIVE_MASK,
        ]
        self.buffer = TensorDictReplayBuffer(
            storage=RowStorage(frames, device=device, compilable=True),
            compilable=True,  # storage and writer: no lock of another process, which a kill would leak
            sampler=SamplerWithoutReplacement(),
            batch_size=frames // minibatches,
        )

    @staticmethod
    def _refuse_memories(loss: MAPPOLoss) -> None:
        networks = {"actor": loss.actor_network, "critic": loss.critic_network}
        found = [name for name, network in networks.items() if any(memories(network))]
        if found:
            raise UserError(
                f"Minibatches draws single frames, in no order of time, and expects networks without a memory, got one "
                f"in the {' and the '.join(found)}: take ChunkMinibatches(loss, (environments, steps), minibatches, "
                f"length) of globediff_torchrl.training.recurrent, or recurrent='none'."
            )

    def extend(self, batch: TensorDictBase) -> None:
        self.buffer.empty()
        self.buffer.extend(batch.select(*self.keys, strict=False).reshape(-1))

    def sample(self, batch: TensorDictBase) -> TensorDictBase:
        return self.buffer.sample()

    def register(self, trainer: Trainer, name: str = "minibatches") -> None:
        trainer.register_op("batch_process", self.extend)
        trainer.register_op("process_optim_batch", self.sample)


class MAPPOStepper(OptimizationStepper):
    """One backward pass over actor and critic loss; each network's gradient is clipped by its own norm.

    Args:
        optimizer: Adam with one parameter group for the actor and one for the critic. Adam works number by number,
            so that this equals the two optimisers of MAPPO's reference.
        max_grad_norm: bound of either norm.
        frames: frames in a batch and in the whole run, for the linear decay.
        final_lr: share of the learning rate that is left at the end; 1 for no decay.

    Raises:
        TrainingError: a loss or a gradient is not finite.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, max_grad_norm: float, frames: tuple[int, int], final_lr: float
    ) -> None:
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.frames_per_batch, self.total_frames = frames
        self.final_lr = final_lr
        self.steps = 0
        self.logged: list[TensorDict] = []  # by the steps of this iteration

    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase:
        passed = (trainer.collected_frames - self.frames_per_batch) / self.total_frames
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 + (self.final_lr - 1) * min(passed, 1.0))
        active = sub_batch.get(keys.ACTIVE_MASK, None)
        if active is not None and not active.any():  # nobody lives in it, or every episode of it has crashed
            return self._unchanged(trainer, sub_batch)
        losses = trainer.compute_loss(sub_batch)
        total = sum(value for name, value in losses.items() if name.startswith("loss_"))
        total.backward()
        norms = {
            f"grad_norm_{group['name']}": torch.nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm)
            for group in self.optimizer.param_groups
        }
        self._check_finite(trainer, losses, norms)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        scalars = {name: value.detach().mean() for name, value in losses.items()}
        return self._log(TensorDict({**scalars, **norms}))

    def _log(self, scalars: TensorDict) -> TensorDict:
        self.logged.append(scalars)
        return scalars.copy()  # Trainer averages into the first one that it gets

    def average(self, optim_steps: int, average_losses: TensorDict) -> None:
        """Puts the mean over all steps of the iteration in the place of Trainer's, which restarts at each epoch."""
        average_losses.update(torch.stack(self.logged).mean(0))
        self.logged = []

    @torch.no_grad()
    def _unchanged(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase:
        """What a step logs, of one that is not taken: the average has the names that all steps give."""
        losses = {name: value.mean() for name, value in trainer.compute_loss(sub_batch).items()}
        zero = next(iter(losses.values())).new_zeros(())  # on their device, where the steps' norms are
        norms = {f"grad_norm_{group['name']}": zero for group in self.optimizer.param_groups}
        return self._log(TensorDict({**losses, **norms}))

    @staticmethod
    def _check_finite(trainer: Trainer, losses: Mapping[str, torch.Tensor], norms: Mapping[str, torch.Tensor]) -> None:
        if torch.isfinite(torch.stack(list(norms.values()))).all():
            return
        bad = [name for name, value in [*losses.items(), *norms.items()] if not torch.isfinite(value).all()]
        raise TrainingError(
            f"{', '.join(bad)} became NaN or infinite at frame {trainer.collected_frames}, expected finite values. "
            f"The weights before this step are in the last checkpoint: resume from it with a lower training.lr, or "
            f"look for NaN in the observations."
        )

    def register(self, trainer: Trainer, name: str = "optimization_stepper") -> None:
        super().register(trainer, name)
        trainer.register_op("post_optim_complete_log", self.average)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]


def make_optimizer(loss: MAPPOLoss, lr: float, critic_lr: float, eps: float) -> torch.optim.Adam:
    """Adam over actor and critic, one group each."""
    groups = [
        {"name": "actor", "params": list(loss.actor_network.parameters()), "lr": lr, "initial_lr": lr},
        {
            "name": "critic",
            "params": list(loss.critic_network.parameters()),
            "lr": critic_lr,
            "initial_lr": critic_lr,
        },
    ]
    return torch.optim.Adam(groups, eps=eps, fused=True)
