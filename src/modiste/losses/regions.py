"""Cross-entropy of patch-grid cells over the words of a vocabulary and background."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.losses import gather

UNKNOWN = -1
BARELY = 1e-4
"""Margin of a biased class above the others."""


def region_contrast(
    cells: Tensor,
    labels: Tensor,
    words: Tensor,
    background: Tensor,
    scale: float,
    background_weight: float = 1.0,
    power: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of word cells, plus ``background_weight`` times that of background cells.

    LSeg (Li et al. 2022, arXiv:2201.03546, eq. 1) with background as an additional class. In the first mean, a cell of
    word v has weight n_v^-power, with n_v the number of its cells. A collective: both means are over the cells of all
    processes, some of which may have none, and gradients are scaled to undo DDP's averaging.

    Args:
        cells: Unit-norm embeddings (N, D) of this process's cells.
        labels: Word of each cell (N,), int64; V for background, -1 for ignored cells.
        words: Unit-norm embeddings (V, D), the same on every process.
        background: Unit-norm vector (D,).
        scale: Inverse temperature.
        background_weight: Weight of the second mean.
        power: 0 weighs all cells equally, 1 all words.

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


def assign_tags(scores: Tensor, tags: Sequence[int], word_share: float, background_share: float) -> Tensor:
    """Assign each cell to one of an image's tags or to background: an E-step after EM-Adapt.

    Papandreou et al. 2015, arXiv:1502.02734, section 3.2: a class that leads in less than its share of the cells gets
    the smallest bias with which its scores exceed all others in that share. Here each bias is computed against the
    unbiased scores of the other classes, once, where EM-Adapt's code adapts them in turn and repeatedly. So only the
    bias of a single class guarantees its share: with several, a class may lose cells to the others' biases.

    Args:
        scores: Scores (N, V + 1) of the cells for V words and, last, background.
        tags: Words that the image shows, each once.
        word_share: Fraction of the cells, at least one of them, in which each tag leads the others' unbiased scores; 0:
            no bias.
        background_share: The same for background.

    Returns:
        Class of each cell (N,), int64: one of the tags, or V for background.

    >>> scores = torch.tensor([[2.0, 9.0, 3.0], [1.0, 9.0, 3.0], [0.0, 9.0, 3.0]])
    >>> assign_tags(scores, [0], word_share=0.3, background_share=0.3).tolist()
    [0, 2, 2]
    """
    classes = [*tags, scores.shape[1] - 1]
    own = scores[:, classes]
    biased = own.clone()
    for column, share in enumerate([*[word_share] * len(tags), background_share]):
        others = torch.cat([own[:, :column], own[:, column + 1 :]], dim=1).amax(1)
        count = max(1, round(share * len(own))) if share else 0
        if count:
            lead = (own[:, column] - others).topk(count).values[-1]
            biased[:, column] += torch.where(lead < 0, BARELY - lead, 0.0)
    return torch.tensor(classes, device=scores.device)[biased.argmax(1)]
