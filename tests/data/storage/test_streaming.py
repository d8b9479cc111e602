"""A stream of shards gives the samples of the catalogue: each once, alike, from any position, on several devices."""

import functools
import io
import json
import shutil
import sys
import tarfile
from collections import Counter

import pytest
import torch
from torchvision.transforms import v2

from helpers.commands import TINY, modiste
from helpers.tiny_data import SPARSE, encoded, inputs, picture
from helpers.watched import watched
from modiste.config import load_config
from modiste.config.stored import check_overrides
from modiste.data.augment import Where
from modiste.data.batches import Batches
from modiste.data.captions import Captions
from modiste.data.catalogue import Card, Catalogue
from modiste.data.fields import Fields
from modiste.data.module import FashionDataModule, check_training
from modiste.data.sources import FolderImages
from modiste.data.splits import GivenSplit
from modiste.data.storage import webdataset
from modiste.data.storage.preprocessed import Preprocessed
from modiste.data.storage.streaming import Stream
from modiste.data.storage.webdataset import Shards, expand, write
from modiste.errors import ModisteError
from modiste.losses.gcl import GclLoss

SHARDS, SAMPLES = 8, 6
COLOURS = ("red", "blue", "")


def sample(number):
    """Image, caption and columns of sample ``number``; two numbers are one product."""
    kind, suffix = (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"))[number % 3]
    image = encoded(picture(number, (20, 24)), kind)
    return suffix, image, f"title {number}", {"product_id": f"p{number // 2}", "colour": COLOURS[number % 3]}


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def members(numbers):
    for number in numbers:
        suffix, image, text, columns = sample(number)
        yield f"{number:04}.{suffix}", image
        yield f"{number:04}.txt", text.encode()
        yield f"{number:04}.json", json.dumps(columns).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight shards of six samples each."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(SHARDS):
        write_tar(folder / f"{shard}.tar", members(range(shard * SAMPLES, (shard + 1) * SAMPLES)))
    return folder


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """The same samples as files and a table."""
    folder = tmp_path_factory.mktemp("files")
    columns = {"product_id": [], "image": [], "text": [], "colour": [], "split": []}
    for number in range(SHARDS * SAMPLES):
        suffix, image, text, more = sample(number)
        (folder / f"{number}.{suffix}").write_bytes(image)
        cells = {"image": f"{number}.{suffix}", "text": text, "split": "train", **more}
        for name, values in columns.items():
            values.append(cells[name])
    return Catalogue.build(Card("files"), columns, FolderImages(folder))


def data(catalogue, shards, batches=6, buffer=10, **options):
    stream = Stream(str(shards), batches, buffer) if shards else None
    settings = {"batch_size": 8, "num_workers": 0, "captions": Captions(["{text}"])} | options
    return FashionDataModule(catalogue, inputs(16), stream=stream, **settings)


def loader(module, rank=0, world=1):
    module._process = lambda: (rank, world)
    made = module.train_dataloader()
    made.position = lambda: {"epoch": 0, "batch": 0}
    return made


def epoch(made, number=0):
    made.batch_sampler.set_epoch(number)
    return list(made)


def texts(batches):
    return [text for batch in batches for text in batch["texts"]]


def by_text(batches):
    """Text → (pixels, product) of every pair."""
    rows = [zip(b["texts"], b["pixels"], b["product"].tolist(), strict=True) for b in batches]
    return {text: (pixels, product) for row in rows for text, pixels, product in row}


EVERY = sorted(f"title {number}" for number in range(SHARDS * SAMPLES))


def test_an_epoch_has_the_pixels_captions_and_products_of_the_catalogue(folder, catalogue):
    streamed = by_text(epoch(loader(data(catalogue, folder / "{0..7}.tar"))))
    plain = by_text(epoch(loader(data(catalogue, None))))
    assert sorted(streamed) == sorted(plain) == EVERY
    assert all(torch.equal(streamed[text][0], plain[text][0]) for text in EVERY)
    assert streamed["title 0"][0].dtype == torch.uint8
    same = {(a, b) for a in EVERY for b in EVERY if streamed[a][1] == streamed[b][1]}
    assert same == {(a, b) for a in EVERY for b in EVERY if plain[a][1] == plain[b][1]}


@pytest.mark.parametrize("workers", [0, 2])
def test_two_devices_and_their_workers_see_every_sample_once(workers, folder, catalogue):
    for number in range(2):
        parts = [
            epoch(loader(data(catalogue, folder / "*.tar", num_workers=workers), rank, 2), number) for rank in range(2)
        ]
        assert [len(batch["texts"]) for part in parts for batch in part] == [4] * 12
        assert sorted(texts(parts[0]) + texts(parts[1])) == EVERY


def test_seed_and_epoch_decide_the_order(folder, catalogue):
    made = loader(data(catalogue, folder / "*.tar"))
    first, second = texts(epoch(made, 0)), texts(epoch(made, 1))
    assert first == texts(epoch(made, 0)) == texts(epoch(loader(data(catalogue, folder / "*.tar"))))
    assert (
        len({tuple(first), tuple(second), tuple(texts(epoch(loader(data(catalogue, folder / "*.tar", seed=1)))))}) == 3
    )
    unshuffled = texts(epoch(loader(data(catalogue, folder / "*.tar", buffer=1))))
    runs = [[int(text.split()[1]) for text in unshuffled[i : i + SAMPLES]] for i in range(0, 48, SAMPLES)]
    assert all(run == list(range(run[0], run[0] + SAMPLES)) for run in runs)
    assert runs != sorted(runs)


NOISY = {
    "captions": Captions(["{text}", "{colour} {text}"]),
    "augment": [v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.5)],
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 2, 4])
def test_a_resumed_epoch_goes_on_with_the_samples_that_are_left(start, workers, folder, catalogue, tmp_path):
    (tmp_path / "0.tar").write_bytes((folder / "0.tar").read_bytes())
    broken = list(members(range(6, 48)))
    broken[0] = (broken[0][0], broken[0][1][:60])  # a sample that is dropped moves the others
    write_tar(tmp_path / "1.tar", broken)
    settings = {"num_workers": workers, "batches": 5, **NOISY}
    whole = loader(data(catalogue, tmp_path / "*.tar", **settings))
    batches, state = [], None
    whole.batch_sampler.set_epoch(3)
    for batch in whole:
        batches.append(batch)
        if len(batches) == start:
            whole.position = lambda: {"epoch": 3, "batch": start}
            state = json.loads(json.dumps(whole.state_dict()))
    resumed = loader(data(catalogue, tmp_path / "*.tar", **settings))
    resumed.load_state_dict(state)
    rest = epoch(resumed, 3)
    assert len(rest) == 5 - start
    for ours, theirs in zip(rest, batches[start:], strict=True):
        assert ours["texts"] == theirs["texts"]
        assert torch.equal(ours["pixels"], theirs["pixels"])
        assert torch.equal(ours["product"], theirs["product"])


def test_another_number_of_workers_is_said_when_resuming(folder, catalogue, caplog):
    made = loader(data(catalogue, folder / "*.tar", num_workers=2))
    made.load_state_dict({"epoch": 0, "batch": 3, "taken": [[24]]})
    assert made.batch_sampler.skip == [16, 8]
    assert "another number of devices or workers" in caplog.text
    made.load_state_dict({"epoch": 0, "batch": 6, "taken": [[48, 0]]})  # at the end of an epoch: the next, whole
    assert sorted(texts(epoch(made, 1))) == EVERY


def test_captions_and_fields_are_templates_over_the_json(folder, catalogue):
    drawn = texts(epoch(loader(data(catalogue, folder / "*.tar", **NOISY))))
    assert {text.partition("title")[0] for text in drawn} == {"", "red ", "blue "}
    assert not any(text.startswith(("red", "blue")) for text in drawn if int(text.split()[-1]) % 3 == 2)
    fields = Fields({"title": {"template": "{text}"}, "colour": {"template": "{colour}", "weight": 0.5}})
    batch = epoch(loader(data(catalogue, folder / "*.tar", fields=fields)))[0]
    assert batch["fields"]["weight"].tolist() == [1.0, 0.5]
    colours = dict(zip(batch["texts"], batch["fields"]["index"][:, 1].tolist(), strict=True))
    assert all((index == -1) == (int(text.split()[1]) % 3 == 2) for text, index in colours.items())
    listed = Fields({"colour": {"template": "{colour}", "vocabulary": True}})
    with pytest.raises(ModisteError, match=r"data\.fields\.colour\.vocabulary needs all texts of a catalogue"):
        check_training(data(catalogue, folder / "*.tar", fields=listed), GclLoss())
    by_caption = epoch(loader(data(catalogue, folder / "*.tar", positives="caption", captions=Captions(["{colour}"]))))
    assert len({product for b in by_caption for product in b["product"].tolist()}) == 3


def test_augmentation_and_captions_change_from_epoch_to_epoch(folder, catalogue):
    made = loader(data(catalogue, folder / "*.tar", augment=NOISY["augment"]))
    first, second = by_text(epoch(made, 0)), by_text(epoch(made, 1))
    assert sum(not torch.equal(first[text][0], second[text][0]) for text in EVERY) > 40


def test_columns_may_have_other_names_and_the_key_stands_for_a_product(tmp_path, catalogue):
    suffix, image, *_ = sample(0)
    rows = [{"caption": ["a hat", "headgear"], "hue": "red"}, {"caption": "a bag", "price": 2.0}]
    parts = [[(f"{i}.{suffix}", image), (f"{i}.json", json.dumps(row).encode())] for i, row in enumerate(rows)]
    write_tar(tmp_path / "0.tar", [member for part in parts for member in part])
    columns = {"text": "caption", "colour": "hue"}
    module = data(catalogue, tmp_path / "0.tar", batch_size=2, captions=Captions(["{text} {colour} {price}"]))
    module.stream = Stream(str(tmp_path / "0.tar"), 1, 1, columns)
    (batch,) = epoch(loader(module))
    assert sorted(batch["texts"]) == ["a bag 2", "a hat red"]
    assert len(set(batch["product"].tolist())) == 2
    held = Shards(str(tmp_path / "0.tar"), columns)()
    assert (held.column("product_id"), held.column("text_2")) == (["0.tar/0", "0.tar/1"], ["headgear", ""])


def test_damaged_samples_are_excluded_counted_and_named(tmp_path, catalogue, caplog):
    good = list(members(range(6)))
    whole = [m for n in (0, 1, 2) for m in good[3 * n : 3 * n + 3]]
    bad = [("a.png", good[0][1][:50]), ("a.txt", b"cut"), ("b.txt", b"no image"), ("c.png", good[0][1])]
    bad += [("d.png", good[0][1]), ("d.txt", b"  "), ("e.png", good[0][1]), ("e.txt", b"\xff\xfe"), ("f.json", b"{")]
    write_tar(tmp_path / "0.tar", whole + bad)
    content = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(content[:2000])  # in the midst of the first samples
    batches = epoch(loader(data(catalogue, tmp_path / "*.tar", batches=1, batch_size=3)))
    assert sorted(texts(batches)) == ["title 0", "title 1", "title 2"]
    (told,) = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    for part in ("unreadable image (0.tar/a)", "0.tar/b", "0.tar/d", "0.tar/e", "0.tar/f", "1.tar", "3 of "):
        assert part in told


def test_a_share_that_ends_early_begins_again_and_says_so(folder, catalogue, caplog):
    batches = epoch(loader(data(catalogue, folder / "[01].tar", batches=3)))
    counts = Counter(texts(batches))
    assert (len(counts), sum(counts.values())) == (12, 24)
    assert "restarts: lower data.stream.batches" in caplog.text
    caplog.clear()
    assert len(set(texts(epoch(loader(data(catalogue, folder / "[01].tar", batches=1)))))) == 8
    assert not caplog.records


def test_shards_as_a_catalogue_are_the_files(folder, catalogue):
    held = Shards(str(folder / "{0..7}.tar"))()
    assert held.attributes == catalogue.attributes
    for name in ("product_id", "text", "pixels", "colour"):
        assert held.column(name) == catalogue.column(name)
    assert held.read_image(3).tobytes() == catalogue.read_image(3).tobytes()


def test_commands_are_run_only_where_they_are_trusted(folder, catalogue, monkeypatch, tmp_path):
    with pytest.raises(ModisteError, match="MODISTE_ALLOW=pipe"):
        expand(f"pipe:cat {folder}/{{0..7}}.tar", "data.stream.shards")
    monkeypatch.setenv("MODISTE_ALLOW", "pipe")
    piped = epoch(loader(data(catalogue, f"pipe:cat {folder}/{{0..7}}.tar")))
    assert sorted(texts(piped)) == EVERY
    assert (
        len(epoch(loader(data(catalogue, f"pipe:cat {folder}/{{0..7}}.tar", batches=1)))) == 1
    )  # and is not waited for
    with pytest.raises(ModisteError, match=r"missing\.tar cannot be read \(exit 1\)"):
        data(catalogue, f"pipe:cat {tmp_path}/missing.tar").stream.check(["text"])


CHECK = functools.partial(Stream, batches=1)
ADDRESSES = (
    "http://127.0.0.1:9/{0..1}.tar", "https://127.0.0.1:9/0.tar", "gs://a/0.tar", "s3://a/0.tar", "hf://a/b/0.tar",
    "ais://a/0.tar", "sftp://127.0.0.1:9/0.tar", "ftps://127.0.0.1:9/0.tar", "scp://127.0.0.1/0.tar", "HTTP://127.0.0.1:9/0.tar",
    "file:{outside}/0.tar", "file://{outside}/0.tar", "htgs:a/0.tar", "-",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_address_is_opened_without_leave(address, catalogue, monkeypatch, tmp_path):
    monkeypatch.delenv("MODISTE_ALLOW", raising=False)
    write_tar(tmp_path / "0.tar", members([0]))
    with watched(tmp_path) as found:
        shards = address.replace("{outside}", str(tmp_path))
        for act in (
            CHECK(shards).check, lambda _: loader(data(catalogue, shards)), lambda _: Shards(shards)(),
            CHECK([shards, "pipe:id"]).check,
        ):  # fmt: skip
            with pytest.raises(ModisteError):
                act([])
    assert found == []


def test_leave_for_addresses_is_named_and_is_for_http_alone(monkeypatch):
    monkeypatch.delenv("MODISTE_ALLOW", raising=False)
    with pytest.raises(ModisteError, match=r"set data\.stream\.download=true on the command line"):
        CHECK("http://127.0.0.1:9/0.tar").check([])
    assert CHECK("http://127.0.0.1:9/{0..1}.tar", download=True).urls[1] == "http://127.0.0.1:9/1.tar"
    for other in ("gs://a/0.tar", "file:///0.tar", "pipe:id"):
        with pytest.raises(ModisteError):
            CHECK(other, download=True).check([])
    with pytest.raises(TypeError):
        Stream("http://127.0.0.1:9/0.tar", 1, 1, {}, True)


def test_a_stored_run_gives_no_leave(tmp_path):
    stored = tmp_path / "config.yaml"
    stored.write_text("data: {stream: {shards: 'http://127.0.0.1:9/0.tar', download: true}}\n")
    assert load_config(stored).data.stream.download is False
    assert check_overrides(["data.stream.download=true", "++data.stream.download=true"], "overrides.yaml") == []
    with pytest.raises(ModisteError, match="may not permit downloads"):
        check_overrides(["data.stream={shards: 'http://127.0.0.1:9/0.tar', download: true}"], "overrides.yaml")


def test_braces_without_end_are_refused():
    with pytest.raises(ModisteError, match="more than 1,000,000 shards"):
        CHECK("http://127.0.0.1:9/{0..99999999999}.tar", download=True).check([])


def test_members_that_are_no_files_or_too_large_are_skipped(catalogue, monkeypatch, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "0.png").write_bytes(encoded(picture(0)))
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number, (kind, target) in enumerate(
            [(tarfile.SYMTYPE, str(secret / "0.png")), (tarfile.LNKTYPE, str(secret / "0.png")), (tarfile.CHRTYPE, ""),
             (tarfile.FIFOTYPE, ""), (tarfile.SYMTYPE, "../secret/0.png")]
        ):  # fmt: skip
            info = tarfile.TarInfo(f"{number}.png")
            info.type, info.linkname = kind, target
            tar.addfile(info)
        for name, content in [("../../a.png", encoded(picture(1))), ("../../a.txt", b"up"), ("/b.txt", b"x" * 300_000),
                              ("/b.png", encoded(picture(2))), ("c.json", b"[" * 100_000)]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(webdataset, "MAX_BYTES", 200_000)
    with watched(secret) as found:
        notes = []
        samples = list(webdataset.read_shard(str(tmp_path / "0.tar"), notes.append))
        catalogue = Shards(str(tmp_path / "0.tar"))()
    assert found == []
    assert [sample["__key__"] for sample in samples] == ["../../a", "/b", "c"]
    assert notes == [f"{tmp_path / '0.tar'}: /b.txt is larger than 200,000 bytes"]
    with pytest.raises(ValueError, match="nested too deeply"):
        webdataset.read_columns(samples[2])
    assert catalogue.column("text") == ["up"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "secret"]


def test_a_key_takes_no_more_memory_than_its_image_text_and_json(tmp_path):
    """Sparse members of 512 bytes unpacked into 256 MB each, and a key may have any number of files."""
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, headers in [
            ("0.jpg", SPARSE), ("0.txt", {}), ("1.0.jpg", {}), ("1.1.jpg", {}), ("1.png", {}), ("2.0.jpg", {}),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = 0 if headers else 5, headers
            tar.addfile(info, io.BytesIO(b"a hat"))
    samples = [
        {suffix: content for suffix, content in sample.items() if not suffix.startswith("__")}
        for sample in webdataset.read_shard(str(tmp_path / "0.tar"), pytest.fail)
    ]
    assert samples == [{"txt": b"a hat"}, {"0.jpg": b"", "1.jpg": b"", "png": b"a hat"}, {"0.jpg": b""}]
    assert [set(sample) - {"__key__", "__url__"} for sample in webdataset._index(str(tmp_path / "0.tar"))] == [
        set(sample) for sample in samples
    ]


def test_the_shards_of_a_catalogue_hold_it_and_writing_them_goes_on(catalogue, tmp_path):
    given = catalogue.replace_column("split", ["val" if row < 8 else "train" for row in range(len(catalogue))])

    def stop_after_one(items, total, title):
        for index, item in enumerate(items):
            if index == 1:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        write(given, tmp_path, shard_rows=16, progress=stop_after_one)
    assert write(given, tmp_path, shard_rows=16) == 3
    first = (tmp_path / "train-00001.tar").read_bytes()
    (tmp_path / "train-00001.tar").write_bytes(first[:-600])
    assert write(given, tmp_path, shard_rows=16) == 1
    assert (tmp_path / "train-00001.tar").read_bytes() == first
    with pytest.raises(ModisteError, match="format=pixels"):
        Preprocessed(str(tmp_path))()
    with pytest.raises(ModisteError, match="shard_rows differs"):
        write(given, tmp_path, shard_rows=17)
    again = GivenSplit()(Shards([str(tmp_path / "*.tar")])())
    assert again.splits == {"train": 40, "val": 8}
    order = sorted(range(48), key=lambda row: int(again.column("text")[row].split()[1]))
    for name in ("product_id", "text", "pixels", "colour"):
        assert again.select(rows=order).column(name) == given.column(name)
    streamed = epoch(loader(data(again, tmp_path / "train-*.tar", batches=5)))
    assert sorted(texts(streamed)) == sorted(again.select(split="train").column("text"))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda f, c: Stream(str(f)), r"data\.stream\.batches is missing"),
        (lambda f, c: CHECK(str(f), buffer=0), "buffer=0 must be at least 1"),
        (lambda f, c: CHECK(f"{f}/{{6..9}}.tar").check([]), r"2 of 4 shards do not exist \(.*8\.tar"),
        (lambda f, c: CHECK(f"{f}/x*.tar").check([]), "names none"),
        (lambda f, c: CHECK(f"{f}/{{0..7.tar").check([]), "Unbalanced braces: .*: close the braces"),
        (lambda f, c: CHECK(f"{f}/0.tar", columns={"text": "caption"}).check([]), "no column 'caption' for text"),
        (lambda f, c: CHECK(f"{f}/0.tar").check(["color"]), "no column 'color'. Did you mean 'colour'"),
        (lambda f, c: CHECK("x://y.tar").check([]), "neither a path nor an http"),
        (lambda f, c: loader(data(c, f"{f}/0.tar"), 0, 2), "too few for 2 devices"),
        (lambda f, c: loader(data(c, f"{f}/*.tar", batch_size=9), 0, 2), "multiple of 2"),
        (lambda f, c: data(c, f"{f}/*.tar", limit=4), "remove data.limit and data.batches"),
        (lambda f, c: data(c, f"{f}/*.tar", augment=[Where("colour", "", [])]), "data.augment has Where, which needs"),
        (lambda f, c: data(c, f"{f}/*.tar", batches=2, feature_cache=object()), "features.cache"),
        (lambda f, c: Shards("https://example.org/0.tar")(), "is not a local file"),
        (lambda f, c: Shards(f"{f}/0.tar", {"text": "titel"})(), "data.catalogue.columns: .* no column 'titel'"),
    ],
)
def test_mistakes_are_one_sentence(act, message, folder, catalogue):
    with pytest.raises(ModisteError, match=message):
        act(folder, catalogue)


def test_an_order_of_batches_is_refused(folder, catalogue):
    stream = Stream(str(folder / "*.tar"), 1)
    with pytest.raises(ModisteError, match=r"and data\.batches"):
        FashionDataModule(catalogue, inputs(16), stream=stream, batches=Batches(group_by="colour"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_vanishes_is_one_sentence(workers, folder, catalogue, tmp_path):
    for shard in range(2):
        (tmp_path / f"{shard}.tar").write_bytes((folder / f"{shard}.tar").read_bytes())
    made = loader(data(catalogue, tmp_path / "*.tar", num_workers=workers))
    (tmp_path / "1.tar").unlink()
    with pytest.raises(ModisteError, match=r"1\.tar cannot be read \(No such file") as error:
        list(made)
    assert "Traceback" not in str(error.value)


def test_shards_without_a_sound_sample_are_one_sentence(catalogue, tmp_path):
    write_tar(tmp_path / "0.tar", [("a.txt", b"no image")])
    with pytest.raises(ModisteError, match=r"no usable training sample .* missing image"):
        list(loader(data(catalogue, tmp_path / "0.tar")))
    write_tar(tmp_path / "1.tar", [("a.cls", b"1")])
    with pytest.raises(ModisteError, match="hold no samples"):
        list(loader(data(catalogue, tmp_path / "1.tar")))
    with pytest.raises(ModisteError, match="holds no samples"):
        CHECK(str(tmp_path / "1.tar")).check([])


def test_without_the_package_the_remedy_is_said(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ModisteError, match=r"pip install 'modiste\[stream\]'"):
        CHECK(str(folder / "0.tar")).check([])


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """Synthetic garments as shards, every eighth picture damaged; and the settings of a training run on them."""
    folder = tmp_path_factory.mktemp("ready")
    source = [setting for setting in TINY if setting.startswith("data.catalogue")]
    words = ["data=synthetic", "data.batch_size=16", "format=webdataset", "shard_rows=32", "out=ready"]
    done = modiste("prepare", *words, *source, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'data.stream.shards=\"ready/train-*.tar\"' data.stream.batches=" in done.stdout
    for shard in (folder / "ready").glob("train-*.tar"):
        with tarfile.open(shard) as tar:
            pictures = [member.offset_data for member in tar if member.name.endswith("png")]
        content = bytearray(shard.read_bytes())
        for offset in pictures[::8]:
            content[offset : offset + 40] = bytes(40)
        shard.write_bytes(content)
    given = [setting for setting in TINY if not setting.startswith(("data=", "data.catalogue"))]
    held = ["data=shards", "data/split=given", "data.catalogue.path=[ready/val-*.tar,ready/test-*.tar]"]
    return folder, [*given, *held, "data.stream.batches=8", "data.stream.buffer=20", "trainer.max_epochs=2"]


@pytest.mark.slow
def test_train_and_evaluate_from_the_command_line(ready):
    folder, settings = ready
    words = [*settings, "data.stream.shards=ready/train-*.tar", "hydra.run.dir=run"]
    run = modiste("train", *words, cwd=folder)
    assert run.returncode == 0, run.stdout + run.stderr
    assert torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 16
    measured = modiste("evaluate", "run=run", "task=retrieval", cwd=folder)
    assert measured.returncode == 0, measured.stdout + measured.stderr
    (result,) = (folder / "run" / "results").glob("*.json")
    assert "stream of shards" in json.loads(result.read_text())["overlap"]["unknown"]
    regions = modiste("train", *words, "term=[regions]", "image.patch_stages=[2,3]", cwd=folder)
    assert regions.returncode == 1
    assert "term.regions needs the training rows in advance, which data.stream does not have" in regions.stderr
    missing = modiste("train", *settings, 'data.stream.shards="ready/train-{00000..00099}.tar"', cwd=folder)
    assert missing.returncode == 1
    assert missing.stderr.startswith("Error: data.stream.shards: ")
    assert "of 100 shards do not exist (ready/train-000" in missing.stderr
    assert len(missing.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_a_run_continued_in_mid_epoch_ends_with_the_same_weights(trainer, ready, tmp_path):
    folder, settings = ready
    words = [*settings, f"trainer={trainer}", "data.num_workers=2", "callbacks.recent.every_n_train_steps=13"]
    words += ["data.stream.shards=ready/train-*.tar", f"hydra.run.dir={tmp_path / 'whole'}"]
    run = modiste("train", *words, cwd=folder)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "unreadable image (train-0000" in run.stdout + run.stderr
    stopped = torch.load(tmp_path / "whole" / "checkpoints" / "recent.ckpt", weights_only=True)
    taken = stopped["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["taken"]
    assert stopped["global_step"] == 13
    assert sum(map(sum, taken)) > 5 * 16, "no damaged picture was met, the comparison says little"
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for name in ("last", "best"):
        (tmp_path / "part" / "checkpoints" / f"{name}.ckpt").unlink()
    continued = modiste("train", f"continue={tmp_path / 'part'}", cwd=folder)
    assert continued.returncode == 0, continued.stdout + continued.stderr
    whole, part = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "part")
    )
    assert whole["global_step"] == part["global_step"] == 16
    assert all(torch.equal(whole["state_dict"][name], part["state_dict"][name]) for name in whole["state_dict"])


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_shards_are_not_unpacked(kind, tmp_path):
    """Two kilobytes of bzip2 with a long name unpacked into gigabytes."""
    with tarfile.open(tmp_path / "0.tar", f"w:{kind}") as tar:
        for name, content in members([0]):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    notes = []
    assert not list(webdataset.read_shard(str(tmp_path / "0.tar"), notes.append))
    assert len(notes) == 1
    assert "0.tar" in notes[0]
