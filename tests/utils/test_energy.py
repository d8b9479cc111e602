"""What a training run cost: energy and CO2e without network or files, sums over restarts, price, table and report."""

import builtins
import csv
import io
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.commands import TINY, modiste
from helpers.stored_results import store, values
from modiste.errors import ModisteError
from modiste.reporting import tables
from modiste.reporting.report import write_report
from modiste.training.callbacks import Cost
from modiste.utils.energy import NOT_INSTALLED, Energy, EnergyMeter

DONE = {"seconds": 7200.0, "pairs": 14400, "steps": 90, "peak_memory_mb": 812.5}
MEASURED = DONE | {"energy_kwh": 0.0512, "co2e_kg": 0.00287, "country": "FRA", "price": 5.0, "currency": "EUR"}


def test_a_meter_measures_without_network_files_or_words(tmp_path, monkeypatch, capfd):
    """Where there are no counters (a container) it estimates; energy × France's carbon intensity is the CO2e."""
    pytest.importorskip("codecarbon")
    from codecarbon.input import DataSource

    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setenv("CODECARBON_CO2_SIGNAL_API_TOKEN", "the user's own")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / ".codecarbon.config"
    settings.write_text("[codecarbon]\nemissions_endpoint=http://127.0.0.1:9\noutput_methods=api,csv\n")
    readings = {}
    for country in ("FRA", None):
        meter = EnergyMeter(country)
        meter.start()
        first = meter.read()
        torch.randn(400, 400) @ torch.randn(400, 400)
        time.sleep(0.2)
        second = meter.read()
        meter.stop()
        assert second.measured
        assert 0 <= first.kwh < second.kwh < 0.001
        last = meter.read()
        assert second.kwh <= last.kwh
        readings[country] = last.co2e_kg / last.kwh
    intensity = DataSource().get_global_energy_mix_data()["FRA"]["carbon_intensity"]
    assert readings["FRA"] == pytest.approx(intensity / 1000, rel=0.01)
    assert readings[None] > 3 * readings["FRA"]
    assert not asked
    assert list(tmp_path.iterdir()) == [settings]
    assert capfd.readouterr() == ("", "")


def test_a_tracker_that_fails_costs_the_energy_and_nothing_else(monkeypatch, caplog):
    codecarbon = pytest.importorskip("codecarbon")

    def fail(*args, **kwargs):
        raise OSError("no such counter")

    monkeypatch.setattr(codecarbon, "OfflineEmissionsTracker", fail)
    meter = EnergyMeter()
    meter.start()
    assert not meter.read().measured
    meter.stop()
    assert "codecarbon failed (OSError: no such counter)" in caplog.text


def test_an_unknown_country_is_one_sentence():
    pytest.importorskip("codecarbon")
    with pytest.raises(ModisteError, match=r"cost\.country=FR is not"):
        EnergyMeter("FR")


def test_nothing_is_detected_while_a_worker_may_be_forked(monkeypatch):
    """A training hung: a worker forked at that moment held the pipe whose end codecarbon waited for in a thread."""
    codecarbon = pytest.importorskip("codecarbon")
    threads = []
    start = codecarbon.OfflineEmissionsTracker.start
    monkeypatch.setattr(
        codecarbon.OfflineEmissionsTracker,
        "start",
        lambda self: (threads.append(threading.current_thread()), start(self)),
    )
    meter = EnergyMeter()
    meter.start()
    assert threads == [threading.main_thread()]
    meter.stop()
    assert meter.read().measured


def test_codecarbon_is_not_imported_at_start_up():
    script = "import sys, modiste.cli, modiste.training.callbacks; print('codecarbon' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.strip() == "False", done.stderr


# --- the callback


class Clock:
    """A meter that says what it is told."""

    def __init__(self, kwh=math.nan):
        self.energy = Energy(kwh, kwh / 2)

    def start(self):
        pass

    stop = start

    def read(self):
        return self.energy


def trainer(rank=0, nodes=1, others=()):
    """A trainer of one process a machine, whose other machines measured ``others`` kWh."""

    def reduce(parts, reduce_op):
        assert reduce_op == "sum"
        return parts + sum(torch.tensor([kwh, kwh / 2]) for kwh in others)

    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=reduce)
    return SimpleNamespace(
        fast_dev_run=False, sanity_checking=False, strategy=strategy, global_step=3, is_global_zero=rank == 0,
        local_rank=0, num_nodes=nodes, world_size=nodes,
    )  # fmt: skip


def cost(tmp_path, kwh, **options):
    callback = Cost(str(tmp_path), **options)
    callback.meter = Clock(kwh)
    return callback


def written(callback, trainer):
    callback.setup(trainer, None, "fit")
    callback.on_train_start(trainer, None)
    callback.on_train_batch_end(trainer, None, None, {"row": []}, 0)
    callback.on_train_end(trainer, None)
    return json.loads((callback.run.path / "cost.json").read_text())


def test_energy_is_summed_over_machines_and_continuations(tmp_path):
    first = cost(tmp_path, 2.0, country="FRA")
    facts = written(first, trainer(nodes=3, others=(2.0, 2.0)))
    assert (facts["energy_kwh"], facts["co2e_kg"], facts["country"]) == (6.0, 3.0, "FRA")
    state = torch_round_trip(first.state_dict(), tmp_path)
    again = cost(tmp_path, 0.5, country="FRA")
    again.load_state_dict(state)
    again.on_train_batch_end(trainer(), None, None, {"row": [1, 2]}, 0)
    facts = written(again, trainer())
    assert (facts["energy_kwh"], facts["co2e_kg"], facts["pairs"]) == (6.5, 3.25, 2)
    assert facts["seconds"] >= round(state["seconds"], 1)


def torch_round_trip(state, tmp_path):
    """As in a checkpoint."""
    torch.save(state, tmp_path / "state.ckpt")
    return torch.load(tmp_path / "state.ckpt", weights_only=True)


@pytest.mark.parametrize("parts", [(math.nan, 1.0), (1.0, math.nan)])
def test_a_part_that_was_not_measured_leaves_the_sum_out(tmp_path, parts):
    first, second = (cost(tmp_path, kwh) for kwh in parts)
    first.setup(trainer(), None, "fit")
    second.load_state_dict(first.state_dict())
    assert "energy_kwh" not in written(second, trainer())


def test_the_state_of_an_older_checkpoint_is_read(tmp_path):
    callback = cost(tmp_path, 1.0)
    callback.load_state_dict({"seconds": 3.0, "pairs": 7})
    facts = written(callback, trainer())
    assert facts["pairs"] == 7
    assert "energy_kwh" not in facts


def test_the_price_is_the_rate_times_the_machines_hours(tmp_path):
    callback = cost(tmp_path, math.nan, price_per_hour=1.8, currency="EUR")
    callback.seconds = 3600.0
    facts = written(callback, trainer(nodes=2))
    assert facts["price"] == pytest.approx(1.8 * 2, rel=1e-3)
    assert facts["currency"] == "EUR"
    with pytest.raises(ModisteError, match="negative"):
        Cost(str(tmp_path), price_per_hour=-1.0)


def test_without_codecarbon_a_line_says_how_to_get_it(tmp_path, monkeypatch, caplog):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("codecarbon"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    caplog.set_level("INFO")
    callback = Cost(str(tmp_path))
    facts = written(callback, trainer())
    assert "energy_kwh" not in facts
    assert "co2e_kg" not in facts
    assert caplog.messages == [NOT_INSTALLED]


@pytest.mark.slow
def test_a_training_and_its_continuation_say_what_they_cost(tmp_path):
    pytest.importorskip("codecarbon")
    cost = ("cost.price_per_hour=36", "cost.country=FRA")
    options = ("trainer.max_epochs=1", "optim.schedule=constant", *cost, "hydra.run.dir=run")
    facts, temporary = [], tempfile.mkdtemp()  # in a short path: workers make sockets in it
    for arguments in ((*TINY, *options), ("continue=run", "trainer.max_epochs=2")):
        done = modiste("train", *arguments, cwd=tmp_path, TMPDIR=temporary)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "codecarbon" not in done.stdout + done.stderr
        facts.append(json.loads((tmp_path / "run" / "cost.json").read_text()))
    once, twice = facts
    assert twice["pairs"] == 2 * once["pairs"]
    for name in ("seconds", "energy_kwh", "co2e_kg", "price"):
        assert 0 < once[name] < twice[name], name
    assert twice["price"] == pytest.approx(twice["seconds"] / 100, abs=2e-3)
    for folder in (tmp_path, Path(temporary)):
        assert not [*folder.rglob("emissions*.csv"), *folder.rglob("*codecarbon*")]
    shutil.rmtree(temporary)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "CO2e" in page
    assert " kWh" in page


# --- table and report


def run_with(folder, cost, **options):
    store(folder, {"t2i/mrr": values(20, 0.5, 0)}, task="retrieval", **options)
    if cost:
        (folder / "cost.json").write_text(json.dumps(cost))


def test_the_table_ends_with_what_each_training_cost(tmp_path):
    run_with(tmp_path / "a", MEASURED, name="small")
    run_with(tmp_path / "b", DONE, name="large")
    run_with(tmp_path / "c", {}, name="published weights")
    results = tables.load_results([tmp_path])
    block = tables.format_table(results).split("### Cost of training")[1]
    heads, _, small, large = [line for line in block.splitlines() if line.startswith("|")]
    assert heads == "| model | wall time | pairs | pairs/s | steps | peak memory | energy | CO2e | price |"
    assert small == "| small | 2 h 0 min | 14,400 | 2.0 | 90 | 812 MB | 0.0512 kWh | 0.00287 kg | 5 EUR |"
    assert large == "| large | 2 h 0 min | 14,400 | 2.0 | 90 | 812 MB | — | — | — |"
    assert "world" not in block
    assert r"0.0512 kWh" in tables.format_table(results, style="latex")
    lines = [*csv.DictReader(io.StringIO(tables.format_table(results, style="csv")))]
    found = {(line["model"], line["metric"]): float(line["value"]) for line in lines if line["task"] == "cost"}
    assert found["small", "co2e_kg"] == 0.00287
    assert ("large", "co2e_kg") not in found


def test_a_table_without_costs_has_no_such_block(tmp_path):
    run_with(tmp_path / "a", {})
    results = tables.load_results([tmp_path])
    assert "Cost" not in tables.format_table(results)
    assert "cost" not in tables.format_table(results, style="csv")


def test_trainings_of_one_name_are_told_apart_by_their_folder(tmp_path):
    run_with(tmp_path / "a", DONE, data="one")
    run_with(tmp_path / "b", DONE | {"country": "world", "co2e_kg": 1.0}, data="other")
    text = tables.format_table(tables.load_results([tmp_path]))
    assert "/a)" in text
    assert "/b)" in text
    assert "world's average" in text


def test_a_damaged_cost_is_one_sentence(tmp_path):
    run_with(tmp_path / "a", DONE)
    (tmp_path / "a" / "cost.json").write_text("{")
    with pytest.raises(ModisteError, match="Repair or delete"):
        tables.format_table(tables.load_results([tmp_path]))


def test_the_report_has_the_cost_and_says_what_is_missing(tmp_path):
    run_with(tmp_path, MEASURED)
    text = write_report(tmp_path).read_text()
    assert "0.00287 kg" in text
    assert "pip install" not in text
    (tmp_path / "cost.json").write_text(json.dumps(DONE))
    assert "pip install &#39;modiste[cost]&#39;" in write_report(tmp_path).read_text()
