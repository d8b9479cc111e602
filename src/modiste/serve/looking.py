"""``/zero-shot``, ``/zero-shot/attribute`` and ``/ground``: classification and grounding of a photo."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from torch import Tensor

from modiste.errors import ModisteError
from modiste.metrics.classification import classification_metrics, confusion_matrix
from modiste.models.grounding import Grounded, locate
from modiste.models.heatmaps import input_pixels
from modiste.serve.live import Held
from modiste.serve.schema import AttributeBody, GroundBody, ZeroShotBody
from modiste.serve.server import Server, products
from modiste.serve.settings import Settings
from modiste.serve.uploads import Refused
from modiste.tasks.zeroshot import ZeroShot

SCALE = 100.0
"""Scale of cosines for a model without one: CLIP's."""
CELL = 12
"""Maximum number of example products per cell of the confusion matrix."""
CLASSES = 60
"""Maximum number of classes of an attribute."""
MAP_SIDE = 96
"""Longer side of a heat map in pixels."""


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["look"])

    @routes.post("/zero-shot")
    def zero_shot(body: ZeroShotBody) -> JSONResponse:
        """Labels for a photo, most similar first, with cosines and their softmax."""
        check_prompts(body.labels, body.prompts, server.settings)
        with server.use(body.index) as held:
            image = held.towers.pictures(server.photos(body, held))[0]
            cosines = ZeroShot.class_vectors(held.towers, body.labels, body.prompts) @ image
            known = held.towers.model.initial_scale
        scale = known or SCALE
        shares = torch.softmax(scale * cosines, dim=0)
        order = cosines.argsort(descending=True, stable=True).tolist()
        labels = [
            {"label": body.labels[i], "cosine": float(cosines[i]), "probability": float(shares[i])} for i in order
        ]
        return JSONResponse({"labels": labels, "scale": scale, "scale_known": known is not None})

    @routes.post("/zero-shot/attribute")
    def attribute(body: AttributeBody) -> JSONResponse:
        """Zero-shot classification of the catalogue's photos by a column: metrics and confusion matrix."""
        with server.use() as held:
            return JSONResponse(classify(body, held, server.settings))

    @routes.post("/ground")
    def ground(body: GroundBody) -> JSONResponse:
        """Heat maps of phrases on a photo.

        Each is the base64 of bytes in row-major order, from 0 to 255, the most similar.

        Boxes (left, top, right, bottom) and points (x, y) are in pixels of the photo.
        """
        with server.use(body.index) as held:
            model = held.towers.grounding
            with held.towers.decoding:
                (photo,) = server.photos(body, held)
                size, pixels = photo.size, input_pixels(model, photo)
                shown = held.towers.model.preprocess(photo)
                del photo
            texts = held.towers.texts(body.phrases)
            image = held.towers.embedded(shown)
            grounded = find(body.method, held, pixels, size, texts)
        found = [
            {
                "phrase": phrase, "cosine": float(text @ image), "box": one.box, "point": one.point, "score": one.score,
                "width": one.heat.shape[1], "height": one.heat.shape[0],
                "values": base64.b64encode((255 * one.heat).round().astype(np.uint8).tobytes()).decode(),
            }
            for phrase, text, one in zip(body.phrases, texts, grounded, strict=True)
        ]  # fmt: skip
        return JSONResponse({"maps": found, "width": size[0], "height": size[1], "method": body.method})

    return routes


def check_prompts(labels: Sequence[str], prompts: Sequence[str], settings: Settings) -> None:
    """Raise Refused if a template lacks exactly one ``{}``, or there are too many texts to embed."""
    for template in prompts:
        if template.count("{}") != 1:
            raise Refused(f"The prompt '{template}' must contain exactly one {{}} for the label: add or remove one.")
    if len(labels) * len(prompts) > settings.max_inputs:
        raise Refused(
            f"{len(labels)} labels × {len(prompts)} prompts exceed {settings.max_inputs} texts: give fewer of them."
        )


def classify(body: AttributeBody, held: Held, settings: Settings) -> dict[str, Any]:
    """Classify the photos of a column's values like `modiste.tasks.zeroshot`.

    Returns metrics and confusion matrix.

    Raises:
        Refused: The column is unknown or has no values or more than `CLASSES`, or `check_prompts` refuses the prompts.
    """
    if body.attribute not in held.index.attributes:
        raise Refused(f"The index has no column '{body.attribute}'.")
    table, vectors = held.vectors(body.where)
    values = [str(value) if value is not None else "" for value in table.column(body.attribute).to_pylist()]
    classes = sorted({value for value in values if value})
    if not 0 < len(classes) <= CLASSES:
        raise Refused(f"{body.attribute} has {len(classes)} values among these products: 1 to {CLASSES} can be shown.")
    check_prompts(classes, body.prompts, settings)
    kept = np.array([place for place, value in enumerate(values) if value])
    words = [body.words.get(name) or name for name in classes]
    cosines = torch.from_numpy(vectors[kept]) @ ZeroShot.class_vectors(held.towers, words, body.prompts).T
    index = {name: i for i, name in enumerate(classes)}
    targets = np.array([index[values[place]] for place in kept])
    predicted = cosines.argmax(dim=1).numpy()
    matrix = confusion_matrix(targets, predicted, len(classes))
    figures = classification_metrics(*(counts[None].astype(float) for counts in
                                       (matrix.diagonal(), matrix.sum(1), matrix.sum(0))))  # fmt: skip
    rows: dict[str, list[int]] = {}
    for place, cell in enumerate(zip(targets.tolist(), predicted.tolist(), strict=True)):
        rows.setdefault(f"{cell[0]},{cell[1]}", []).append(int(kept[place]))
    cells = {cell: products(table.take(places[:CELL]), "main", held) for cell, places in rows.items()}
    wanted = {name: float(figures[name][0]) for name in ("accuracy", "weighted_f1", "macro_f1")}
    return {"classes": classes, "matrix": matrix.tolist(), "n": len(kept), "cells": cells, **wanted}


def find(method: str, held: Held, pixels: Tensor, size: tuple[int, int], texts: Tensor) -> list[Grounded]:
    """Ground the texts (N, D) on a photo. Raises Refused if the model does not support the method."""
    towers = held.towers
    try:
        with towers.locating, towers.hooked if method == "gradcam" else contextlib.nullcontext():
            return locate(towers.grounding, pixels, size, texts, method, side=MAP_SIDE)
    except ModisteError as error:
        raise Refused(str(error)) from error
