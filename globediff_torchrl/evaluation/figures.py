"""The figure of a run, its learning curve; and what every figure of the package is drawn with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

INK, COLOURS = "#333333", ("#1b6ca8", "#d1495b", "#3a7d44", "#8d6a9f", "#e08e45", "#5c5c5c", "#2a9d8f")

STAGES, MODES = ("eval", "final"), ("deterministic", "stochastic")  # of the evaluations
CURVES = {
    "frames",
    "return",
    *(f"{stage}/{mode}/return{end}" for stage in STAGES for mode in MODES for end in ("", "_sem")),
}


@contextmanager
def own_text() -> Iterator[None]:
    """Has matplotlib set the text itself, whatever the user's matplotlibrc says.

    With ``text.usetex`` an underscore in a name, or a machine without LaTeX, would end the run in an error.
    """
    from matplotlib import rc_context

    with rc_context({"text.usetex": False}):
        yield


@own_text()
def learning_curve(rows: Sequence[Mapping[str, float | str]], path: Path, title: str) -> None:
    """Return of the training batches and of the evaluations over environment frames, as PNG.

    Args:
        rows: of the progress table: ``frames``, ``return``, ``eval/...`` and ``final/...``; numbers, or text as
            ``csv.DictReader`` gives it, where an empty one is none.
        path: of the PNG.
        title: of the figure.
    """
    # the figure is drawn without pyplot: no global state, no display, safe in a sweep's workers
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = [{name: float(row[name]) for name in row if name in CURVES and row[name] not in ("", None)} for row in rows]
    train = [(row["frames"], row["return"]) for row in rows if "return" in row]
    if train:
        axes.plot(*zip(*train), color=INK, alpha=0.6, label="training batches")
    for mode, colour in zip(MODES, COLOURS):
        points = [
            (row["frames"], row[f"{stage}/{mode}/return"], row[f"{stage}/{mode}/return_sem"])
            for row in rows
            for stage in STAGES
            if f"{stage}/{mode}/return" in row
        ]
        if points:
            frames, returns, errors = zip(*points)
            axes.errorbar(
                frames, returns, yerr=errors, color=colour, marker="o", ms=3, capsize=2, label=f"{mode} evaluation"
            )
    axes.set(xlabel="environment frames", ylabel="return of an episode", title=title)
    axes.grid(alpha=0.2)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
