"""The transform of exported programs gives the pixels that PIL gives."""

import itertools

import numpy as np
import pytest
import torch

from helpers.tiny_encoders import pictures
from modiste.export.resizing import Resizing
from modiste.models.preprocess import RESIZES, Preprocess


def raw(picture):
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize(("resize", "interpolation"), itertools.product(RESIZES, ["bilinear", "bicubic", "lanczos"]))
@pytest.mark.parametrize("size", [17, 64])
def test_pixels_are_those_of_pil(resize, interpolation, size):
    variants = [(1.0, "round"), (0.875, "round"), (0.875, "floor")] if resize == "shortest" else [(1.0, "round")]
    for crop_pct, crop in variants:
        transform = Preprocess(size, interpolation=interpolation, resize=resize, crop_pct=crop_pct, crop=crop)
        for picture in pictures():
            wanted, found = transform(picture).float(), Resizing(transform)(raw(picture))[0]
            assert (wanted - found).abs().max() <= 1, picture.size
            assert (wanted != found).float().mean() < 0.05, picture.size  # ties


@pytest.mark.parametrize("resize", RESIZES)
def test_nearest_takes_the_same_pixels_but_for_ties(resize):
    transform = Preprocess(64, interpolation="nearest", resize=resize)
    for picture in pictures():
        differing = (transform(picture).float() != Resizing(transform)(raw(picture))[0]).float().mean()
        assert differing < 0.05, picture.size


@pytest.mark.parametrize("resize", RESIZES)
def test_a_picture_of_the_input_size_is_left_as_it_is(resize):
    pixels = torch.randint(0, 256, (2, 3, 32, 32)).float()
    assert torch.equal(Resizing(Preprocess(32, resize=resize))(pixels), pixels)
