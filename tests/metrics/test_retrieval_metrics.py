"""RetrievalMetrics in a loop of one's own: the numbers of brute force, and of torchmetrics where it is right."""

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.retrieval import RetrievalHitRate

from modiste.errors import ModisteError
from modiste.metrics import RetrievalMetrics


def pairs(n=40, products=25):
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, n, 8, generator=generator)
    product = torch.randint(products, (n,), generator=generator)
    return F.normalize(image, dim=1), F.normalize(image + noise, dim=1), product


def test_batches_give_what_brute_force_gives():
    image, text, product = pairs()
    metric = RetrievalMetrics(ks=[1, 5])
    for part in torch.arange(len(image)).split(7):
        metric.update(image[part], text[part], product[part])
    found = metric.compute()
    relevant = product[:, None] == product
    for name, scores in {"t2i": text @ image.T, "i2t": image @ text.T}.items():
        order = scores.argsort(dim=1, descending=True, stable=True)
        hits = relevant.gather(1, order)
        rank = hits.float().argmax(1) + 1.0
        recall = (hits[:, :5].sum(1) / relevant.sum(1)).mean()
        assert found[f"{name}/mrr"].item() == pytest.approx((1 / rank).mean().item(), abs=1e-6)
        assert found[f"{name}/recall@5"].item() == pytest.approx(recall.item(), abs=1e-6)
        theirs = RetrievalHitRate(top_k=5)
        theirs.update(scores.flatten(), relevant.flatten(), torch.arange(len(image)).repeat_interleave(len(image)))
        assert found[f"{name}/hit_rate@5"].item() == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_reset_forgets_and_unequal_parts_are_refused():
    image, text, product = pairs(6)
    metric = RetrievalMetrics()
    metric.update(image, text, product)
    metric.reset()
    metric.update(image[:2], image[:2], torch.tensor([1, 2]))
    assert metric.compute()["t2i/recall@1"] == 1
    with pytest.raises(ModisteError, match="6 images, 5 texts"):
        metric.update(image, text[:5], product)
