"""Each format of a trained run, read by its library on files of real photos, against the run's own pipeline.

CCP has street photos of about 550 × 830 pixels, KAGL product photos of 60 × 80, both as JPEG.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from helpers.commands import TINY, modiste
from helpers.tiny_export import save_bert
from modiste.config import compose
from modiste.data.build import load as load_data
from modiste.export import export
from modiste.export.inputs import of_catalogue
from modiste.models.load import load

pytestmark = pytest.mark.slow
PHOTOS = 8
# Format and precision → minimum cosine of images and of texts.
FLOORS = {
    ("sentence_transformers", "fp32"): (0.99999, 0.99999),
    ("sentence_transformers", "bf16"): (0.999, 0.999),
    ("open_clip", "fp32"): (0.99999, 0.99999),
    ("open_clip", "bf16"): (0.999, 0.999),
    ("transformers", "fp32"): (0.99999, 0.99999),
    ("transformers", "bf16"): (0.999, 0.999),
    ("onnx", "fp32"): (0.99999, 0.99999),
    ("onnx", "int8"): (0.9, 0.9),
    ("transformers_js", "fp32"): (0.9999, 0.99999),
    ("transformers_js", "int8"): (0.9, 0.9),
    ("openvino", "fp32"): (0.99999, 0.99999),
    ("openvino", "bf16"): (0.99, 0.99),
    ("openvino", "int8"): (0.9, 0.9),
    ("hub", "fp32"): (1 - 1e-7, 1 - 1e-7),
    ("hub", "bf16"): (0.999, 0.999),
}
PACKAGES = {"onnx": "onnxscript", "transformers_js": "onnxscript", "hub": "torch"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch, with padding and a tokenizer in files."""
    folder = tmp_path_factory.mktemp("run")
    text = ["text=hf", f"text.source={save_bert(folder / 'bert')}", "text.max_length=32"]
    image = ["image.size=64", "+image.resize=pad", "+image.mean=[0.5,0.5,0.5]", "+image.std=[0.25,0.25,0.25]"]
    words = [word for word in TINY if not word.startswith("text.")]
    done = modiste("train", *words, *text, *image, "trainer.max_epochs=1", f"hydra.run.dir={folder / 'a'}", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "a"


@pytest.fixture(scope="module", params=["ccp", "kagl"])
def photos(request, tmp_path_factory):
    """A few products' photos and captions as the project's adapter reads them, and the photos' own files."""
    archive = request.getfixturevalue(f"{request.param}_zip")
    cfg = compose("train", [f"data={request.param}", f"data_dir={archive.parent}"])
    catalogue = load_data(cfg.data)
    inputs, folder = of_catalogue(catalogue, cfg.data, PHOTOS), tmp_path_factory.mktemp("photos")
    split = catalogue.select(split="test")
    files = [folder / f"{row}.jpg" for row in range(PHOTOS)]
    for row, file in enumerate(files):
        source = getattr(split.images, "files", split.images)
        file.write_bytes(source.read_bytes(split.column("image")[row]))
    return inputs, files


def by_sentence_transformers(folder, files, texts):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode([str(file) for file in files]), model.encode(texts)


def by_open_clip(folder, files, texts):
    import open_clip

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    pixels = torch.stack([transform(Image.open(file)) for file in files])
    return model.eval().encode_image(pixels), model.encode_text(tokens)


def by_transformers(folder, files, texts):
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    output = model(**processor(text=texts, images=[Image.open(file) for file in files], return_tensors="pt"))
    return output.image_embeds, output.text_embeds


def by_hub(folder, files, texts):
    from modiste.pretrained.exported import HubModel

    model = HubModel.from_pretrained(str(folder)).model
    pixels = torch.stack([model.preprocess(Image.open(file)) for file in files])
    return model.encode_image(pixels), model.encode_text(model.tokenizer(texts))


def prepared(folder, files, texts):
    """What the programs of `onnx` and `openvino` take: modiste.json describes the transform of the photos."""
    from transformers import AutoTokenizer

    facts = json.loads((folder / "modiste.json").read_text())
    size, fill = facts["preprocess"]["size"], tuple(facts["preprocess"]["fill"])
    pixels = []
    for file in files:
        photo = Image.open(file).convert("RGB")
        scale = size / max(photo.size)
        small = photo.resize([max(1, round(side * scale)) for side in photo.size], Image.Resampling.BICUBIC)
        square = Image.new("RGB", (size, size), fill)
        square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
        pixels.append(np.asarray(square).transpose(2, 0, 1))
    length = facts["tokenizer"]["max_length"]
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=length, return_tensors="np"
    )
    return np.stack(pixels), tokens


def by_onnx(folder, files, texts):
    from onnxruntime import InferenceSession

    pixels, tokens = prepared(folder, files, texts)
    image, text = (InferenceSession(str(folder / f"{tower}.onnx")) for tower in ("image", "text"))
    return image.run(None, {"pixels": pixels})[0], text.run(None, asked(text, tokens))[0]


def by_openvino(folder, files, texts):
    from modiste.utils.openvino import core

    pixels, tokens = prepared(folder, files, texts)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # as in the card, else bf16 where the processor can
    assert '"CPU", {"INFERENCE_PRECISION_HINT": "f32"})' in (folder / "README.md").read_text()
    image, text = (core().compile_model(folder / f"{tower}.xml", "CPU", settings) for tower in ("image", "text"))
    names = [one.any_name for one in text.inputs]
    return image({"pixels": pixels})[0], text({name: tokens[name] for name in names})[0]


def by_transformers_js(folder, files, texts):
    """By ONNX Runtime, as the processor only passes pixels; `test_layouts` runs transformers.js itself."""
    from onnxruntime import InferenceSession
    from transformers import AutoTokenizer

    (vision,), (words,) = (list((folder / "onnx").glob(f"{tower}_model*.onnx")) for tower in ("vision", "text"))
    image, text = InferenceSession(str(vision)), InferenceSession(str(words))
    raw = [np.asarray(Image.open(file).convert("RGB"), np.float32).transpose(2, 0, 1)[None] for file in files]
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")
    images = [image.run(None, {"pixel_values": pixels})[0] for pixels in raw]
    return np.concatenate(images), text.run(None, asked(text, tokens))[0]


def asked(session, tokens):
    return {one.name: tokens[one.name] for one in session.get_inputs()}


@pytest.mark.parametrize(("format", "precision"), FLOORS, ids=map("-".join, FLOORS))
@torch.inference_mode()
def test_the_librarys_own_loader_and_preprocessing_give_the_runs_embeddings(format, precision, run, photos, tmp_path):
    pytest.importorskip(PACKAGES.get(format, format))
    inputs, files = photos
    low = {"image": 0.9, "text": 0.9}
    exported = export(run, format, tmp_path / "out", precision=precision, inputs=inputs, min_cosine=low)
    theirs = globals()[f"by_{format}"](exported.path, files, list(inputs.texts))
    model = load(run).model
    pixels = torch.stack([model.preprocess(image) for image in inputs.images])
    ours = model.encode_image(pixels), model.encode_text(model.tokenizer(list(inputs.texts)))
    card = Path(exported.path, "README.md").read_text()
    for tower, mine, other, floor in zip(("image", "text"), ours, theirs, FLOORS[format, precision], strict=True):
        lowest = cosine_similarity(mine.double(), torch.as_tensor(np.asarray(other)).double()).min().item()
        print(f"{format} {precision} {tower}: minimum cosine {lowest:.6f}")
        assert lowest >= floor, f"{tower}: {lowest}"
        stated = exported.cosine[tower]["min"]
        assert stated == pytest.approx(lowest, abs=1e-4)
        assert f"| {tower} | {stated:.6f} |" in card
