"""Late interaction against a slow float64 loop; padding, products, tiles, two processes, micro-batches."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from helpers.tiny_models import TEXTS, narrow_two_tower, pixels
from helpers.two_processes import on_two_processes
from modiste.errors import ModisteError
from modiste.losses.filip import FilipLoss, TokenEmbeddings
from modiste.training.grad_cache import GradCache

PRODUCTS = torch.tensor([0, 1, 1, 2, 3, 0, 4, 5])


class Towers(nn.Module):
    def __init__(self, global_weight=0.5, tile=3):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.words = nn.Linear(4, 5), nn.Linear(3, 5)
        self.loss = FilipLoss(init_scale=9.0, global_weight=global_weight, tile=tile)
        self.double()

    def tokens(self, patches, words, mask):
        embedded = (F.normalize(tower(part), dim=-1) for tower, part in ((self.patches, patches), (self.words, words)))
        return TokenEmbeddings(*embedded, mask)

    def globals(self, tokens):
        mask = tokens.mask[..., None]
        return F.normalize(tokens.image.mean(1), dim=1), F.normalize((tokens.text * mask).sum(1), dim=1)

    def forward(self, patches, words, mask, products):
        tokens = self.tokens(patches, words, mask)
        return self.loss(*self.globals(tokens), products, tokens)


def inputs():
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(8, 4, 4, generator=generator, dtype=torch.float64)
    words = torch.randn(8, 6, 3, generator=generator, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([1, 3, 2, 3, 6, 4, 2, 5])[:, None]
    return patches, words, mask


def cross_entropy(scores, products):
    total = 0.0
    for row, product in enumerate(products.tolist()):
        same = [column for column, other in enumerate(products.tolist()) if other == product]
        log_probability = scores[row].log_softmax(0)
        total = total - sum(log_probability[column] for column in same) / len(same)
    return total / len(scores)


def slow(model, patches, words, mask, products):
    tokens = model.tokens(patches, words, mask)
    count = len(patches)
    of_images, of_texts = torch.zeros(count, count).double(), torch.zeros(count, count).double()
    for i in range(count):
        for j in range(count):
            cosines = tokens.image[i] @ tokens.text[j][mask[j]].T
            of_images[i, j], of_texts[j, i] = cosines.amax(1).mean(), cosines.amax(0).mean()
    image, text = model.globals(tokens)
    whole = image @ text.T
    late, pooled = (
        (cross_entropy(9.0 * a, products) + cross_entropy(9.0 * b, products)) / 2
        for a, b in ((of_images, of_texts), (whole, whole.T))
    )
    return late + model.loss.global_weight * pooled


def step(model, value):
    model.zero_grad()
    value.backward()
    return {"value": value.detach()} | {
        name.removeprefix("module."): p.grad for name, p in model.named_parameters() if "scale" not in name
    }


@pytest.mark.parametrize("global_weight", [0.0, 0.5])
def test_value_and_gradient_are_those_of_a_slow_loop(global_weight):
    model = Towers(global_weight)
    got = step(model, model(*inputs(), PRODUCTS))
    wanted = step(model, slow(model, *inputs(), PRODUCTS))
    for name, tensor in wanted.items():
        assert torch.allclose(got[name], tensor, atol=1e-7), name  # the slow one has a constant scale


def test_padding_has_no_part():
    model, (patches, words, mask) = Towers(), inputs()
    changed = torch.where(mask[..., None], words, 100.0)
    assert torch.equal(model(patches, changed, mask, PRODUCTS), model(patches, words, mask, PRODUCTS))


def process(rank):
    model, part = DistributedDataParallel(Towers()), slice(4 * rank, 4 * rank + 4)
    patches, words, mask = (tensor[part] for tensor in inputs())
    longest = int(mask.sum(1).max())  # 3 on one process, 6 on the other
    value = model(patches, words[:, :longest], mask[:, :longest], PRODUCTS[part])
    return step(model, value)


def test_two_processes_with_texts_of_other_lengths_are_one_with_the_whole_batch():
    model = Towers()
    alone = step(model, model(*inputs(), PRODUCTS))
    first, second = on_two_processes(process)
    assert torch.allclose((first["value"] + second["value"]) / 2, alone["value"])
    for name in alone.keys() - {"value"}:
        assert torch.allclose(first[name], alone[name], atol=1e-8), name


def test_micro_batches_have_the_gradients_of_the_whole_batch():
    model, loss = narrow_two_tower("test_vit"), FilipLoss(init_scale=5.0)
    tokens, images = model.tokenizer(TEXTS), pixels()

    def gradients(cache):
        model.zero_grad()
        embedded = cache.tokens(model, images, tokens)
        assert embedded.image.shape == (3, 4, 8)
        assert embedded.text.shape[:2] == embedded.mask.shape == tokens["attention_mask"].shape
        loss(*cache(model, images, tokens), None, embedded).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole, parts = gradients(GradCache()), gradients(GradCache(2))
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, atol=1e-5), name


def test_cached_features_have_no_tokens():
    model = narrow_two_tower("test_vit")
    with pytest.raises(ModisteError, match=r"features\.cache=false"):
        GradCache().tokens(model, torch.zeros(3, 64), model.tokenizer(TEXTS))
