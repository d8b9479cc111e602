"""A tiny copy of the hub's LookBench: query.parquet and gallery.parquet a configuration, distractors in noise."""

import datasets
import pyarrow.parquet as pq
import pytest

from helpers.tiny_data import encoded, picture
from modiste.config import compose
from modiste.data.build import load
from modiste.data.catalogue import hash_pixels
from modiste.data.datasets.lookbench import PARTS, SUBSETS, LookBench
from modiste.errors import ModisteError

STRING = datasets.Value("string")
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "raw_image": datasets.Image(),
        "category": STRING,
        "main_attribute": STRING,
        "other_attributes": STRING,
        "bbox": datasets.List(datasets.Value("int64")),
        "item_ID": datasets.Value("int64"),
        "task": STRING,
        "difficulty": STRING,
    }
)
NOISE = datasets.Features({"image": datasets.Image(), "category": STRING, "main_attribute": STRING, "item_ID": STRING})


def part(start, ids, category="Dress", attribute="high_neck"):
    """Rows with different pictures."""
    columns = {
        "image": [{"bytes": encoded(picture(start + i), "JPEG"), "path": None} for i in range(len(ids))],
        "raw_image": [{"bytes": b"never read", "path": None}] * len(ids),
        "category": [category] * len(ids),
        "main_attribute": [attribute] * len(ids),
        "other_attributes": ["printed, bead"] * len(ids),
        "bbox": [[0, 0, 4, 4]] * len(ids),
        "item_ID": ids,
        "task": ["single"] * len(ids),
        "difficulty": ["easy"] * len(ids),
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def noise(start, ids):
    columns = {
        "image": [{"bytes": encoded(picture(start + i), "JPEG"), "path": None} for i in range(len(ids))],
        "category": ["noise data"] * len(ids),
        "main_attribute": [None] * len(ids),
        "item_ID": ids,
    }
    return datasets.Dataset.from_dict(columns, features=NOISE)


def tiny():
    """Two queries and three gallery rows a subset, the same item ids in each; four distractors in two files."""
    files = {}
    for i, config in enumerate(SUBSETS):
        files[f"{config}/query"] = part(10 * i, [1, 2])
        files[f"{config}/gallery"] = part(10 * i + 2, [1, 2, 3], attribute="leather" if i else "high_neck")
    files["noise/gallery-00000-of-00002"] = noise(100, ["91_0", "91_1"])
    files["noise/gallery-00001-of-00002"] = noise(102, ["92_0", "93_0"])
    return files


def write(root, files, version="v20251201"):
    for name, dataset in files.items():
        file = root / version / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        dataset.to_parquet(file)
    return str(root)


def test_one_catalogue_holds_every_subset_and_the_distractors_once(tmp_path):
    catalogue = LookBench(write(tmp_path, tiny()))()
    assert len(catalogue) == 4 * 5 + 4
    assert len(set(catalogue.column("pixels"))) == len(catalogue)
    assert [hash_pixels(catalogue.read_image(i)) for i in range(24)] == catalogue.column("pixels")
    assert catalogue.splits == {"gallery": 16, "query": 8}
    pairs = list(zip(catalogue.column("subset"), catalogue.column("split"), strict=True))
    for subset in ("RealStudioFlat", "AIGen-Studio", "RealStreetLook", "AIGen-StreetLook"):
        assert pairs.count((subset, "query")) == 2
        assert pairs.count((subset, "gallery")) == 3
    assert pairs.count(("all", "gallery")) == 4
    assert set(catalogue.attributes) == {
        "category",
        "main_attribute",
        "other_attributes",
        "task",
        "difficulty",
        "subset",
    }


def test_relevance_by_category_and_main_attribute_within_a_subset_and_the_distractors(tmp_path):
    """As the protocol says it, row by row: fine in RealStudioFlat alone, coarse in all, distractors never."""
    catalogue = LookBench(write(tmp_path, tiny()))()
    columns = ["subset", "split", "category", "main_attribute"]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*(catalogue.column(c) for c in columns), strict=True)]
    for query in (row for row in rows if row["split"] == "query"):
        gallery = [row for row in rows if row["split"] == "gallery" and row["subset"] in (query["subset"], "all")]
        coarse = [row for row in gallery if row["category"] == query["category"]]
        fine = [row for row in coarse if row["main_attribute"] == query["main_attribute"]]
        assert (len(gallery), len(coarse)) == (7, 3)
        assert len(fine) == (3 if query["subset"] == "RealStudioFlat" else 0)


def test_ids_are_of_their_subset_and_texts_of_the_labels(tmp_path):
    catalogue = LookBench(write(tmp_path, tiny()))()
    ids = catalogue.column("product_id")
    assert ids[:5] == [f"RealStudioFlat-{i}" for i in (1, 2, 1, 2, 3)]
    assert ids[5:7] == ["AIGen-Studio-1", "AIGen-Studio-2"]
    assert ids[-4:] == ["all-91_0", "all-91_1", "all-92_0", "all-93_0"]
    texts = catalogue.column("text")
    assert (texts[0], texts[7], texts[-1]) == ("high neck Dress", "leather Dress", "noise data")


def test_the_folder_of_a_release_is_read_as_well(tmp_path):
    whole = LookBench(write(tmp_path, tiny()))()
    release = LookBench(str(tmp_path / "v20251201"))()
    assert release.fingerprint() == whole.fingerprint()


def test_files_without_the_hubs_own_metadata_are_read_alike(tmp_path):
    """As pandas or pyarrow write them: an image is then a plain struct of bytes and path."""
    hub = LookBench(write(tmp_path / "hub", tiny()))()
    plain = write(tmp_path / "plain", tiny())
    for file in (tmp_path / "plain").rglob("*.parquet"):
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    assert LookBench(plain)().fingerprint() == hub.fingerprint()


def test_corrupt_images_are_excluded_and_counted(tmp_path):
    files = tiny()
    broken = files["aigen_studio/query"].to_dict()
    broken["image"] = [{"bytes": encoded(picture(10), "JPEG")[:200], "path": None}, None]
    files["aigen_studio/query"] = datasets.Dataset.from_dict(broken, features=FEATURES)
    catalogue = LookBench(write(tmp_path, files))()
    assert catalogue.report.bad == {"unreadable image": ["AIGen-Studio-1"], "missing image": ["AIGen-Studio-2"]}
    assert len(catalogue) == 22
    assert [hash_pixels(catalogue.read_image(i)) for i in range(22)] == catalogue.column("pixels")


def test_a_missing_download_has_a_remedy(tmp_path):
    remedy = r"hf download srpone/look-bench.*data\.catalogue\.path"
    with pytest.raises(ModisteError, match=rf"does not exist\. .*{remedy}"):
        LookBench(str(tmp_path / "gone"))()
    with pytest.raises(ModisteError, match=rf"holds none of LookBench's files\. .*{remedy}"):
        LookBench(str(tmp_path))()


@pytest.mark.parametrize("absent", ["noise", "real_streetlook/gallery"])
def test_a_partial_download_names_the_missing_parts(absent, tmp_path):
    files = {name: dataset for name, dataset in tiny().items() if not name.startswith(absent)}
    part = f"{absent}/gallery" if absent == "noise" else absent
    with pytest.raises(ModisteError, match=rf"is incomplete: {part} of {len(PARTS)} parts are missing.*again"):
        LookBench(write(tmp_path, files))()


def test_absent_files_of_several_distractors_are_an_error(tmp_path):
    files = tiny()
    del files["noise/gallery-00000-of-00002"]
    with pytest.raises(ModisteError, match=r"1 of 2 files are missing in .*noise \(gallery-00000-of-00002\.parquet\)"):
        LookBench(write(tmp_path, files))()


def test_fewer_rows_than_published_are_a_warning_with_the_remedy(tmp_path, caplog):
    LookBench(write(tmp_path, tiny()))()
    assert "24 of 69,399 rows, 8 of 2,345 query, 16 of 67,054 gallery" in caplog.text
    assert "hf download srpone/look-bench" in caplog.text


def test_the_hub_is_asked_for_each_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files, asked = tiny(), set()

    def load_dataset(path, config, revision):
        asked.add((path, config, revision))
        if config == "noise":
            return datasets.DatasetDict({"gallery": noise(100, ["91_0", "91_1", "92_0", "93_0"])})
        return datasets.DatasetDict({split: files[f"{config}/{split}"] for split in ("query", "gallery")})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    catalogue = LookBench("srpone/look-bench")()
    assert asked == {("srpone/look-bench", config, None) for config in (*SUBSETS, "noise")}
    monkeypatch.undo()
    assert catalogue.fingerprint() == LookBench(write(tmp_path, files))().fingerprint()


def test_the_config_keeps_the_splits(tmp_path):
    cfg = compose("data", ["data=lookbench", f"data.catalogue.path={write(tmp_path, tiny())}"])
    catalogue = load(cfg.data)
    assert catalogue.splits == {"gallery": 16, "query": 8}
    assert set(cfg.data.prompts) - {"default"} <= set(catalogue.attributes)
