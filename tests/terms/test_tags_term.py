"""term=tags: cells of photos are given to the photo's tags by the model's own scores; masks are not read."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modiste.data.catalogue import Card, Catalogue
from modiste.data.scenes.photos import Photos
from modiste.data.sources import ArrayImages
from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.losses.regions import assign_tags, region_contrast
from modiste.models.dual_encoder import TwoTower
from modiste.models.finetune import Tuning
from modiste.terms.base import TrainingInputs
from modiste.terms.tags import Tags
from modiste.texts.hf import HfTextEncoder
from modiste.texts.words import HashTokenizer
from modiste.training.feature_cache import FeatureCache
from modiste.training.grad_cache import GradCache

TAGS = ["hat", "hat, shoes", "", "shoes", "bag, hat", "bag"]


def catalogue(tags=TAGS):
    photos = np.random.default_rng(0).integers(0, 256, (len(tags), 40, 20, 3), dtype=np.uint8)
    numbers = [str(row) for row in range(len(tags))]
    columns = {"product_id": numbers, "image": numbers, "text": numbers, "parts": tags}
    return Catalogue.build(Card("street"), columns, ArrayImages(photos))


def model():
    torch.manual_seed(0)
    config = {
        "model_type": "bert", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    image = TimmEncoder("test_efficientnet", size=32, output_stride=8, patch_stages=[-1])
    built = TwoTower(image, HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=64)), embed_dim=8)
    Tuning("last_n", layers=1).apply(built, "image")
    return built.eval()


def brute_force(scores, tags, word_share, background_share):
    """Raise each class just enough for its share of the unbiased others, cell by cell in plain Python."""
    classes, rows = [*tags, scores.shape[1] - 1], scores.tolist()
    biases = {}
    for cls in classes:
        share = background_share if cls == classes[-1] else word_share
        behind = sorted(max(row[other] for other in classes if other != cls) - row[cls] for row in rows)
        needed = behind[max(round(share * len(rows)), 1) - 1] if share else 0
        biases[cls] = needed + 1e-6 if needed > 0 else 0.0
    return [max(classes, key=lambda cls: row[cls] + biases[cls]) for row in rows]


@pytest.mark.parametrize("shares", [(0.1, 0.4), (0.0, 0.0), (0.3, 0.1)])
@pytest.mark.parametrize("tags", [[1], [0, 2], [3, 1, 0]])
def test_cells_go_to_the_class_with_the_highest_biased_score(tags, shares):
    scores = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double()
    assert assign_tags(scores, tags, *shares).tolist() == brute_force(scores, tags, *shares)


def test_a_share_is_exact_where_one_class_has_a_bias_and_may_be_missed_where_several_have():
    scores = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    shy = scores - torch.tensor([0.0, 0.0, 9.0])
    for share in (0.1, 0.5):
        assert assign_tags(shy, [0, 1], 0.0, share).tolist().count(2) == 40 * share
        assert assign_tags(-shy, [0], share, 0.0).tolist().count(0) == 40 * share
        assert assign_tags(shy, [0], 0.1, share).tolist().count(2) == 40 * share
    steps = torch.arange(10.0)
    alike = torch.stack([steps, 1.1 * steps, torch.full((10,), 99.0)], dim=1)  # both tags want the last three cells
    found = assign_tags(alike, [0, 1], 0.3, 0.0).tolist()
    assert found[8:] == [1, 1]
    assert found.count(0) <= 1


def test_a_photo_is_whole_between_grey_margins_which_belong_to_no_row():
    photo = Photos(catalogue(), 64)[3]
    assert photo.image.size == (64, 64)
    assert photo.image.getpixel((3, 30)) == (128, 128, 128)
    rows = photo.rows(8)
    assert (rows[:, 2:6] == 3).all()
    assert (rows[:, [0, 1, 6, 7]] == -1).all()


@pytest.mark.parametrize("cached", [False, True])
def test_the_value_is_the_contrast_of_the_assigned_labels(cached, tmp_path):
    built, rows = model(), catalogue()
    term = Tags(words={"hat": "cap"}, size=64, batch_size=5, templates=["a {}"], word_share=0.1, power=0.0)
    cache = FeatureCache(built, tmp_path) if cached else None
    term.bind(built, None, TrainingInputs(rows, 0, partial(GradCache().patches, built), cache))
    torch.manual_seed(2)
    got = term(torch.zeros(1, 8), torch.zeros(1, 8), {}, None)
    torch.manual_seed(2)
    chosen = torch.randint(6, (5,)).tolist()
    words = built.encode_text(built.tokenizer(["a bag", "a cap", "a shoes"]))
    background = F.normalize(built.patch_head.background, dim=0)
    cells, labels = [], []
    for row in chosen:
        photo = term.pictures[row]
        pixels = torch.from_numpy(np.array(photo.image)).permute(2, 0, 1)[None]
        patches = built.encode_patches(pixels)[0][torch.from_numpy(photo.rows(8) >= 0)]
        tags = [["bag", "hat", "shoes"].index(tag) for tag in TAGS[row].split(", ") if tag]
        if tags:
            scores = 20 * patches @ torch.cat([words, background[None]]).T
            cells.append(patches)
            labels.append(assign_tags(scores.detach(), tags, 0.1, 0.4))
    wanted = region_contrast(torch.cat(cells), torch.cat(labels), words, background, 20.0)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-4)
    got.backward()
    assert built.patch_head.projection.weight.grad.abs().sum() > 0


def test_photos_without_tags_and_wrong_shares_are_refused():
    built = model()
    with pytest.raises(ModisteError, match="has no tag"):
        Tags().bind(built, None, TrainingInputs(catalogue([""] * 3), 0, built.encode_patches))
    with pytest.raises(ModisteError, match="fractions"):
        Tags(word_share=2.0)
