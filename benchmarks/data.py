"""Rows 6 and 7: JPEG files to pixels, and an epoch of preprocessed images, on one core, against Pillow's transform."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import Row, Work
from PIL import Image

from modiste.data.catalogue import Card, Catalogue
from modiste.data.decode import Decoder
from modiste.data.sources import FolderImages
from modiste.data.storage.preprocessed import Preprocessed, write
from modiste.models.preprocess import Preprocess


def photos(folder: Path, count: int) -> Catalogue:
    """JPEGs of 600×800, quality 87, 4:2:0, about 60 KB: the spectrum falls a little faster than 1/f."""
    generator = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(800)[:, None], np.fft.rfftfreq(600)[None]
    envelope = 1 / np.maximum(np.hypot(rows, columns), 1 / 800) ** 1.7
    names = []
    for index in range(count):
        noise = generator.normal(size=(3, 800, 301)) + 1j * generator.normal(size=(3, 800, 301))
        texture = np.fft.irfft2(noise * envelope, s=(800, 600)).transpose(1, 2, 0)
        image = Image.fromarray((128 + 55 * texture / texture.std()).clip(0, 255).astype(np.uint8))
        names.append(f"{index:04}.jpg")
        image.save(folder / names[-1], quality=87)
    columns_of = {"product_id": names, "image": names, "text": names, "split": ["train"] * count, "pixels": names}
    return Catalogue.build(Card("photos"), columns_of, FolderImages(folder))


def open_clip_transform(catalogue: Catalogue, size: int) -> Work:
    """open_clip's evaluation transform, as its CSV data set applies it: Pillow to float tensors."""
    from open_clip.transform import image_transform

    transform = image_transform(size, is_train=False)
    root = catalogue.images.root  # type: ignore[attr-defined]
    paths = [root / name for name in catalogue.column("image")]
    return lambda: [transform(Image.open(path)) for path in paths]


def transformers_processor(catalogue: Catalogue, size: int) -> Work:
    """CLIPImageProcessor's Pillow backend."""
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    root = catalogue.images.root  # type: ignore[attr-defined]
    paths = [root / name for name in catalogue.column("image")]
    return lambda: [processor(Image.open(path), return_tensors="pt")["pixel_values"] for path in paths]


def ours(catalogue: Catalogue, mode: str, preprocess: Preprocess) -> Work:
    """Our pixels in one of the decoder's modes."""
    decoder = Decoder(mode)
    return lambda: [decoder.pixels(catalogue, index, preprocess) for index in range(len(catalogue))]


def psnr(catalogue: Catalogue, mode: str, preprocess: Preprocess, count: int) -> float:
    """Peak signal-to-noise ratio (dB) to Pillow's bicubic."""
    error = np.mean([
        float((Decoder(mode).pixels(catalogue, i, preprocess).double() - Decoder().pixels(catalogue, i, preprocess))
              .square().mean())
        for i in range(count)
    ])  # fmt: skip
    return float(10 * np.log10(255**2 / error))


def rows(quick: bool) -> Iterator[Row]:
    """One thread throughout."""
    torch.set_num_threads(1)
    count, size, rounds = (12, 224, 1) if quick else (160, 224, 3)
    preprocess = Preprocess(size=size)
    with tempfile.TemporaryDirectory() as folder:
        catalogue = photos(Path(folder), count)
        peer = open_clip_transform(catalogue, size)
        what = f"600×800 JPEGs decoded and resized to {size} px, one core"
        peers: list[tuple[str, Any]] = [("open_clip image_transform (PIL)", peer)]
        if not quick:
            peers.append(("transformers CLIPImageProcessorPil", transformers_processor(catalogue, size)))
        for name, work in peers:
            for mode, targets in (("scaled", (3, 4.5)), ("exact", (2.4, 2.7))):
                note = f"mode {mode}: {psnr(catalogue, mode, preprocess, min(count, 40)):.0f} dB to Pillow's bicubic"
                yield _rate(6, what, name, ours(catalogue, mode, preprocess), work, count, rounds, targets, note)
        write(catalogue, preprocess, Path(folder) / "ready")
        ready = Preprocessed(str(Path(folder) / "ready"))()
        same = all(
            torch.equal(Decoder().pixels(ready, i, preprocess), Decoder().pixels(catalogue, i, preprocess))
            for i in range(8)
        )
        assert same, "preprocessed images differ"
        epoch = f"an epoch over {count} preprocessed images of {size} px, one core"
        note = "pixels equal to Pillow's bit for bit; files in the page cache"
        yield _rate(7, epoch, peers[0][0], ours(ready, "pil", preprocess), peer, count, rounds, (20, 80), note)


def _rate(
    number: int, what: str, name: str, mine: Work, theirs: Work, count: int, rounds: int, targets: Any, note: str
) -> Row:
    a, b, ratio = harness.interleave(mine, theirs, rounds)
    return Row(number, what, name, "rate", count / a, count / b, "images/s", ratio, *targets, note)


if __name__ == "__main__":
    harness.main(__file__, rows)
