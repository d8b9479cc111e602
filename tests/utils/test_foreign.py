"""What a model's configuration may say, and what leads elsewhere."""

import json
import os
from contextlib import nullcontext, suppress

import pytest

from modiste.errors import ModisteError
from modiste.utils import foreign
from modiste.utils.foreign import check_config, check_folder, check_values, is_kernel, stays_inside, weights_alone

LEGITIMATE = [
    {"model_type": "clip", "_name_or_path": "/home/somebody/clip", "auto_map": {"AutoModel": "code.M"}},
    {"attn_implementation": "sdpa", "_attn_implementation_autoset": True, "use_kernels": False, "kernel_size": [3, 3]},
    {"attn_implementation": {"": "eager", "text_config": None}, "quantization_config": None},
    {"hidden_act": "quick_gelu", "activation_function": "gelu_new", "backbone": None, "backbone_config": {}},
    {"activation_function": "torch.nn.modules.activation.Tanh", "in_features": 4},
    {"activation_function": "torch.nn.modules.linear.Identity"},
    {"architecture": "vit_base_patch16_224.augreg_in21k", "model_args": {"img_size": 224, "global_pool": "avg"}},
    {"pretrained_cfg": {"url": "https://example.org/x.pth", "hf_hub_id": "timm/x", "file": None, "state_dict": ""}},
    {
        "vocab_file": "vocab.txt",
        "tokenizer_file": None,
        "special_tokens_map_file": "/somewhere/x.json",
        "name_or_path": "/x",
    },
    {"sp_model_kwargs": {"enable_sampling": False, "nbest_size": -1, "alpha": 0.1}, "vocab_file": "spiece.model"},
    {"sudachi_kwargs": {"sudachi_split_mode": "A", "sudachi_dict_type": "core", "trim_whitespace": True}},
    {"mecab_kwargs": {"mecab_dic": "unidic_lite"}, "fast_tokenizer_files": ["tokenizer.4.0.0.json"]},
    {"word_tokenizer_type": "mecab", "tokenizer_class": "BertJapaneseTokenizer", "jumanpp_kwargs": None},
    {"weight_map": {"a": "model-00001-of-00002.safetensors"}, "metadata": {"total_size": 4}},
]


@pytest.mark.parametrize("values", LEGITIMATE, ids=lambda values: next(iter(values)))
def test_a_usual_configuration_passes(values):
    check_config(values, "a config")


REFUSED = {
    "an experts' kernel": {"experts_implementation": "a/b"},
    "a kernel of a part": {"x": [{"attn_implementation": {"text_config": "a/b@main:c"}}]},
    "no word": {"attn_implementation": 3},
    "kernels": {"text_config": {"allow_all_kernels": 1}},
    "a table of kernels": {"kernel_config": {"RMSNorm": "a/b"}},
    "weights of timm's": {"backbone": "resnet50", "use_pretrained_backbone": True},
    "options of timm's": {"backbone_kwargs": {"pretrained_cfg": {}}},
    "a file of timm's": {"pretrained_cfg": {"file": "/x"}},
    "no architecture": {"architecture": ["resnet18"]},
    "an activation": {"activation_function": "torch.hub.load"},
    "a base model": {"base_model_name_or_path": "a/b"},
    "a link in words": {"vocab_file": "https://example.org/vocab.txt"},
    "a home": {"merges_file": "~/x"},
    "another drive": {"merges_file": "c:\\x"},
    "a shard above": {"weight_map": {"a": "x/../../y"}},
    "weights above": {"transformers_weights": "../x.safetensors"},
    "configs above": {"configuration_files": ["config.4.0.0.json", "../config.5.0.0.json"]},
    "a program": {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "jumanpp"},
    "settings of a program": {"jumanpp_kwargs": {"trim_whitespace": False}},
    "an unknown word tokenizer": {"word_tokenizer_type": ["mecab"]},
    "a dictionary": {"jumanpp_kwargs": {"x": "/usr/x"}},
    "options": {"mecab_kwargs": {"mecab_option": "x -r /etc/x"}},
    "options behind a space": {"mecab_kwargs": {"mecab_option": " -r private"}},
    "a dictionary in the working directory": {"sudachi_kwargs": {"sudachi_resource_dir": "private"}},
    "a vocabulary in the working directory": {"vocab_file": "private/keys.model"},
    "a file in the working directory": {"vocab_file": ".env"},
    "an open file": {"vocab_file": 7},
    "words of the working directory": {"sp_model_kwargs": {"model_file": "private/keys.model"}},
    "words by another name": {"sp_model_kwargs": {"model_proto": "x"}},
    "remote code": {"tokenizer_kwargs": {"trust_remote_code": True}},
    "compressed": {"compression_config": {"quant_method": "x"}},
    "a router's module": {"types": {"text": "os.system"}, "structure": {}},
    **{
        f"a vocabulary as {key}": {key: "secret.txt"}
        for key in ("vocab", "merges", "entity_vocab", "source_spm", "target_spm")
    },
    "arguments of a tokenizer": {"init_inputs": ["secret.txt"]},
    "a router's folder": {"types": {"../x": "sentence_transformers.base.modules.dense.Dense"}, "structure": {}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_leads_elsewhere_is_refused_in_a_sentence(case):
    with pytest.raises(ModisteError, match=r"of a config .*[:.]"):
        check_values(REFUSED[case], "a config")


def test_flash_attention_is_a_kernel_where_transformers_would_download_it(monkeypatch):
    monkeypatch.setattr(foreign, "find_spec", lambda name: None)
    assert not is_kernel("flash_attention_2")
    monkeypatch.setattr(foreign, "find_spec", lambda name: name)
    assert is_kernel("flash_attention_2")
    assert not is_kernel("sdpa")


def test_names_that_leave_a_folder():
    assert all(map(stays_inside, ["", ".", "a", "a/b.json", "..a"]))
    assert not any(map(stays_inside, ["..", "a/..", "/a", "//a", "\\\\host\\a", "file:a", "~a", None, 1]))


def test_other_files_of_a_folder_are_their_owners(tmp_path):
    """Whatever the libraries read nothing from, such as the arguments of a training run, and vocabularies."""
    (tmp_path / "runs").mkdir()
    for name in ("training_args.json", "runs/trainer_state.json", "vocab.json", "tokenizer.json"):
        (tmp_path / name).write_text('{"train_file": "/data/x", "model_name_or_path": "a/b", "use_kernels": true}')
    (tmp_path / "config.json").mkdir()
    check_folder(tmp_path)


def test_a_damaged_or_deep_file_is_refused(tmp_path):
    for content in ("{", "[" * 100_000, '{"a": ' * 900 + "1" + "}" * 900):
        (tmp_path / "config.json").write_text(content)
        if content.endswith("}"):
            check_folder(tmp_path)
        else:
            with pytest.raises(ModisteError, match="is not readable JSON"):
                check_folder(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "modiste.json", "modules.json", "sentence_bert_config.json"])
def test_files_have_their_form(name, tmp_path):
    for content in (["x"], "x", 3):
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(ModisteError, match="save the model again"):
            check_folder(tmp_path)


def test_links_to_blobs_are_those_of_a_cache_only(tmp_path):
    """Not those of a folder that has ``snapshots`` above it alone."""
    folder = tmp_path / "stranger" / "snapshots" / "0"
    folder.mkdir(parents=True)
    (tmp_path / "stranger" / "blobs").mkdir()
    (tmp_path / "stranger" / "blobs" / "x").write_text("{}")
    (folder / "config.json").symlink_to("../../blobs/x")
    with pytest.raises(ModisteError, match="is a link"):
        check_folder(folder)


def test_folders_nested_deeper_than_the_walks_of_python_go(tmp_path):
    for depth, refused in ((100, False), (150, True)):
        (tmp_path / "/".join("a" * depth)).mkdir(parents=True)
        with pytest.raises(ModisteError, match="more than 100 deep: remove") if refused else nullcontext():
            check_folder(tmp_path)


def test_weights_alone_is_undone_after_an_error(monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    seen = []
    with suppress(RuntimeError), weights_alone():
        seen.append(os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"])
        raise RuntimeError
    assert seen == ["1"]
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
