"""Rows 8 to 10: embedding images, texts and a catalogue, against eager float32 and the `fashion-clip` package."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import Row
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from modiste.embedding.backends import Tower, choose
from modiste.embedding.embedder import MIN_COSINE, ModelEmbedder
from modiste.utils.hardware import keep_pages

WORDS = ["black", "white", "cotton", "slim", "casual", "shirt", "dress", "watch", "leather", "printed", "men", "bag"]


def captions(count: int) -> list[str]:
    """``count`` titles of three to fifteen words."""
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 16))) for _ in range(count)]


def two_tower(image: Any) -> Any:
    """An image encoder next to MiniLM."""
    from modiste.models.dual_encoder import TwoTower
    from modiste.texts.hf import minilm

    return TwoTower(image, minilm(max_length=77), embed_dim=384).eval()


def image_encoder(name: str, size: int) -> Any:
    """An image tower, pretrained or with the same random weights in every process."""
    from modiste.images.lite import LiteEncoder
    from modiste.images.timm import TimmEncoder

    torch.manual_seed(0)
    if name == "EfficientNet-Lite0":
        return two_tower(LiteEncoder(size=size))
    return two_tower(TimmEncoder({"ViT-B/32": "vit_base_patch32_224"}.get(name, name), size=size))


def garments(size: int) -> torch.Tensor:
    """32 synthetic garments, (32, 3, size, size) uint8."""
    from modiste.data.synthetic import Synthetic

    catalogue = Synthetic(products=32, views=1, size=size)()
    return torch.stack([pil_to_tensor(catalogue.read_image(index)) for index in range(32)])


def eager(name: str, size: int) -> Any:
    """Embed the garments with torch in float32, in the layout of other packages."""
    model, pixels = image_encoder(name, size), garments(size)
    trunk = model.image.trunk.to(memory_format=torch.contiguous_format)

    def encode() -> np.ndarray:
        with torch.inference_mode():
            features = trunk(model.preprocess.normalise(pixels))
            return torch.nn.functional.normalize(model.image_projection(features), dim=-1).numpy()

    return encode


def images(quick: bool) -> Iterator[Row]:
    """Row 8: batches of 32 synthetic garments; ViT-B/32 at the target's cosine and at that of `modiste evaluate`."""
    size = 64 if quick else 224
    pixels = garments(size)
    for name, *targets, wanted in (
        ("EfficientNet-Lite0", 4, 14, 0.995),
        ("ViT-B/32", 3, 5, 0.9999),
        ("ViT-B/32", None, None, MIN_COSINE["image"]),
    ):
        taken, encode = choose(Tower(image_encoder(name, size), "image", pixels), "auto", wanted)
        with harness.Apart(eager, name=name, size=size) as peer:
            cosine = float(torch.nn.functional.cosine_similarity(encode(pixels), torch.from_numpy(peer())).min())
            a, b, ratio = harness.interleave(lambda: encode(pixels), peer, 1 if quick else 7)  # noqa: B023
        weights = "pretrained" if name == "EfficientNet-Lite0" else "random"
        note = f"{weights} weights; backend=auto took {taken}, cosine {cosine:.6f}; {floor()}"
        what = f"embed synthetic garments, {name}, {size} px, cosine of {wanted} or more"
        peers = "eager fp32, batch 32, in a separate process"
        yield Row(8, what, peers, "rate", 32 / a, 32 / b, "images/s", ratio, *targets, note)


def floor() -> str:
    """What this processor can do in a matmul."""
    a = torch.randn(2048, 2048)
    torch.mm(a, a)
    seconds = min(harness.seconds(lambda: torch.mm(a, a)) for _ in range(5))
    units = Path("/proc/cpuinfo").read_text()
    bf16 = "with" if "amx_bf16" in units or "avx512_bf16" in units else "without"
    return f"a processor {bf16} bf16 units, {2 * 2048**3 / seconds / 1e9:.0f} GFLOP/s in fp32"


def padded(count: int) -> Any:
    """Embed titles with MiniLM in float32, all padded to 77 tokens."""
    model, titles = image_encoder("test_vit", 160), captions(count)
    tokenizer = model.tokenizer.tokenizer

    def encode() -> np.ndarray:
        parts = []
        for start in range(0, count, 64):
            tokens = tokenizer(
                titles[start : start + 64], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                parts.append(model.encode_text({name: tokens[name] for name in ("input_ids", "attention_mask")}))
        return torch.cat(parts).numpy()

    return encode


def texts(quick: bool) -> Iterator[Row]:
    """Row 9: MiniLM, texts by length, against padding all to 77."""
    count = 64 if quick else 512
    titles = captions(count)
    embedder = ModelEmbedder(image_encoder("test_vit", 160), batch_size=64, backend="auto")
    with harness.Apart(padded, count=count) as peer:
        cosine = float((embedder.texts(titles) * torch.from_numpy(peer())).sum(1).min())
        assert cosine > 0.999, cosine
        a, b, ratio = harness.interleave(lambda: embedder.texts(titles), peer, 1 if quick else 3)
    note = f"backend=auto took {embedder.taken['text'][0]}, cosine {cosine:.6f}; texts of like length share a batch"
    yield Row(9, f"embed {count} titles, MiniLM", "padded to 77, eager fp32, in a separate process", "rate",
              count / a, count / b, "texts/s", ratio, 4, 14, note)  # fmt: skip


def products(quick: bool) -> Iterator[Row]:
    """Row 10: files and titles to embeddings."""
    from transformers import CLIPConfig, CLIPModel

    from modiste.data.catalogue import Card, Catalogue
    from modiste.data.sources import FolderImages
    from modiste.pretrained.transformers import TransformersDualEncoder

    counts = (8, 8) if quick else (10_000, 512)
    lines = (("auto", "fp32", 1, 3, 6), ("openvino", "bf16", 2, None, None))
    with tempfile.TemporaryDirectory() as folder:
        all_names = photos(Path(folder), max(counts))
        source = save_clip(Path(folder) / "clip", CLIPModel(CLIPConfig()))
        model = TransformersDualEncoder(source)
        for count, (backend, precision, rounds, *targets) in zip(counts, lines, strict=True):
            names, titles = all_names[:count], captions(count)
            columns = {"product_id": names, "image": names, "text": titles, "pixels": names}
            catalogue = Catalogue.build(Card("photos"), columns, FolderImages(folder))
            embedder = ModelEmbedder(model, 32, precision, decode="exact", backend=backend)
            # The backend is chosen and converted before the clock starts, as the peer's model is loaded before.
            embedder.images(catalogue.select(rows=range(min(64, count)))), embedder.texts(titles[:64])
            ours = Remembered(lambda: (embedder.images(catalogue), embedder.texts(titles)))  # noqa: B023
            with harness.Apart(fashion_clip, source=source, folder=folder, names=names, titles=titles) as peer:
                theirs = Remembered(peer)
                a, b, ratio = harness.interleave(ours, theirs, rounds, warm_up=rounds - 1)
            pairs = zip(ours.last, theirs.last, strict=True)
            cosine = min(float(torch.cosine_similarity(a, torch.from_numpy(b)).min()) for a, b in pairs)
            taken = {kind: name for kind, (name, _) in embedder.taken.items()}
            note = (
                f"random weights; backend={backend}: {taken}, cosine {cosine:.5f}; {floor()}; rounds: {rounds}. Of the "
                "package its encode_images and encode_text; the model is given to it, as it loads from a hub only, and "
                "its outputs are unwrapped for transformers 5"
            )
            what = f"embed a catalogue of {count:,} products (600×800 JPEGs, titles) with CLIP ViT-B/32"
            yield Row(10, what, "fashion-clip, in a separate process", "rate", count / a, count / b, "products/s",
                      ratio, *targets, note)  # fmt: skip


class Remembered:
    """A work that holds what it gave last."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work, self.last = work, None

    def __call__(self) -> None:
        self.last = self.work()


def photos(folder: Path, count: int) -> list[str]:
    """JPEGs of 600×800 with soft textures."""
    generator = np.random.default_rng(0)
    names = [f"{index:04}.jpg" for index in range(count)]
    for name in names:
        coarse = Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8))
        coarse.resize((600, 800), Image.Resampling.BICUBIC).save(folder / name, quality=87)
    return names


def save_clip(folder: Path, model: Any) -> str:
    """A CLIP model with random weights, its image processor and a tokenizer of single letters, in the hub's layout."""
    import json

    from transformers import CLIPImageProcessor, CLIPTokenizer

    model.eval().save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    letters = [chr(code) for code in range(97, 123)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77).save_pretrained(folder)
    return str(folder)


def fashion_clip(source: str, folder: str, names: list[str], titles: list[str]) -> Any:
    """Embed files and titles by the package's FashionCLIP object around a local model."""
    from fashion_clip.fashion_clip import FashionCLIP
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    model = CLIPModel.from_pretrained(source).eval()

    class Unwrapped:
        """Its features as tensors, as transformers 4 gave them."""

        def get_image_features(self, **inputs: Any) -> torch.Tensor:
            return model.get_image_features(**inputs).pooler_output

        def get_text_features(self, **inputs: Any) -> torch.Tensor:
            return model.get_text_features(**inputs).pooler_output

    peer = FashionCLIP.__new__(FashionCLIP)
    peer.device, peer.model = "cpu", Unwrapped()
    tokenizer = CLIPTokenizer.from_pretrained(source)
    peer.preprocess = CLIPProcessor(CLIPImageProcessor.from_pretrained(source), tokenizer)
    paths = [str(Path(folder) / name) for name in names]
    return lambda: (peer.encode_images(paths, batch_size=32), peer.encode_text(titles, batch_size=32))


def rows(quick: bool) -> Iterator[Row]:
    """Images, texts, products."""
    keep_pages()
    start = time.perf_counter()
    for number, part in ((8, images), (9, texts), (10, products)):
        if harness.wanted(number):
            yield from part(quick)
            print(f"    {part.__name__} after {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    harness.main(__file__, rows)
