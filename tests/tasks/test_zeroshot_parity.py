"""Our zero-shot classifier is open_clip's: same class vectors and predictions from the same model."""

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from helpers.task_fakes import FakeCatalogue
from modiste.tasks.zeroshot import ZeroShot

CLASSES = ["ankle boot", "bag", "dress", "jumper", "red shirt", "shirt", "skirt"]
TEMPLATES = ["a photo of a {}", "a {} from a fashion catalogue, on white", "{}"]
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return open_clip.CLIP(**TINY).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return open_clip.SimpleTokenizer(context_length=TINY["text_cfg"]["context_length"])


class OpenClipEmbedder:
    """The same model behind our interface; images are the rows of a pixel tensor."""

    fingerprint = "open_clip"

    def __init__(self, model, tokenizer, pixels):
        self.model, self.tokenizer, self.pixels = model, tokenizer, pixels

    @torch.no_grad()
    def images(self, catalogue):
        return self.model.encode_image(self.pixels[catalogue.column("row")], normalize=True)

    @torch.no_grad()
    def texts(self, texts):
        return self.model.encode_text(self.tokenizer(list(texts)), normalize=True)


@pytest.mark.parametrize("templates", [TEMPLATES, TEMPLATES[:1]])
@pytest.mark.parametrize("batch", [None, 3])
def test_class_vectors_equal_those_of_open_clip(model, tokenizer, templates, batch):
    """Normalised mean over templates of normalised embeddings, (C, D); open_clip's are the columns."""
    theirs = open_clip.build_zero_shot_classifier(model, tokenizer, CLASSES, templates, num_classes_per_batch=batch).T
    ours = ZeroShot.class_vectors(OpenClipEmbedder(model, tokenizer, None), CLASSES, templates)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert not torch.allclose(ours, ours[:1], atol=1e-3)


def test_predictions_and_accuracy_equal_those_of_open_clip(model, tokenizer):
    """Images scored as in open_clip's zero-shot evaluation: 100 · normalised features @ classifier, arg max."""
    n = 60
    generator = torch.Generator().manual_seed(1)
    # Untrained towers put all images close together: large contrasts spread their predictions.
    pixels = 30 * torch.randn(n, 3, 32, 32, generator=generator)
    kinds = np.random.default_rng(0).choice(CLASSES, n).tolist()
    kinds[: len(CLASSES)] = CLASSES
    columns = {"product_id": [str(i) for i in range(n)], "text": ["x"] * n, "split": ["test"] * n, "type": kinds}
    result = ZeroShot(["type"], {"type": TEMPLATES})(
        OpenClipEmbedder(model, tokenizer, pixels), FakeCatalogue(columns), "test"
    )
    classifier = open_clip.build_zero_shot_classifier(model, tokenizer, CLASSES, TEMPLATES)
    with torch.no_grad():
        logits = 100.0 * F.normalize(model.encode_image(pixels), dim=-1) @ classifier
    predictions = logits.argmax(dim=1).tolist()
    assert len(set(predictions)) > 1
    assert result.confusion["type"]["labels"] == CLASSES
    targets = [CLASSES.index(kind) for kind in kinds]
    expected = np.zeros((len(CLASSES), len(CLASSES)), dtype=int)
    for target, prediction in zip(targets, predictions, strict=True):
        expected[target, prediction] += 1
    assert result.confusion["type"]["matrix"] == expected.tolist()
    assert result.metrics["type/accuracy"].value == pytest.approx(np.mean(np.array(predictions) == targets))
    order = logits.topk(1, dim=1).indices[:, 0].eq(torch.tensor(targets)).double()
    assert result.per_query["type/accuracy"].tolist() == order.tolist()
