"""Cross-entropy of the cells of a patch grid among the words of a vocabulary and a background."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.losses import gather

UNKNOWN = -1


def region_contrast(
    cells: Tensor,
    labels: Tensor,
    words: Tensor,
    background: Tensor,
    scale: float,
    background_weight: float = 1.0,
    power: float = 0.0,
) -> Tensor:
    """Mean cross-entropy over the cells of words, plus ``background_weight`` times that over cells of background.

    LSeg (Li et al. 2022, arXiv:2201.03546, eq. 1) with a vector of background among the classes. In the first mean a
    cell of word v counts n_v^-power, n_v being the number of its cells. A collective: on several processes both means
    are over the cells of all, and the gradient is scaled for DDP's average; each may have none.

    Args:
        cells: Unit-norm embeddings (N, D) of this process's cells.
        labels: (N,), int64: the word of each cell, V for background, -1 for cells that count nowhere.
        words: Unit-norm embeddings (V, D), the same on every process.
        background: Unit-norm vector (D,).
        scale: Inverse temperature.
        background_weight: Of the second mean.
        power: 0 counts cells, 1 counts words.

    Returns:
        Scalar; a mean over no cells is 0.

    >>> cells = torch.eye(3)
    >>> loss = region_contrast(cells, torch.tensor([0, 1, -1]), cells[:1], cells[1], scale=1.0)
    >>> round(loss.item(), 4)  # two means of log(1 + 1/e)
    0.6265
    """
    known = labels != UNKNOWN
    cells, labels = cells[known], labels[known]
    logits = scale * cells @ torch.cat([words, background[None]]).T
    each = F.cross_entropy(logits, labels, reduction="none")
    counts = gather.all_reduce_sum(torch.bincount(labels, minlength=len(words) + 1).to(each.dtype))
    is_word = labels < len(words)
    of_word = torch.where(is_word, counts[labels] ** -power, 0.0)
    sums = torch.stack([(each * of_word).sum(), each[~is_word].sum()])
    totals = torch.stack([(counts[:-1] ** (1 - power))[counts[:-1] > 0].sum(), counts[-1]])
    means = gather.sum_over_processes(sums / torch.where(totals > 0, totals, 1.0))
    return means[0] + background_weight * means[1]
