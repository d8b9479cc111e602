import json

import datasets
import pytest

from helpers.tiny_data import encoded, picture
from modiste.data.catalogue import hash_pixels
from modiste.data.datasets.hub import Hub
from modiste.errors import ModisteError

TEXTS = ["red hat", "blue shirt", "NA", "green shoe"]
PRODUCTS = ["p1", "p1", "p2", "p3"]
KINDS = ["hat", "shirt", "NA", "shoe"]
SPLITS = ["train", "train", "train", "val"]
COLUMNS = {"text": "caption", "image": "image", "product_id": "item", "split": None}
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "caption": datasets.Value("string"),
        "item": datasets.Value("string"),
        "kind": datasets.ClassLabel(names=["NA", "hat", "shirt", "shoe"]),
        "embedding": datasets.List(datasets.Value("float32")),
    }
)


def part(rows):
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": encoded(picture(i)), "path": None} for i in rows],
            "caption": [TEXTS[i] for i in rows],
            "item": [PRODUCTS[i] for i in rows],
            "kind": [KINDS[i] for i in rows],
            "embedding": [[0.0, 1.0] for _ in rows],
        },
        features=FEATURES,
    )


def both():
    return datasets.DatasetDict({"train": part([0, 1, 2]), "validation": part([3])})


def save_to_disk(root):
    both().save_to_disk(str(root))


def parquet(root):
    (root / "data").mkdir(parents=True)
    for split, rows in both().items():
        rows.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")


def parquet_with_card(root):
    for split, rows in both().items():
        (root / "files").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(root / "files" / f"{split}.parquet")
    files = "".join(f"  - split: {split}\n    path: files/{split}.parquet\n" for split in both())
    (root / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n# Tiny\n")


def image_folder(root, kind="csv"):
    for split, rows in {"train": [0, 1, 2], "validation": [3]}.items():
        (root / split / "pictures").mkdir(parents=True)
        records = [
            {"file_name": f"pictures/{i}.png", "caption": TEXTS[i], "item": PRODUCTS[i], "kind": KINDS[i]} for i in rows
        ]
        for i in rows:
            (root / split / "pictures" / f"{i}.png").write_bytes(encoded(picture(i)))
        if kind == "csv":
            lines = [",".join(record.values()) for record in records]
            (root / split / "metadata.csv").write_text("\n".join([",".join(records[0]), *lines, ""]))
        else:
            (root / split / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


LAYOUTS = {
    "save_to_disk": save_to_disk,
    "parquet": parquet,
    "parquet, files named in the card": parquet_with_card,
    "image folder, csv": image_folder,
    "image folder, jsonl": lambda root: image_folder(root, "jsonl"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_catalogue(layout, tmp_path):
    LAYOUTS[layout](tmp_path / "set")
    columns = {**COLUMNS, "image": "file_name"} if "folder" in layout else COLUMNS
    catalogue = Hub(str(tmp_path / "set"), columns)()
    assert catalogue.column("text") == TEXTS
    assert catalogue.column("product_id") == PRODUCTS
    assert catalogue.column("kind") == KINDS
    assert catalogue.column("split") == SPLITS
    assert catalogue.attributes == ["kind"]
    assert catalogue.column("pixels") == [hash_pixels(picture(i)) for i in range(4)]
    assert [hash_pixels(catalogue.read_image(i)) for i in range(4)] == catalogue.column("pixels")


def test_a_single_saved_dataset_has_no_splits(tmp_path):
    part([0, 1]).save_to_disk(str(tmp_path / "set"))
    assert Hub(str(tmp_path / "set"), COLUMNS)().column("split") == ["", ""]


def test_a_split_column_may_be_named(tmp_path):
    rows = part([0, 3]).add_column("fold", ["testing", "dev"])
    rows.save_to_disk(str(tmp_path / "set"))
    catalogue = Hub(str(tmp_path / "set"), {**COLUMNS, "split": "fold"})()
    assert catalogue.column("split") == ["test", "val"]


def test_an_image_folder_in_one_piece_has_no_splits(tmp_path):
    (tmp_path / "0.png").write_bytes(encoded(picture(0)))
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,hat\n")
    catalogue = Hub(str(tmp_path), {"text": "text", "image": "file_name"})()
    assert (catalogue.column("split"), catalogue.column("text")) == ([""], ["hat"])


def test_images_without_metadata_have_their_folders_name(tmp_path):
    for number, kind in enumerate(["hats", "shirts"]):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "x.png").write_bytes(encoded(picture(number)))
    catalogue = Hub(str(tmp_path), {"text": "label", "image": "image"})()
    found = dict(zip(catalogue.column("text"), catalogue.column("pixels"), strict=True))
    assert found == {"hats": hash_pixels(picture(0)), "shirts": hash_pixels(picture(1))}


def test_several_captions_a_picture(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "captions": datasets.List(datasets.Value("string"))})
    cells = [{"bytes": encoded(picture(i)), "path": None} for i in range(2)]
    columns = {"image": cells, "captions": [["a hat", "headwear"], ["a shoe"]]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "set"))
    catalogue = Hub(str(tmp_path / "set"), {"text": "captions", "image": "image"})()
    assert catalogue.column("text") == ["a hat", "a shoe"]
    assert catalogue.column("text_2") == ["headwear", ""]


def test_corrupt_pictures_are_bad_rows(tmp_path):
    rows = {"image": [{"bytes": encoded(picture(0)), "path": None}, {"bytes": b"junk", "path": None}, None]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    dataset = datasets.Dataset.from_dict({**rows, "text": ["a", "b", "c"]}, features=features)
    dataset.save_to_disk(str(tmp_path / "set"))
    catalogue = Hub(str(tmp_path / "set"))()
    assert catalogue.report.bad == {"unreadable image": ["1"], "missing image": ["2"]}


def test_code_in_a_data_set_is_not_run(tmp_path):
    root = tmp_path / "set"
    parquet(root)
    (root / "other.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    assert len(Hub(str(root), COLUMNS)()) == 4
    (root / "other.py").rename(root / "set.py")  # the name of a loading script
    assert len(Hub(str(root), COLUMNS)()) == 4
    assert not (tmp_path / "ran").exists()


def test_a_folder_may_be_called_like_one_of_the_formats(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    parquet(tmp_path / "json")
    assert len(Hub("json", COLUMNS)()) == 4


def test_a_hub_id_is_loaded_with_its_configuration_and_revision(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return both()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    catalogue = Hub("owner/name", COLUMNS, config="small", revision="abc")()
    assert calls == [(("owner/name", "small"), {"revision": "abc"})]
    assert catalogue.column("text") == TEXTS
    assert catalogue.card.homepage.endswith("/owner/name")


@pytest.mark.parametrize("path", ["./owner/name", "/owner/name", "~/owner/name", "name", "a/b/c"])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: pytest.fail("asked the hub"))
    with pytest.raises(ModisteError, match=r"Folder .* does not exist"):
        Hub(path)()


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ModisteError, match=r"'owner/name' cannot be loaded: Couldn't reach .* Check its name"):
        Hub("owner/name")()


def test_a_wrong_column_is_answered_with_the_likely_one(tmp_path):
    save_to_disk(tmp_path / "set")
    with pytest.raises(ModisteError, match=r"columns\.text: .*no column 'captions'. Did you mean 'caption'"):
        Hub(str(tmp_path / "set"), {**COLUMNS, "text": "captions"})()
    image_folder(tmp_path / "folder")
    (tmp_path / "folder" / "train" / "metadata.csv").write_text("file,caption\n0.png,x\n")
    with pytest.raises(ModisteError, match=r"no column 'file_name'"):
        Hub(str(tmp_path / "folder"), COLUMNS)()
