"""Subjects of evaluation: a run's model, a published model, a model in memory, or matrices on disk."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from modiste.config import load_run_config
from modiste.data.build import bind_captions
from modiste.embedding.build import build_embedder, decode_of, embedder_options
from modiste.embedding.embedder import MatrixEmbedder, ModelEmbedder, PrefixEmbedder, read_matrix
from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder
from modiste.models.load import build_model, load
from modiste.utils.run_dir import RunDir

if TYPE_CHECKING:
    from modiste.evaluation.spec import Evaluation
    from modiste.tasks.result import Embedder

# Adapters of a user's data, whose data sets may share a name.
GENERIC = ("modiste.data.datasets.table.Table", "modiste.data.datasets.hub.Hub")


@dataclass
class Subject:
    """A model, or two matrices, under a name.

    Attributes:
        name: Name of the model in results and tables.
        source: Run directory, hub id, path or model option that it was loaded from.
        model: The dual encoder; None for matrices.
        options: Options of `modiste.embedding.build.build_embedder`.
        matrices: Files of the image and the text embeddings, instead of a model.
        run: The run directory whose model it is.
        trained: That run's configuration.
    """

    name: str
    source: str
    model: DualEncoder | None = None
    options: dict[str, Any] = field(default_factory=dict)
    matrices: tuple[Path, Path] | None = None
    run: RunDir | None = None
    trained: DictConfig | None = None
    _embedder: ModelEmbedder | None = field(default=None, repr=False)

    @classmethod
    def of_run(cls, run: RunDir, checkpoint: str = "best", options: dict[str, Any] | None = None) -> Subject:
        """Load the model of a run directory; raise ModisteError without a checkpoint."""
        trained = load_run_config(run.config)
        return cls(
            trained.name, str(run.path), load(run.path, checkpoint).model, options or {}, run=run, trained=trained
        )

    @classmethod
    def of_config(cls, cfg: DictConfig, choice: str) -> Subject:
        """Build the model of a configuration's ``model`` node.

        Args:
            cfg: Configuration with ``model``, ``tune``, ``seed`` and the options of an embedder.
            choice: The model option, such as ``fashionclip_2``.
        """
        torch.manual_seed(cfg.seed)  # model=two_tower is random: chance level
        return cls(choice, str(cfg.model.get("source", choice)), build_model(cfg), embedder_options(cfg))

    def embedder(self, evaluation: Evaluation) -> tuple[Embedder, dict[str, Any]]:
        """The embedder of a loaded data set, and the facts about it that results record."""
        cfg = evaluation.spec.config
        embedder: Embedder
        embedder, facts = self._matrices(evaluation) if self.matrices else self._of_model(cfg)
        dim = cfg.get("dim")
        if dim is not None:
            embedder, facts = PrefixEmbedder(embedder, dim), facts | {"describe": facts["describe"] | {"dim": dim}}
        return embedder, facts

    def _of_model(self, cfg: DictConfig) -> tuple[ModelEmbedder, dict[str, Any]]:
        assert self.model is not None
        if self._embedder is None:
            self._embedder = build_embedder(self.model, **self.options)
        embedder = copy.copy(self._embedder)  # shares backends and their checks
        embedder.decode = decode_of(cfg.data)
        described = self.model.describe() | {"precision": embedder.precision}
        unusual = {"backend": embedder.backend, "decode": embedder.decode}
        described |= {name: word for name, word in unusual.items() if word not in ("torch", "pil")}
        facts: dict[str, Any] = {"name": self.name, "source": self.source, "fingerprint": embedder.fingerprint}
        facts["describe"] = described
        if self.trained is not None:
            facts["in_domain"] = same_data(self.trained.data, cfg.data)
        return embedder, facts

    def _matrices(self, evaluation: Evaluation) -> tuple[MatrixEmbedder, dict[str, Any]]:
        """Embedder of matrices with one row per catalogue row; texts are those of the first template."""
        assert self.matrices is not None
        images, texts = (read_matrix(path) for path in self.matrices)
        catalogue = evaluation.catalogue
        captions = bind_captions(evaluation.spec.config.data, catalogue).texts()
        embedder = MatrixEmbedder(catalogue, images, texts, captions)
        described = {"embed_dim": images.shape[1]}
        facts = {"name": self.name, "source": self.source, "describe": described, "fingerprint": embedder.fingerprint}
        return embedder, facts


def subject_of(cfg: DictConfig, choice: str | None = None) -> Subject:
    """The subject of an ``evaluate`` configuration: ``run``, ``embeddings`` or ``model``.

    Args:
        cfg: The composed configuration.
        choice: The model option that the user gave, or None.

    Raises:
        ModisteError: No model is given, or it is missing.
    """
    if cfg.get("embeddings") and cfg.embeddings.image:
        image, text = (Path(path).expanduser() for path in (cfg.embeddings.image, cfg.embeddings.text))
        return Subject(image.stem, str(cfg.embeddings.image), matrices=(image, text))
    if cfg.run:
        return Subject.of_run(RunDir.find(cfg.run), cfg.checkpoint, embedder_options(cfg))
    if choice is None:
        raise ModisteError(
            "No model given: set run=DIR, model=NAME, or embeddings.image=FILE and embeddings.text=FILE."
        )
    return Subject.of_config(cfg, choice)


def same_data(trained: DictConfig, evaluated: DictConfig) -> bool:
    """Whether two data nodes are the same data set, or contain the photos of the same one (``origin``)."""
    if trained.get("origin", trained.name) != evaluated.get("origin", evaluated.name):
        return False
    return evaluated.catalogue["_target_"] not in GENERIC or trained.catalogue == evaluated.catalogue
