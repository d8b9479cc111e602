"""Localisation metrics of heat maps: pointing game, IoU over thresholds, pixel AP, box IoU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Heat = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]

THRESHOLDS: Floats = np.arange(101) / 100
"""Thresholds of a heat map in [0, 1]; a pixel that reaches the threshold is inside."""
DEFINITIONS = {
    "pointing": "whether the highest pixel is inside the mask; of equal highest pixels the share that is inside, which "
    "is the expected value of a random one of them",
    "iou": "intersection over union of the mask and the pixels that reach the method's threshold",
    "pixel_ap": "average precision of the pixels ranked by their heat, equal ones together "
    "(scikit-learn average_precision_score)",
    "box_iou": "IoU of the smallest boxes around the mask and around all pixels that reach the method's threshold; 0 "
    "where none does",
}


def pointing(heat: Heat, mask: Mask) -> float:
    """Pointing game (Zhang et al., ECCV 2016) without margin: fraction of the highest pixels in the mask.

    Args:
        heat: Heat map (h, w).
        mask: Mask (h, w).

    >>> pointing(np.array([[0.5, 1.0, 1.0]], np.float32), np.array([[True, True, False]]))
    0.5
    """
    return float(mask[heat == heat.max()].mean())


def pixel_ap(heat: Heat, mask: Mask) -> float:
    """Average precision: sum of precision times gain in recall over distinct values, highest first.

    Args:
        heat: Heat map (h, w).
        mask: Mask (h, w), not empty.

    >>> round(pixel_ap(np.array([[3, 2, 1]], np.float32), np.array([[True, False, True]])), 4)
    0.8333
    """
    order = np.argsort(-heat, axis=None)
    scores, inside = heat.ravel()[order], mask.ravel()[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of equal values
    found = np.cumsum(inside)[last]
    return float((found / (last + 1) * np.diff(found, prepend=0)).sum() / found[-1])


def iou_curve(heat: Heat, mask: Mask) -> Floats:
    """IoU (101,) of the mask and ``heat >= t`` for every t of `THRESHOLDS`, in one pass over the pixels.

    Args:
        heat: Heat map (h, w) in [0, 1].
        mask: Mask (h, w), not empty.

    >>> iou_curve(np.array([[1.0, 0.4]], np.float32), np.array([[True, False]]))[[0, 40, 41, 100]].tolist()
    [0.5, 0.5, 1.0, 1.0]
    """
    reached = np.searchsorted(THRESHOLDS, heat.ravel(), side="right") - 1
    size = len(THRESHOLDS)
    both = np.bincount(reached[mask.ravel()], minlength=size)[::-1].cumsum()[::-1]
    chosen = np.bincount(reached, minlength=size)[::-1].cumsum()[::-1]
    return both / (chosen + mask.sum() - both)


def best_threshold(mean_curve: Floats) -> float:
    """Threshold with the highest mean IoU, the lowest if tied, from a curve (101,) of `iou_curve`.

    >>> best_threshold(iou_curve(np.array([[1.0, 0.5]], np.float32), np.array([[True, False]])))
    0.51
    """
    return float(THRESHOLDS[int(mean_curve.argmax())])


def box(mask: Mask) -> Box | None:
    """Bounding box of the True pixels: left, top, right, bottom (ends exclusive); None without pixels.

    >>> box(np.array([[False, True, True], [False, False, True]]))
    (1, 0, 3, 2)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_iou(a: Box | None, b: Box | None) -> float:
    """Intersection over union of two boxes of `box`; 0 if either is None.

    >>> box_iou((0, 0, 2, 2), (1, 0, 3, 2))
    0.3333333333333333
    """
    if a is None or b is None:
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def measure(heat: Heat, mask: Mask, threshold: float) -> dict[str, float]:
    """The metrics of `DEFINITIONS` for one heat map and mask.

    Args:
        heat: Heat map (h, w) in [0, 1].
        mask: Mask (h, w), not empty.
        threshold: Threshold of the method.

    >>> measure(np.array([[1.0, 0.2]], np.float32), np.array([[True, False]]), 0.5)
    {'pointing': 1.0, 'iou': 1.0, 'pixel_ap': 1.0, 'box_iou': 1.0}
    """
    chosen = heat >= np.float64(threshold)
    return {
        "pointing": pointing(heat, mask),
        "iou": float((chosen & mask).sum() / (chosen | mask).sum()),
        "pixel_ap": pixel_ap(heat, mask),
        "box_iou": box_iou(box(chosen), box(mask)),
    }
