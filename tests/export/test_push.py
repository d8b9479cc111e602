"""Uploads, by a fake of the hub's client: nothing here reaches a network."""

import errno
import json
import os
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

from helpers.tiny_models import two_tower
from modiste.errors import ModisteError
from modiste.export import export
from modiste.export.inputs import synthetic
from modiste.export.push import network_errors, push


class FakeApi:
    """Records what it was asked; keeps the files of an upload."""

    def __init__(self):
        self.calls, self.files, self.error = [], {}, None

    def create_repo(self, repo_id, **options):
        if self.error:
            raise self.error
        self.calls.append(("create_repo", repo_id, options))
        return f"https://hub.example/{repo_id}"

    def create_branch(self, repo_id, branch, exist_ok):
        self.calls.append(("create_branch", repo_id, branch))

    def upload_folder(self, repo_id, folder_path, commit_message, revision):
        self.calls.append(("upload_folder", repo_id, commit_message, revision))
        self.files = {p.relative_to(folder_path).as_posix(): p.read_bytes() for p in folder_path.rglob("*.*")}


@pytest.fixture
def api(monkeypatch):
    fake = FakeApi()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export(two_tower(), "hub", tmp_path_factory.mktemp("export") / "out", inputs=synthetic(4)).path


def test_a_folder_is_uploaded_whole_to_a_private_repository_in_one_commit(api, folder):
    assert push(folder, "somebody/model") == "https://hub.example/somebody/model"
    assert api.calls[0] == ("create_repo", "somebody/model", {"private": True, "exist_ok": True, "repo_type": "model"})
    assert [call[0] for call in api.calls] == ["create_repo", "upload_folder"]
    assert {"README.md", "config.json", "model.safetensors", "modiste.json", "samples.png"} <= set(api.files)


def test_a_branch_is_made_where_one_is_asked_for(api, folder):
    push(folder, "somebody/model", private=False, message="the first", revision="v1")
    assert api.calls[1:] == [
        ("create_branch", "somebody/model", "v1"),
        ("upload_folder", "somebody/model", "the first", "v1"),
    ]


def test_open_clip_learns_where_its_text_encoder_will_be_and_the_folder_stays_as_it_is(api, tmp_path):
    (tmp_path / "modiste.json").write_text('{"format": "open_clip", "modiste": "1"}')
    (tmp_path / "config.json").write_text("{}")
    own = json.dumps({"model_cfg": {"text_cfg": {"hf_model_name": "/here", "hf_tokenizer_name": "/here"}}})
    (tmp_path / "open_clip_config.json").write_text(own)
    push(tmp_path, "somebody/model")
    sent = json.loads(api.files["open_clip_config.json"])["model_cfg"]["text_cfg"]
    assert set(sent.values()) == {"somebody/model"}
    assert (tmp_path / "open_clip_config.json").read_text() == own


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OfflineModeIsEnabled("offline"), "cannot be reached: upload from a machine with network"),
        (ConnectionError("no route"), "cannot be reached"),
        (network_errors()[0]("no answer"), "cannot be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be uploaded: .*No space left on device"),
        (LocalTokenNotFoundError("none"), "Not logged in to the model hub: run `hf auth login`"),
    ],
)
def test_what_goes_wrong_is_a_sentence(api, folder, error, sentence):
    api.error = error
    with pytest.raises(ModisteError, match=sentence):
        push(folder, "somebody/model")


def test_a_bug_of_ours_is_no_network_that_is_down(api, folder):
    api.error = KeyError("a bug")
    with pytest.raises(KeyError, match="a bug"):
        push(folder, "somebody/model")


def test_a_refusal_of_the_hub_names_the_repository(api, folder):
    from huggingface_hub.errors import HfHubHTTPError

    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.response = SimpleNamespace(status_code=403)
    api.error = error
    with pytest.raises(ModisteError, match="does not let this token write to somebody/model"):
        push(folder, "somebody/model")


def test_names_and_folders_are_checked_before_anything_is_sent(api, folder, tmp_path):
    with pytest.raises(ModisteError, match=r"is not an export of modiste: it has no modiste.json"):
        push(tmp_path, "somebody/model")
    with pytest.raises(ModisteError, match="repo_id=model is not the name of a repository: write owner/name"):
        push(folder, "model")
    assert not api.calls


@pytest.mark.parametrize("format", ["hub", "open_clip"])  # of open_clip a copy is sent
@pytest.mark.parametrize("place", ["notes.txt", "onnx/notes.txt", "onnx"])
def test_what_a_link_leads_to_is_never_sent(api, tmp_path, format, place):
    folder, outside = tmp_path / "out", tmp_path / "outside"
    for path in (folder / "onnx", outside):
        path.mkdir(parents=True)
    (outside / "secret.txt").write_text("hunter2")
    (folder / "modiste.json").write_text(json.dumps({"format": format, "modiste": "1"}))
    for name in ("config.json", "open_clip_config.json")[: 2 if format == "open_clip" else 1]:
        (folder / name).write_text("{}")
    link = folder / place
    if link.is_dir():
        link.rmdir()
    link.symlink_to(outside if place == "onnx" else outside / "secret.txt")
    with pytest.raises(ModisteError, match=f"'{link}' is a link or not a regular file.*: remove it"):
        push(folder, "somebody/model")
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(ModisteError, match="not a regular file"):
        push(folder, "somebody/model")
    assert not api.calls
