"""A tiny two-tower model whose text encoder has a real tokenizer in files: what other libraries can hold."""

import torch

from modiste.images.timm import TimmEncoder
from modiste.models.dual_encoder import TwoTower
from modiste.texts.hf import HfTextEncoder

WORDS = "a an the red blue black green dress shirt jeans shoe bag for men women slim with and in of plain".split()  # noqa: SIM905


def save_bert_tokenizer(path):
    """A WordPiece tokenizer of letters and a few words; returns the size of its vocabulary."""
    from transformers import BertTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *WORDS]
    path.mkdir(parents=True, exist_ok=True)
    BertTokenizer(vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))}).save_pretrained(path)
    return len(dict.fromkeys(tokens))


def save_bert(path, hidden=32, max_length=64):
    """A BERT of a few thousand random parameters with its tokenizer, in the layout of ``save_pretrained``."""
    from transformers import BertConfig, BertModel

    size = save_bert_tokenizer(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=max_length,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(path)
    return path


def towers(path, image="test_efficientnet", size=64, pooling="mean", **options):
    """A dual encoder of timm's smallest network and such a BERT, whose tokenizer is kept in ``path``."""
    text = HfTextEncoder(save_bert(path), pooling=pooling, max_length=32)
    torch.manual_seed(1)
    model = TwoTower(TimmEncoder(image, size=size, **options), text, embed_dim=16)
    with torch.no_grad():  # weights large enough that every pixel and token moves the output
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(1.5)
    model.initial_scale = 20.0
    return model.eval()


def described_run(path, *words):
    """A run directory with the configuration that these overrides compose, and nothing else."""
    from omegaconf import OmegaConf

    from modiste.config import compose
    from modiste.utils.run_dir import RunDir

    run = RunDir(path)
    run.results.mkdir(parents=True)
    plain = OmegaConf.to_container(compose("train", [*words, "run_dir=runs/a"]), resolve=True)
    OmegaConf.save(OmegaConf.create(plain), run.config)
    return run
