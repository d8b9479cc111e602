"""Figures of the interpolation of two models' weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modiste.reporting.figures.style import PALETTE, new_figure


@dataclass(frozen=True)
class Curve:
    """A metric along an interpolation: values and interval ends, one per alpha."""

    label: str
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def alpha_curves(
    alphas: Sequence[float], chosen: float, domain: Curve, transfer: Curve | None, path: Path, ends: Sequence[str]
) -> Path:
    """Plot the metric over alpha and, with ``transfer``, out of domain over in domain (WiSE-FT, figure 1).

    Args:
        alphas: Ascending, in [0, 1]; 0 is the first model.
        chosen: The alpha that is marked.
        domain: In-domain metric.
        transfer: Out-of-domain metric; None: no second panel.
        path: The PNG to write.
        ends: Names of the two models.
    """
    curves = [domain] if transfer is None else [domain, transfer]
    best = list(alphas).index(chosen)
    with new_figure(5.6 * len(curves), 4.4, path) as figure:
        axes = figure.subplots(1, len(curves), squeeze=False)[0]
        for curve, color, marker in zip(curves, PALETTE, "os", strict=False):
            axes[0].fill_between(alphas, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
            axes[0].plot(alphas, curve.values, color=color, marker=marker, markersize=4, label=curve.label)
        axes[0].axvline(chosen, color="black", linewidth=1, linestyle=":", label=f"chosen: alpha = {chosen:g}")
        axes[0].set_xlabel(f"alpha (0: {ends[0]}, 1: {ends[1]})")
        axes[0].set_xlim(-0.03, 1.03)
        axes[0].set_title("Along the interpolation, with 95 % intervals")
        if transfer is not None:
            axes[1].plot(domain.values, transfer.values, color="#808080", linewidth=1.2, marker="o", markersize=4)
            marked = [(0, 0, ends[0], "s"), (len(alphas) - 1, 1, ends[1], "D"), (best, chosen, "chosen", "*")]
            for at, alpha, text, marker in (mark for mark in marked if alphas[mark[0]] == mark[1]):
                size, color, layer = (15, PALETTE[1], 2) if marker == "*" else (7, PALETTE[0], 3)
                axes[1].plot(
                    domain.values[at], transfer.values[at], marker, color=color, markersize=size, zorder=layer,
                    label=f"{text}: alpha = {alpha:g}",
                )  # fmt: skip
            axes[1].set_xlabel(domain.label)
            axes[1].set_ylabel(transfer.label)
            axes[1].set_title("Out of domain against in domain")
        for panel in axes:
            panel.legend(loc="best")
    return path
