"""Figures of a study of many runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from globediff_torchrl.evaluation.figures import COLOURS, INK, own_text
from globediff_torchrl.studies.labels import shared_suffix


@own_text()
def bracket_figure(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """One panel an environment: the return of each algorithm, a dot a seed and a bar for the mean, as PNG.

    What all labels end with is left away.

    Args:
        rows: one a run, with ``env``, ``algorithm`` and ``return_last``, "" of a run in which no episode ended.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["return_last"] != ""]
    environments = list(dict.fromkeys(row["env"] for row in rows))
    if not environments:
        return
    suffix = shared_suffix(row["algorithm"] for row in rows)
    rows = [{**row, "algorithm": row["algorithm"].removesuffix(suffix)} for row in rows]
    labels = max(len(row["algorithm"]) for row in rows)  # beside each panel, in its width
    figure = Figure(figsize=((2.6 + 0.08 * labels) * len(environments), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, env in zip(figure.subplots(1, len(environments), squeeze=False)[0], environments):
        chosen = [row for row in rows if row["env"] == env]
        means = {
            name: sum(float(row["return_last"]) for row in group) / len(group)
            for name in dict.fromkeys(row["algorithm"] for row in chosen)
            for group in [[row for row in chosen if row["algorithm"] == name]]
        }
        order = sorted(means, key=means.get)
        axes.barh(order, [means[name] for name in order], color=[_colour(name) for name in order], alpha=0.75)
        axes.plot(
            [float(row["return_last"]) for row in chosen], [row["algorithm"] for row in chosen], "o", ms=3, color=INK
        )
        axes.set(title=str(env), xlabel="return of an episode")
        axes.grid(axis="x", alpha=0.2)
    figure.savefig(path, dpi=150)


@own_text()
def study_curves(
    runs: Mapping[tuple[str, str], Sequence[Sequence[tuple[float, float]]]], path: Path, quantity: str
) -> None:
    """One panel an environment: a line an algorithm, its mean over seeds, in the band from the lowest to the highest.

    What all labels end with is left away.

    Args:
        runs: by environment and algorithm, the points ``(frames, value)`` of each seed. Each is smoothed by a moving
            mean over a twentieth of its points.
        path: of the PNG; nothing is written where there are no runs.
        quantity: what the values are.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    environments = list(dict.fromkeys(env for env, _ in runs))
    if not environments:
        return
    figure = Figure(figsize=(4.4 * len(environments), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(name for _, name in runs))
    suffix = shared_suffix(names)
    for axes, env in zip(figure.subplots(1, len(environments), squeeze=False)[0], environments):
        for name in names:
            seeds = [np.array(points) for points in runs.get((env, name), []) if len(points)]
            if not seeds:
                continue
            length = min(map(len, seeds))
            window = max(length // 20, 1)
            kernel = np.ones(window) / window
            values = np.stack([np.convolve(seed[:length, 1], kernel, mode="valid") for seed in seeds])
            frames = seeds[0][window - 1 : length, 0]
            colour = COLOURS[names.index(name) % len(COLOURS)]
            axes.plot(frames, values.mean(0), color=colour, label=f"{name.removesuffix(suffix)} ({len(seeds)})")
            axes.fill_between(frames, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
        axes.set(title=str(env), xlabel="environment frames", ylabel=quantity)
        axes.grid(alpha=0.2)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def _colour(algorithm: str) -> str:
    return COLOURS[1] if algorithm.startswith("globediff") else COLOURS[5] if algorithm == "oracle" else COLOURS[0]
