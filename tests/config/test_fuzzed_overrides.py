"""Random overrides, seeded: composed and checked without an import; no traceback, and no nonsense accepted."""

import os
from collections.abc import Sequence

import pytest

from modiste.cli.call import Call
from modiste.config.schema import RANGES
from modiste.errors import ModisteError
from reliability import overrides

NUMBER = int(os.environ.get("MODISTE_FUZZ", "20"))


@pytest.mark.slow
def test_random_overrides_are_accepted_and_sane_or_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert overrides.faults(NUMBER) == []


@pytest.mark.parametrize(
    "line",
    [
        "train optim.lr=-1",
        "train optim.lr=0",
        "train optim.weight_decay=x",
        "train seed=-1",
        "train data.batch_size=abc",
        "train data.batch_size=0",
        "train data=[1,2]",
        "train data.split=null",
        "train features=1e3",
        "train data.catalogue.products=1e400",
        "train data.catalogue.occlusion=1.1",
        "train callbacks.artifacts=0",
        "train transfer=inf",
        "train trainer.precision=fp16",
        "train trainer.precision=bf16-true",
        "train trainer.precision=x",
        "train trainer.gradient_clip_val=None",
        "train trainer.devices=-2",
        "train image.std.1=-1",
        "train data.seed=/",
        "train image.size=[128,96]",
        "train monitor.mode=least",
        "train +optimizer.lr=1",
        "train +trainer.max_epoch=1",
        "train +data.batch=1",
        "train init=runs/nope",
        "train resume=runs/nope",
        "evaluate",
        "evaluate split=null model=clip_b32",
        "evaluate model=clip_b32 task=[]",
        "evaluate run=nope",
        "embed",
        "sweep +sweep.spaces.x=1",
        "sweep sweep.trials=0",
        "sweep sweep.processes=many",
    ],
)
def test_nonsense_is_refused_in_one_sentence(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *rest = line.split()
    call = Call.parse(command, rest)
    with pytest.raises(ModisteError) as caught:
        call.check()
    assert "\n" not in str(caught.value)


def test_a_target_with_declared_ranges_takes_these_arguments():
    from modiste.config.signatures import signature

    for target, ranges in RANGES.items():
        known = signature(target)
        assert known is None or known.open or set(ranges) <= set(known.parameters), target


def test_the_ranges_of_modistes_own_classes_are_in_their_annotations():
    own = {target: ranges for target, ranges in RANGES.items() if target.startswith("modiste.")}
    assert own == {"modiste.data.storage.streaming.Stream": {"shards": str | Sequence[str] | None}}  # null: no stream
