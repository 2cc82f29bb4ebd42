"""A GRU over an agent's whole episode, fitted to tell the hidden state: the x of which histories are a part."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from globediff_torchrl.policies.recurrent import Memory
from globediff_torchrl.state_models.fit import learning_rate
from globediff_torchrl.state_models.numerics import statistics
from globediff_torchrl.studies.recorded import Recorded

LEARNING_RATE, WEIGHT_DECAY, GRAD_CLIP = 2e-3, 1e-4, 1.0


class EpisodeMemory(nn.Module):
    """The policies' :class:`~globediff_torchrl.policies.recurrent.Memory`, and a head that infers the target from it.

    Args:
        features: size of an agent's frame and id ``f``. target: numbers to infer ``d``.
        size: of the memory ``h``. width: of the head.
    """

    def __init__(self, features: int, target: int, size: int = 128, width: int = 256) -> None:
        super().__init__()
        self.memory = Memory(features, size)
        self.head = nn.Sequential(nn.Linear(size + features, width), nn.SiLU(), nn.Linear(width, target))

    def read(self, frames: Tensor) -> Tensor:
        """Memory after each step, ``[*R, T, f]`` to ``[*R, T, h]``; the first step begins an episode."""
        value = frames.movedim(-2, 0)  # time first
        starts = torch.zeros(*value.shape[:-1], 1, dtype=torch.bool)
        starts[0] = True
        empty = value.new_zeros(*value.shape[1:-1], self.memory.size)
        return self.memory.sequence(value, empty, starts)[0].movedim(0, -2)

    def forward(self, frames: Tensor) -> Tensor:
        """The standardised target at each step, ``[*R, T, d]``."""
        return self.head(torch.cat([self.read(frames), frames], -1))


def padded(data: Recorded, episodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Some episodes side by side.

    Returns:
        frames with the agent's id ``[e, n, T, f + n]``; index of each step within ``data`` ``[e, T]``, -1 behind an
        episode's end; mask of the living agents ``[e, n, T]``.
    """
    spans = [(data.episode == i).nonzero().flatten() for i in episodes.tolist()]
    steps = pad_sequence(spans, batch_first=True, padding_value=-1)
    frames = data.frames[steps].transpose(1, 2)
    index = torch.eye(data.n)[None, :, None].expand(*frames.shape[:3], -1)
    mask = (data.alive[steps] & (steps >= 0)[..., None]).transpose(1, 2)
    return torch.cat([frames, index], -1), steps, mask


def fit_memory(
    data: Recorded, target: str, episodes: int, seed: int, steps: int = 1200, batch: int = 8
) -> EpisodeMemory:
    """Fits an :class:`EpisodeMemory` to the first episodes, all agents of ``batch`` of them a step, by squared error.

    Args:
        target: name of what is inferred, ``[N, n, d]`` in the data. seed: of weights and batches.
    """
    torch.manual_seed(seed)
    known = data.target(target, data.until(episodes))
    mean, scale, _ = statistics(known)
    model = EpisodeMemory(data.frames.shape[-1] + data.n, known.shape[-1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for step in tqdm(range(steps), desc="memory", leave=False, mininterval=2):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, LEARNING_RATE)
        frames, index, mask = padded(data, torch.randint(episodes, (batch,)))
        truth = (data.data[target][index].transpose(1, 2) - mean) / scale
        error = (model(frames) - truth).square().mean(-1)
        loss = (error * mask).sum() / mask.sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimiser.step()
    return model


@torch.no_grad()
def remember(model: EpisodeMemory, data: Recorded) -> None:
    """Writes the memory after every step into ``data.memory`` ``[N, n, h]``."""
    data.memory = torch.zeros(*data.frames.shape[:2], model.memory.size)
    for chosen in data.episode.unique().split(64):
        frames, index, _ = padded(data, chosen)
        inside = index >= 0
        data.memory[index[inside]] = model.read(frames).transpose(1, 2)[inside]
