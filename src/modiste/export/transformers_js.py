"""transformers.js: two ONNX models named as its CLIP classes expect, and the tokenizer's files.

The processor only reads pixels, and the image model itself resizes, pads, crops and normalises like `Preprocess`:
transformers.js resizes without antialiasing on Node, and with the browser's canvas elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modiste.errors import ModisteError
from modiste.export.onnx import Positional, convert, examples, quantise, reader_of
from modiste.export.resizing import Resizing
from modiste.export.towers import save_tokenizer
from modiste.export.transformers import limit, write_json
from modiste.export.writing import Job, Reader
from modiste.models.dual_encoder import DualEncoder
from modiste.pretrained.exported import Programs

PRECISIONS = ("fp32", "int8")
REMEDY = "Accept it with min_cosine, or use precision=fp32."
PACKAGE = "@huggingface/transformers"
# The ONNX model does these steps itself; the processor passes pixels from 0 to 255.
PROCESSOR = {"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True} | dict.fromkeys(
    ("do_resize", "do_center_crop", "do_rescale", "do_normalize"), False
)
SCRIPT = """
const {AutoProcessor, AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, RawImage, env} =
    require("@huggingface/transformers");
const fs = require("fs"), path = require("path");
const [folder, work, dtype] = process.argv.slice(1);
env.allowRemoteModels = false;
(async () => {
    const name = folder;  // a path that is no hub id is taken as it is
    const asked = JSON.parse(fs.readFileSync(path.join(work, "asked.json")));
    const processor = await AutoProcessor.from_pretrained(name), tokenizer = await AutoTokenizer.from_pretrained(name);
    const vision = await CLIPVisionModelWithProjection.from_pretrained(name, {dtype});
    const text = await CLIPTextModelWithProjection.from_pretrained(name, {dtype});
    const answer = {images: [], texts: []};
    for (const file of asked.images) {
        const {image_embeds} = await vision(await processor(await RawImage.read(path.join(work, file))));
        answer.images.push(Array.from(image_embeds.data));
    }
    for (const words of asked.texts) {
        const {text_embeds} = await text(tokenizer([words], {padding: true, truncation: true}));
        answer.texts.push(Array.from(text_embeds.data));
    }
    fs.writeFileSync(path.join(work, "answer.json"), JSON.stringify(answer));
})().catch((error) => { console.error(String(error)); process.exit(1); });
"""


def write(model: DualEncoder, folder: Path, job: Job) -> None:
    """Write ``onnx/vision_model.onnx``, ``onnx/text_model.onnx``, and the configurations."""
    save_tokenizer(model, folder, "transformers_js")
    tokenizer: Any = model.tokenizer
    if tokenizer.max_length:
        limit(folder / "tokenizer_config.json", tokenizer.max_length)
    programs = folder / "onnx"
    programs.mkdir()
    _, tokens = examples(model, job)
    names, resize = sorted(tokens), Resizing(model.preprocess)

    def text(*tensors: Tensor) -> Tensor:
        return F.normalize(model.text_features(dict(zip(names, tensors, strict=True))), dim=-1)

    def image(pixel_values: Tensor) -> Tensor:
        return F.normalize(model.image_features(model.preprocess.normalise(resize(pixel_values))), dim=-1)

    pixels = {"pixel_values": torch.zeros(3, 3, 90, 70)}
    convert(Positional(model, image), pixels, "image_embeds", programs / "vision_model.onnx", any_size=True)
    convert(Positional(model, text), {n: tokens[n] for n in names}, "text_embeds", programs / "text_model.onnx")
    if job.precision == "int8":
        for name in ("vision_model", "text_model"):
            quantise(programs / f"{name}.onnx", programs / f"{name}_quantized.onnx")
            (programs / f"{name}.onnx").unlink()
    write_json(folder / "config.json", {"model_type": "clip", "projection_dim": model.embed_dim})
    write_json(folder / "preprocessor_config.json", PROCESSOR)


def node_environment() -> dict[str, str] | None:
    """Return the environment in which Node finds transformers.js, or None.

    It is looked for in NODE_PATH and in npm's global folder.

    The working directory is not searched, as it may be untrusted.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None:
        return None
    places = [os.environ.get("NODE_PATH", "")]
    if npm is not None:
        with tempfile.TemporaryDirectory() as elsewhere:
            asked = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, cwd=elsewhere)
        places.append(asked.stdout.strip())
    paths = [path for place in places for path in place.split(os.pathsep) if path]
    found = any((Path(path) / PACKAGE / "package.json").is_file() for path in paths)
    return {**os.environ, "NODE_PATH": os.pathsep.join(paths)} if found else None


def read(folder: Path) -> Reader:
    """Load with transformers.js on Node.

    Without it: with ONNX Runtime and our own preprocessing.
    """
    environment = node_environment()
    if environment is None:
        return reader_of(Programs(folder))
    quantised = (folder / "onnx" / "vision_model_quantized.onnx").is_file()
    dtype = "q8" if quantised else "fp32"

    def images(images: Sequence[Image.Image]) -> Tensor:
        return run_node(folder, environment, images, [], dtype)[0]

    def texts(texts: Sequence[str]) -> Tensor:
        return run_node(folder, environment, [], texts, dtype)[1]

    return Reader(images, texts)


def run_node(
    folder: Path, environment: dict[str, str], images: Sequence[Image.Image], texts: Sequence[str], dtype: str
) -> tuple[Tensor, Tensor]:
    """Return embeddings (N, D) of images and of texts by transformers.js.

    Raises ModisteError if Node fails.
    """
    with tempfile.TemporaryDirectory() as work:
        names = [f"{index}.png" for index in range(len(images))]
        for name, image in zip(names, images, strict=True):
            image.convert("RGB").save(Path(work, name))
        Path(work, "asked.json").write_text(json.dumps({"images": names, "texts": list(texts)}))
        command = ["node", "-e", SCRIPT, "--", str(folder.resolve()), work, dtype]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, cwd=work)
        if done.returncode:
            raise ModisteError(f"transformers.js cannot run the export: {done.stderr.strip()[-300:]}")
        answer = json.loads(Path(work, "answer.json").read_text())
    return torch.tensor(answer["images"]), torch.tensor(answer["texts"])


def checked_by() -> str:
    """Name what the cosine was computed with."""
    return "transformers.js on Node" if node_environment() else "ONNX Runtime, as transformers.js is not installed"
