"""Text models of transformers, a tiny one per architecture: layer groups, tuning, padding, from a directory."""

import pytest
import torch
from torch import nn

from helpers.tiny_models import TEXTS
from modiste.errors import ModisteError
from modiste.models.dual_encoder import TwoTower
from modiste.models.finetune import Tuning, freeze_rest, parameters
from modiste.texts.hf import HfTextEncoder, HfTokenizer
from modiste.texts.words import HashTokenizer
from modiste.training.optim import Optim

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**SMALL, "num_key_value_heads": 1, "head_dim": 16}
ARCHITECTURES = {
    "bert": SMALL,
    "roberta": SMALL,
    "xlm-roberta": SMALL,
    "mpnet": SMALL,
    "electra": {**SMALL, "embedding_size": 16},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "vocab_size": 512},
    "modernbert": {**SMALL, "cls_token_id": 1, "sep_token_id": 2},
    "clip_text_model": SMALL,
    "t5": {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 512},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2},
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "gemma": GROUPED,
    "gemma3_text": GROUPED,
}
TAIL = {"xlm-roberta", "mpnet", "electra", "qwen2", "gemma"}  # each has a near relative among the others
EVERY = [pytest.param(kind, marks=pytest.mark.slow) if kind in TAIL else kind for kind in ARCHITECTURES]
CAUSAL = {"clip_text_model", "gpt2", "qwen2", "qwen3", "gemma", "gemma3_text"}


class Pixels(nn.Module):
    """The smallest image encoder."""

    dim, preprocess = 4, None

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, pixels):
        return self.layer(pixels.mean((2, 3)))

    def layer_groups(self):
        return [[self.layer]]


def encoder(kind, **options):
    torch.manual_seed(0)
    config = {"model_type": kind, **ARCHITECTURES[kind]}
    return HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=512, max_length=12), **options)


def tower(kind):
    return TwoTower(Pixels(), encoder(kind), 8)


@pytest.mark.parametrize("kind", EVERY)
def test_layer_groups_are_embeddings_and_layers_and_hold_every_weight_once(kind):
    text = encoder(kind)
    groups = text.layer_groups()
    assert len(groups) == 3
    grouped = [id(parameter) for parameter in parameters(groups)]
    assert len(grouped) == len(set(grouped))
    unused = [name for name, p in text.named_parameters() if id(p) not in set(grouped)]
    assert all("pooler" in name for name in unused), unused


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("train", ["full", "last_n", "lora", "frozen"])
def test_what_trains_has_a_gradient_and_the_optimizer_has_it_once(kind, train):
    model = tower(kind)
    Tuning(train, layers=2, rank=2).apply(model, "text")
    freeze_rest(model)
    groups = Optim(torch.optim.AdamW).groups(model, nn.Module())
    held = [parameter for group in groups for parameter in group["params"]]
    assert len(held) == len({id(parameter) for parameter in held})
    model.train()
    tokens = model.tokenizer(TEXTS)
    (
        model.encode_text(tokens) @ torch.randn(8) + model.encode_image(torch.rand(3, 3, 4, 4)) @ torch.randn(8)
    ).sum().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    trains = {name for name, p in model.named_parameters() if p.requires_grad and name.startswith("text")}
    assert bool(trains) == (train != "frozen")
    if train == "lora":
        assert all("lora" in name for name in trains - {"text_projection.weight"})


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_changes_nothing(kind, pooling):
    text = encoder(kind, pooling=pooling).eval()
    together = text(text.tokenizer(TEXTS))
    assert together.shape == (3, text.dim)
    for row, one in enumerate(TEXTS):
        torch.testing.assert_close(text(text.tokenizer([one]))[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(CAUSAL))
def test_the_last_token_of_a_causal_model_has_seen_them_all(kind):
    text = encoder(kind, pooling="last").eval()
    tokens = text.tokenizer(["red blue green white"])
    changed = {**tokens, "input_ids": tokens["input_ids"].clone()}
    changed["input_ids"][0, 0] += 1
    assert not torch.allclose(text(tokens), text(changed), atol=1e-7)


def save_tokenizer(folder, **special):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[END]", "red", "blue", "dress", "a", "shoe"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]" if "unk_token" in special else None))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["t5", "gpt2", "clip", "qwen3"])
def test_a_directory_is_read_without_a_padding_token_and_in_float32(kind, tmp_path):
    from transformers import AutoConfig, AutoModel

    text = {**SMALL, "max_position_embeddings": 16}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = {"text_config": text, "vision_config": {**vision, "image_size": 16, "patch_size": 8}}
    options = both if kind == "clip" else {**ARCHITECTURES[kind], "max_position_embeddings": 16}
    saved = AutoModel.from_config(AutoConfig.for_model(kind, **options)).bfloat16()
    saved.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, unk_token="[UNK]", eos_token="[END]")
    made = HfTextEncoder(tmp_path, max_length=16).eval()
    features = made(made.tokenizer(["a red dress", "shoe"]))
    assert features.shape == (2, 32)
    assert features.dtype == torch.float32
    name, weight = next((n, p) for n, p in made.trunk.named_parameters() if "embed" in n or "wte" in n or "shared" in n)
    stored = dict(saved.named_parameters())
    match = next(p for n, p in stored.items() if n.endswith(name.removeprefix("text_model.")) and "vision" not in n)
    assert torch.equal(weight.bfloat16(), match)
    torch.testing.assert_close(made(made.tokenizer(["shoe"]))[0], features[1], rtol=1e-4, atol=1e-5)
    random = HfTextEncoder(tmp_path, max_length=16, pretrained=False)
    assert random.dim == made.dim


def test_what_cannot_be_is_one_sentence(tmp_path):
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path)
    with pytest.raises(ModisteError, match="no token for padding"):
        HfTokenizer(AutoTokenizer.from_pretrained(tmp_path), 8)
    with pytest.raises(ModisteError, match="pooling=max is not known"):
        encoder("bert", pooling="max")
    torch.manual_seed(0)
    from transformers import AutoConfig, AutoModel

    AutoModel.from_config(AutoConfig.for_model("bert", **SMALL, max_position_embeddings=16)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, unk_token="[UNK]")
    with pytest.raises(ModisteError, match="max_length=64 is more than the 16 positions"):
        HfTextEncoder(tmp_path)


@pytest.mark.parametrize("key", ["attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("kernel", ["attacker/kernel", "attacker/kernel@v1:forward", "paged|attacker/kernel"])
def test_code_from_the_model_hub_is_refused_in_a_config_and_in_a_directory(key, kernel, tmp_path, monkeypatch):
    import json

    from transformers import AutoConfig, modeling_utils

    from modiste.pretrained.transformers import TransformersDualEncoder

    monkeypatch.setattr(modeling_utils, "is_kernel", lambda word: pytest.fail("reached transformers"))
    with pytest.raises(ModisteError, match=f"{key}=.* is code from the model hub, which is refused: remove it"):
        HfTextEncoder(
            config={"model_type": "bert", **ARCHITECTURES["bert"], key: kernel}, tokenizer=HashTokenizer(512, 12)
        )
    save_tokenizer(tmp_path, unk_token="[UNK]", pad_token="[PAD]")
    for kind in ("clip", "bert"):
        (tmp_path / "config.json").write_text(json.dumps(AutoConfig.for_model(kind).to_dict() | {key: kernel}))
        for load in (HfTextEncoder, lambda folder: TransformersDualEncoder(str(folder))):
            with pytest.raises(ModisteError, match="code from the model hub"):
                load(tmp_path)
