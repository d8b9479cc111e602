"""Parameter groups and schedule."""

import itertools
import math

import pytest
import torch

from helpers.tiny_models import two_tower
from modiste.errors import ModisteError
from modiste.losses.clip import ClipLoss
from modiste.models.finetune import Tuning
from modiste.training.optim import Length, Optim


def optim(**options):
    return Optim(torch.optim.AdamW, **options)


def test_every_trainable_parameter_is_in_one_group_and_vectors_do_not_decay():
    model, loss = two_tower(), ClipLoss()
    Tuning("last_n", layers=2).apply(model, "image")
    groups = optim(weight_decay=0.2).groups(model, loss)
    grouped = [id(p) for group in groups for p in group["params"]]
    expected = {id(p) for p in [*model.parameters(), *loss.parameters()] if p.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == expected
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.2}


def test_learning_rates_by_tower_and_by_depth():
    model, loss = two_tower(), ClipLoss()
    groups = optim(lr=1.0, tower_lr={"image": 0.5, "text": 0.1}, layer_decay=0.5).groups(model, loss)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate[id(model.image_projection.weight)] == rate[id(loss.logit_scale)] == 1.0
    for tower, factor in (("image", 0.5), ("text", 0.1)):
        *trunk, _ = model.layer_groups(tower)
        for distance, group in enumerate(reversed(trunk), start=1):
            for item in group:
                for parameter in [item] if isinstance(item, torch.nn.Parameter) else item.parameters():
                    assert rate[id(parameter)] == pytest.approx(factor * 0.5**distance)


def test_a_decay_of_one_keeps_trunks_at_the_tower_rate():
    groups = optim(lr=1.0, tower_lr={"image": 0.5, "text": 0.5}).groups(two_tower(), ClipLoss())
    assert {group["lr"] for group in groups} == {1.0, 0.5}


def test_warm_up_then_cosine_by_step():
    schedule = optim(warmup=10, final=0.1)
    assert [schedule.factor(step, 110) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    for step in (10, 35, 60, 110):
        assert schedule.factor(step, 110) == pytest.approx(
            0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 100))
        )
    assert optim(warmup=0.1).factor(4, 100) == pytest.approx(0.5)
    assert optim(warmup=0, schedule="linear").factor(25, 100) == pytest.approx(0.75)
    assert optim(warmup=0, schedule="constant").factor(99, 100) == 1.0


def test_the_scheduler_follows_it_step_by_step():
    schedule = optim(lr=2.0, warmup=2)
    optimizer, scheduler = schedule.build(two_tower(), ClipLoss(), Length([(0, 6)]))
    for step in range(6):
        assert optimizer.param_groups[-1]["lr"] == pytest.approx(2.0 * schedule.factor(step, 6))
        optimizer.step()
        scheduler.step()


def test_mistakes_are_one_sentence():
    with pytest.raises(ModisteError, match="Did you mean 'cosine'"):
        optim(schedule="cosin")
    with pytest.raises(ModisteError, match="Did you mean 'image'"):
        optim(tower_lr={"imaeg": 1.0})
    model = two_tower()
    for tower in ("image", "text"):
        Tuning("frozen").apply(model, tower)
    with pytest.raises(ModisteError, match="so nothing trains"):
        optim().groups(model, ClipLoss())


def test_a_run_that_is_extended_has_no_jump_in_its_learning_rate():
    schedule, length = optim(lr=1.0, warmup=2, schedule="cosine"), Length([(0, 20)])
    before = [schedule.factor(length.place(step), length.first) for step in range(21)]
    length.change(10, 40)
    after = [schedule.factor(length.place(step), length.first) for step in range(41)]
    assert after[:11] == before[:11]
    assert max(abs(a - b) for a, b in itertools.pairwise(after[10:])) < 0.05
    assert after[40] == before[20] == 0
    # Stretched once more, in the middle of the stretched part.
    length.change(25, 30)
    assert schedule.factor(length.place(25), length.first) == pytest.approx(after[25], abs=1e-12)
    assert schedule.factor(length.place(30), length.first) == 0


@pytest.mark.parametrize("total", [1, 3, 7, 97])
def test_the_place_in_a_plan_that_never_changed_is_the_step_to_the_bit(total):
    assert [Length([(0, total)]).place(step) for step in range(total + 2)] == [*range(total + 1), total]
