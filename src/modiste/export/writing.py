"""Atomic export of a model, verified with the target library's own loader."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modiste import __version__
from modiste.embedding.embedder import MIN_COSINE, fingerprint
from modiste.errors import ModisteError, did_you_mean
from modiste.export.card import write_card
from modiste.export.formats import FORMATS
from modiste.export.inputs import Inputs, of_run, synthetic
from modiste.export.towers import tokenizer_facts, without_adapters
from modiste.models.dual_encoder import DualEncoder, TwoTower
from modiste.models.load import load
from modiste.pretrained.exported import FACTS, Programs
from modiste.utils.atomic import atomic_folder, refuse_other_writers
from modiste.utils.foreign import check_folder
from modiste.utils.hub import without_code
from modiste.utils.run_dir import RunDir, write_json

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16", "int8")
# Minimum cosine of an export that counts as exact; below it, the card shows a warning.
EXACT = 0.9999


class Reader(NamedTuple):
    """The target library's model: maps PIL images and texts to embeddings (N, D).

    The preprocessing is the library's own.
    """

    images: Callable[[Sequence[Image.Image]], Tensor]
    texts: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Job:
    """Input of a format's writer.

    Attributes:
        precision: ``fp32``, ``bf16`` or ``int8``.
        inputs: Sample images and texts.
        repo_id: Hub repository to which the folder will be pushed, or "".
    """

    precision: str
    inputs: Inputs
    repo_id: str = ""


@dataclass(frozen=True)
class Exported:
    """An export on disk.

    Attributes:
        path: Its folder.
        format: A key of `modiste.export.formats.FORMATS`.
        cosine: ``image`` and ``text`` → ``min`` and ``mean`` cosine between the target library's embeddings and the
            model's.
        inputs: Description of the inputs on which they were computed.
        warnings: What is not exact, one sentence each.
    """

    path: Path
    format: str
    cosine: dict[str, dict[str, float]]
    inputs: str
    warnings: list[str] = field(default_factory=list)


def export(
    run_or_model: str | Path | DualEncoder,
    format: str,
    out: str | Path,
    *,
    precision: str = "fp32",
    checkpoint: str = "best",
    inputs: Inputs | None = None,
    min_cosine: Mapping[str, float] = MIN_COSINE,
    repo_id: str = "",
    card: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a model in ``format`` into the folder ``out``, and verify it.

    It is verified with the target library's own loader.

    Args:
        run_or_model: A run directory, the result of `modiste.train`, a model, or another source of `modiste.load`.
        format: A key of `modiste.export.formats.FORMATS`.
        out: Output folder. An earlier export is replaced; anything else is refused.
        precision: ``bf16`` stores all weights in bfloat16, ``int8`` those of matmuls in int8 (ONNX, OpenVINO).
        checkpoint: ``best`` or ``last``, for a run directory.
        inputs: Images and texts to verify on; None: the run's own data if available, else synthetic garments.
        min_cosine: Minimum cosine of any input to the model's own pipeline, preprocessing included.
        repo_id: Hub repository to which the folder will be pushed, for layouts that store it.
        card: Additional facts for the model card, such as ``{"licence": "apache-2.0"}``.

    Returns:
        Path, cosines and warnings of the export.

    Raises:
        ModisteError: The layout cannot represent this model, a cosine is below ``min_cosine``, a package is not
            installed, or ``out`` contains anything but an export.
    """
    layout = layout_of(format, precision)
    out = Path(out).expanduser().resolve()
    check_target(out)
    model, run = resolved(run_or_model, checkpoint)
    inputs = inputs or (of_run(run) if run else synthetic())
    if isinstance(model, Programs):
        raise ModisteError(f"{run_or_model} contains compiled programs without weights: export the run itself.")
    identity = fingerprint(model.eval())
    plain = without_adapters(model)
    lost = without_patches(plain, format, layout)
    with replacing(out) as folder:
        with without_code():
            layout.write(plain, folder, Job(precision, inputs, repo_id))
        facts: dict[str, Any] = {
            "modiste": __version__,
            "format": format,
            "precision": precision,
            "fingerprint": identity,
            "embed_dim": model.embed_dim,
            "preprocess": model.preprocess.describe(),
            "tokenizer": tokenizer_facts(model.tokenizer),
            "initial_scale": model.initial_scale,
            "initial_bias": model.initial_bias,
        }
        write_json(folder / FACTS, facts)
        check_folder(folder)  # it has files of the model that was exported, which may be a stranger's
        with without_code():
            cosine = compare(model, layout.read(folder), inputs)
        warnings = judged(cosine, min_cosine, format, layout) + lost
        facts |= {"cosine": cosine, "inputs": inputs.source, "warnings": warnings}
        if hasattr(layout, "checked_by"):
            facts["checked_by"] = layout.checked_by()
        write_json(folder / FACTS, facts)
        if hasattr(layout, "relocate"):
            layout.relocate(folder, out, repo_id)
        write_card(folder, run, facts, inputs, dict(card or {}), repo_id)
    for warning in warnings:
        log.warning(warning)
    return Exported(out, format, cosine, inputs.source, warnings)


def without_patches(model: DualEncoder, format: str, layout: ModuleType) -> list[str]:
    """Remove the patch projection from a model if the format cannot represent it.

    Returns a warning about it.
    """
    if not isinstance(model, TwoTower) or model.patch_head is None or getattr(layout, "PATCHES", False):
        return []
    model.patch_head = None
    return [
        f"The patch projection (image.patch_stages) is not part of {format}: retrieval is unchanged, heat maps differ. "
        "format=hub includes it."
    ]


def resolved(run_or_model: str | Path | RunDir | DualEncoder, checkpoint: str) -> tuple[DualEncoder, RunDir | None]:
    """Return the model, and its run directory if it has one."""
    if isinstance(run_or_model, DualEncoder):
        return run_or_model, None
    source = run_or_model.path if isinstance(run_or_model, RunDir) else run_or_model
    run = RunDir(Path(source).expanduser())
    return load(source, checkpoint).model, run if run.is_run else None


def layout_of(format: str, precision: str = "fp32") -> ModuleType:
    """Import the module of a format.

    Raises ModisteError for unknown formats or precisions and missing packages.
    """
    if format not in FORMATS:
        raise ModisteError(f"format={format} is not known. {did_you_mean(format, FORMATS)}")
    library, extra, packages = FORMATS[format]
    for package in packages:
        if find_spec(package) is None:
            raise ModisteError(f"format={format} is verified with {library}: pip install 'modiste[{extra}]'.")
    layout = importlib.import_module(f"modiste.export.{format}")
    if precision not in PRECISIONS:
        raise ModisteError(f"precision={precision} is not known. {did_you_mean(precision, PRECISIONS)}")
    if precision not in layout.PRECISIONS:
        raise ModisteError(
            f"format={format} has no {precision}: choose from precision={', '.join(layout.PRECISIONS)}, "
            f"or another format."
        )
    return layout


def check_target(out: Path) -> None:
    """Raise ModisteError if ``out`` exists and is neither an export nor an empty folder."""
    if out.exists() and not (out / FACTS).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise ModisteError(f"{out} exists and is not an export of modiste: choose another out=DIR.")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Yield a new folder that replaces ``out`` at the end of the block, and is deleted after an error.

    Raises:
        ModisteError: Another process is writing ``out``.
    """
    with atomic_folder(out) as folder:
        refuse_other_writers(out)
        yield folder
        for file in folder.rglob("*"):  # some writers create files that only their owner can read
            file.chmod(0o755 if file.is_dir() else 0o644)


@torch.inference_mode()
def compare(model: DualEncoder, reader: Reader, inputs: Inputs) -> dict[str, dict[str, float]]:
    """Return min and mean cosine of each tower between the target library and the model.

    Both embed the same inputs.
    """
    device = next(model.parameters()).device
    pixels = torch.stack([model.preprocess(image) for image in inputs.images]).to(device)
    tokens = {name: tensor.to(device) for name, tensor in model.tokenizer(list(inputs.texts)).items()}
    ours = {"image": model.encode_image(pixels), "text": model.encode_text(tokens)}
    theirs = {"image": reader.images(inputs.images), "text": reader.texts(inputs.texts)}
    cosine = {}
    for tower in ours:
        values = F.cosine_similarity(ours[tower].cpu().double(), theirs[tower].cpu().double())
        cosine[tower] = {"min": float(values.min()), "mean": float(values.mean())}
    return cosine


def judged(
    cosine: Mapping[str, Mapping[str, float]], min_cosine: Mapping[str, float], format: str, layout: ModuleType
) -> list[str]:
    """Return warnings about towers below `EXACT`. Raises ModisteError for one below ``min_cosine``."""
    warnings = []
    for tower, values in cosine.items():
        if not values["min"] >= min_cosine[tower]:  # NaN is not
            raise ModisteError(
                f"format={format} is too far from the model: {tower} cosine {values['min']:.5f} < "
                f"min_cosine.{tower}={min_cosine[tower]:g}. {layout.REMEDY}"
            )
        if values["min"] < EXACT:
            warnings.append(
                f"The {tower} embeddings of {format} are close to the model's, but not equal: "
                f"cosine mean {values['mean']:.5f}, min {values['min']:.5f}."
            )
    return warnings


def read_facts(folder: Path) -> dict[str, Any]:
    """Read the facts that `export` recorded in a folder. Raises ModisteError if it is not an export."""
    try:
        return json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ModisteError(f"{folder} is not an export of modiste: it has no {FACTS}.") from None
