"""Interface of tasks: the embedder they receive and the `Result` they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from modiste.errors import ModisteError
from modiste.metrics.direction import direction, higher_is_better
from modiste.metrics.intervals import Interval

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue


FILES = ("per_query", "pictures")
"""Fields that are stored in files next to the JSON."""


class TextEmbedder(Protocol):
    """Protocol of text embedders."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-norm embeddings (M, D), float32 on the CPU."""


class Embedder(TextEmbedder, Protocol):
    """Protocol of catalogue embedders: a model, or embeddings from files.

    Attributes:
        fingerprint: Identity of the weights or files that the embeddings come from.
    """

    fingerprint: str

    def images(self, catalogue: Catalogue) -> Tensor:
        """Unit-norm embeddings (N, D), float32 on the CPU, of the images of the catalogue's rows."""


class Task(Protocol):
    """Protocol of the tasks of `modiste.tasks`.

    A task may have an attribute ``files``: the names of its arguments that name files and folders, whose content is
    part of a result's identity.
    """

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate the embeddings of ``split``."""


@dataclass
class Result:
    """The outcome of one task on one split of one data set.

    Attributes:
        task: The task's name.
        data: The data set's name.
        split: The evaluated split.
        metrics: Metric name (``t2i/recall@1``) to its value with a 95 % bootstrap interval.
        higher_is_better: Metric name to whether a higher value is better, for every metric (torchmetrics' term):
            False for errors, distances and ranks.
        protocol: Plain values: prompts, definitions of the metrics, tie rule, seed, bootstrap settings …
        counts: Numbers of queries, gallery items, classes …
        primary: The metric shown where there is room for only one.
        per_query: Metric name to one value per query; stored in a file next to the JSON. The optional ``cluster`` is
            each query's cluster, such as its photo: significance tests resample whole clusters.
        tables: Name to ``{"columns": [...], "rows": [[...]]}``.
        confusion: Attribute to ``{"labels": [...], "matrix": [[...]]}``; rows are targets, columns predictions.
        examples: Queries with their first results: ``kind`` (``t2i``: a text searches products, ``i2t``: an image
            searches texts, ``i2i``: an image searches products), ``search`` (the metrics' prefix), ``query`` (the text,
            or the image's row in the full catalogue), ``rank`` of the first relevant item and ``results``; a miss
            has ``wanted``, the best-ranked relevant item, and a query of image and text has ``text``.
        summary: Metrics without their prefix (``weighted_f1``) that a summary shows for every prefix; empty: only
            ``primary``.
        findings: Conclusions from the numbers, in full sentences.
        pictures: Title to picture; each is written as a PNG next to the report, not into the JSON.

    Raises:
        ModisteError: ``primary`` is not among the metrics, or ``higher_is_better`` does not name the same metrics.

    >>> metrics = {"hue_error": Interval(0.5, 0.4, 0.6, 10)}
    >>> better = {"hue_error": False}
    >>> result = Result("colour", "kagl", "test", metrics, higher_is_better=better, primary="hue_error")
    >>> result.direction("hue_error"), Result.from_json(result.to_json()) == result
    ('min', True)
    """

    task: str
    data: str
    split: str
    metrics: dict[str, Interval]
    higher_is_better: dict[str, bool] = field(kw_only=True)
    protocol: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    primary: str = ""
    per_query: dict[str, npt.NDArray[Any]] = field(default_factory=dict, compare=False)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    confusion: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    pictures: dict[str, Image.Image] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.primary not in self.metrics:
            raise ModisteError(f"The primary metric '{self.primary}' of task '{self.task}' is not among its metrics.")
        unstated = sorted(self.metrics.keys() ^ self.higher_is_better.keys())
        if unstated:
            raise ModisteError(
                f"higher_is_better and metrics of task '{self.task}' differ in '{unstated[0]}': state for each metric "
                "whether a higher value is better."
            )

    def direction(self, metric: str) -> Literal["min", "max"]:
        """``max`` for a metric that is better when higher, else ``min``."""
        return direction(metric, self.higher_is_better)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dump`; ``per_query`` and ``pictures`` are stored in separate files."""
        plain = {name: value for name, value in vars(self).items() if name not in FILES}
        return plain | {"metrics": {name: asdict(interval) for name, interval in self.metrics.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], per_query: Mapping[str, npt.NDArray[Any]] | None = None) -> Result:
        """Read the output of `to_json`, or a result file; other keys (model, environment …) are ignored.

        Raises:
            ModisteError: A field is missing.
        """
        fields = {name: f for name, f in cls.__dataclass_fields__.items() if name not in FILES}
        required = [name for name, f in fields.items() if f.default is f.default_factory is MISSING and not f.kw_only]
        missing = [name for name in required if name not in content]
        if missing:
            raise ModisteError(f"Not a result file: it has no {', '.join(missing)}.")
        values = {name: content[name] for name in fields if name in content}
        values["metrics"] = {name: Interval(**interval) for name, interval in content["metrics"].items()}
        stated = content.get("higher_is_better")  # missing in results of earlier versions
        values["higher_is_better"] = {name: higher_is_better(name, stated) for name in values["metrics"]}
        return cls(**values, per_query={name: np.asarray(v) for name, v in (per_query or {}).items()})
