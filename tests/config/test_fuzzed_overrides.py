"""Random overrides, seeded: composed and checked without an import; no traceback, and no nonsense accepted."""

import math
import os
import random

import pytest
from omegaconf import OmegaConf

from modiste.cli.call import Call
from modiste.config import compose
from modiste.config.schema import RANGES
from modiste.config.tree import walk
from modiste.errors import ModisteError

NUMBER = int(os.environ.get("MODISTE_FUZZ", "20"))
NONSENSE = [
    "-1", "0", "1e400", "nan", "inf", "-inf", "abc", "null", "true", "[]", "[1,2]", "{}", "{a: 1}", "''", "1.5", "/",
    "99999999999999999999", "0x10", "'a, (b'", "[[]]", "{_target_: os.system}", "é", "None", "~", "-0.1", "1e-400",
    "[/sale]",
]  # fmt: skip
BROKEN = [
    "${", "${x}", "a=b=c", "(", "[", "{", "'", '"', "\\", "$(id)", "a,b", "!!python", "glob(*)", "range(1,3)", "@x",
]  # fmt: skip
ROOTS = {
    "train": ["image=lite", "loss=gcl", "optim=finetune", "data=kagl", "term=[distill]", "trainer=ddp_cpu"],
    "evaluate": ["data=ccp", "task=[grounding]", "task=[probe]", "data=fashion_iq", "suite=here"],
    "sweep": ["sweep=finetune"],
    "merge": ["data=kagl"],
    "embed": ["data=kagl"],
}


def keys():
    """(root, key) of everything that the roots' default configs have."""
    for root in ROOTS:
        for path, *_ in walk(compose(root)):
            if not path.startswith(("data.classes.", "data.prompts.")) and "_target_" not in path:
                yield root, path


def drawn():
    """Command lines, most of them wrong in one place."""
    draw = random.Random(0)
    known = list(keys())
    for _ in range(NUMBER):
        root, key = draw.choice(known)
        if draw.random() < 0.1:
            key = draw.choice(["", "+", "~", "++"]) + "".join(draw.sample(key, len(key)))[: draw.randint(1, 20)]
        value = draw.choice(BROKEN if draw.random() < 0.15 else NONSENSE)
        extra = [draw.choice(ROOTS[root])] if draw.random() < 0.3 else []
        yield [root, *extra, f"{key}={value}"]


def is_sane(path, value):
    """Whether an accepted number is one that a training could mean, by the name of its key."""
    leaf = path.rpartition(".")[2]
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return True
    if not math.isfinite(value):
        return False
    least = {
        "lr": 1e-300,
        "batch_size": 1,
        "seed": 0,
        "p": 0,
        "products": 1,
        "size": 1,
        "embed_dim": 1,
        "weight_decay": 0,
    }
    most = {"p": 1, "occlusion": 1, "decay": 1, "mix": 1, "val_fraction": 1}
    return least.get(leaf, -math.inf) <= value <= most.get(leaf, math.inf)


@pytest.mark.slow
@pytest.mark.usefixtures("cached_files")
def test_random_overrides_are_accepted_and_sane_or_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = 0
    for line in drawn():
        try:
            call = Call.parse(line[0], line[1:])
            call.check()
        except ModisteError:
            refused += 1
            continue
        except Exception as error:
            raise AssertionError(f"{line}: {type(error).__name__}: {error}") from error
        config = compose(call.config_name, call.overrides)
        for path, parent, key in walk(config):
            if not OmegaConf.is_interpolation(parent, key) and not OmegaConf.is_missing(parent, key):
                assert is_sane(path, parent[key]), line
    assert refused > NUMBER / 2


@pytest.mark.usefixtures("cached_files")
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
