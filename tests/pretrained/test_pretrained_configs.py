import importlib
import inspect
from pathlib import Path

import pytest
import yaml

from modiste.models.dual_encoder import DualEncoder

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
PRETRAINED = [path for path in CONFIGS if "modiste.pretrained." in path.read_text()]


def test_the_named_models_are_there():
    assert {path.stem for path in PRETRAINED} >= {
        "clip_b32", "laion_clip_b32", "fashionclip_1", "fashionclip_2", "marqo_fashionclip", "marqo_fashionsiglip",
        "open_fashionclip", "siglip_b16", "siglip2_b16", "zooclaw_fashionsiglip2", "pretrained", "open_clip",
    }  # fmt: skip


@pytest.mark.parametrize("path", PRETRAINED, ids=lambda path: path.stem)
def test_config_fits_its_target(path):
    """The target is a dual encoder, or a function that returns one, and takes the file's keys."""
    config = yaml.safe_load(path.read_text())
    module, name = config.pop("_target_").rsplit(".", 1)
    target = getattr(importlib.import_module(module), name)
    built = target if isinstance(target, type) else inspect.signature(target, eval_str=True).return_annotation
    assert issubclass(built, DualEncoder)
    inspect.signature(target).bind(**config)
    assert path.read_text().startswith("# ")
