"""What a fresh attacker put into model folders and repositories: each case ran code, asked a host or opened a file."""

import hashlib
import http.server
import json
import shutil
import threading

import pytest
import torch

from helpers.tiny_export import towers
from helpers.tiny_openclip import CLIP, save
from modiste.errors import ModisteError
from modiste.export import export
from modiste.export.inputs import synthetic
from modiste.pretrained.exported import load_exported
from modiste.pretrained.openclip import OpenClipDualEncoder
from modiste.texts.hf import HfTextEncoder, random_trunk

BERT = {"model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": 512}  # fmt: skip
FIRST, SECOND = "1" * 40, "2" * 40


def edit(file, **values):
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(content | values))


class Hub(http.server.BaseHTTPRequestHandler):
    """A stand-in for the hub: notes every request, and a push happens once weights were downloaded."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        server = self.server
        server.requests.append(f"{self.command} {self.path}")
        place = self.path.split("?")[0]
        if place.startswith("/api/models/attacker/x"):
            commit = place.split("/revision/")[1] if "/revision/" in place else server.commit
            commit = server.commit if commit == "main" else commit
            names = [] if "/tree/" in place else [{"rfilename": name} for name in server.commits[commit]]
            body = {"_id": "1", "id": "attacker/x", "modelId": "attacker/x", "sha": commit, "private": False,
                    "gated": False, "disabled": False, "tags": [], "downloads": 1, "likes": 0,
                    "siblings": names}  # fmt: skip
            if "/tree/" in place:
                body = [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in server.commits[commit].items()
                ]
            return self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        if place.startswith("/attacker/x/resolve/"):
            commit, name = place.split("/", 5)[4:]
            commit = server.commit if commit == "main" else commit
            content = server.commits[commit].get(name)
            if content is not None:
                self.send(200, content, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
                if self.command == "GET" and name.endswith((".safetensors", ".bin")):
                    server.commit = SECOND
                return None
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})

    do_GET = do_HEAD = do_POST = answer  # noqa: N815

    def send(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A listener at the address of the hub; the libraries may reach it."""
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.commits, server.commit = [], {}, FIRST
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    monkeypatch.setenv("HF_ENDPOINT", address)
    yield server
    server.shutdown()
    server.server_close()


def one_former(folder):
    kind = {"image_processor_type": "OneFormerImageProcessor", "feature_extractor_type": None}
    edit(folder / "preprocessor_config.json", **kind, class_info_file="vocab.json", repo_path="attacker/collects")


def backbone(folder):
    edit(folder / "config.json", model_type="vision-text-dual-encoder", text_config=BERT,
         vision_config={"model_type": "zoedepth", "backbone": "attackersrepo"})  # fmt: skip


def my_t5(folder):
    (folder / "tokenizer.json").unlink()
    edit(folder / "tokenizer_config.json", tokenizer_class="MyT5Tokenizer")
    edit(folder / "byte_maps.json", decompose_map="/dev/zero", merge_map={})


def any_class(folder):
    edit(folder / "preprocessor_config.json", image_processor_type="AutoModelForCausalLM", feature_extractor_type=None)
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.M", "AutoConfig": "evil.C"})


def other_class_of_a_tokenizer(folder):
    edit(folder / "config.json", tokenizer_class="AutoModel")


def light_glue(folder):
    detector = {"model_type": "x1", "_name_or_path": "notes.txt"}
    vision = {"model_type": "lightglue", "keypoint_detector_config": detector}
    edit(folder / "config.json", model_type="vision-text-dual-encoder", text_config=BERT, vision_config=vision)


def name_of_a_part(folder):
    edit(folder / "config.json", vision_config={"model_type": "clip_vision_model", "_name_or_path": "notes.txt"})


def code_of_a_tokenizer(folder):
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})


CASES = {
    one_former: "image_processor_type=OneFormerImageProcessor of .* is not a class that Modiste reads: save",
    backbone: "model_type=zoedepth of .* is not an encoder that Modiste reads: use|is not the name of an architecture",
    my_t5: "tokenizer_class=MyT5Tokenizer",
    any_class: "image_processor_type=AutoModelForCausalLM",
    other_class_of_a_tokenizer: "tokenizer_class=AutoModel",
    light_glue: "model_type=(x1|lightglue)",
    name_of_a_part: "_name_or_path of a part of .* names another model: remove it",
    code_of_a_tokenizer: "auto_map of .* names code, which is refused: remove it",
}


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_a_folder_is_refused_before_a_library_reads_it(change, clip_dir, tmp_path, hub, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    folder = shutil.copytree(clip_dir, tmp_path / "evil")
    change(folder)
    for load in (load_exported, HfTextEncoder):
        with pytest.raises(ModisteError, match=CASES[change]):
            load(str(folder))
    assert not hub.requests


@pytest.mark.parametrize("kind", ["zoedepth", "lightglue", "oneformer", "timm_backbone", ["bert"]])
def test_a_text_config_of_a_run_is_a_text_encoders(kind, hub):
    with pytest.raises(ModisteError, match="is not an encoder that Modiste reads"):
        random_trunk({"model_type": kind, "hidden_size": 32})
    assert not hub.requests


def test_no_host_is_asked_about_a_folder_even_by_a_class_that_would(clip_dir, tmp_path, hub, monkeypatch):
    """The second line: a processor that asks the hub, and that the list let pass."""
    from modiste.utils import families

    folder = shutil.copytree(clip_dir, tmp_path / "evil")
    one_former(folder)
    monkeypatch.setattr(families, "IMAGE_PROCESSORS", families.IMAGE_PROCESSORS | {"OneFormerImageProcessor"})
    with pytest.raises(ModisteError, match="Cannot load"):
        load_exported(str(folder))
    assert not hub.requests


@pytest.mark.parametrize("format", ["transformers", "sentence_transformers", "open_clip"])
def test_an_export_hands_on_no_code_of_the_models(format, tmp_path, monkeypatch):
    """A tokenizer's ``auto_map`` was saved, and the export read back with ``trust_remote_code``."""
    model = towers(tmp_path / "bert", resize="squash")
    canary = tmp_path / "ran"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "tok.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    model.tokenizer.tokenizer.init_kwargs["auto_map"] = {"AutoTokenizer": ["code--tok.T"] * 2}
    model.text.trunk.config.auto_map = {"AutoModel": "code--tok.M"}
    folder = export(model, format, tmp_path / "out", inputs=synthetic(4)).path
    assert not canary.exists()
    assert "code--tok" not in "".join(file.read_text() for file in folder.rglob("*.json"))
    assert load_exported(str(folder)).embed_dim


def test_a_repository_is_loaded_at_the_commit_that_was_checked(tmp_path, hub):
    """A push meanwhile named a tokenizer with code."""
    made = tmp_path / "made"
    made.mkdir()
    save(made, CLIP)
    hub.commits[FIRST] = {file.name: file.read_bytes() for file in made.iterdir()}
    config = json.loads((made / "open_clip_config.json").read_text())
    options = {"trust_remote_code": True}
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "attacker/x", "tokenizer_kwargs": options}
    hub.commits[SECOND] = hub.commits[FIRST] | {
        "open_clip_config.json": json.dumps(config).encode(),
        "tokenizer_config.json": b'{"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", null]}}',
        "evil.py": f"open({str(tmp_path / 'ran')!r}, 'w')".encode(),
    }
    assert OpenClipDualEncoder("hf-hub:attacker/x").embed_dim == 16
    assert hub.commit == SECOND
    assert not (tmp_path / "ran").exists()
    asked = [request for request in hub.requests if "/resolve/" in request]
    assert asked
    assert all(f"/resolve/{FIRST}/" in request for request in asked)
    with pytest.raises(ModisteError, match=r"remote code|names code"):
        OpenClipDualEncoder("hf-hub:attacker/x")
    assert not (tmp_path / "ran").exists()


def test_timm_loads_the_commit_that_was_checked(monkeypatch):
    import timm

    from modiste.images import timm as images

    monkeypatch.setattr(images, "check_hub", lambda repository, revision: FIRST)
    asked = []

    def create(name, **options):
        asked.append(name)
        raise ValueError("enough")

    monkeypatch.setattr(timm, "create_model", create)
    for name in ("hf-hub:a/b", "hf-hub:a/b@main"):
        with pytest.raises(ModisteError, match="enough"):
            images.TimmEncoder(name)
    assert asked == [f"hf-hub:a/b@{FIRST}"] * 2


@pytest.mark.parametrize("value", [True, "x", ["x"]])
def test_an_option_of_open_clips_tokenizer_is_known_or_a_number(value, tmp_path):
    save(tmp_path, CLIP)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"fetch": value}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModisteError, match=r"tokenizer_kwargs\.fetch of .* is refused"):
        OpenClipDualEncoder(str(tmp_path))


def test_the_hub_is_back_after_folders_were_read_by_several_threads():
    from huggingface_hub import constants
    from transformers import dynamic_module_utils

    from modiste.utils.hub import without_code

    before = constants.HF_HUB_OFFLINE, dynamic_module_utils.TIME_OUT_REMOTE_CODE
    first, second = without_code(), without_code()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # the other still reads
    assert (constants.HF_HUB_OFFLINE, dynamic_module_utils.TIME_OUT_REMOTE_CODE) == (True, 0)
    second.__exit__(None, None, None)
    assert before == (constants.HF_HUB_OFFLINE, dynamic_module_utils.TIME_OUT_REMOTE_CODE)


def test_weights_of_a_few_bytes_are_refused(clip_dir, tmp_path):
    """A tensor of stride 0 is 4 bytes in the file."""
    folder = shutil.copytree(clip_dir, tmp_path / "evil")
    torch.save({"logit_scale": torch.zeros(1).expand(2**33)}, folder / "pytorch_model.bin")
    with pytest.raises(ModisteError, match="a tensor has more elements than it stores: save the weights again"):
        load_exported(str(folder))
