"""Options of timm's own, which open addresses, files and folders, are refused wherever they come from."""

import json
import os
import socket

import pytest
import timm
import torch

from helpers.tiny_models import two_tower
from modiste.errors import ModisteError
from modiste.export import export
from modiste.export.inputs import synthetic
from modiste.images.timm import TimmEncoder
from modiste.pretrained.exported import load_exported
from modiste.utils.foreign import weights_alone

OWN = {
    "pretrained_cfg": {"url": "http://127.0.0.1:9/x.pth"},
    "pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x.pth", "hf_hub_id": None, "source": "url"},
    "checkpoint_path": "{outside}/x.pt",
    "cache_dir": "{outside}/made",
    "pretrained_model_args": {},
    "model_cfg": {},
    "pretrained": True,
    "model_name": "resnet18",
}


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A folder outside; nothing in it is opened, and no address is contacted."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("contacted"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    (tmp_path / "x.pt").write_bytes(b"x")
    yield tmp_path
    assert not (tmp_path / "made").exists()


def with_paths(value, outside):
    return json.loads(json.dumps(value).replace("{outside}", str(outside)))


@pytest.mark.parametrize("name", OWN)
def test_an_option_of_timms_own_is_refused(watched, name):
    options = {name: with_paths(OWN[name], watched)}
    for call in (
        lambda: TimmEncoder("test_resnet", pretrained=True, options=options),
        lambda: TimmEncoder.validate_config({"name": "test_resnet", "options": options}, {}),
    ):
        with pytest.raises(ModisteError, match=rf"image\.options\.{name} is not an option of an architecture: remove"):
            call()


def test_an_option_of_the_architecture_is_taken():
    assert TimmEncoder("test_vit", size=160, options={"drop_path_rate": 0.1}).arguments["drop_path_rate"] == 0.1


@pytest.mark.parametrize("change", [*OWN, "architecture", "local"])
def test_an_export_names_neither_files_nor_addresses(watched, change, monkeypatch):
    folder = export(two_tower(), "hub", watched / "out", inputs=synthetic(4)).path
    config = json.loads((folder / "config.json").read_text())
    if change in OWN:
        config["image"]["arguments"] = {change: with_paths(OWN[change], watched)}
    else:
        place = "hf-hub:attacker/x" if change == "architecture" else f"local-dir:{watched}"
        config["image"]["architecture"] = place
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModisteError, match=r"not an option of an architecture|is not the name of an architecture"):
        load_exported(str(folder))


def test_timm_loads_weights_alone_whatever_its_default(tmp_path, monkeypatch):
    """timm's own default was weights_only=False."""
    torch.save({"a": os.system}, tmp_path / "x.pt")
    seen = []

    def create(*_, **__):
        try:
            torch.load(tmp_path / "x.pt", weights_only=False)
        except Exception as error:
            seen.append(str(error))
        raise RuntimeError("stop")

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    with pytest.raises(ModisteError, match="stop"):
        TimmEncoder(f"local-dir:{tmp_path}", pretrained=True)
    assert "weights" in seen[0].lower()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    with weights_alone():
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"
