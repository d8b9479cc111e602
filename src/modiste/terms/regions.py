"""Region–text contrast: cells of composed scenes against the words for what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modiste.data.scenes.composer import Composer
from modiste.errors import ModisteError
from modiste.losses.regions import region_contrast
from modiste.models.dual_encoder import DualEncoder
from modiste.terms.base import TrainingInputs
from modiste.terms.patches import PatchTerm, Vocabulary
from modiste.terms.teacher import Teacher
from modiste.utils.ranges import Count, NonNegative, Positive


class Regions(PatchTerm):
    """Cross-entropy of each cell of a scene among the words of a vocabulary and a learned background.

    Scenes are composed of the training products (`modiste.data.scenes`), so the product in each cell of the patch grid
    is known. The cell's embedding (`TwoTower.patch_head`) is contrasted against the texts of all values of a column, as
    in LSeg (Li et al. 2022, arXiv:2201.03546), with a learned vector for background as in RegionCLIP (Zhong et al.
    2022, arXiv:2112.09106); see `modiste.losses.regions.region_contrast`. Mixed and unknown cells are ignored. With
    several columns the term is the mean over them.

    Args:
        scenes: Composer of the scenes.
        columns: Columns, each with its own vocabulary; empty: the type column of ``scenes``.
        words: Column → value → word in the prompt, as in ``data.classes``; other values are used as they are.
        templates: See `PatchTerm`.
        weight: See `Term`.
        batch_size: Scenes per step, on each device.
        count: Number of scenes, per epoch unless features are cached.
        cells: Cells per step, sampled from all of the step's scenes; null: all. Without cached features, all cells pass
            through the trunk regardless.
        scale: Inverse temperature.
        background: Weight of the background cells.
        power: A cell has weight n^-power, with n the cells of its word in the step.

    Raises:
        ModisteError: See `PatchTerm`; ``count`` or ``cells`` < 1; in `bind`: see `PatchTerm.take` and
            `Composer.bind`.
    """

    def __init__(
        self,
        scenes: Composer | None = None,
        columns: Sequence[str] = (),
        words: Mapping[str, Mapping[str, str]] | None = None,
        templates: Sequence[str] = ("a photo of a {}",),
        weight: NonNegative = 1.0,
        batch_size: Count = 8,
        count: Count = 640,
        cells: Count | None = 2048,
        scale: Positive = 20.0,
        background: NonNegative = 1.0,
        power: NonNegative = 0.5,
    ) -> None:
        super().__init__("regions", templates, weight, batch_size, scale, background, power)
        if count < 1 or (cells is not None and cells < 1):
            raise ModisteError("term.regions: count and cells must be at least 1.")
        self.composer, self.count, self.number = scenes or Composer(), count, cells
        self.columns = list(columns) or [self.composer.column]
        self.worded = dict(words or {})

    def bind(self, student: DualEncoder, teacher: Teacher | None, inputs: TrainingInputs | None = None) -> None:
        inputs = self.known(inputs)
        columns = [(inputs.catalogue.column(name), self.worded.get(name, {})) for name in self.columns]
        self.vocabularies = [Vocabulary.of(values, words) for values, words in columns]
        scenes = self.composer.bind(inputs.catalogue, inputs.seed, self.count)
        self.take(student, inputs, scenes, [word for known in self.vocabularies for word in known.words])

    def __call__(self, image: Tensor, text: Tensor, batch: Mapping[str, Any], scale: Tensor | None) -> Tensor:
        cells, rows = self.cells(image.device, self.number)
        words = self.words(image.device).split([len(known.words) for known in self.vocabularies])
        value = image.new_zeros(())
        for known, vectors in zip(self.vocabularies, words, strict=True):
            labels = torch.from_numpy(known.labels(rows)).to(image.device)
            value = value + region_contrast(cells, labels, vectors, self.background(), **self.options)
        return value / len(self.vocabularies)
