"""Archives that would unpack into more than memory holds."""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from modiste.embedding.embedder import read_matrix
from modiste.errors import ModisteError
from modiste.pretrained.openclip import read_checkpoint
from modiste.utils import archives
from modiste.utils.archives import check_stored, read_npz
from modiste.utils.foreign import check_folder, check_tensors
from modiste.utils.run_dir import is_intact


def repacked(path: Path) -> Path:
    """The same file, deflated."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, tmp_path / "model.bin")
    return tmp_path / "model.bin"


def test_an_archive_behind_something_else_is_refused(tmp_path, weights):
    """torch.load would read the front, and Lightning's FSDP the pickle of the archive."""
    torch.save({"state_dict": {}}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    both = tmp_path / "both.ckpt"
    both.write_bytes((tmp_path / "old.bin").read_bytes() + weights.read_bytes())
    assert zipfile.is_zipfile(both)
    assert torch.load(both, weights_only=True) == {"state_dict": {}}
    with pytest.raises(ValueError, match="behind something else"):
        check_stored(both)
    assert not is_intact(both)


@pytest.mark.parametrize("old", [False, True])
def test_what_torch_wrote_is_stored(weights: Path, old: bool) -> None:
    if old:
        torch.save({"w": torch.zeros(3)}, weights, _use_new_zipfile_serialization=False)
    check_stored(weights)
    check_folder(weights.parent)
    assert is_intact(weights) is not old


def test_compressed_weights_are_refused_wherever_they_are_read(weights: Path) -> None:
    repacked(weights)
    assert len(torch.load(weights, weights_only=True)["state_dict"]["w"]) == 1000  # torch itself takes them
    with pytest.raises(ValueError, match="it is compressed"):
        check_stored(weights)
    assert not is_intact(weights)
    with pytest.raises(ModisteError, match=r"model\.bin' is refused, as it is compressed.*: save the weights again\."):
        check_folder(weights.parent)
    with pytest.raises(ModisteError, match=r"Cannot load '.*model\.bin': it is compressed"):
        read_checkpoint(weights)
    matrix = weights.with_suffix(".pt")
    torch.save(torch.zeros(2, 3), matrix)
    assert read_matrix(matrix).shape == (2, 3)
    with pytest.raises(ModisteError, match="does not contain a matrix"):
        read_matrix(repacked(matrix))


def hidden_end(content: bytes) -> bytes:
    """A comment that begins like an end: `zipfile` takes it for one, too short, and sees no archive."""
    comment = b"x" * 10 + b"PK\x05\x06" + b"x" * 10
    return content[:-2] + struct.pack("<H", len(comment)) + comment


def second_list(content: bytes) -> bytes:
    """The record before the end stands elsewhere as well, where torch looks for it."""
    place = len(content) - 98
    record, locator, end = content[place : place + 56], content[place + 56 : place + 76], content[-22:]
    return content[:place] + record + record + locator + end


def other_numbers(content: bytes) -> bytes:
    """The end and the record before it name different positions of the list."""
    return content[:-6] + struct.pack("<I", 4) + content[-2:]


@pytest.mark.parametrize("change", [hidden_end, second_list, other_numbers])
def test_an_archive_in_which_readers_find_different_content_is_refused(change, weights: Path) -> None:
    check_stored(weights)
    weights.write_bytes(change(weights.read_bytes()))
    with pytest.raises(ValueError, match=r"end as an archive of torch|two central directories"):
        check_stored(weights)
    assert not is_intact(weights)


def test_torch_reads_an_archive_in_which_zipfile_sees_none(weights: Path) -> None:
    repacked(weights)
    weights.write_bytes(hidden_end(weights.read_bytes()))
    assert not zipfile.is_zipfile(weights)
    assert len(torch.load(weights, weights_only=True)["state_dict"]["w"]) == 1000
    with pytest.raises(ModisteError, match="is refused, as it does not end as an archive of torch does"):
        check_folder(weights.parent)


def test_tensors_hold_as_much_as_they_say(tmp_path: Path) -> None:
    torch.save(torch.zeros(1).expand(2**33), tmp_path / "x.pt")
    with pytest.raises(ModisteError, match="does not contain a matrix"):
        read_matrix(tmp_path / "x.pt")
    torch.save({"w": torch.zeros(1).expand(2**33)}, tmp_path / "x.pt")
    with pytest.raises(ModisteError, match="a tensor has more elements than it stores"):
        read_checkpoint(tmp_path / "x.pt")
    check_tensors([torch.zeros(2, 3).T, torch.zeros(3)[None].expand(1, -1), torch.zeros(()), torch.zeros(0), "x"])
    for tensor in (torch.zeros(3, device="meta"), torch.sparse_coo_tensor(size=(2**40,))):
        with pytest.raises(ValueError, match="more elements than it stores"):
            check_tensors({"x": (tensor,)})


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """A record of a kilobyte, listed a hundred times."""
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data/0", bytes(1000))
        first = file.filelist[0]
        file.filelist += [first] * 99
    with pytest.raises(ValueError, match="it unpacks into more than its size"):
        check_stored(path)


def npz(path: Path, header: str, size: int) -> Path:
    content = header.ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content + bytes(size))
    return path


def header(shape: str, kind: str = "<f8") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    arrays = {
        "t2i/mrr": np.linspace(0, 1, 7),
        "rank": np.arange(6).reshape(2, 3).T,
        "ok": np.array([True]),
        "0": np.ones(()),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
        found = read_npz(tmp_path / "x.npz")
        assert list(found) == list(arrays)
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_more_than_the_limit_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npz(tmp_path / "x.npz", header("(125000,)"), 10**6)
    assert len(read_npz(path)["x"]) == 125_000
    monkeypatch.setattr(archives, "LIMIT", 10**6)
    with pytest.raises(ValueError, match=r"it unpacks into .* GiB"):
        read_npz(path)


@pytest.mark.parametrize(
    "head",
    [
        header("(100000000000,)"),
        header("(1,)"),
        header("(2, 1000000000)"),
        header("(100000000000,)", "<U0"),
        header("(10,)", "|O"),
        "x",
    ],
)
def test_a_header_that_promises_other_content_is_refused(head: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"header|Object|malformed"):
        read_npz(npz(tmp_path / "x.npz", head, 80))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "text", "empty", "missing"])
def test_what_is_no_archive_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    makers = {
        "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir,
        "text": lambda: path.write_text("x"), "empty": path.touch, "missing": lambda: shutil.rmtree(path, True),
    }  # fmt: skip
    makers[kind]()  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"regular file|zip file"):
        read_npz(path)
