"""Figures of a run: SVG files that follow dark mode, or PNG."""

from modiste.reporting.figures.confusion import confused_classes, most_confused
from modiste.reporting.figures.curves import training_curves
from modiste.reporting.figures.few_shot import few_shot_curves
from modiste.reporting.figures.interpolation import Curve, alpha_curves
from modiste.reporting.figures.intervals import interval_plots
from modiste.reporting.figures.phrases import drawn_methods, is_by_phrase, phrase_bars
from modiste.reporting.figures.selection import selection_figures
from modiste.reporting.figures.style import PALETTE, file_word, new_figure

__all__ = [
    "PALETTE",
    "Curve",
    "alpha_curves",
    "confused_classes",
    "drawn_methods",
    "few_shot_curves",
    "file_word",
    "interval_plots",
    "is_by_phrase",
    "most_confused",
    "new_figure",
    "phrase_bars",
    "selection_figures",
    "training_curves",
]
