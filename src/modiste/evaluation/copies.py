"""Detection of copies that were mirrored, cropped, padded, slightly rotated, brightened or made grey.

Each evaluated image is compared with its nearest training images by the correlation of small grey thumbnails, whole or
trimmed of a plain border, also mirrored. Each of these pairs is aligned by an affine map (Lucas & Kanade 1981, in the
compositional form of Baker & Matthews 2004). It is a copy if the test image is what the training image becomes under
that map and one gain: their details correlate everywhere, and their colours agree.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from modiste.data.catalogue import Catalogue
from modiste.data.decode import Decoder
from modiste.evaluation.overlap import Match, close_rows
from modiste.utils.atomic import read_cache, write_cache
from modiste.utils.hardware import usable_cores
from modiste.utils.progress import Progress, silent
from modiste.utils.run_dir import cache_dir

SIDE, COARSE = 48, 16
NEIGHBOURS = 6
"""Number of training images that are aligned, per kind of thumbnail and orientation."""
LEAST_COARSE = 0.8
"""Minimum correlation of unaligned thumbnails for an alignment."""
PROMISING = 0.6
"""Minimum correlation of details, after the first steps of an alignment, to complete it."""
DETAILS, FINEST = 0.94, 0.978
"""Minimum correlations of the details of a copy, and of its finest ones."""
ODD = 0.002
"""Maximum fraction of a copy's textured places whose details do not correlate: plain wallets share their outline."""
COLOURS = 18.0
"""Maximum difference of 99 % of a copy's places, of 255 levels, up to gain."""
RICH = 0.6
"""Fraction of textured places from which on two images do not match by chance."""
RICH_FINEST, RICH_COLOURS = 0.96, 28.0
"""`FINEST` and `COLOURS` of such images, if all of their textured places correlate."""
NOISE = 6.0
"""Noise of a resized JPEG file, of 255 levels: what varies less has no texture."""
BATCH = 2048
WINDOW = 0.86
"""Fraction of the side that is compared: a rotation leaves wedges, and a crop an edge."""
GREY = torch.tensor([0.299, 0.587, 0.114])
"""Weights of red, green and blue in luminance (ITU-R BT.601)."""
LIMITS = (0.6, 1.6)
"""Minimum and maximum scale of a copy."""
UNEVEN, TURN = 1.12, 0.18
"""Maximum ratio of the scales of the two sides, and sine of the maximum angle by which a side is rotated."""
GAINS = (0.6, 1.7)
"""Minimum and maximum gain of a darker or brighter copy."""
BORDER = 24
"""Levels by which content differs from a plain border."""
VERSION = "1"


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of N images.

    Attributes:
        rgb: Images (N, 3, SIDE, SIDE), float32, 0 to 255.
        box: Left, top, right, bottom (N, 4) of the content inside a plain border, as fractions of the sides.
        trimmed: Grey images (N, SIDE, SIDE), float32, of that content alone.
    """

    rgb: Tensor
    box: Tensor
    trimmed: Tensor

    @classmethod
    def unpacked(cls, made: np.ndarray) -> Thumbnails:
        """From the bytes (N, …) of `thumbnail`."""
        rgb, trimmed, box = torch.from_numpy(made.astype(np.float32)).split([3 * SIDE**2, SIDE**2, 4], 1)
        shaped = rgb.reshape(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2).contiguous()
        return cls(shaped, box / 255, trimmed.reshape(-1, SIDE, SIDE))

    @property
    def grey(self) -> Tensor:
        """Luminance (N, SIDE, SIDE)."""
        return grey(self.rgb)

    def of(self, rows: Tensor) -> Thumbnails:
        """Select rows."""
        return Thumbnails(*(getattr(self, field.name)[rows] for field in fields(self)))

    def mirrored(self) -> Thumbnails:
        """Flip left and right."""
        left, top, right, bottom = self.box.unbind(1)
        box = torch.stack([1 - right, top, 1 - left, bottom], 1)
        return Thumbnails(self.rgb.flip(3), box, self.trimmed.flip(2))


def grey(rgb: Tensor) -> Tensor:
    """Luminance (N, H, W) of images (N, 3, H, W)."""
    return torch.einsum("nchw,c->nhw", rgb, GREY)


def thumbnail(image: Image.Image) -> np.ndarray:
    """What `Thumbnails` stores of an image, as bytes: its colours, the trimmed grey image, and the box.

    >>> thumbnail(Image.new("RGB", (60, 80))).shape
    (9220,)
    """
    image = image.convert("RGB")
    box = content(np.asarray(image))
    width, height = image.size
    part = (round(box[0] * width), round(box[1] * height), round(box[2] * width), round(box[3] * height))
    rgb = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    grey = image.convert("L").crop(part).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    corners = np.asarray([round(255 * edge) for edge in box], np.uint8)
    return np.concatenate([np.asarray(rgb).ravel(), np.asarray(grey).ravel(), corners])


def content(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the content inside a plain border, if any, as fractions of the sides.

    >>> pixels = np.full((10, 10, 3), 255, np.uint8)
    >>> pixels[2:8, 1:9] = 0
    >>> content(pixels)
    (0.1, 0.2, 0.9, 0.8)
    """
    height, width = pixels.shape[:2]
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    plain = np.median(edge, axis=0)
    if (np.abs(edge - plain).max(1) > BORDER).mean() > 0.1:
        return 0.0, 0.0, 1.0, 1.0
    inside = np.abs(pixels - plain).max(2) > BORDER
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if len(rows) < height / 5 or len(columns) < width / 5:
        return 0.0, 0.0, 1.0, 1.0
    left, right = int(columns[0]), int(columns[-1]) + 1
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return left / width, top / height, right / width, bottom / height


def thumbnails(catalogue: Catalogue, progress: Progress = silent) -> Thumbnails:
    """Thumbnails of a catalogue's images, cached on disk."""
    words = [VERSION, catalogue.fingerprint(), *Decoder().identity(catalogue).values()]
    path = cache_dir() / "thumbnails" / f"{'-'.join(words)}.npy"
    what = f"The thumbnails of '{catalogue.card.name}'"
    known = read_cache(path, np.load, what)
    if known is None:
        with ThreadPoolExecutor(usable_cores()) as pool:
            made = pool.map(lambda row: thumbnail(catalogue.read_image(row)), range(len(catalogue)))
            known = np.stack(list(progress(made, len(catalogue), f"{catalogue.card.name}: thumbnails")))
        write_cache(path, lambda unfinished: save(unfinished, known), what)
    return Thumbnails.unpacked(known)


def save(path: Path, array: np.ndarray) -> None:
    """Write an array without the suffix that NumPy would add."""
    with path.open("wb") as file:
        np.save(file, array)


# ----------------------------------------------------------------------------------------------------------- candidates


def coarse(grey: Tensor) -> Tensor:
    """Unit vectors (N, COARSE²) whose dot products are correlations of images (N, SIDE, SIDE)."""
    vectors = F.adaptive_avg_pool2d(grey[:, None], COARSE).flatten(1)
    return F.normalize(vectors - vectors.mean(1, keepdim=True))


@dataclass(frozen=True)
class Pairs:
    """Pairs of a test and a training row.

    Attributes:
        test: Test rows (P,).
        train: Training rows (P,).
        mirrored: Whether the test image is mirrored (P,).
        theta: Affine maps (P, 2, 3) from coordinates of the training image, -1 to 1, to those of the test image.
    """

    test: Tensor
    train: Tensor
    mirrored: Tensor
    theta: Tensor

    def of(self, chosen: Tensor) -> Pairs:
        """Select pairs."""
        return Pairs(*(getattr(self, field.name)[chosen] for field in fields(self)))


def candidates(train: Thumbnails, test: Thumbnails, progress: Progress = silent) -> Pairs:
    """The nearest training images of each test image, each whole or trimmed; also mirrored."""
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    kinds = [("whole", "whole"), ("trimmed", "trimmed"), ("trimmed", "whole"), ("whole", "trimmed")]
    vectors = {
        "whole": (coarse(train.grey), whole.expand(len(train.box), 4)),
        "trimmed": (coarse(train.trimmed), train.box),
    }
    found = []
    jobs = [(kind, mirrored) for kind in kinds for mirrored in (False, True)]
    for (mine, theirs), mirrored in progress(jobs, len(jobs), "Nearest thumbnails"):
        side = test.mirrored() if mirrored else test
        own = (
            (coarse(side.grey), whole.expand(len(side.box), 4)) if mine == "whole" else (coarse(side.trimmed), side.box)
        )
        rows, columns = close_rows(vectors[theirs][0].numpy(), own[0].numpy(), LEAST_COARSE, NEIGHBOURS)
        i, j = torch.from_numpy(rows), torch.from_numpy(columns)
        theta = between(vectors[theirs][1][j], own[1][i])
        found.append(Pairs(i, j, torch.full((len(i),), mirrored), theta))
    return Pairs(*(torch.cat([getattr(part, field.name) for part in found]) for field in fields(Pairs)))


def between(source: Tensor, target: Tensor) -> Tensor:
    """Affine maps (P, 2, 3), in coordinates from -1 to 1, from boxes (P, 4) to others."""
    theta = torch.zeros(len(source), 2, 3)
    for axis, (low, high) in enumerate(((0, 2), (1, 3))):
        (a, b), (c, d) = ((2 * box[:, low] - 1, 2 * box[:, high] - 1) for box in (source, target))
        scale = (d - c) / (b - a)
        theta[:, axis, axis], theta[:, axis, 2] = scale, c - scale * a
    return theta


# ------------------------------------------------------------------------------------------------------------ alignment


def warp(pictures: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Warp images (P, C, SIDE, SIDE) by affine maps; weights (P, SIDE, SIDE): inside both and `WINDOW`."""
    grid = F.affine_grid(theta, [len(theta), 1, SIDE, SIDE], align_corners=False)
    axis = torch.linspace(-1 + 1 / SIDE, 1 - 1 / SIDE, SIDE).abs() <= WINDOW
    weight = ((grid.abs() <= WINDOW + 0.1).all(3) & axis & axis[:, None]).float()
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False), weight


def standardised(pictures: Tensor, weight: Tensor) -> Tensor:
    """Standardise images (P, SIDE, SIDE) to zero mean and unit deviation under a weight."""
    total = weight.sum((1, 2), keepdim=True).clamp(min=1)
    centred = pictures - (pictures * weight).sum((1, 2), keepdim=True) / total
    return centred / (((centred**2 * weight).sum((1, 2), keepdim=True) / total).sqrt() + 3)


def align(test: Tensor, train: Tensor, theta: Tensor, steps: int) -> Tensor:
    """Affine maps (P, 2, 3) after ``steps`` of Gauss–Newton on grey images (P, SIDE, SIDE)."""
    axis = torch.linspace(-1 + 1 / SIDE, 1 - 1 / SIDE, SIDE)
    x, y = axis.expand(SIDE, SIDE), axis[:, None].expand(SIDE, SIDE)
    for _ in range(steps):
        warped, weight = warp(test[:, None], theta)
        own, other = standardised(warped[:, 0], weight), standardised(train, weight)
        edge = F.pad(own[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        across = (edge[:, 1:-1, 2:] - edge[:, 1:-1, :-2]) * (SIDE / 4)
        down = (edge[:, 2:, 1:-1] - edge[:, :-2, 1:-1]) * (SIDE / 4)
        slopes = torch.stack([across * x, across * y, across, down * x, down * y, down], -1).flatten(1, 2)
        weighted = (slopes * weight.flatten(1)[..., None]).transpose(1, 2)
        system = weighted @ slopes
        ridge = 1e-3 * system.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-3
        change = torch.linalg.solve(system + ridge * torch.eye(6), weighted @ (other - own).flatten(1)[..., None])
        theta = theta @ _small(change[..., 0].clamp(-0.1, 0.1))
    return theta


def _small(change: Tensor) -> Tensor:
    """Changes (P, 6) as affine maps (P, 3, 3) near the identity."""
    maps = torch.eye(3).repeat(len(change), 1, 1)
    maps[:, :2] += change.view(-1, 2, 3)
    return maps


def details(test: Tensor, train: Tensor, weight: Tensor, fine: int = 3, coarse: int = 9) -> Tensor:
    """Correlation (P,) of images (P, SIDE, SIDE) between box filters of ``fine`` and ``coarse`` pixels."""
    parts = [(_smooth(picture, fine) - _smooth(picture, coarse)) * weight for picture in (test, train)]
    norms = [(part**2).sum((1, 2)).sqrt() for part in parts]
    return (parts[0] * parts[1]).sum((1, 2)) / (norms[0] * norms[1] + 1e-6)


def _smooth(pictures: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(pictures[:, None], size, 1, size // 2, count_include_pad=False)[:, 0]


def expected(test: Tensor, train: Tensor, theta: Tensor, weight: Tensor) -> Tensor:
    """Training images (P, 3, SIDE, SIDE) as they would look if the aligned ``test`` images were copies.

    They get one gain for all channels, fitted where the test image is not saturated, and the same saturation; an
    additional offset would make any two two-toned objects match. They are equally blurred: sampled by the map and back.
    """
    used = weight[:, None] * ((test > 8) & (test < 247))
    gain = (test * train * used).sum((1, 2, 3)) / ((train**2 * used).sum((1, 2, 3)) + 1)
    gain = torch.where(used.mean((1, 2, 3)) > 0.005, gain, torch.ones(())).clamp(*GAINS)
    there = (gain.view(-1, 1, 1, 1) * train).clamp(0, 255)
    whole = F.pad(theta, (0, 0, 0, 1))
    whole[:, 2, 2] = 1
    return warp(warp(there, torch.linalg.inv(whole)[:, :2])[0], theta)[0]


def odd(test: Tensor, train: Tensor, weight: Tensor, size: int = 5) -> tuple[Tensor, Tensor]:
    """Fractions (P,) of textured places that do not correlate, and of textured places among all.

    Correlations of images (P, SIDE, SIDE) are those of windows of ``size`` × ``size``.
    """
    means = [_smooth(picture, size) for picture in (test, train)]
    spread = [(_smooth(p**2, size) - m**2).clamp(min=0) for p, m in zip((test, train), means, strict=True)]
    shared = _smooth(test * train, size) - means[0] * means[1]
    correlation = (shared + NOISE**2) / ((spread[0] + NOISE**2) * (spread[1] + NOISE**2)).sqrt()
    textured = (torch.maximum(*spread) > NOISE**2) & (_smooth(weight, size) > 0.99)
    count = textured.sum((1, 2))
    return ((correlation < 0.7) & textured).sum((1, 2)) / count.clamp(min=1), count / weight.sum((1, 2)).clamp(min=1)


def colours(test: Tensor, train: Tensor, weight: Tensor) -> Tensor:
    """99th percentile (P,) of the difference of images (P, 3, SIDE, SIDE), as means of 3×3, in levels."""
    apart = F.avg_pool2d(test - train, 3, 1, 1, count_include_pad=False).abs().amax(1)
    return torch.nanquantile(apart.masked_fill(weight == 0, torch.nan).flatten(1), 0.99, dim=1)


def plausible(theta: Tensor) -> Tensor:
    """Whether affine maps (P, 2, 3) scale both sides equally, and rotate and skew little."""
    across, down = theta[:, :, 0], theta[:, :, 1]
    scales = torch.stack([across.norm(dim=1), down.norm(dim=1)], 1)
    turn = torch.stack([across[:, 1] / scales[:, 0], down[:, 0] / scales[:, 1]], 1).abs()
    uneven = scales.amax(1) / scales.amin(1)
    return (scales.amin(1) >= LIMITS[0]) & (scales.amax(1) <= LIMITS[1]) & (uneven <= UNEVEN) & (turn.amax(1) <= TURN)


def match_copies(train: Thumbnails, test: Thumbnails, progress: Progress = silent) -> Match:
    """The training image that each test image is a copy of.

    ``distance`` is 1 - the correlation of the finest details.
    """
    pairs = candidates(train, test, progress)
    best = np.full(len(test.box), np.inf)
    found = np.full(len(test.box), -1, dtype=np.int64)
    starts = range(0, len(pairs.test), BATCH)
    for start in progress(starts, len(starts), "Aligning images"):
        part = pairs.of(torch.arange(start, min(start + BATCH, len(pairs.test))))
        for i, j, distance in zip(*aligned(train, test, part), strict=True):
            if (distance, j) < (best[i], found[i]):
                best[i], found[i] = distance, j
    return Match(found, np.where(found >= 0, best, np.nan))


def aligned(train: Thumbnails, test: Thumbnails, pairs: Pairs) -> tuple[list[int], list[int], list[float]]:
    """Pairs that are copies: test rows, training rows, distances."""
    theta, correlation = _aligned(train, test, pairs, 4)
    pairs = Pairs(pairs.test, pairs.train, pairs.mirrored, theta).of((correlation > PROMISING).nonzero()[:, 0])
    if not len(pairs.test):
        return [], [], []
    theta, _ = _aligned(train, test, pairs, 8)
    own, other = _rgb(train, test, pairs)
    warped, weight = warp(own, theta)
    other = expected(warped, other, theta, weight)
    sides = grey(warped), grey(other), weight
    finest, levels = details(*sides, 1, 5), colours(warped, other, weight)
    apart, textured = odd(*sides)
    copy = (finest >= FINEST) & (levels <= COLOURS) & (apart <= ODD)
    copy |= (finest >= RICH_FINEST) & (levels <= RICH_COLOURS) & (apart == 0) & (textured >= RICH)
    copy &= (details(*sides) >= DETAILS) & plausible(theta) & (weight.mean((1, 2)) > 0.4)
    return pairs.test[copy].tolist(), pairs.train[copy].tolist(), (1 - finest[copy]).tolist()


def _aligned(train: Thumbnails, test: Thumbnails, pairs: Pairs, steps: int) -> tuple[Tensor, Tensor]:
    own, other = map(grey, _rgb(train, test, pairs))
    theta = align(own, other, pairs.theta, steps)
    warped, weight = warp(own[:, None], theta)
    return theta, details(warped[:, 0], other, weight)


def _rgb(train: Thumbnails, test: Thumbnails, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Test and training images (P, 3, SIDE, SIDE), both grey if the test image is."""
    own, other = test.rgb[pairs.test], train.rgb[pairs.train]
    own = torch.where(pairs.mirrored.view(-1, 1, 1, 1), own.flip(3), own)
    is_grey = (own.amax(1) - own.amin(1)).flatten(1).amax(1) < 12
    return own, torch.where(is_grey.view(-1, 1, 1, 1), grey(other)[:, None].expand_as(other), other)
