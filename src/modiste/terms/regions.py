"""Region–text contrast: every cell of composed scenes against the words of what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.data.scenes.composer import BACKGROUND_ROW, Composer, Rows, pixels_of
from modiste.errors import ModisteError
from modiste.losses.regions import UNKNOWN, region_contrast
from modiste.models.dual_encoder import DualEncoder, TwoTower
from modiste.terms.base import Term, TrainingInputs
from modiste.terms.parallel import moved
from modiste.terms.teacher import OWN

NO_HEAD = "term.regions trains a head on stages of the image tower, which this model lacks: set image.patch_stages."
FROZEN = "term.regions trains a head of the image tower: set tune.image.train=last_n; with layers=1, only heads."


class Regions(Term):
    """Cross-entropy of each cell of a scene among the words of a vocabulary and a learned background.

    Scenes are composed of the training products (`modiste.data.scenes`), so it is known which product each cell of the
    patch grid shows. Its embedding (`TwoTower.patch_head`) is contrasted against the texts of all values of a column,
    as in LSeg (Li et al. 2022, arXiv:2201.03546), with a learned vector for background as in RegionCLIP (Zhong et al.
    2022, arXiv:2112.09106); see `modiste.losses.regions.region_contrast`. Mixed and unknown cells count nowhere. With
    several columns the term is the mean over them.

    Where the image trunk is frozen and features are cached (``features.cache``), ``count`` scenes are computed once,
    and each step draws from them; otherwise each step composes new ones, whose patches pass through the trunk as
    training embeds a batch (``grad_cache``).

    Args:
        scenes: How scenes are made.
        columns: Columns whose values are a vocabulary each; none: the column of the scenes' types.
        words: Column → value → word in the prompt, as in ``data.classes``; other values stand for themselves.
        templates: Prompts with one ``{}``: a word's vector is the normalised mean of their embeddings.
        weight: See `Term`.
        batch_size: Scenes per step, on each device.
        count: Number of scenes that are cached.
        scale: Inverse temperature.
        background: Weight of the cells of background.
        power: See `region_contrast`.

    Raises:
        ModisteError: A number is out of range, or a template has no ``{}``; before training: the model has no
            `TwoTower.patch_head` that trains, or see `Composer.bind`.
    """

    trains_patches = True

    def __init__(
        self,
        scenes: Composer | None = None,
        columns: Sequence[str] = (),
        words: Mapping[str, Mapping[str, str]] | None = None,
        templates: Sequence[str] = ("a photo of a {}",),
        weight: float = 1.0,
        batch_size: int = 16,
        count: int = 1000,
        scale: float = 20.0,
        background: float = 1.0,
        power: float = 0.5,
    ) -> None:
        super().__init__(weight, OWN)
        if batch_size < 1 or count < 1:
            raise ModisteError("term.regions: batch_size and count must be at least 1.")
        if scale <= 0 or background < 0 or not 0 <= power <= 1:
            raise ModisteError("term.regions: scale must be above 0, background at least 0 and power from 0 to 1.")
        if not templates or any(template.count("{}") != 1 for template in templates):
            raise ModisteError(f"term.regions.templates={list(templates)} must have one {{}} each, for the word.")
        self.composer = scenes or Composer()
        self.columns = list(columns) or [self.composer.column]
        self.words, self.templates = dict(words or {}), list(templates)
        self.batch_size, self.count = batch_size, count
        self.scale, self.background, self.power = scale, background, power

    def prepare(self, student: DualEncoder, inputs: TrainingInputs) -> None:
        if not isinstance(student, TwoTower) or student.patch_head is None:
            raise ModisteError(NO_HEAD)
        if not any(parameter.requires_grad for parameter in student.patch_head.parameters()):
            raise ModisteError(FROZEN)
        self.student, self.inputs = student, inputs
        self.scenes = self.composer.bind(inputs.catalogue, inputs.seed, self.count)
        self.vocabularies = [
            Vocabulary.of(inputs.catalogue.column(name), self.words.get(name, {})) for name in self.columns
        ]
        words = [word for known in self.vocabularies for word in known.words]
        prompts = [template.format(word) for word in words for template in self.templates]
        cached = inputs.cache.texts(prompts) if inputs.cache else None
        self.tokens = (cached or student.tokenizer)(prompts)
        self.cells = inputs.cache.scenes(self.scenes) if inputs.cache else None

    def __call__(self, image: Tensor, text: Tensor, batch: Mapping[str, Any], scale: Tensor | None) -> Tensor:
        assert self.student.patch_head is not None
        cells, rows = self._composed(image.device) if self.cells is None else self._cached(image.device)
        background = F.normalize(self.student.patch_head.background.float(), dim=0)
        value = image.new_zeros(())
        for known, words in zip(self.vocabularies, self._vectors(image.device), strict=True):
            labels = torch.from_numpy(known.labels(rows)).to(image.device)
            options = self.scale, self.background, self.power
            value = value + region_contrast(cells, labels, words, background, *options)
        return value / len(self.vocabularies)

    def _vectors(self, device: torch.device) -> list[Tensor]:
        """The unit-norm vectors (V, D) of each vocabulary's words."""
        texts = self.student.encode_text(moved(self.tokens, device))
        words = F.normalize(texts.unflatten(0, (-1, len(self.templates))).mean(1), dim=1)
        return list(words.split([len(known.words) for known in self.vocabularies]))

    def _cached(self, device: torch.device) -> tuple[Tensor, Rows]:
        """Embeddings (N, D) of the cells of some cached scenes, and their rows (N,)."""
        assert self.cells is not None
        assert self.student.patch_head is not None
        chosen = torch.randint(len(self.cells.rows), (self.batch_size,)).numpy()
        features = torch.from_numpy(self.cells.features[chosen].astype(np.float32)).to(device)
        cells = F.normalize(self.student.patch_head(features).float(), dim=-1)
        return cells.flatten(0, 2), self.cells.rows[chosen].ravel()

    def _composed(self, device: torch.device) -> tuple[Tensor, Rows]:
        """The same of new scenes."""
        # The generator is seeded again for every batch, so that a resumed run draws the same.
        keys = torch.randint(2**31, (self.batch_size,)).tolist()
        with ThreadPoolExecutor() as pool:
            scenes = list(pool.map(self.scenes.__getitem__, keys))
        cells = self.inputs.encode_patches(torch.stack([pixels_of(scene.image) for scene in scenes]).to(device))
        rows = np.stack([scene.rows(cells.shape[1]) for scene in scenes])
        return cells.flatten(0, 2), rows.ravel()


@dataclass(frozen=True)
class Vocabulary:
    """The distinct words of a column.

    Attributes:
        words: Sorted.
        word: Of each row of the catalogue (R,), its number; -1: the row has none.
    """

    words: list[str]
    word: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: Sequence[str], words: Mapping[str, str]) -> Vocabulary:
        """The vocabulary of a column's values, worded by ``words``.

        >>> Vocabulary.of(["Tshirts", "", "Caps"], {"Tshirts": "t-shirt"})
        Vocabulary(words=['Caps', 't-shirt'], word=array([ 1, -1,  0]))
        """
        texts = [words.get(value, value) for value in values]
        known = sorted(set(texts) - {""})
        number = {text: index for index, text in enumerate(known)} | {"": UNKNOWN}
        return cls(known, np.array([number[text] for text in texts], dtype=np.int64))

    def labels(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Labels for `region_contrast` of cells by the catalogue's rows that they show.

        >>> from modiste.data.scenes.composer import BACKGROUND_ROW, UNKNOWN_ROW
        >>> known = Vocabulary.of(["cap", "", "hat"], {})
        >>> known.labels(np.array([2, 1, BACKGROUND_ROW, UNKNOWN_ROW])).tolist()
        [1, -1, 2, -1]
        """
        labels = np.where(rows >= 0, self.word[rows.clip(0)], UNKNOWN)
        return np.where(rows == BACKGROUND_ROW, len(self.words), labels)
