"""As a shop's engineer: a folder of photos and a CSV, indexed, searched, changed and rolled back from the shell."""

import csv
import shutil
import subprocess
import sys

import pytest

from helpers.commands import TOWERS, modiste
from helpers.tiny_data import picture
from modiste.cli import main

MODEL = ["model=two_tower", *TOWERS]
DATA = [
    "data=table",
    "data.catalogue.path=shop.csv",
    "data.catalogue.images=photos",
    "data.catalogue.columns.product_id=sku",
    "data.catalogue.columns.text=title",
    "data.catalogue.columns.image=photo",
]


def write_shop(folder, rows):
    (folder / "photos").mkdir(exist_ok=True)
    with (folder / "shop.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["sku", "title", "photo", "price", "gender"])
        writer.writeheader()
        for row, price in rows:
            name = f"{row}.png"
            if not (folder / "photos" / name).is_file():
                picture(row, (24, 32)).save(folder / "photos" / name)
            writer.writerow(
                {"sku": f"A-{row:02}", "title": f"red shoe, size={row}", "photo": name, "price": price,
                 "gender": "Men" if row % 2 else "Women"}
            )  # fmt: skip


def done(*arguments, cwd):
    result = modiste(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder, [(row, 10 * row) for row in range(12)])
    out = done("index", *MODEL, *DATA, "export_text=false", "out=shop.index", cwd=folder)
    assert "12 added" in out
    return folder


def test_words_filters_and_a_gallery(shop):
    out = done("search", "index=shop.index", "red", "shoe,", "size 40", "where=price < 50 and gender = 'Men'", "k=20",
               "html=out.html", cwd=shop)  # fmt: skip
    assert "A-01" in out
    assert "A-03" in out
    assert "A-05" not in out
    assert "A-02" not in out
    assert "exact over 2 rows" in out
    assert (shop / "out.html").read_text().count("data:image/") == 2


def test_a_photo_and_a_product_find_themselves_and_their_like(shop):
    out = done("search", "index=shop.index", "image=photos/7.png", "k=1", cwd=shop)
    assert "A-07" in out
    out = done("search", "index=shop.index", "like=A-07", "text=blue, long", "minus=[red,shoe]", "k=3", cwd=shop)
    assert "A-07" not in out
    assert "text" in out.splitlines()[0].split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "index=shop.index"], "The query is empty"),
        (["search", "index=shop.indx", "a"], "Did you mean 'shop.index'?"),
        (["search", "index=shop.index", "a", "where=prize < 3"], "Did you mean 'price'?"),
        (["search", "index=shop.index", "a", "html=nowhere/out.html"], "the folder does not exist"),
        (["search", "index=shop.index", "image=nothing.png"], "no such file"),
        (["index", "plam", "index=shop.index"], "Did you mean 'plan'?"),
        (["index", "restore", "index=shop.index"], "needs at=VERSION"),
        (["index", "versions"], "No index given: set index=shop.index"),
        (["index", *DATA, "out=new.index"], "No model given"),
        (["index", *MODEL, *DATA], "needs a folder: out="),
        (["index", *MODEL, "seed=1", *DATA, "out=shop.index"], "embedded by another model: its fingerprint is"),
    ],
)
def test_mistakes_are_one_sentence(shop, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(shop)
    assert main(arguments) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_changes_versions_plan_calibration_and_health(shop):
    write_shop(shop, [(row, 10 * row + (row == 3)) for row in range(1, 14)])
    out = done("index", *DATA, "out=shop.index", "delete_missing=true", cwd=shop)
    assert ("2 added, 1 changed, 1 deleted, 10 unchanged; 2 photos embedded") in out
    versions = done("index", "versions", "index=shop.index", cwd=shop).strip().splitlines()
    assert "2 added, 1 changed, 1 deleted" in versions[-1]
    assert "31" in done("search", "index=shop.index", "shoe", "where=price = 31", "columns=[price]", cwd=shop)
    first = versions[0].split()[0]
    assert "12 rows" in done("index", "index=shop.index", f"at={first}", cwd=shop)
    assert "exact over 1 rows" in done("search", "index=shop.index", "shoe", "where=price = 30", cwd=shop)
    assert "1 deleted, 11 rows left; version " in done("index", "delete", "index=shop.index", "ids=[A-04]", cwd=shop)
    assert "Taken: binary" in done("index", "plan", "index=shop.index", "recall_floor=0.5", cwd=shop)
    assert "Too few pairs" in done("index", "calibrate", "index=shop.index", cwd=shop)
    done("index", "health", "index=shop.index", "out=health", cwd=shop)
    assert {file.name for file in (shop / "health").iterdir()} == {
        "duplicates.csv", "misfits.csv", "attributes.csv", "unfound.csv",
    }  # fmt: skip


@pytest.mark.slow
def test_embeddings_on_disk_make_the_same_index(shop):
    done("embed", *MODEL, *DATA, "out=embedded", "number=1", cwd=shop)
    out = done("index", *MODEL, *DATA, "vectors=embedded", "export_text=false", "out=b.index", cwd=shop)
    assert "0 photos embedded" in out
    done("index", *MODEL, *DATA, "export_text=false", "out=a.index", cwd=shop)
    a, b = (done("search", f"index={name}.index", "shoe", cwd=shop) for name in ("a", "b"))
    assert a == b
    done("index", *DATA, "vectors=embedded/image.npy", "out=c.index", cwd=shop)
    assert "A-" in done("search", "index=c.index", "like=A-02", cwd=shop)
    result = modiste("search", "index=c.index", "shoe", cwd=shop)
    assert "made of embeddings without a model" in result.stderr


@pytest.mark.slow
def test_an_exported_text_tower_answers_without_torch(shop):
    done("index", *MODEL, *DATA, "out=fast.index", cwd=shop)
    assert (shop / "fast.index" / "model" / "text" / "tower.onnx").is_file()
    code = (
        "import sys; from modiste.cli import main; code = main(sys.argv[1:]);"
        "print(*sorted({'torch', 'transformers', 'lancedb', 'lightning', 'pandas'} & set(sys.modules)), 'imported');"
        "sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "search", "index=fast.index", "shoe"], cwd=shop, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "imported"  # none of them
    shutil.rmtree(shop / "fast.index" / "model" / "text")
    assert run.stdout.splitlines()[:-1] == done("search", "index=fast.index", "shoe", cwd=shop).splitlines()
