"""Drop-in replacement for the package fashion-clip (0.2.2): only the import changes.

    from modiste.compat.fashion_clip import FashionCLIP, FCLIPDataset      # was: fashion_clip.fashion_clip

Differences from the package, some of which ``strict=True`` reverts:

- ``zero_shot_classification`` compares cosines; the package does not normalise text embeddings (strict: the same).
- ``retrieval`` is exact and returns an integer array (N, k); the package searches approximately with Annoy, fixed at
  512 dimensions, and returns lists (strict: lists with ``approx``, but of the exact neighbours).
- ``display_products`` skips fields that a product lacks; the package raises KeyError (strict: the same).
- ``random_product_id`` stays in range, local model directories and runs can be loaded, and transformers 5 works.

The package's precomputed embeddings of Farfetch's data, in a private bucket, are not downloaded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from modiste.data import url_images
from modiste.data.sources import MAX_BYTES, FolderImages, check_inside, opened, read_regular
from modiste.embedding.embedder import fingerprint
from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder
from modiste.models.load import load
from modiste.utils.progress import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

MODELS = {"fashion-clip": "patrickjohncyh/fashion-clip"}
SOURCES = ("LOCAL", "S3", "URL")
SCHEMES = {"S3": ("s3://",), "URL": ("http://", "https://")}
Vectors = npt.NDArray[np.float32]


class FCLIPDataset:
    """A catalogue of products with images and captions.

    Args:
        name: Name of the data set.
        image_source_path: Folder or URL prefix to which the image names are joined. Images must be below it.
        image_source_type: ``LOCAL``, ``S3`` or ``URL`` (public hosts), case-insensitive. Remote images are read when
            they are needed.
        catalog: One dictionary per product, with at least ``id``, ``image`` and ``caption``.

    Raises:
        ModisteError: The source type is unknown, ``catalog`` is missing, a product lacks a required key, or an image is
            not below ``image_source_path``.

    >>> data = FCLIPDataset("mine", "photos", "local", [{"id": 7, "image": "a.jpg", "caption": "a red dress"}])
    >>> data.ids.tolist(), data.images_path.tolist(), data.id_to_idx
    (['7'], ['photos/a.jpg'], {'7': 0})
    """

    def __init__(
        self, name: str, image_source_path: str, image_source_type: str, catalog: Sequence[dict[str, Any]] | None = None
    ) -> None:
        self.source = image_source_type.upper()
        if self.source not in SOURCES:
            raise ModisteError(
                f"image_source_type={image_source_type} is unknown. {did_you_mean(self.source, SOURCES)}"
            )
        if catalog is None:
            raise ModisteError(
                f"FCLIPDataset('{name}') needs catalog=[{{'id': …, 'image': …, 'caption': …}}, …]: "
                "Farfetch's catalogue, which the package names FF, is not public."
            )
        for row, product in enumerate(catalog):
            missing = [key for key in ("id", "image", "caption") if key not in product]
            if missing:
                raise ModisteError(f"catalog[{row}] has no '{missing[0]}': each product needs id, image and caption.")
        self.name = name
        self.catalog = np.array(list(catalog), dtype=object)
        self.ids = np.array([str(product["id"]) for product in catalog])
        self.images = np.array([product["image"] for product in catalog])
        paths = [joined(self.source, image_source_path, str(name), row) for row, name in enumerate(self.images)]
        self.images_path = np.array(paths)
        self.captions = np.array([product["caption"] for product in catalog])
        self.id_to_idx = {str(name): index for index, name in enumerate(self.ids)}

    def display_products(
        self,
        ids: Sequence[str],
        fields: Sequence[str] = ("id", "short_description"),
        strict: bool = False,
        **kwargs: Any,
    ) -> Figure | None:
        """Draw products with their ``fields`` as a matplotlib figure; ``kwargs`` as in `display_images`.

        Raises:
            ModisteError: An id is unknown.
            KeyError: With ``strict``, a product lacks a field.
        """
        absent = next((name for name in ids if str(name) not in self.id_to_idx), None)
        if absent is not None:
            raise ModisteError(f"There is no product '{absent}'. {did_you_mean(str(absent), self.id_to_idx)}")
        rows = [self.id_to_idx[str(name)] for name in ids]
        products = [self.catalog[row] for row in rows]
        if strict:
            shown = [{field: product[field] for field in fields} for product in products]
        else:
            shown = [{field: product[field] for field in fields if field in product} for product in products]
        return display_images(list(self.images_path[rows]), shown, **kwargs)

    def random_product_id(self) -> str:
        """Return the id of a random product."""
        return random.choice(self.ids.tolist())

    def _retrieve_row(self, id: str) -> dict[str, Any]:
        return self.catalog[self.id_to_idx[str(id)]]

    def hash(self) -> str:
        """Return the SHA-256 of ids, images and captions, as computed by the package."""
        hashes = "".join(self._hash_list(values) for values in (self.ids, self.images, self.captions))
        return hashlib.sha256(hashes.encode()).hexdigest()

    def _hash_list(self, values: Iterable[object]) -> str:
        joined = " ".join(hashlib.sha256(str(value).encode()).hexdigest() for value in values)
        return hashlib.sha256(joined.encode()).hexdigest()


class FashionCLIP:
    """A dual encoder and the embeddings of a data set, with the methods of the package.

    Args:
        model_name: ``fashion-clip``, a hub id, a model directory, a run directory, or a `DualEncoder`.
        dataset: Data set whose images and captions are encoded immediately.
        normalize: Normalise the data set's embeddings to unit norm.
        approx: For compatibility: `retrieval` is always exact; with ``strict`` it then returns lists.
        auth_token: Hub token, for private repositories.
        strict: Reproduce the package's numbers and types, including its errors; see the module.

    Attributes:
        device: ``cuda`` or ``cpu``.
        model: The dual encoder.
        preprocess: Its image transform.
        model_hash: Fingerprint of the model.
        image_vectors: Embeddings (N, D) of the data set's images, float32; only with a data set.
        textual_vectors: Embeddings (N, D) of its captions, float32; only with a data set.
        nn_index: The same as ``image_vectors``; only with a data set.

    Raises:
        ModisteError: The model cannot be loaded.
    """

    def __init__(
        self,
        model_name: str | Path | DualEncoder,
        dataset: FCLIPDataset | None = None,
        normalize: bool = True,
        approx: bool = True,
        auth_token: str | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model_name, self.strict, self.approx = model_name, strict, approx
        self.model, self.preprocess, self.model_hash = self._load_model(model_name, auth_token)
        self.dataset = dataset
        if dataset is None:
            return
        self.dataset_hash = dataset.hash()
        self.vector_hash = f"{self.model_hash}_{self.dataset_hash}"
        self.image_vectors, self.textual_vectors = self._generate_vectors()
        if normalize:
            self.image_vectors = unit(self.image_vectors)
            self.textual_vectors = unit(self.textual_vectors)
        self.nn_index = self.image_vectors

    def _load_model(self, name: str | Path | DualEncoder, auth_token: str | None) -> tuple[DualEncoder, Any, str]:
        if not isinstance(name, DualEncoder):
            with mock.patch.dict(os.environ, {"HF_TOKEN": auth_token} if auth_token else {}):
                name = load(MODELS.get(str(name), str(name))).model
        model = name.to(self.device).eval()
        return model, model.preprocess, fingerprint(model)

    def _generate_vectors(self) -> tuple[Vectors, Vectors]:
        assert self.dataset is not None
        images = self.encode_images(self.dataset.images_path.tolist(), batch_size=32)
        return images, self.encode_text(self.dataset.captions.tolist(), batch_size=32)

    def encode_images(self, images: Sequence[str] | Sequence[Image.Image], batch_size: int = 32) -> Vectors:
        """Return embeddings (N, D) of images, float32, not normalised.

        Args:
            images: Paths, URLs or PIL images.
            batch_size: Images per batch.

        Raises:
            ModisteError: The list is empty, or an image cannot be read.
        """

        def encode(batch: Sequence[Any]) -> torch.Tensor:
            pixels = torch.stack([self.preprocess(open_image(image)) for image in batch]).to(self.device)
            return self.model.image_features(self.preprocess.normalise(pixels))

        return self._encode(images, batch_size, encode, "images")

    def encode_text(self, text: Sequence[str], batch_size: int = 32) -> Vectors:
        """Return embeddings (N, D) of texts, float32, not normalised. Raises ModisteError for an empty list."""

        def encode(batch: Sequence[str]) -> torch.Tensor:
            tokens = self.model.tokenizer([str(words) for words in batch])
            return self.model.text_features({name: tensor.to(self.device) for name, tensor in tokens.items()})

        return self._encode(text, batch_size, encode, "texts")

    @torch.inference_mode()
    def _encode(self, items: Sequence[Any], batch_size: int, encode: Any, what: str) -> Vectors:
        if isinstance(items, (str, Path)) or not len(items):
            raise ModisteError(f"No list of {what} given: pass a list with at least one.")
        items = list(items)
        starts = range(0, len(items), batch_size)
        bar = progress_bar(starts, len(starts), f"Encoding {len(items)} {what}") if len(starts) > 1 else starts
        return np.concatenate([encode(items[i : i + batch_size]).float().cpu().numpy() for i in bar])

    def _cosine_similarity(self, key_vectors: Vectors, space_vectors: Vectors, normalize: bool = True) -> Vectors:
        keys = unit(key_vectors) if normalize else key_vectors
        return np.matmul(keys, space_vectors.T)

    def _nearest_neighbours(
        self, k: int, key_vectors: Vectors, space_vectors: Vectors, normalize: bool = True, debug: bool = False
    ) -> npt.NDArray[np.int64] | list[list[int]]:
        scores = self._cosine_similarity(np.asarray(key_vectors), np.asarray(space_vectors), normalize)
        nearest = (-scores).argsort(axis=1, kind="stable")[:, :k]
        return nearest.tolist() if self.strict and self.approx else nearest

    def zero_shot_classification(
        self, images: Sequence[str] | Sequence[Image.Image], text_labels: Sequence[str], debug: bool = False
    ) -> list[str]:
        """Return, for each image, the label whose text embedding has the largest cosine to the image's."""
        labels = self.encode_text(text_labels, batch_size=8)
        similarity = self._cosine_similarity(
            self.encode_images(images, batch_size=8), labels if self.strict else unit(labels)
        )
        if debug:
            print(similarity)
        return [text_labels[index] for index in similarity.argmax(axis=-1)]

    def retrieval(self, queries: Sequence[str], top_k: int = 10) -> npt.NDArray[np.int64] | list[list[int]]:
        """Return the positions (N, k) of the data set's images that are nearest to each query, best first.

        Raises:
            ModisteError: The object has no data set.
        """
        if self.dataset is None:
            raise ModisteError("retrieval needs a data set: create FashionCLIP(model_name, dataset).")
        vectors = self.encode_text(queries, batch_size=8)
        return self._nearest_neighbours(top_k, vectors, self.image_vectors)

    def display_attention(self, image_path: str, query_text: str, pixel_size: int = 15, iterations: int = 5) -> Figure:
        """Draw a photo with a heat map of ``query_text`` from grey bands; return a matplotlib figure."""
        heatmap, image = self._get_heatmap(image_path, query_text, pixel_size, iterations)
        return display_heatmap(image, query_text, heatmap)

    def _get_heatmap(
        self, image_path: str, text: str, pixel_size: int, iterations: int
    ) -> tuple[npt.NDArray[Any], Image.Image]:
        images, masks = occlusions(open_image(image_path), self.preprocess.size, pixel_size)
        words = unit(self.encode_text([text], batch_size=1))[0]
        similarities = unit(self.encode_images(images, batch_size=32)) @ words
        score = np.mean(
            [np.clip(s * m - similarities[0], 0, np.inf) for s, m in zip(similarities, masks, strict=True)], axis=0
        )
        for _ in range(iterations):
            score = np.clip(score - score.mean(), 0, np.inf)
        spread = score.max() - score.min()
        return (score - score.min()) / (spread or 1), images[0]


def unit(vectors: Vectors) -> Vectors:
    """Normalise vectors (N, D) to unit norm."""
    return vectors / np.linalg.norm(vectors, ord=2, axis=-1, keepdims=True)


def joined(source: str, start: str, name: str, row: int) -> str:
    """Return the path or URL of a catalogue's image. Raises ModisteError if it is not below ``start``."""
    path = os.path.join(start, name)
    try:
        if source == "LOCAL":
            check_inside(FolderImages(start).path(name), Path(start))
            return path
        _check_address(source, start, path)
    except ValueError as error:
        raise ModisteError(
            f"catalog[{row}] has the image '{name}', which is refused ({error}): name images below image_source_path."
        ) from error
    return path


def _check_address(source: str, start: str, address: str) -> None:
    """Raise ValueError for a URL that does not match ``source``, or is not below ``start``."""
    if not address.startswith(SCHEMES[source]) or "::" in address:
        raise ValueError(f"it is not a URL with {' or '.join(SCHEMES[source])}")
    if not address.startswith(start) or ".." in re.split(r"[/\\?#]", unquote(address[len(start) :])):
        raise ValueError(f"it is outside {start}")


def open_image(image: str | Path | Image.Image) -> Image.Image:
    """Open an RGB PIL image from an image, a path, or a URL of a public web host or S3.

    Raises:
        ModisteError: The image cannot be read, or the URL is not permitted.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    try:
        return opened(_content(str(image))).convert("RGB")
    except (OSError, ValueError, ImportError) as error:
        raise ModisteError(f"The image '{image}' cannot be read: {error}.") from error


def _content(place: str) -> bytes:
    if "://" not in place:
        path = Path(place).absolute()
        return read_regular(path, Path(path.anchor))
    if place.startswith(SCHEMES["URL"]):
        return url_images.read(place)
    if not place.startswith(SCHEMES["S3"]) or "::" in place:
        raise ValueError("URLs must begin with http://, https:// or s3://")
    import fsspec

    with fsspec.open(place, "rb") as file:
        return file.read(MAX_BYTES)


def occlusions(image: Image.Image, size: int, step: int) -> tuple[list[Image.Image], list[npt.NDArray[np.float64]]]:
    """Return the image padded to a square, versions with all but a band in grey, and their masks.

    Args:
        image: The image.
        size: Side of the square in pixels.
        step: Width of the narrowest band in pixels.

    Returns:
        Images, and masks (size, size, 3) that are 1 where the image is visible.

    Raises:
        ModisteError: ``step`` is at least half of ``size``.
    """
    if step * 2 >= size:
        raise ModisteError(f"pixel_size={step} must be less than half of the model's {size} pixels.")
    image = padded(image, size)
    full = np.asarray(image)
    images, masks = [image], [np.ones(full.shape)]
    bands = size // step + 1
    ranges = [(0, i, j) for i in range(1, bands) for j in range(i + 1, bands)]  # horizontal bands begin below the top
    ranges += [(1, i, j) for i in range(bands) for j in range(i + 1, bands)]
    for axis, first, last in ranges:
        mask = np.zeros(full.shape)
        inside = slice(first * step, min(last * step, size))
        mask[inside if axis == 0 else (slice(None), inside)] = 1
        images.append(Image.fromarray((full * mask + 128 * (1 - mask)).astype(np.uint8)))
        masks.append(mask)
    return images, masks


def padded(image: Image.Image, size: int) -> Image.Image:
    """Return the image, resized so that its longer side is ``size``, centred on a grey square."""
    ratio = float(size) / max(image.size)
    width, height = (max(1, int(side * ratio)) for side in image.size)
    square = Image.new("RGB", (size, size), (128, 128, 128))
    square.paste(image.resize((width, height), Image.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2))
    return square


def display_images(
    image_paths: Sequence[str | Path | Image.Image],
    product_info: Sequence[dict[str, Any]] | None = None,
    columns: int = 5,
    width: int = 20,
    height: int = 8,
    max_images: int = 15,
    font_size: int = 8,
    text_wrap_length: int = 35,
) -> Figure | None:
    """Draw images with captions as a matplotlib figure; None without images."""
    from matplotlib import pyplot

    if not image_paths:
        log.warning("No images to display.")
        return None
    if len(image_paths) > max_images:
        log.warning("Showing %d images of %d.", max_images, len(image_paths))
    shown = list(image_paths)[:max_images]
    rows = (len(shown) + columns - 1) // columns
    figure = pyplot.figure(figsize=(width, max(height, len(shown) // columns * height)))
    for index, path in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_axis_off()
        axes.imshow(open_image(path))
        words = product_info[index].values() if product_info else ()
        text = "\n".join("\n".join(textwrap.wrap(str(word), text_wrap_length)) for word in words)
        axes.text(0, -0.1, text, verticalalignment="top", fontsize=font_size, transform=axes.transAxes)
    figure.tight_layout(h_pad=3, w_pad=0.1)
    return figure


def display_heatmap(image: Image.Image, text: str, heatmap: npt.NDArray[Any]) -> Figure:
    """Draw a photo, a heat map and their product as a matplotlib figure."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(15, 5), facecolor="white")
    shades = heatmap if heatmap.ndim == 3 else heatmap[..., None]
    shown = (image, heatmap, np.asarray(image) / 255.0 * shades)
    for part, title, picture in zip(axes, ("input image", text, ""), shown, strict=True):
        part.imshow(picture)
        part.set_title(title)
        part.set_axis_off()
    return figure
