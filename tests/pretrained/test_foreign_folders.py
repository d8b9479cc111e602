"""A model folder of somebody else's runs no code, opens nothing outside of it and contacts no host."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.tiny_encoders import save_clip
from helpers.tiny_export import towers
from helpers.tiny_models import two_tower
from helpers.tiny_openclip import CLIP, save
from modiste.errors import ModisteError
from modiste.export import export
from modiste.export.inputs import synthetic
from modiste.images.timm import TimmEncoder
from modiste.pretrained.exported import load_exported
from modiste.pretrained.openclip import OpenClipDualEncoder
from modiste.texts.hf import HfTextEncoder
from modiste.texts.words import HashTokenizer
from modiste.utils.foreign import check_hub

EVENTS = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
BERT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 512}
watching: dict[str, list[str]] = {}


def note(event, arguments):
    """An audit hook; none is ever removed, so it notes only while a test watches."""
    for place, found in watching.items():
        if event in EVENTS or (event == "open" and str(arguments[0]).startswith(place)):
            found.append(f"{event}: {arguments[0]}")


sys.addaudithook(note)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with a model; it is not opened, no host is contacted, no process starts and no kernel is fetched."""
    from transformers import modeling_utils

    folder = save_clip(tmp_path / "outside", eos=2)
    (folder / "modules.json").write_text("[]")
    torch.save({}, folder / "x.pt")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", lambda *_, **__: pytest.fail("a kernel"))
    found = watching[str(folder)] = []
    yield folder
    del watching[str(folder)]
    assert not found


def changed(file, **values):
    """Changes keys of a JSON file."""

    def change(folder, outside):
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        content = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(content | values).replace("{out}", str(outside)))

    return change


def linked(file):
    """A link in place of a file."""

    def change(folder, outside):
        (folder / file).unlink()
        (folder / file).symlink_to(outside / file)

    return change


def sharded(folder, outside):
    names = dict.fromkeys(torch.nn.Linear(1, 1).state_dict(), "../outside/model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def piped(folder, outside):
    (folder / "preprocessor_config.json").unlink()
    os.mkfifo(folder / "preprocessor_config.json")


WRAPPED = {"model_type": "timm_wrapper", "architecture": "test_resnet", "model_args": {"checkpoint_path": "{out}/x.pt"}}
PAIR = {"model_type": "vision-text-dual-encoder", "text_config": {"model_type": "bert", **BERT}}
CLIPS = {
    "timm's checkpoint": (changed("config.json", **PAIR, vision_config=WRAPPED), "checkpoint_path"),
    "timm's repository": (
        changed("config.json", **PAIR, vision_config={**WRAPPED, "architecture": "hf-hub:a/b", "model_args": {}}),
        "architecture=hf-hub:a/b",
    ),
    "a kernel": (changed("config.json", _attn_implementation_internal="attacker/kernel"), "code from the model hub"),
    "a renamed kernel": (
        changed("config.json", attribute_map={"x": "_attn_implementation"}, x="attacker/kernel"), "attribute_map"
    ),
    "quantised": (changed("config.json", quantization_config={"quant_method": "fp8"}), "quantises the model"),
    "another kind of model": (changed("config.json", model_type="bert"), "is a BertModel, not a dual encoder"),
    "an adapter": (changed("adapter_config.json", peft_type="LORA", base_model_name_or_path="{out}"), "an adapter"),
    "weights elsewhere": (sharded, "outside the folder"),
    "a vocabulary elsewhere": (changed("tokenizer_config.json", vocab_file="{out}/x.pt"), "outside the folder"),
    "a dictionary": (changed("tokenizer_config.json", mecab_kwargs={"mecab_option": "-r {out}/x"}), "open other files"),
    "an audio tokenizer": (changed("processor_config.json", audio_tokenizer={"name": "{out}"}), "another model"),
    "code of a part": (
        changed("config.json", **PAIR, vision_config={"model_type": "clip", "auto_map": {"AutoModel": "a/b--c.M"}}),
        "auto_map of a part",
    ),
    "capitals": (changed("CONFIG.json", use_kernels=True), "use_kernels"),
    "a link": (linked("model.safetensors"), "is a link"),
    "a linked config": (linked("config.json"), "is a link"),
    "a pipe": (piped, "not a regular file"),
}  # fmt: skip


@pytest.mark.parametrize("case", CLIPS)
def test_a_folder_of_transformers(case, outside, clip_dir, tmp_path):
    assert_refused(*CLIPS[case], outside, shutil.copytree(clip_dir, tmp_path / "evil"))


def assert_refused(change, message, outside, folder):
    change(folder, outside)
    with pytest.raises(ModisteError, match=message):
        load_exported(str(folder))


SBERT = "sentence_bert_config.json"
MODULES = "sentence_transformers.sentence_transformer.modules"
SENTENCES = {
    "a kernel": (
        changed(SBERT, model_kwargs={"attn_implementation": "attacker/kernel", "allow_all_kernels": True}), "is refused"
    ),
    "a kernel alone": (changed(SBERT, model_args={"attn_implementation": "a/b"}), "code from the model hub"),
    "kernels": (changed(SBERT, model_kwargs={"use_kernels": True}), "model_kwargs.use_kernels"),
    "pickles": (changed(SBERT, model_kwargs={"weights_only": False}), "model_kwargs.weights_only"),
    "a file": (changed(SBERT, model_kwargs={"gguf_file": "../outside/x.pt"}), "model_kwargs.gguf_file"),
    "a cache": (changed(SBERT, config_kwargs={"cache_dir": "{out}/made"}), "config_kwargs.cache_dir"),
    "a processor's file": (changed(SBERT, processor_kwargs={"tokenizer_file": "{out}/x"}), "processor_kwargs"),
    "an old name": (changed(SBERT, tokenizer_args={"tokenizer_file": "{out}/x"}), "tokenizer_args.tokenizer_file"),
    "another processor": (changed(SBERT, tokenizer_name_or_path="{out}"), "names another model"),
    "a method": (changed(SBERT, modality_config={"text": {"method": "push_to_hub"}}), "method push_to_hub"),
    "an adapter": (changed("adapter_config.json", peft_type="LORA", base_model_name_or_path="{out}"), "an adapter"),
    "an activation": (changed("2_Dense/config.json", activation_function="torch.hub.load"), "not an activation"),
    "a link": (linked("config.json"), "is a link"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """CLIP as sentence-transformers saves it."""
    sbert = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Transformer

    path = tmp_path_factory.mktemp("clip")
    (path / "hub").mkdir()
    clip = Transformer(str(save_clip(path / "hub", eos=2)))
    sbert.SentenceTransformer(modules=[clip], device="cpu").save_pretrained(str(path / "sbert"))
    return path / "sbert"


@pytest.mark.parametrize("case", SENTENCES)
def test_a_folder_of_sentence_transformers(case, outside, sentences, tmp_path):
    assert_refused(*SENTENCES[case], outside, shutil.copytree(sentences, tmp_path / "evil"))


@pytest.mark.parametrize(
    "kind", ["os.system", f"{MODULES}.WordEmbeddings", "sentence_transformers.util.http_get", None]
)
@pytest.mark.parametrize("path", ["", "../outside"])
def test_modules_of_sentence_transformers(kind, path, outside, sentences, tmp_path):
    folder = shutil.copytree(sentences, tmp_path / "evil")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 1, "name": "1", "path": path, "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModisteError, match=f"The module {kind} of .* is refused"):
        load_exported(str(folder))
    modules[1]["type"] = f"{MODULES}.Normalize"
    (folder / "modules.json").write_text(json.dumps(modules))
    if path:
        with pytest.raises(ModisteError, match="outside the folder"):
            load_exported(str(folder))
    else:
        assert load_exported(str(folder)).embed_dim


def test_the_hub_is_not_asked_about_a_folder(outside, sentences, tmp_path, monkeypatch):
    """The name of a folder may look like one of the hub."""
    shutil.copytree(sentences, tmp_path / "here" / "model")
    for place, name in ((tmp_path, "here/model"), (tmp_path / "here", "model")):
        monkeypatch.chdir(place)
        assert load_exported(name).embed_dim


def test_a_route_of_sentence_transformers(outside, tmp_path):
    pytest.importorskip("sentence_transformers")
    folder = export(towers(tmp_path / "bert"), "sentence_transformers", tmp_path / "evil", inputs=synthetic(4)).path
    router = next(folder.rglob("router_config.json"))
    config = json.loads(router.read_text())
    first = next(iter(config["types"]))
    router.write_text(json.dumps(config | {"types": config["types"] | {first: "sentence_transformers.util.http_get"}}))
    with pytest.raises(ModisteError, match=r"The module sentence_transformers\.util\.http_get of .* is refused"):
        load_exported(str(folder))
    router.write_text(json.dumps(config))
    assert load_exported(str(folder)).embed_dim == 16
    image = next(path for path in folder.rglob("config.json") if "timm_wrapper" in path.read_text())
    changed(image.name, model_args={"checkpoint_path": str(outside / "x.pt")})(image.parent, outside)
    with pytest.raises(ModisteError, match=r"model_args\.checkpoint_path"):
        load_exported(str(folder))


@pytest.mark.parametrize("name", ["model_id", "cache_dir", "token", "map_location", "folder"])
def test_an_export_sets_no_argument_of_the_hubs(name, outside, tmp_path):
    folder = export(two_tower(), "hub", tmp_path / "evil", inputs=synthetic(4)).path
    assert load_exported(str(folder)).embed_dim == 16
    changed("config.json", **{name: "{out}"})(folder, outside)
    if name == "folder":
        with pytest.raises(ModisteError, match="Cannot load"):
            load_exported(str(folder))
    else:
        assert load_exported(str(folder)).embed_dim == 16


OPEN_CLIPS = {
    "timm's repository": ("vision_cfg", {"timm_model_name": "hf-hub:attacker/x"}, "timm_model_name=hf-hub"),
    "timm's folder": ("vision_cfg", {"timm_model_name": "local-dir:{out}"}, "timm_model_name=local-dir"),
    "a text encoder elsewhere": ("text_cfg", {"hf_model_name": "{out}"}, "is not a hub id"),
    "a text encoder above": ("text_cfg", {"hf_model_name": "../outside"}, "is not a hub id"),
    "a tokenizer's file": (
        "text_cfg", {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"tokenizer_file": "{out}/x.pt"}}, "tokenizer_file"
    ),
    "a tokenizer's code": (
        "text_cfg", {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}}, "remote code"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OPEN_CLIPS)
def test_a_folder_of_open_clip(case, outside, tmp_path, monkeypatch):
    part, values, message = OPEN_CLIPS[case]
    folder = tmp_path / "evil"
    folder.mkdir()
    save(folder, CLIP)
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"][part] |= values
    file.write_text(json.dumps(config).replace("{out}", str(outside)))
    monkeypatch.chdir(folder)
    for load in (OpenClipDualEncoder, load_exported):
        with pytest.raises(ModisteError, match=message):
            load(str(folder))


def test_the_code_of_a_text_encoder_is_not_offered(outside, tmp_path, monkeypatch):
    """open_clip leaves it to transformers to ask whether to run it."""
    folder = tmp_path / "evil"
    folder.mkdir()
    save(folder, CLIP)
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": "x", "hf_tokenizer_name": "x"}
    file.write_text(json.dumps(config))
    maps = {"AutoConfig": "code.C", "AutoModel": "code.M"}
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": maps}))
    (folder / "code.py").write_text(f"open('{outside}/x.pt')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(ModisteError, match=r"model_type=mine of .* is not an encoder that Modiste reads"):
        OpenClipDualEncoder(str(folder))


TEXTS = {
    "timm's checkpoint": ({**WRAPPED}, "checkpoint_path"),
    "timm's weights": ({"model_type": "timm_backbone", "backbone": "hf-hub:a/b"}, "backbone=hf-hub:a/b"),
    "an image model": ({"model_type": "timm_wrapper", "architecture": "test_resnet"}, "not a text encoder"),
    "a detector": ({"model_type": "detr"}, "model_type=detr of text.config is not an encoder that Modiste reads"),
    "within another": ({**PAIR, "vision_config": WRAPPED}, "checkpoint_path"),
    "code of a part": ({**PAIR, "vision_config": {"auto_map": {"AutoModel": "a/b--c.M"}}}, "auto_map of a part"),
    "kernels": ({"model_type": "bert", **BERT, "use_kernels": True}, "code from the model hub"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_config(case, outside):
    config, message = TEXTS[case]
    config = json.loads(json.dumps(config).replace("{out}", str(outside)))
    with pytest.raises(ModisteError, match=message):
        HfTextEncoder(config=config, tokenizer=HashTokenizer(512))


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_text_source(outside, clip_dir, tmp_path, pretrained):
    folder = shutil.copytree(clip_dir, tmp_path / "evil")
    sharded(folder, outside)
    with pytest.raises(ModisteError, match="outside the folder"):
        HfTextEncoder(str(folder), pretrained=pretrained)


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg_overlay", "cache_dir"])
def test_an_image_source(outside, tmp_path, option):
    folder = tmp_path / "evil"
    folder.mkdir()
    config = {"architecture": "test_resnet", "pretrained_cfg": {}, "model_args": {option: f"{outside}/x.pt"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModisteError, match=f"model_args.{option}"):
        TimmEncoder(f"local-dir:{folder}", pretrained=True)


LOADERS = {
    "model": load_exported,
    "text": HfTextEncoder,
    "image": lambda name: TimmEncoder(f"hf-hub:{name}"),
    "open_clip": lambda name: OpenClipDualEncoder(f"hf-hub:{name}"),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_repository_of_the_hub_is_checked_like_a_folder(loader, outside, tmp_path, monkeypatch):
    """Nothing but its JSON files is asked for before they are checked."""
    import huggingface_hub

    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "config.json").write_text('{"attn_implementation": "attacker/kernel"}')
    asked = []

    def download(repository, **options):
        asked.append(
            (repository, options["revision"], all(name.endswith(".json") for name in options["allow_patterns"]))
        )
        return str(tmp_path / "evil")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, revision: SimpleNamespace(sha="c0ffee"))
    with pytest.raises(ModisteError, match="code from the model hub"):
        LOADERS[loader]("attacker/model")
    assert asked == [("attacker/model", "c0ffee", True)]


def test_the_table_of_characters_of_a_repository_is_checked_after_its_json_files(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repository, revision, allow_patterns, local_files_only=False):
        asked.append(allow_patterns[-1])
        folder = tmp_path / revision
        folder.mkdir(exist_ok=True)
        if "*.model" in allow_patterns:
            table = bytes(4) + b"b" * 100
            (folder / "spm.model").write_bytes(bytes([26, len(table) + 2, 18, len(table)]) + table + b"\x20\xff\x01")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, revision: SimpleNamespace(sha="c0ffee"))
    with pytest.raises(ModisteError, match=r"spm\.model' may make more than 64 characters"):
        check_hub("attacker/model")
    assert asked[1:] == ["*.model"]


def test_a_repository_in_the_cache_is_checked_where_the_hub_is_out_of_reach(clip_dir, tmp_path, monkeypatch):
    """The hub is asked once; `snapshot_download` alone would try for half a minute."""
    import huggingface_hub

    commit = "7e3ba62ce16b379a1ab479346b66f192e76f51b7"
    asked = []

    def out_of_reach(self, name, **options):
        asked.append(name)
        raise RuntimeError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", out_of_reach)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="Name or service not known"):
        check_hub("owner/name", commit)
    shutil.copytree(clip_dir, tmp_path / "models--owner--name" / "snapshots" / commit)
    assert check_hub("owner/name", commit) == commit
    assert asked == ["owner/name"] * 2


def test_a_snapshot_in_the_cache_of_the_hub_is_a_folder_with_links(clip_dir, tmp_path):
    """Links to blobs of the same repository, as the cache has them; others are refused there, too."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(clip_dir, blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs", file.name))
    assert load_exported(str(snapshot)).embed_dim == 16
    (tmp_path / "secret.json").write_text("{}")
    (snapshot / "generation_config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ModisteError, match="is a link"):
        load_exported(str(snapshot))
