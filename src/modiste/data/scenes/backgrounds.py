"""Generated backgrounds: plain colours, gradients, clouds, stripes, tiles, dead leaves and rooms."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Size = tuple[int, int]


def background(rng: np.random.Generator, size: Size) -> Image.Image:
    """Generate a random background of the given (width, height), RGB.

    >>> background(np.random.default_rng(0), (30, 20)).size
    (30, 20)
    """
    kinds = (_plain, _gradient, _clouds, _stripes, _tiles, _leaves, _leaves, _leaves, _room, _room, _room)
    image = kinds[int(rng.integers(len(kinds)))](rng, size)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 3))))
    if rng.random() < 0.6:
        pixels = np.asarray(image, dtype=np.float32)
        grain = rng.normal(0, rng.uniform(2, 14), (*pixels.shape[:2], 1)).astype(np.float32)
        image = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
    return image


def colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Sample an RGB colour; dull colours are more frequent."""
    grey, tint = rng.uniform(10, 250), rng.normal(0, rng.choice([6, 20, 60]), 3)
    red, green, blue = np.clip(grey + tint, 0, 255).astype(int).tolist()
    return red, green, blue


def _plain(rng: np.random.Generator, size: Size) -> Image.Image:
    return Image.new("RGB", size, colour(rng))


def _gradient(rng: np.random.Generator, size: Size) -> Image.Image:
    corners = np.array([colour(rng) for _ in range(4)], dtype=np.uint8).reshape(2, 2, 3)
    return Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)


def _clouds(rng: np.random.Generator, size: Size) -> Image.Image:
    """Noise at several scales around a colour."""
    image = np.zeros((size[1], size[0], 3), dtype=np.float32) + np.array(colour(rng), dtype=np.float32)
    for cells in (3, 9, 27):
        noise = rng.normal(0, 70, (cells, cells, 1)) + rng.normal(0, 15, (cells, cells, 3))
        noise = (noise / cells**0.4).clip(-127, 127) + 128
        larger = Image.fromarray(noise.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        image += np.asarray(larger, dtype=np.float32) - 128
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def _stripes(rng: np.random.Generator, size: Size) -> Image.Image:
    """Planks, shutters, wallpaper: horizontal or vertical stripes in shades of a colour."""
    count = int(rng.integers(4, 40))
    base = np.array(colour(rng), dtype=np.float32)
    shades = np.clip(base + rng.normal(0, rng.uniform(5, 50), (count, 1)) + rng.normal(0, 4, (count, 3)), 0, 255)
    line = shades.astype(np.uint8)[None] if rng.random() < 0.5 else shades.astype(np.uint8)[:, None]
    return Image.fromarray(line).resize(size, Image.Resampling.NEAREST)


def _tiles(rng: np.random.Generator, size: Size) -> Image.Image:
    """Bricks, windows, cobbles: a grid of rectangles with seams."""
    rows, columns = rng.integers(3, 24, 2)
    base = np.array(colour(rng), dtype=np.float32)
    shades = np.clip(base + rng.normal(0, rng.uniform(4, 40), (rows, columns, 1)), 0, 255)
    image = np.asarray(Image.fromarray(shades.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)).copy()
    seam, width = colour(rng), int(rng.integers(1, 4))
    for edge in np.linspace(0, size[1], rows + 1)[1:-1].astype(int):
        image[edge : edge + width] = seam
    for edge in np.linspace(0, size[0], columns + 1)[1:-1].astype(int):
        image[:, edge : edge + width] = seam
    return Image.fromarray(image)


def _leaves(rng: np.random.Generator, size: Size) -> Image.Image:
    """Dead leaves: overlapping shapes with power-law sizes, which have the statistics of natural images.

    Lee, Mumford and Huang 2001; Baradad et al., *Learning to See by Looking at Noise*, arXiv:2106.05963.
    """
    image = Image.new("RGB", size, colour(rng))
    draw = ImageDraw.Draw(image)
    shades = [colour(rng) for _ in range(int(rng.integers(3, 12)))]
    largest = max(size) * rng.uniform(0.1, 0.4)
    count = int(rng.integers(80, 400))
    radii = np.minimum(largest, 2 * (1 - rng.random(count)) ** -0.8 * max(size) / 100)
    for radius in -np.sort(-radii):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        shade = np.clip(np.array(shades[int(rng.integers(len(shades)))]) + rng.normal(0, 12, 3), 0, 255)
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        reach = radius * rng.uniform(0.5, 1.5, len(angles))
        outline = zip((x + reach * np.cos(angles)).tolist(), (y + reach * np.sin(angles)).tolist(), strict=True)
        draw.polygon(list(outline), fill=tuple(shade.astype(int).tolist()))
    return image


def _room(rng: np.random.Generator, size: Size) -> Image.Image:
    """A wall above a floor, each with its own pattern."""
    kinds = (_plain, _gradient, _clouds, _stripes, _tiles, _leaves)
    horizon = int(size[1] * rng.uniform(0.3, 0.9))
    image = kinds[int(rng.integers(len(kinds)))](rng, size)
    floor = kinds[int(rng.integers(len(kinds)))](rng, (size[0], max(size[1] - horizon, 1)))
    image.paste(floor, (0, horizon))
    return image
