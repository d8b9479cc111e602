"""Distillation across languages: sentences are mapped to a teacher's embeddings of their translations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modiste.data.datasets.table import read_table
from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder, TwoTower
from modiste.terms.base import Term, TrainingInputs
from modiste.terms.teacher import OWN, START, Teacher
from modiste.utils.ranges import Count, NonNegative

FROZEN = "term.parallel keeps the teacher's image tower as it is: set tune.image.train=frozen."
UNCACHED = "term.parallel takes the teacher's image tower, whose features are not cached: set features.cache=false."


class Parallel(Term):
    """Mean squared distance of captions and translations to the teacher's caption embeddings.

    Reimers & Gurevych, *Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation*, EMNLP 2020,
    arXiv:2004.09813, equation 1, on unit-norm embeddings: ``(M(s) - M̂(s))² + (M(s) - M̂(t))²``, summed over the
    dimensions, averaged over pairs. Each step samples ``batch_size`` pairs of caption and translation from a table.

    The student takes the teacher's image tower and projection and keeps them frozen: images keep their embeddings, and
    captions in every language are mapped to them. Both models need the same image encoder and ``embed_dim``, and
    training ``tune.image.train=frozen``.

    Args:
        weight: See `Term`.
        teacher: A run directory, hub id or local directory of the model whose language is ``source``.
        table: Parallel captions: ``.csv``, ``.tsv``, ``.parquet`` or ``.jsonl`` with one column per language.
        source: Column in the teacher's language.
        languages: Columns of translations; null: all others. Empty cells are skipped.
        batch_size: Pairs per step.

    Raises:
        ModisteError: The table or a column does not exist, no row has a translation, or the teacher is ``start`` or
            ``own``; in `bind`: see `take_image_tower`; in a step: image features are cached.
    """

    def __init__(
        self,
        teacher: str,
        table: str,
        source: str = "en",
        languages: Sequence[str] | None = None,
        batch_size: Count = 128,
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight, teacher)
        if teacher in (START, OWN):
            raise ModisteError(f"term.parallel.teacher={teacher} would have no effect: name an English model or a run.")
        self.batch_size = batch_size
        self.pairs = read_pairs(Path(table).expanduser(), source, languages)
        self.student: DualEncoder | None = None

    def bind(self, student: DualEncoder, teacher: Teacher | None, inputs: TrainingInputs | None = None) -> None:
        super().bind(student, teacher)
        assert teacher is not None
        take_image_tower(student, teacher.model)
        self.student = student

    def __call__(self, image: Tensor, text: Tensor, batch: Mapping[str, Any], scale: Tensor | None) -> Tensor:
        assert self.model is not None
        assert self.student is not None
        if batch["pixels"].ndim != 4:
            raise ModisteError(UNCACHED)
        # The generator is reseeded for every batch, so that a resumed run draws the same pairs.
        rows = torch.randint(len(self.pairs), (self.batch_size,)).tolist()
        sources, translations = zip(*(self.pairs[row] for row in rows), strict=True)
        wanted = self.teacher_embeddings(sources, image.device)
        value = image.new_zeros(())
        for texts in (sources, translations):
            given = self.student.encode_text(moved(self.student.tokenizer(texts), image.device))
            value = value + (given - wanted).square().sum(1).mean()
        return value

    @torch.no_grad()
    def teacher_embeddings(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """The teacher's unit-norm embeddings (B, D) of sentences in its language."""
        assert self.model is not None
        teacher = self.model.model.to(device)
        return teacher.encode_text(moved(teacher.tokenizer(texts), device))


def read_pairs(path: Path, source: str, languages: Sequence[str] | None) -> list[tuple[str, str]]:
    """Read (caption, translation) of every row and language of a table that have both.

    Raises:
        ModisteError: The table or a column does not exist, or no row has both.
    """
    if not path.is_file():
        raise ModisteError(f"Table {path} does not exist: set term.parallel.table to a file of parallel captions.")
    columns = read_table(path)
    others = list(languages) if languages else [name for name in columns if name != source]
    for name in (source, *others):
        if name not in columns:
            raise ModisteError(f"{path} has no column '{name}' of captions. {did_you_mean(name, columns)}")
    pairs = [
        (str(caption).strip(), str(translation).strip())
        for name in others
        for caption, translation in zip(columns[source], columns[name], strict=True)
        if str(caption or "").strip() and str(translation or "").strip()
    ]
    if not pairs:
        raise ModisteError(
            f"{path} has no row with a caption in '{source}' and in {', '.join(others) or 'a language'}."
        )
    return pairs


def take_image_tower(student: DualEncoder, teacher: DualEncoder) -> None:
    """Copy the teacher's image tower and projection into the student.

    Raises:
        ModisteError: The towers differ in kind or size, or the student's is trainable.
    """
    remedy = "give the student the teacher's image=…, its settings, and model.embed_dim."
    if not (isinstance(student, TwoTower) and isinstance(teacher, TwoTower)):
        raise ModisteError("term.parallel needs model=two_tower as student and a run of model=two_tower as teacher.")
    if any(parameter.requires_grad for parameter in tower_parameters(student)):
        raise ModisteError(FROZEN)
    if student.preprocess != teacher.preprocess:
        raise ModisteError(f"term.parallel: student and teacher preprocess images differently: {remedy}")
    try:
        student.image.load_state_dict(teacher.image.state_dict())
        student.image_projection.load_state_dict(teacher.image_projection.state_dict())
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise ModisteError(f"term.parallel: the teacher's image tower does not fit: {remedy} ({first})") from error


def tower_parameters(model: TwoTower) -> list[torch.nn.Parameter]:
    """Parameters of the image tower and its projection."""
    return [*model.image.parameters(), *model.image_projection.parameters()]


def moved(tokens: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move tokens to a device."""
    return {name: tensor.to(device) for name, tensor in tokens.items()}
