"""What a run cost, over its parts."""

import json

import pytest

from helpers.tiny_training import Line, train
from modiste.errors import ModisteError
from modiste.training.callbacks import Cost, Throughput


def test_pairs_steps_and_price_are_counted_over_resumed_parts(tmp_path):
    first = Cost(str(tmp_path), price_per_hour=3600.0, currency="EUR")
    train(Line(), tmp_path, first, epochs=2)
    facts = json.loads((tmp_path / "cost.json").read_text())
    assert (facts["pairs"], facts["steps"], facts["currency"]) == (24, 6, "EUR")
    assert facts["price"] == pytest.approx(facts["seconds"], abs=0.1)
    assert facts["peak_memory_mb"] > 50
    second = Cost(str(tmp_path))
    second.load_state_dict(first.state_dict())
    train(Line(), tmp_path, second, epochs=1)
    later = json.loads((tmp_path / "cost.json").read_text())
    assert later["pairs"] == 24 + 12
    assert later["seconds"] >= facts["seconds"]
    assert "price" not in later


def test_a_trial_of_one_step_and_a_negative_rate_leave_nothing(tmp_path):
    train(Line(), tmp_path, Cost(str(tmp_path)), fast_dev_run=True)
    assert not (tmp_path / "cost.json").exists()
    with pytest.raises(ModisteError, match="price_per_hour=-1"):
        Cost(str(tmp_path), price_per_hour=-1)


def test_throughput_is_pairs_by_seconds_of_the_window(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr("modiste.training.callbacks.cost.time.perf_counter", lambda: next(clock))
    trainer = train(Line(), tmp_path, Throughput(window=2))
    assert float(trainer.callback_metrics["train/pairs_per_second"]) == pytest.approx(2.0)  # batches of 4, each 2 s
