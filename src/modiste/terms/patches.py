"""Terms that contrast cells of a patch grid against words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.data.scenes.composer import BACKGROUND_ROW, Rows, pixels_of
from modiste.errors import ModisteError
from modiste.losses.regions import UNKNOWN
from modiste.models.dual_encoder import DualEncoder, TwoTower
from modiste.terms.base import Term, TrainingInputs
from modiste.terms.parallel import moved
from modiste.terms.teacher import OWN
from modiste.utils.templates import plain_fields

NO_HEAD = "term.{} trains a head on stages of the image tower, which this model lacks: set image.patch_stages."
UNKNOWN_ROWS = "term.{} needs the training rows in advance, which data.stream does not have: remove one of them."
FROZEN = "term.{} trains a head of the image tower: set tune.image.train=last_n (layers=1 trains only the heads)."


class PatchTerm(Term):
    """Base class of terms that train `TwoTower.patch_head`, and the trunk unless frozen, on extra images.

    If the trunk is frozen and features are cached (``features.cache``), the features of all images are computed once,
    and each step samples from them. Otherwise each step generates images, other scenes in every epoch, and encodes
    their patches as training embeds a batch (``grad_cache``).

    Args:
        name: Name of the term in messages.
        templates: Prompts with one ``{}``: a word's vector is the normalised mean of their embeddings.
        weight: See `Term`.
        batch_size: Images per step, on each device.
        scale: Inverse temperature.
        background: Weight of the background cells.
        power: See `modiste.losses.regions.region_contrast`.

    Raises:
        ModisteError: A number is out of range, or a template has no ``{}``.
    """

    trains_patches = True

    def __init__(
        self,
        name: str,
        templates: Sequence[str],
        weight: float,
        batch_size: int,
        scale: float,
        background: float,
        power: float,
    ) -> None:
        super().__init__(weight, OWN)
        if batch_size < 1:
            raise ModisteError(f"term.{name}.batch_size={batch_size} must be at least 1.")
        if scale <= 0 or background < 0 or not 0 <= power <= 1:
            raise ModisteError(f"term.{name}: scale must be above 0, background at least 0 and power from 0 to 1.")
        if not templates or any(plain_fields(template) != [""] for template in templates):
            raise ModisteError(f"term.{name}.templates={list(templates)} must have one {{}} each, for the word.")
        self.name, self.templates, self.batch_size = name, list(templates), batch_size
        self.options = {"scale": scale, "background_weight": background, "power": power}

    def known(self, inputs: TrainingInputs | None) -> TrainingInputs:
        """The inputs of `Term.bind`. Raises ModisteError without them: training streams its rows."""
        if inputs is None:
            raise ModisteError(UNKNOWN_ROWS.format(self.name))
        return inputs

    def take(self, student: DualEncoder, inputs: TrainingInputs, pictures: Any, words: Sequence[str]) -> None:
        """Set the model, the images and the words.

        Args:
            student: The model.
            inputs: See `Term.bind`.
            pictures: `modiste.data.scenes.Scenes`, or a data set with the same interface.
            words: Words of all vocabularies, concatenated.

        Raises:
            ModisteError: The model has no trainable `TwoTower.patch_head`.
        """
        if not isinstance(student, TwoTower) or student.patch_head is None:
            raise ModisteError(NO_HEAD.format(self.name))
        if not any(parameter.requires_grad for parameter in student.patch_head.parameters()):
            raise ModisteError(FROZEN.format(self.name))
        self.student, self.inputs, self.pictures = student, inputs, pictures
        prompts = [template.format(word) for word in words for template in self.templates]
        cached = inputs.cache.texts(prompts) if inputs.cache else None
        self.tokens = (cached or student.tokenizer)(prompts)
        self.cached = inputs.cache.scenes(pictures) if inputs.cache else None

    @torch.no_grad()
    def words(self, device: torch.device) -> Tensor:
        """Unit-norm vectors (V, D) of all words, without gradient: only patches are moved towards words."""
        texts = self.student.encode_text(moved(self.tokens, device))
        return F.normalize(texts.unflatten(0, (-1, len(self.templates))).mean(1), dim=1)

    def background(self) -> Tensor:
        """Unit-norm vector (D,) of background."""
        assert self.student.patch_head is not None
        return F.normalize(self.student.patch_head.background.float(), dim=0)

    def cells(self, device: torch.device, number: int | None = None) -> tuple[Tensor, Rows]:
        """Embeddings (N, D) of cells of sampled images, and the catalogue rows (N,) that they show.

        Args:
            device: Device of the model.
            number: Number of cells, sampled from all of the images; None: all.
        """
        # The generator is reseeded for every batch, so that a resumed run draws the same images.
        chosen = torch.randint(len(self.pictures), (self.batch_size,))
        if self.cached is not None:
            picture, y, x = self._drawn((self.batch_size, *self.cached.rows.shape[1:]), number)
            where = chosen.numpy()[picture], y, x
            features = torch.from_numpy(self.cached.features[where].astype(np.float32)).to(device)
            assert self.student.patch_head is not None
            return F.normalize(self.student.patch_head(features).float(), dim=1), self.cached.rows[where]
        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(self.pictures.__getitem__, [(self.epoch, index) for index in chosen.tolist()]))
        cells = self.inputs.encode_patches(torch.stack([pixels_of(picture.image) for picture in pictures]).to(device))
        drawn = self._drawn(cells.shape[:3], number)
        return cells[drawn], np.stack([picture.rows(cells.shape[1]) for picture in pictures])[drawn]

    @staticmethod
    def _drawn(shape: Sequence[int], number: int | None) -> tuple[npt.NDArray[np.int64], ...]:
        """Indices (N,) into images, rows and columns of ``number`` distinct cells, or of all if fewer."""
        total = math.prod(shape)
        flat = torch.arange(total) if number is None or number >= total else torch.randperm(total)[:number]
        return np.unravel_index(flat.numpy(), shape)


@dataclass(frozen=True)
class Vocabulary:
    """The distinct words of a column.

    Attributes:
        words: Distinct words, sorted.
        word: Index of the word of each catalogue row (R,); -1 for none.
    """

    words: list[str]
    word: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: Sequence[str], words: Mapping[str, str]) -> Vocabulary:
        """Vocabulary of a column's values, reworded by ``words``.

        >>> Vocabulary.of(["Tshirts", "", "Caps"], {"Tshirts": "t-shirt"})
        Vocabulary(words=['Caps', 't-shirt'], word=array([ 1, -1,  0]))
        """
        texts = [words.get(value, value) for value in values]
        known = sorted(set(texts) - {""})
        number = {text: index for index, text in enumerate(known)} | {"": UNKNOWN}
        return cls(known, np.array([number[text] for text in texts], dtype=np.int64))

    def labels(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Labels for `region_contrast`, from the catalogue rows that cells show.

        >>> from modiste.data.scenes.composer import BACKGROUND_ROW, UNKNOWN_ROW
        >>> known = Vocabulary.of(["cap", "", "hat"], {})
        >>> known.labels(np.array([2, 1, BACKGROUND_ROW, UNKNOWN_ROW])).tolist()
        [1, -1, 2, -1]
        """
        labels = np.where(rows >= 0, self.word[rows.clip(0)], UNKNOWN)
        return np.where(rows == BACKGROUND_ROW, len(self.words), labels)
