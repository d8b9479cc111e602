"""Cross-entropy of the cells of a patch grid among the words of a vocabulary and a background."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.losses import gather

UNKNOWN = -1
BARELY = 1e-4
"""By how much a biased class is above the others."""


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


def assign_tags(scores: Tensor, tags: Sequence[int], word_share: float, background_share: float) -> Tensor:
    """The class of each cell among a picture's tags and background: the E step of EM-Adapt.

    Papandreou et al. 2015, arXiv:1502.02734, section 3.2: a class that would have less than its share of the cells has
    a bias added to its scores, the smallest one with which it is above all others in that share of them.

    Args:
        scores: (N, V + 1) of the cells for V words and, last, background.
        tags: The words that the picture shows, each once.
        word_share: Fraction of the cells that each of the tags has at least, before the others' biases.
        background_share: The same of background.

    Returns:
        (N,) int64: one of the tags, or V.

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
