"""``/v1/embeddings`` and ``/v1/models``, compatible with OpenAI's API, also for images."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from PIL import Image
from torch.nn import functional as F

from modiste.serve.live import Held
from modiste.serve.schema import EmbeddingsBody
from modiste.serve.server import Server
from modiste.serve.settings import Settings
from modiste.serve.uploads import Refused, read_image

PHOTOS = 20
"""Maximum number of pixels of a request's images, in multiples of ``max_pixels``."""
LONGEST = 8000
"""Maximum number of characters per text; towers truncate to far fewer tokens."""


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["embeddings"])

    @routes.get("/models")
    def models() -> JSONResponse:
        """The served model; its id is the beginning of its fingerprint."""
        with server.use() as held:
            return JSONResponse({"object": "list", "data": [
                {"id": name(held), "object": "model", "created": 0, "owned_by": "modiste"}
            ]})  # fmt: skip

    @routes.post("/embeddings")
    def embeddings(body: EmbeddingsBody) -> JSONResponse:
        """Unit-norm embeddings of texts and images, in the order of the inputs."""
        inputs = body.input if isinstance(body.input, list) else [body.input]
        if not 0 < len(inputs) <= server.settings.max_inputs:
            raise Refused(f"There are {len(inputs)} inputs: give 1 to {server.settings.max_inputs}.")
        texts: dict[int, str] = {}
        images: dict[int, str] = {}
        for place, given in enumerate(inputs):
            kind, value = _kind(given)
            if not value.strip():
                raise Refused(f"Input {place} is empty: give a text or an image.")
            if kind == "text" and len(value) > LONGEST:
                raise Refused(f"A text has {len(value):,} characters: give at most {LONGEST:,}.")
            (texts if kind == "text" else images)[place] = value
        with server.use() as held:
            if body.model not in (None, name(held)):
                raise Refused(f"There is no model '{body.model}': this server has {name(held)}.", 404)
            dim = held.towers.model.embed_dim
            if body.dimensions is not None and body.dimensions > dim:
                raise Refused(f"dimensions={body.dimensions} is more than the model's {dim}.")
            made = torch.empty(len(inputs), dim)
            # Images first: one that is refused costs no text's embedding.
            made[list(images)] = held.towers.pictures(within_budget(images.values(), server.settings))
            made[list(texts)] = held.towers.texts(list(texts.values()))
            used = held.towers.tokens(list(texts.values())) if texts else 0
            model = name(held)
        if body.dimensions is not None:
            made = F.normalize(made[:, : body.dimensions], dim=1)
        data = [
            {"object": "embedding", "index": place, "embedding": _encoded(vector, body.encoding_format)}
            for place, vector in enumerate(made)
        ]
        usage = {"prompt_tokens": used, "total_tokens": used}
        return JSONResponse({"object": "list", "data": data, "model": model, "usage": usage})

    return routes


def within_budget(given: Iterable[str], settings: Settings) -> Iterator[Image.Image]:
    """Decode images one by one.

    Raises:
        Refused: See `read_image`; or together they have more than `PHOTOS` times ``max_pixels``.
    """
    pixels = 0
    for value in given:
        image = read_image(value, settings)
        pixels += image.width * image.height
        if pixels > PHOTOS * settings.max_pixels:
            raise Refused(
                f"The images have more than {PHOTOS * settings.max_pixels:,} pixels: send fewer at a time.", 413
            )
        yield image


def name(held: Held) -> str:
    """The model's id in the API."""
    return held.towers.fingerprint[:12]


def _kind(given: str | dict[Any, str]) -> tuple[str, str]:
    if isinstance(given, str):
        return ("image" if given.startswith("data:image/") else "text"), given
    if len(given) != 1:
        raise Refused('An input is a text, a data URL of an image, {"text": …} or {"image": …}.')
    return next(iter(given.items()))


def _encoded(vector: torch.Tensor, form: str) -> Any:
    """Encode a vector as numbers, or as base64 of little-endian float32 like OpenAI."""
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()
