"""Weak supervision by image-level tags, by expectation–maximisation over the cells of a photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modiste.data.scenes.photos import Photos
from modiste.errors import ModisteError
from modiste.losses.regions import UNKNOWN, assign_tags, region_contrast
from modiste.models.dual_encoder import DualEncoder
from modiste.terms.base import TrainingInputs
from modiste.terms.patches import PatchTerm
from modiste.terms.teacher import Teacher
from modiste.utils.ranges import Count, Fraction, NonNegative, Positive, Side


class Tags(PatchTerm):
    """Region–text contrast on the training photos, whose tags say what they show but not where.

    After EM-Adapt (Papandreou et al. 2015, arXiv:1502.02734, section 3.2): each step assigns every cell of a photo to
    one of its tags or to background by the model's scores. A tag that leads in fewer than ``word_share`` of the cells,
    or background in fewer than ``background_share``, gets a bias with which it leads the others' unbiased scores there;
    with all biases added, it may still end below its share (`modiste.losses.regions.assign_tags`). The term is the
    cross-entropy of these labels over all tags and background. Masks are not used.

    Start from a model that already grounds words: ``modiste train init=RUN data=ccp 'term=[tags]'``.

    Args:
        column: Column with the tags of each photo, joined by ``separator``.
        separator: Separator between tags.
        words: Tag → word in the prompt, as in ``data.classes``.
        size: Side of the photos in pixels; they are scaled to fit, with grey padding.
        word_share: Each tag of a photo is biased to get at least this fraction of its cells; 0: no bias.
        background_share: The same for background.
        templates: See `PatchTerm`.
        weight: See `Term`.
        batch_size: Photos per step, on each device.
        scale: Inverse temperature.
        background: Weight of the background cells.
        power: A cell has weight n^-power, with n the cells of its tag in the step.

    Raises:
        ModisteError: See `PatchTerm`; a fraction is out of range; in `bind`: no photo has a tag.
    """

    def __init__(
        self,
        column: str = "parts",
        separator: str = ", ",
        words: Mapping[str, str] | None = None,
        size: Side = 384,
        word_share: Fraction = 0.03,
        background_share: Fraction = 0.4,
        templates: Sequence[str] = ("a photo of a person wearing {}",),
        weight: NonNegative = 1.0,
        batch_size: Count = 8,
        scale: Positive = 20.0,
        background: NonNegative = 1.0,
        power: NonNegative = 0.5,
    ) -> None:
        super().__init__("tags", templates, weight, batch_size, scale, background, power)
        if not (0 <= word_share <= 1 and 0 <= background_share <= 1):
            raise ModisteError("term.tags: word_share and background_share must be fractions, from 0 to 1.")
        self.column, self.separator, self.worded, self.size = column, separator, dict(words or {}), size
        self.word_share, self.background_share = word_share, background_share

    def bind(self, student: DualEncoder, teacher: Teacher | None, inputs: TrainingInputs | None = None) -> None:
        inputs = self.known(inputs)
        tags = [[tag for tag in cell.split(self.separator) if tag] for cell in inputs.catalogue.column(self.column)]
        known = sorted({tag for photo in tags for tag in photo})
        if not known:
            raise ModisteError(f"Column '{self.column}' has no tag: set term.tags.column to what photos show.")
        self.tags = [[known.index(tag) for tag in photo] for photo in tags]
        photos = Photos(inputs.catalogue, self.size)
        self.take(student, inputs, photos, [self.worded.get(tag, tag) for tag in known])

    def __call__(self, image: Tensor, text: Tensor, batch: Mapping[str, Any], scale: Tensor | None) -> Tensor:
        cells, rows = self.cells(image.device)
        words, background = self.words(image.device), self.background()
        with torch.no_grad():
            scores = self.options["scale"] * cells @ torch.cat([words, background[None]]).T
        labels = torch.full(rows.shape, UNKNOWN, dtype=torch.int64, device=image.device)
        for row in np.unique(rows[rows >= 0]).tolist():
            if self.tags[row]:
                shown = torch.from_numpy(rows == row).to(image.device)
                labels[shown] = assign_tags(scores[shown], self.tags[row], self.word_share, self.background_share)
        return region_contrast(cells, labels, words, background, **self.options)
