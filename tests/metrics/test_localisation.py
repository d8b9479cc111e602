import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from modiste.metrics.localisation import THRESHOLDS, best_threshold, box, box_iou, iou_curve, pixel_ap, pointing


def random_pair(seed, ties=False, shape=(23, 17)):
    draw = np.random.default_rng(seed)
    heat = draw.random(shape, dtype=np.float32)
    if ties:
        heat = np.floor(heat * 5).astype(np.float32) / 4
    return heat, draw.random(shape) < draw.uniform(0.05, 0.9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_pixel_ap_equals_scikit_learn(seed, ties):
    heat, mask = random_pair(seed, ties)
    assert pixel_ap(heat, mask) == pytest.approx(average_precision_score(mask.ravel(), heat.ravel()), abs=1e-12)


def test_pixel_ap_of_a_flat_map_is_the_masks_share():
    _, mask = random_pair(0)
    assert pixel_ap(np.zeros(mask.shape, np.float32), mask) == pytest.approx(mask.mean())


@pytest.mark.parametrize("seed", range(3))
def test_iou_curve_equals_a_loop_over_thresholds(seed):
    """Also where the heat is exactly a threshold: 0.57 in float32 is less than in float64."""
    heat, mask = random_pair(seed)
    heat[0] = THRESHOLDS[50 : 50 + heat.shape[1]]
    wanted = []
    for threshold in THRESHOLDS:
        chosen = [float(value) >= threshold for value in heat.ravel()]
        both = sum(a and b for a, b in zip(chosen, mask.ravel(), strict=True))
        either = sum(a or b for a, b in zip(chosen, mask.ravel(), strict=True))
        wanted.append(both / either)
    np.testing.assert_allclose(iou_curve(heat, mask), wanted, rtol=1e-12)


def test_the_lowest_of_equally_good_thresholds_is_taken():
    heat = np.array([[0.2, 0.8]], np.float32)
    assert best_threshold(iou_curve(heat, np.array([[False, True]]))) == 0.21


def test_pointing_counts_equal_maxima_by_their_share():
    mask = np.array([[True, False], [True, False]])
    assert pointing(np.array([[0.1, 0.9], [0.3, 0.2]], np.float32), mask) == 0
    assert pointing(np.array([[0.1, 0.2], [0.9, 0.2]], np.float32), mask) == 1
    assert pointing(np.array([[0.9, 0.9], [0.9, 0.2]], np.float32), mask) == pytest.approx(2 / 3)
    assert pointing(np.zeros((2, 2), np.float32), mask) == 0.5


@pytest.mark.parametrize("seed", range(10))
def test_box_iou_equals_that_of_filled_boxes(seed):
    draw = np.random.default_rng(seed)
    masks = [np.zeros((12, 15), bool), np.zeros((12, 15), bool)]
    filled = [np.zeros((12, 15), bool), np.zeros((12, 15), bool)]
    for mask, full in zip(masks, filled, strict=True):
        points = [(draw.integers(12), draw.integers(15)) for _ in range(3)]
        for y, x in points:
            mask[y, x] = True
        ys, xs = zip(*points, strict=True)
        full[min(ys) : max(ys) + 1, min(xs) : max(xs) + 1] = True
    wanted = (filled[0] & filled[1]).sum() / (filled[0] | filled[1]).sum()
    assert box_iou(box(masks[0]), box(masks[1])) == pytest.approx(wanted)


def test_no_pixel_is_no_box():
    assert box(np.zeros((3, 3), bool)) is None
    assert box_iou(None, (0, 0, 1, 1)) == 0
