"""A script of the package's documented calls gives the same by modiste.compat.fashion_clip.

Against the formulas of fashion-clip 0.2.2, written out slowly here, and against the package itself where it is:
installed, or in the folder that MODISTE_FASHION_CLIP names (pip install --no-deps --target DIR fashion-clip==0.2.2). It
does not run on transformers 5 by itself, so that it is handed the model.
"""

import hashlib
import importlib.util
import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny_encoders import pictures, save_clip
from helpers.watched import watched
from modiste.compat.fashion_clip import FashionCLIP, FCLIPDataset, open_image
from modiste.errors import ModisteError

LABELS = ["a red dress", "blue jeans", "shoe", "green bag"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fashion_clip")
    (path / "hub").mkdir()
    save_clip(path / "hub", eos=2, side=64, crop=64)
    for index, picture in enumerate(p for p in pictures() if min(p.size) > 8):
        picture.convert("RGB").save(path / f"{index}.png")
    return path


@pytest.fixture(scope="module")
def catalog(folder):
    files = sorted(file.name for file in folder.glob("*.png"))
    return [{"id": 100 + i, "image": name, "caption": f"photo {i} of a dress"} for i, name in enumerate(files)]


@pytest.fixture(scope="module")
def dataset(folder, catalog):
    return FCLIPDataset("mine", str(folder), "local", catalog)


@pytest.fixture(scope="module")
def reference(folder):
    """transformers' own class and processor, as the package uses them; its attention mask and length, too."""
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(folder / "hub").eval()
    processor = CLIPProcessor.from_pretrained(folder / "hub", backend="pil")

    @torch.no_grad()
    def images(paths):
        pixels = processor(images=[Image.open(p).convert("RGB") for p in paths], return_tensors="pt")
        return model.get_image_features(**pixels).pooler_output.numpy()

    @torch.no_grad()
    def texts(words):
        tokens = processor(text=list(words), return_tensors="pt", max_length=77, padding="max_length", truncation=True)
        return model.get_text_features(**tokens).pooler_output.numpy()

    return SimpleNamespace(images=images, texts=texts, model=model, processor=processor)


def test_encodings_are_the_packages_unnormalised_arrays(folder, dataset, reference):
    fclip = FashionCLIP(str(folder / "hub"))
    images = fclip.encode_images(dataset.images_path.tolist(), batch_size=3)
    texts = fclip.encode_text(LABELS, batch_size=3)
    np.testing.assert_allclose(images, reference.images(dataset.images_path), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(texts, reference.texts(LABELS), rtol=1e-3, atol=1e-4)
    assert images.dtype == texts.dtype == np.float32
    assert not np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-2)
    opened = [Image.open(path) for path in dataset.images_path]
    np.testing.assert_array_equal(fclip.encode_images(opened, batch_size=3), images)


def test_strict_zero_shot_has_the_packages_unnormalised_texts_and_the_default_does_not(folder, dataset, reference):
    fclip, strict = (FashionCLIP(str(folder / "hub"), strict=word) for word in (False, True))
    paths = dataset.images_path.tolist()
    images, texts = reference.images(paths), reference.texts(LABELS)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    faulty = [LABELS[i] for i in (images @ texts.T).argmax(1)]
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    right = [LABELS[i] for i in (images @ texts.T).argmax(1)]
    assert strict.zero_shot_classification(paths, LABELS) == faulty
    assert fclip.zero_shot_classification(paths, LABELS) == right


def test_the_length_of_a_text_vector_decides_in_strict_mode_only(folder, dataset, monkeypatch):
    image, texts = np.array([[1.0, 0.2]]), np.array([[1.0, 0.0], [5.0, 5.0]])
    for strict, wanted in ((True, ["second"]), (False, ["first"])):
        fclip = FashionCLIP(str(folder / "hub"), strict=strict)
        monkeypatch.setattr(fclip, "encode_images", lambda *a, **k: image)
        monkeypatch.setattr(fclip, "encode_text", lambda *a, **k: texts)
        assert fclip.zero_shot_classification(["x"], ["first", "second"]) == wanted


@pytest.mark.parametrize("approx", [True, False])
def test_retrieval_is_exact_for_any_size_of_embedding(folder, dataset, reference, approx):
    images, texts = reference.images(dataset.images_path), reference.texts(LABELS)
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts))
    wanted = (texts @ images.T).argsort()[:, -3:][:, ::-1]
    fclip = FashionCLIP(str(folder / "hub"), dataset, approx=approx)
    assert fclip.image_vectors.shape == fclip.textual_vectors.shape == (len(dataset.ids), 16)
    np.testing.assert_allclose(fclip.image_vectors, images, atol=1e-4)
    found = fclip.retrieval(LABELS, top_k=3)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, wanted)
    strict = FashionCLIP(str(folder / "hub"), dataset, approx=approx, strict=True).retrieval(LABELS, top_k=3)
    assert isinstance(strict, list if approx else np.ndarray)
    np.testing.assert_array_equal(strict, wanted)


def test_unnormalised_vectors_are_kept_when_asked_for(folder, dataset, reference):
    fclip = FashionCLIP(str(folder / "hub"), dataset, normalize=False)
    np.testing.assert_allclose(fclip.image_vectors, reference.images(dataset.images_path), rtol=1e-3, atol=1e-4)
    assert fclip.vector_hash == f"{fclip.model_hash}_{dataset.hash()}"


def test_the_heat_map_is_that_of_the_papers_bands(folder, dataset, reference):
    """Formulas of attention_map.py and _get_heatmap, a mask at a time."""
    size, step = 64, 15
    path = dataset.images_path[0]
    photo = Image.open(path).convert("RGB")
    ratio = size / max(photo.size)
    small = tuple(int(side * ratio) for side in photo.size)
    image = Image.new("RGB", (size, size), (128, 128, 128))
    image.paste(photo.resize(small, Image.Resampling.LANCZOS), ((size - small[0]) // 2, (size - small[1]) // 2))
    masks = [np.ones((size, size, 3))]
    count = size // step + 1
    for rows, start in ((True, 1), (False, 0)):
        for i in range(start, count):
            for j in range(i + 1, count):
                mask = np.ones((size, size, 3))
                if rows:
                    mask[: i * step], mask[j * step :] = 0, 0
                else:
                    mask[:, : i * step], mask[:, j * step :] = 0, 0
                masks.append(mask)
    crops = [Image.fromarray((np.asarray(image) * m + 128 * (1 - m)).astype(np.uint8)) for m in masks]
    fclip = FashionCLIP(str(folder / "hub"))
    words = fclip.encode_text(["dress"], 1)[0]
    vectors = fclip.encode_images(crops, 32)
    vectors, words = vectors / np.linalg.norm(vectors, axis=1, keepdims=True), words / np.linalg.norm(words)
    similarities = vectors @ words
    score = np.mean(
        [np.clip(s * m - similarities[0], 0, None) for s, m in zip(similarities, masks, strict=True)], axis=0
    )
    for _ in range(5):
        score = np.clip(score - score.mean(), 0, None)
    score = (score - score.min()) / (score.max() - score.min())
    ours, shown = fclip._get_heatmap(path, "dress", 15, 5)
    np.testing.assert_allclose(ours, score, atol=1e-5)
    assert shown.size == (size, size)
    figure = fclip.display_attention(path, "dress")
    assert len(figure.axes) == 3


def test_a_data_set_has_the_packages_attributes_and_hash(dataset, catalog, folder):
    assert dataset.ids.tolist() == [str(product["id"]) for product in catalog]
    assert dataset.captions[1] == catalog[1]["caption"]
    assert dataset.images_path[0] == str(folder / catalog[0]["image"])
    assert dataset.id_to_idx["101"] == 1

    def of_list(values):
        return hashlib.sha256(
            " ".join(hashlib.sha256(str(v).encode()).hexdigest() for v in values).encode()
        ).hexdigest()

    lists = [[str(p["id"]) for p in catalog], [p["image"] for p in catalog], [p["caption"] for p in catalog]]
    assert dataset.hash() == hashlib.sha256("".join(map(of_list, lists)).encode()).hexdigest()


def test_products_without_a_short_description_are_shown_and_strict_raises(dataset):
    figure = dataset.display_products(["100", "101", 102])
    assert len(figure.axes) == 3
    with pytest.raises(KeyError, match="short_description"):
        dataset.display_products(["100"], strict=True)
    with pytest.raises(ModisteError, match="There is no product '1000'"):
        dataset.display_products(["1000"])


def test_a_random_product_is_always_one_of_them(folder, catalog):
    small = FCLIPDataset("small", str(folder), "LOCAL", catalog[:1])
    assert {small.random_product_id() for _ in range(20)} == {"100"}


def test_mistakes_are_one_sentence(folder, tmp_path):
    with pytest.raises(ModisteError, match="image_source_type=ftp"):
        FCLIPDataset("a", "b", "ftp", [])
    with pytest.raises(ModisteError, match="is not public"):
        FCLIPDataset("FF", "b", "local")
    with pytest.raises(ModisteError, match=r"catalog\[0\] has no 'caption'"):
        FCLIPDataset("a", "b", "local", [{"id": 1, "image": "a.jpg"}])
    fclip = FashionCLIP(str(folder / "hub"))
    with pytest.raises(ModisteError, match="retrieval needs a data set"):
        fclip.retrieval(["dress"])
    with pytest.raises(ModisteError, match="cannot be read"):
        fclip.encode_images([str(tmp_path / "none.jpg")], batch_size=1)
    with pytest.raises(ModisteError, match="No list of texts given: pass a list"):
        fclip.encode_text("a dress", batch_size=1)


@pytest.fixture
def outside(tmp_path):
    (tmp_path / "outside").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "outside" / "secret.png")
    return tmp_path / "outside"


@pytest.mark.parametrize(
    "image", ["../outside/secret.png", "{out}/secret.png", "a/../../outside/secret.png", "link.png"]
)
def test_a_catalogue_names_no_file_outside_of_its_folder(image, outside, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link.png").symlink_to(outside / "secret.png")
    product = {"id": 1, "image": image.format(out=outside), "caption": "a hat"}
    monkeypatch.chdir(tmp_path / "photos")
    for folder in (tmp_path / "photos", ""):
        with pytest.raises(ModisteError, match=r"catalog\[0\] has the image .* name images below image_source_path"):
            FCLIPDataset("theirs", str(folder), "local", [product])


@pytest.mark.parametrize(
    ("source", "start", "image"),
    [
        ("url", "", "local://{out}/secret.png"),
        ("url", "", "file://{out}/secret.png"),
        ("url", "", "simplecache::file://{out}/secret.png"),
        ("url", "", "https://x::file://{out}/secret.png"),
        ("url", "", "s3://bucket/x.png"),
        ("url", "https://shop.example/photos", "{out}/secret.png"),
        ("url", "https://shop.example/photos", "../private/x.png"),
        ("url", "https://shop.example/photos", "a/%2e%2E/%2e./private/x.png"),
        ("url", "https://shop.example/photos/", "..\\private/x.png"),
        ("s3", "", "https://shop.example/x.png"),
        ("s3", "", "s3://bucket/x::file://{out}/secret.png"),
        ("s3", "s3://bucket/photos", "../private/x.png"),
        ("s3", "s3://bucket/photos", "{out}/secret.png"),
    ],
)
def test_a_catalogue_names_no_other_address(source, start, image, outside):
    with pytest.raises(ModisteError, match=r"catalog\[0\] has the image .* name images below image_source_path"):
        FCLIPDataset("theirs", start, source, [{"id": 1, "image": image.format(out=outside), "caption": "a hat"}])


def test_addresses_below_the_given_one_are_kept_as_the_package_joins_them():
    given = [
        ("url", "https://shop.example/photos", "a/..b.png"),
        ("s3", "s3://bucket", "a.png"),
        ("url", "", "http://x/a"),
    ]
    for source, start, image in given:
        data = FCLIPDataset("mine", start, source, [{"id": 1, "image": image, "caption": "a hat"}])
        assert data.images_path.tolist() == [os.path.join(start, image)]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("local://{out}/secret.png", "URLs must begin with http://, https:// or s3://"),
        ("simplecache::file://{out}/secret.png", "URLs must begin"),
        ("s3://bucket/x::file://{out}/secret.png", "URLs must begin"),
        ("http://127.0.0.1:9/x.png", "private network"),
        ("https://[::1]:9/x.png", "private network"),
        ("{out}/pipe", "not a regular file"),
    ],
)
def test_what_is_no_photo_of_a_public_host_is_not_opened(place, says, outside):
    os.mkfifo(outside / "pipe")
    place = place.format(out=outside)
    with watched(outside) as seen, pytest.raises(ModisteError, match=f"cannot be read: .*{says}"):
        open_image(place)
    assert [event for event in seen if not event.startswith("socket.getaddrinfo")] == []


# ------------------------------------------------------------------------------------------ against the package itself


@pytest.fixture
def package(monkeypatch, tmp_path):
    """The package's module on today's stack: what it needs besides is replaced, its formulas are not."""
    if os.environ.get("MODISTE_FASHION_CLIP"):
        monkeypatch.syspath_prepend(os.environ["MODISTE_FASHION_CLIP"])
    if importlib.util.find_spec("fashion_clip") is None:
        pytest.skip("fashion-clip is not installed: pip install --no-deps --target DIR fashion-clip==0.2.2")
    stubs = {
        "appdirs": {"user_cache_dir": lambda *_: str(tmp_path)},
        "annoy": {"AnnoyIndex": ExactIndex},
        "validators": {"url": lambda _: False},
        "boto3": {},
        "botocore": {},
        "botocore.errorfactory": {"ClientError": Exception},
    }
    absent = {name for name in stubs if importlib.util.find_spec(name.partition(".")[0]) is None}
    for name in sorted(absent):
        module = ModuleType(name)
        vars(module).update(stubs[name])
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Image, "ANTIALIAS", Image.Resampling.LANCZOS, raising=False)
    module = importlib.import_module("fashion_clip.fashion_clip")
    monkeypatch.setattr(module, "AnnoyIndex", ExactIndex)  # the package makes Annoy's for 512 numbers, whatever it has
    return module


class ExactIndex:
    """Annoy's interface, exact."""

    def __init__(self, size, metric):
        self.rows = []

    def add_item(self, index, vector):
        self.rows.append(vector)

    def build(self, trees):
        self.rows = np.array(self.rows)

    def get_nns_by_vector(self, vector, count, **options):
        return (-(self.rows @ vector)).argsort(kind="stable")[:count].tolist()


class HandedIn:
    """A CLIPModel that gives features, as it did before transformers 5."""

    def __init__(self, model):
        self.model = model

    def to(self, device):
        return self

    def get_image_features(self, **inputs):
        return self.model.get_image_features(**inputs).pooler_output

    def get_text_features(self, **inputs):
        return self.model.get_text_features(**inputs).pooler_output


def script(fclip, dataset, paths):
    """The calls of the package's README."""
    images = fclip.encode_images(paths, batch_size=4)
    texts = fclip.encode_text(LABELS, batch_size=4)
    return {
        "images": images,
        "texts": texts,
        "zero-shot": fclip.zero_shot_classification(paths, LABELS),
        "retrieval": fclip.retrieval(LABELS, top_k=3),
        "heat map": fclip._get_heatmap(paths[0], "dress", 15, 5)[0],
        "hash": dataset.hash(),
        "image vectors": fclip.image_vectors,
        "textual vectors": fclip.textual_vectors,
    }


@pytest.mark.parametrize("approx", [True, False])
def test_strict_gives_what_the_package_gives(package, reference, folder, catalog, monkeypatch, approx):
    loaded = (HandedIn(reference.model), reference.processor, "hash")
    monkeypatch.setattr(package.FashionCLIP, "_load_model", lambda self, *_, **__: loaded)
    sized = package.attention_map.generate_image_crops
    monkeypatch.setattr(
        package.attention_map, "generate_image_crops", lambda path, pixel_size: sized(path, 64, pixel_size)
    )
    paths = [str(folder / product["image"]) for product in catalog]
    data = package.FCLIPDataset("mine", str(folder), "local", catalog)
    theirs = script(package.FashionCLIP("any", data, approx=approx), data, paths)
    data = FCLIPDataset("mine", str(folder), "local", catalog)
    ours = script(FashionCLIP(str(folder / "hub"), data, approx=approx, strict=True), data, paths)
    for name, wanted in theirs.items():
        if isinstance(wanted, np.ndarray) and wanted.dtype.kind == "f":
            np.testing.assert_allclose(ours[name], wanted, rtol=2e-3, atol=1e-3 if name != "heat map" else 0.02)
        else:
            assert type(ours[name]) is type(wanted)
            np.testing.assert_array_equal(ours[name], wanted)
