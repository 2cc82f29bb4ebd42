"""Three problems whose p(s | x) is known, so that a sampler can be judged exactly."""

import math

import torch
from torch import Tensor


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Mixture:
    """Four Gaussian modes in 16 dims; their means and weights depend on x (8 dims), sigma 0.15."""

    aux_dim, state_dim, modes, sigma = 8, 16, 4, 0.15

    def __init__(self):
        g = _generator(7)
        self.base = torch.randn(self.modes, self.state_dim, generator=g)
        self.bend = torch.randn(self.modes, self.aux_dim, self.state_dim, generator=g) / math.sqrt(self.aux_dim)
        self.vote = torch.randn(self.aux_dim, self.modes, generator=g) / math.sqrt(self.aux_dim)

    def draw_aux(self, rows: int, g: torch.Generator) -> Tensor:
        return torch.randn(rows, self.aux_dim, generator=g)

    def draw_state(self, x: Tensor, g: torch.Generator) -> Tensor:
        """One s for each x, ``[M, 16]``."""
        mode = torch.multinomial((x @ self.vote).softmax(-1), 1, generator=g).squeeze(1)
        mean = self.base[mode] + torch.tanh(torch.einsum("mi,mij->mj", x, self.bend[mode]))
        return mean + self.sigma * torch.randn(mean.shape, generator=g)


class Combat:
    """A battle in 50 dims: 10 positions (x tells them), the enemies' hidden types (6 line-ups), which one is hurt."""

    aux_dim, state_dim, enemies, types, lineups = 20, 50, 5, 5, 6

    def __init__(self):
        g = _generator(8)
        self.lineup = torch.randint(self.types, (self.lineups, self.enemies), generator=g)
        self.vote = 2 * torch.randn(self.aux_dim, self.lineups, generator=g) / math.sqrt(self.aux_dim)

    def draw_aux(self, rows: int, g: torch.Generator) -> Tensor:
        return torch.rand(rows, self.aux_dim, generator=g) * 2 - 1

    def draw_state(self, x: Tensor, g: torch.Generator) -> Tensor:
        """One s for each x: positions, hit points (1, or 0.3 for the hurt one, +- 0.03), one-hot types, ``[M, 50]``."""
        lineup = torch.multinomial((x @ self.vote).softmax(-1), 1, generator=g).squeeze(1)
        types = torch.nn.functional.one_hot(self.lineup[lineup], self.types).flatten(1).float()
        places = x.unflatten(-1, (10, 2))
        distance = (places[:, : self.enemies] - places[:, self.enemies :].mean(1, keepdim=True)).norm(dim=-1)
        hurt = torch.multinomial((-2 * distance).softmax(-1), 1, generator=g)  # the nearest is hurt most often
        health = torch.ones(len(x), self.enemies).scatter(1, hurt, 0.3)
        health = health + 0.03 * torch.randn(health.shape, generator=g)
        return torch.cat([x, health, types], -1)

    def tokens(self) -> Tensor:
        """Which dim of the state is which channel of which unit, ``[10, 8]``, -1 where a unit has no such number: first
        the enemies (place, hit points, type), then the others (place)."""
        index = torch.full((10, 8), -1)
        index[:, :2] = torch.arange(20).view(10, 2)
        index[:5, 2] = torch.arange(20, 25)
        index[:5, 3:] = torch.arange(25, 50).view(5, 5)
        return index


class Ring:
    """A curve in 12 dims without discrete modes: a uniform angle; its range, centre and noise depend on x (6 dims)."""

    aux_dim, state_dim, harmonics = 6, 12, 3

    def __init__(self):
        g = _generator(9)
        self.centre = torch.randn(self.aux_dim, self.state_dim, generator=g) / math.sqrt(self.aux_dim)
        self.curve = torch.randn(2 * self.harmonics, self.state_dim, generator=g)
        self.curve /= torch.arange(1, self.harmonics + 1).repeat_interleave(2)[:, None]
        self.turn = torch.randn(self.aux_dim, 3, generator=g) / math.sqrt(self.aux_dim)

    def draw_aux(self, rows: int, g: torch.Generator) -> Tensor:
        return torch.randn(rows, self.aux_dim, generator=g)

    def draw_state(self, x: Tensor, g: torch.Generator) -> Tensor:
        """One s for each x, ``[M, 12]``; noise 0.05 to 0.35."""
        phase, width, noise = (x @ self.turn).unbind(-1)
        span = math.pi * (0.4 + 0.6 * torch.sigmoid(width))
        angle = 2 * phase + span * (2 * torch.rand(len(x), generator=g) - 1)
        order = torch.arange(1, self.harmonics + 1)
        waves = torch.stack([(order * angle[:, None]).cos(), (order * angle[:, None]).sin()], -1).flatten(1)
        sigma = 0.05 + 0.3 * torch.sigmoid(2 * noise)
        return torch.tanh(x @ self.centre) + waves @ self.curve + sigma[:, None] * torch.randn(len(x), 12, generator=g)


PROBLEMS = {"mixture": Mixture, "combat": Combat, "ring": Ring}
