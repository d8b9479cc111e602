"""Ground phrases on one photo, draw them, and report how well the model grounds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image

from modiste.config import validate
from modiste.data.sources import decode
from modiste.errors import ModisteError, did_you_mean
from modiste.models.grounding import METHODS, THRESHOLD, Grounded
from modiste.models.load import build_model, load
from modiste.tasks.heat_sheet import photo_sheet
from modiste.utils.atomic import write_image
from modiste.utils.run_dir import RunDir, read_json


@dataclass(frozen=True)
class GroundedPhoto:
    """Phrases grounded on a photo.

    Attributes:
        found: Phrase → where it is.
        known: Findings of the run's grounding results about the method, in sentences.
        picture: The PNG file.
    """

    found: dict[str, Grounded]
    known: list[str]
    picture: Path


def ground_config(cfg: DictConfig) -> GroundedPhoto:
    """Locate the phrases of a ``ground`` configuration on its photo, and draw them into ``out``.

    Method and threshold are by default those of the run's grounding result; `DualEncoder.ground` has fixed defaults.

    Raises:
        ModisteError: The model or photo does not exist, a phrase is empty, ``out`` cannot be written, the method is
            unknown, or the model does not support it.
    """
    if cfg.method is not None and cfg.method not in METHODS:
        raise ModisteError(f"There is no grounding method '{cfg.method}'. {did_you_mean(cfg.method, METHODS)}")
    if not all(str(phrase).strip() for phrase in cfg.phrases):
        raise ModisteError('A phrase is empty: give words, for instance "red shoes".')
    image = read_photo(Path(cfg.photo).expanduser())
    picture = Path(cfg.out or f"{Path(cfg.photo).stem}.ground.png").expanduser()
    if picture.suffix.lower() != ".png" or not picture.absolute().parent.is_dir():
        raise ModisteError(f"out={picture} cannot be written: name a .png file in a folder that exists.")
    if cfg.run:
        model, results = load(cfg.run, cfg.checkpoint).model, grounding_results(cfg.run)
    else:
        validate(cfg)
        torch.manual_seed(cfg.seed)  # model=two_tower is random
        model, results = build_model(cfg).eval(), []
    method = cfg.method or best_method(results)
    threshold = cfg.threshold if cfg.threshold is not None else known_threshold(results, method)
    phrases = [str(phrase) for phrase in cfg.phrases]
    found = model.ground(image, phrases, method, cfg.size, threshold)
    write_image(picture, photo_sheet(image, list(zip(phrases, found, strict=True))))
    return GroundedPhoto(dict(zip(phrases, found, strict=True)), known(results, method, cfg.run), picture)


def read_photo(path: Path) -> Image.Image:
    """Read an image file as RGB, upright; raise ModisteError if it is missing or not an image."""
    if not path.is_file():
        raise ModisteError(f"Photo '{path}' does not exist: give an image file.")
    try:
        return decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModisteError(f"'{path}' is not a readable image ({error}): give a JPEG, PNG or WebP file.") from None


def grounding_results(run: str) -> list[dict[str, Any]]:
    """The contents of a run's grounding results."""
    files = sorted(RunDir(run).results.glob("*.grounding*.json"))
    return [content for content in map(read_json, files) if content.get("task") == "grounding"]


def best_method(results: Sequence[dict[str, Any]]) -> str:
    """The method with the best pointing in a run's first grounding result; ``patches`` without results."""
    metrics = results[0].get("metrics", {}) if results else {}
    pointing = {name: metrics[f"{name}/pointing"]["value"] for name in METHODS if f"{name}/pointing" in metrics}
    return max(pointing, key=lambda name: pointing[name], default="patches")


def known_threshold(results: Sequence[dict[str, Any]], method: str) -> float:
    """The method's threshold in the first grounding result that has one, or `THRESHOLD`."""
    stated = [result.get("protocol", {}).get("thresholds", {}).get(method) for result in results]
    return next((threshold for threshold in stated if threshold is not None), THRESHOLD)


def known(results: Sequence[dict[str, Any]], method: str, run: str | None) -> list[str]:
    """Findings of the grounding results about the method, or how to measure it."""
    said = [
        f"On {result['data']} ({result['split']}): {finding}"
        for result in results
        for finding in result.get("findings", [])
        if finding.split(" ")[0] == method
    ]
    subject = f"run={shlex.quote(run)}" if run else "model=NAME"
    unknown = (
        f"Whether '{method}' grounds with this model is not measured: modiste evaluate {subject} 'task=[grounding]'"
    )
    return said or [f"{unknown} data=ccp, for example."]
