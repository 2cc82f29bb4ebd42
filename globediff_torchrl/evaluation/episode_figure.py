"""The drawing of an episode: artists made once, and moved from step to step."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from globediff_torchrl.evaluation.fact_panel import COLOURS, KNOWN, PALE, FactPanel, breadth, bulk, cross, dots, quiet
from globediff_torchrl.evaluation.figures import INK, own_text
from globediff_torchrl.evaluation.inferred_episode import Episode
from globediff_torchrl.layout import Feature
from globediff_torchrl.state_models.numerics import CONSTANT

UNCERTAIN = 0.25  # error of the hypotheses, in spreads of the training data, from which a feature gets a colour
FACTS = 3  # panels at most
NAMED = 8  # entities that the legend names at most
TRAIL = 12  # steps of an agent's path that stay visible
DPI = 110
TINY = torch.finfo(torch.float32).tiny
WIDTH, FACT_WIDTH, HEAD, FOOT, SIDE = 5.2, 2.3, 1.1, 0.75, 0.45  # inches


class EpisodeFigure:
    """The figure of an :class:`~globediff_torchrl.evaluation.inferred_episode.Episode`.

    Args:
        episode: what is drawn.

    Attributes:
        truth: artists of the true positions, by the feature's full name.
        clouds, means: artists of the hypotheses and of their mean, for what is uncertain.
        facts: the panels beside the map, by the feature's full name.
    """

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        layout = episode.layout
        self._slices, self._inferred = layout.slices, episode.inferred_layout.slices  # of the map, of the inference
        self._positions = [f for f in layout.features if f.kind == "position" and f.size == 2]
        self._bodies: dict[str, int] = {}  # full name of an agent's own position -> agent
        for feature in self._positions:
            if feature.owner is not None and feature.owner not in self._bodies.values():
                self._bodies[feature.full_name] = feature.owner  # an agent's own comes before its goals
        self._uncertain = self._choose_uncertain()
        facts = self._choose_facts()
        coloured = [f for f in self._positions if f.full_name in self._uncertain or self._tells_whose(f, facts)]
        self._colours = {f.full_name: COLOURS[i % len(COLOURS)] for i, f in enumerate(coloured)}
        self.truth, self.clouds, self.means, self.facts = {}, {}, {}, {}
        self._labels, self._trails = {}, {}
        self._build(facts)

    # ---------------------------------------------------------------------------------------------- what is drawn
    def _errors(self) -> dict[str, float]:
        """Full name -> greatest error of the hypotheses in the episode, in spreads of the training data."""
        episode = self.episode
        if episode.hypotheses is None:
            return {}
        squares = (episode.hypotheses - episode.truth.unsqueeze(1)).square().mean(1)  # [T, d_t]
        errors = {}
        for name, where in self._inferred.items():
            scale = episode.scale[where].square().sum().sqrt()
            # where nothing varied: of what varies now more than rounding does, all is error
            scale = scale.maximum(CONSTANT * episode.truth[:, where].abs().max()).clamp(min=TINY)
            errors[name] = float((squares[:, where].sum(-1).sqrt() / scale).max())
        return errors

    def _choose_uncertain(self) -> dict[str, float]:
        """Full name -> error, the greatest first, of what the hypotheses leave open."""
        errors = self._errors()
        places = [f.full_name for f in self._positions if f.full_name in errors]
        open_ = {name: error for name, error in errors.items() if error > UNCERTAIN or not places}
        if not any(name in open_ for name in places):
            # all is known: the answers are shown at least where the landmarks are
            open_ |= {name: 0.0 for name in places if name not in self._bodies}
        return dict(sorted(open_.items(), key=lambda item: -item[1]))

    def _choose_facts(self) -> list[Feature]:
        """What stands beside the map: facts that belong to nothing on it first, then what is most uncertain."""
        on_map = {f.entity for f in self._positions}
        others = [f for f in self.episode.inferred_layout.features if f.kind != "position"]
        chosen = [f for f in others if f.entity not in on_map or f.full_name in self._uncertain]
        return sorted(chosen, key=lambda f: (f.entity in on_map, -self._uncertain.get(f.full_name, 0.0)))[:FACTS]

    def _tells_whose(self, position: Feature, facts: list[Feature]) -> bool:
        """Whether a position that is not inferred itself has a colour for the panels of its entity."""
        return position.full_name not in self._inferred and position.entity in {f.entity for f in facts}

    def _extent(self) -> tuple[Tensor, Tensor]:
        """Lower and upper corner ``[2]`` of all that the episode shows, outlying hypotheses left out."""
        points = [self.episode.state[:, self._slices[f.full_name]] for f in self._positions]
        for name in self._colours:
            points += bulk(self.episode, self._inferred[name]) if name in self._inferred else []
        low, high = torch.cat(points).amin(0), torch.cat(points).amax(0)
        centre, half = (low + high) / 2, (high - low) / 2
        widest = breadth(low, high) / 2
        half = torch.maximum(half, 0.85 * widest) + 0.1 * widest
        return centre - half, centre + half

    # ------------------------------------------------------------------------------------------------ the artists
    @own_text()
    def _build(self, facts: list[Feature]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        low, high = self._extent()
        ratio = float((high - low)[1] / (high - low)[0])
        map_width = WIDTH - 2 * SIDE
        map_height = min(max(map_width * ratio, 2.2), 5.5)
        width, height = WIDTH + FACT_WIDTH * bool(facts), map_height + HEAD + FOOT
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)
        self.map = self.figure.add_axes((SIDE / width, FOOT / height, map_width / width, map_height / height))
        quiet(self.map)
        self.map.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        self._write_head(width, height)
        for feature in self._positions:
            self._add_position(feature)
        self._add_legend(width, bool(facts))
        each = map_height / max(len(facts), 2)
        for i, feature in enumerate(facts):
            bottom = FOOT + map_height - (i + 1) * each
            box = (WIDTH + 0.2, bottom + 0.25, FACT_WIDTH - 0.4, each - 0.5)
            axes = self.figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
            self.facts[feature.full_name] = FactPanel(axes, self.episode, feature, self._colour_of(feature.entity))

    def _colour_of(self, entity: str) -> str:
        """The colour of the entity on the map."""
        names = [f.full_name for f in self._positions if f.entity == entity and f.full_name in self._colours]
        return self._colours[names[0]] if names else COLOURS[1]

    def _write_head(self, width: float, height: float) -> None:
        episode, left = self.episode, SIDE / width
        self._title = self.figure.text(
            left, 1 - 0.16 / height, "", ha="left", va="top", fontsize=11, color=INK, fontweight="bold"
        )
        task, room = episode.task, int(16 * (width - SIDE - 0.1))  # letters a line
        names = [name.removeprefix("agents.") for name in task.hidden]
        lines = [task.description, f"hidden: {', '.join(names)}" if names else "", episode.inference]
        text = "\n".join(textwrap.shorten(line, room, placeholder=" ...") for line in lines if line)
        self.figure.text(left, 1 - 0.40 / height, text, ha="left", va="top", fontsize=8, color=KNOWN, linespacing=1.3)

    def _add_position(self, feature: Feature) -> None:
        name, body = feature.full_name, self._bodies.get(feature.full_name)
        colour = self._colours.get(name)
        face = colour or (KNOWN if body is not None else PALE)
        watched = body is not None and body == self.episode.agent
        style = {"marker": "o", "ms": 13} if body is not None else {"marker": "*", "ms": 17}
        if body is None and colour is None:
            style = {"marker": "s", "ms": 7}
        drawn = colour is not None and name in self._inferred
        if drawn and self.episode.hypotheses.shape[1] > 1:
            self.clouds[name] = dots(self.map, colour)
        if body is not None:
            (self._trails[name],) = self.map.plot([], [], color=face, lw=1.2, alpha=0.4, zorder=1)
        (self.truth[name],) = self.map.plot(
            [], [], ls="", color=face, mec=INK if watched or colour else "white", mew=1.8 if watched else 0.8, zorder=4,
            **style,
        )  # fmt: skip
        if body is not None or (colour and feature.owner is not None):
            self._labels[name] = self.map.text(
                0, 0, str(feature.owner), color="white", fontsize=8 if body is not None else 6.5, fontweight="bold",
                ha="center", va="center_baseline", zorder=5, clip_on=True,
            )  # fmt: skip
        if drawn:
            self.means[name] = cross(self.map, colour)

    def _add_legend(self, width: float, facts: bool) -> None:
        from matplotlib.lines import Line2D

        def mark(label: str, colour: str, marker: str, size: float, **more: object) -> Line2D:
            return Line2D([], [], ls="", color=colour, marker=marker, ms=size, label=label, **more)

        handles = []
        if any(name not in self._colours for name in self._bodies):
            handles.append(mark("agent", KNOWN, "o", 9, mec="white"))
        if len(self._colours) > NAMED:
            handles.append(mark("truth, a colour each", INK, "*", 12))
        else:
            for name, colour in self._colours.items():
                label, body = f"true {name.removesuffix('.position').replace('_', ' ')}", name in self._bodies
                handles.append(mark(label, colour, "o" if body else "*", 9 if body else 12, mec=INK, mew=0.8))
        if any(name not in self._colours and name not in self._bodies for name in self.truth):
            handles.append(mark("other things", PALE, "s", 6, mec="white"))
        if facts and not self._colours:
            handles.append(mark("truth", COLOURS[1], "*", 12, mec=INK, mew=0.8))
        if self.episode.hypotheses is not None:
            colours = set(self._colours.values()) or {COLOURS[1]}
            colour = INK if len(colours) > 1 else colours.pop()
            count = self.episode.hypotheses.shape[1]
            if count > 1:
                handles.append(mark(f"{count} hypotheses", colour, "o", 6, alpha=0.45, mec="none"))
            handles.append(mark("inferred mean" if count > 1 else "inferred", colour, "x", 7, mew=2))
        self.figure.legend(
            handles=handles, loc="lower center", ncols=4 if width < 6 else 6, frameon=False, fontsize=8,
            bbox_to_anchor=(0.5, 0.0), handletextpad=0.2, columnspacing=1.2, labelcolor=INK,
        )  # fmt: skip

    # ---------------------------------------------------------------------------------------------- step to step
    def show(self, t: int) -> None:
        """Moves everything to step ``t``, counted from 0."""
        episode = self.episode
        self._title.set_text(
            f"{episode.task.name}   step {t + 1} of {len(episode.state)}   return {float(episode.returns[t]):.2f}"
        )
        for name, artist in self.truth.items():
            path = episode.state[: t + 1, self._slices[name]]
            artist.set_data(path[-1:, 0], path[-1:, 1])
            if name in self._labels:
                self._labels[name].set_position((float(path[-1, 0]), float(path[-1, 1])))
            if name in self._trails:
                self._trails[name].set_data(path[-TRAIL - 1 :, 0], path[-TRAIL - 1 :, 1])
            if name in self.clouds:
                cloud = episode.hypotheses[t][:, self._inferred[name]]
                self.clouds[name].set_data(cloud[:, 0], cloud[:, 1])
            if name in self.means:
                mean = episode.mean[t, self._inferred[name]]
                self.means[name].set_data(mean[:1], mean[1:])
        for panel in self.facts.values():
            panel.show(t)

    def _moving(self) -> list:
        """All that :meth:`show` changes, the lowest first."""
        parts = (self.truth, self.clouds, self.means, self._labels, self._trails)
        artists = [self._title, *(artist for part in parts for artist in part.values())]
        artists += [artist for panel in self.facts.values() for artist in panel.moving]
        return sorted(artists, key=lambda artist: artist.get_zorder())

    @own_text()
    def save(self, path: Path) -> None:
        """The step that is shown, as PNG."""
        self.figure.savefig(path, dpi=2 * DPI)

    @own_text()
    def animate(self, path: Path, fps: int, steps: Iterable[int]) -> None:
        """All ``steps``, as GIF."""
        from PIL import Image

        # not matplotlib's PillowWriter: it leaves the colours to Pillow's slow way, which takes as long as the drawing
        canvas, moving, frames = self.figure.canvas, self._moving(), []
        for artist in moving:
            artist.set_animated(True)  # left out of the background, which is drawn once
        canvas.draw()
        background = canvas.copy_from_bbox(self.figure.bbox)
        for t in steps:
            self.show(t)
            canvas.restore_region(background)
            for artist in moving:
                self.figure.draw_artist(artist)
            frame = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
            frames.append(frame.convert("RGB").quantize(128, method=Image.Quantize.FASTOCTREE))
        for artist in moving:
            artist.set_animated(False)
        # what is left of rounding fps to hundredths of a second is not seen
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0)
