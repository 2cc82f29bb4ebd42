"""Hidden facts beside the map of an episode, and the marks that both use."""

from __future__ import annotations

import torch
from torch import Tensor

from globediff_torchrl.evaluation.figures import INK
from globediff_torchrl.evaluation.inferred_episode import Episode
from globediff_torchrl.layout import Feature
from globediff_torchrl.state_models.numerics import CONSTANT

# Okabe and Ito's colours, told apart by the colour-blind too
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
KNOWN, PALE = "#6b6b6b", "#b9b9b9"


class FactPanel:
    """A feature that is no position: two numbers as a plane, others a row a number.

    Args:
        axes: where it is drawn.
        episode: what is drawn.
        feature: which of its features.
        colour: of everything in it.
    """

    def __init__(self, axes: object, episode: Episode, feature: Feature, colour: str) -> None:
        self.axes, self.episode, self.feature = axes, episode, feature
        self._where = episode.inferred_layout.slices[feature.full_name]
        self._name = feature.full_name.replace("_", " ")
        self._plane = feature.size == 2
        quiet(axes, bins=3)
        points = torch.cat([episode.truth[:, self._where], *bulk(episode, self._where)])
        pad = 0.2 * float(breadth(points.min(), points.max()))
        low, high = float(points.min()), float(points.max())
        axes.set(xlim=(low - pad, high + pad))
        if self._plane:
            axes.set(ylim=(low - pad, high + pad), aspect="equal", anchor="NW")
            ends = ("cos", "sin") if feature.kind == "rotation" else ("first", "second")
            ends = ("x", "y") if feature.kind in ("velocity", "offset") else ends
            axes.set_xlabel(ends[0], fontsize=7, color=KNOWN, labelpad=1)
            axes.set_ylabel(ends[1], fontsize=7, color=KNOWN, labelpad=1)
        else:
            rows = range(feature.size)
            axes.set(ylim=(feature.size - 0.4, -0.6), yticks=list(rows), yticklabels=[str(i) for i in rows])
        self.cloud = dots(axes, colour) if episode.hypotheses is not None else None
        marker = {"marker": "*", "ms": 14} if self._plane else {"marker": "|", "ms": 16, "mew": 3}
        marker |= {} if not self._plane else {"mec": INK, "mew": 0.8}
        (self.truth,) = axes.plot([], [], ls="", color=colour if self._plane else INK, zorder=4, **marker)
        self.mean = cross(axes, colour) if episode.mean is not None else None
        self._title = axes.set_title("", fontsize=8, color=INK, loc="left", pad=4)

    def show(self, t: int) -> None:
        """Moves to step ``t``, counted from 0."""
        self._place(self.truth, self.episode.truth[t : t + 1, self._where])
        if self.cloud is not None:
            hypotheses = self.episode.hypotheses[t][:, self._where]
            self._place(self.cloud, hypotheses)
            self._place(self.mean, self.episode.mean[t : t + 1, self._where])
        self._title.set_text(f"{self._name}{self._share(t)}")

    @property
    def moving(self) -> list:
        """All that :meth:`show` changes."""
        return [artist for artist in (self.cloud, self.truth, self.mean, self._title) if artist is not None]

    def _place(self, artist: object, values: Tensor) -> None:
        """Puts ``values [S, size]`` where they belong."""
        if self._plane:
            artist.set_data(values[:, 0], values[:, 1])
        else:
            # side by side within the row, so that equal hypotheses can be counted
            side = torch.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else torch.zeros(1)
            artist.set_data(values.flatten(), (side[:, None] + torch.arange(self.feature.size)).flatten())

    def _share(self, t: int) -> str:
        """How many hypotheses are right, where right and wrong are two things."""
        if self.cloud is None or self.feature.kind not in ("flag", "type"):
            return ""
        hypotheses, truth = self.episode.hypotheses[t][:, self._where], self.episode.truth[t, self._where]
        right = int(((hypotheses - truth).abs() < 0.5).all(-1).sum())
        return f": {right} of {len(hypotheses)} right"


def breadth(low: Tensor, high: Tensor) -> Tensor:
    """Greatest distance of the two, in whichever unit; where they are one, a thousandth of their size, or of 1."""
    size, apart = torch.maximum(low.abs(), high.abs()).max(), (high - low).max()
    return apart if apart > CONSTANT * size else 1e-3 * torch.where(size > 0, size, 1.0)


def bulk(episode: Episode, where: slice) -> list[Tensor]:
    """Between which values nearly all hypotheses of the episode lie, ``[2, size]``; nothing without hypotheses."""
    if episode.hypotheses is None:
        return []
    values = episode.hypotheses[..., where].flatten(0, 1)
    return [torch.stack([_quantile(values, 0.001), _quantile(values, 0.999)])]


def _quantile(values: Tensor, share: float) -> Tensor:
    # torch.quantile refuses more than 16 million numbers
    return values.sort(0).values[round(share * (len(values) - 1))]


def quiet(axes: object, bins: int = 5) -> None:
    """Thin grey frame, few small numbers."""
    axes.tick_params(labelsize=7, colors=KNOWN, width=0.6, length=2.5)
    axes.locator_params(nbins=bins)
    for spine in axes.spines.values():
        spine.set(color=PALE, linewidth=0.8)


def dots(axes: object, colour: str) -> object:
    return axes.plot([], [], ls="", marker="o", ms=7, color=colour, alpha=0.4, mec="none", zorder=2)[0]


def cross(axes: object, colour: str) -> object:
    from matplotlib.patheffects import Normal, Stroke

    outline = [Stroke(linewidth=4, foreground="white"), Normal()]
    return axes.plot([], [], ls="", marker="x", ms=9, mew=2.2, color=colour, zorder=6, path_effects=outline)[0]
