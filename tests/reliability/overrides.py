"""Random overrides, seeded: composed and checked without an import; no traceback, and no nonsense accepted."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from modiste.cli.call import Call
from modiste.config import compose
from modiste.config.tree import walk
from modiste.errors import ModisteError

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


def keys() -> Iterator[tuple[str, str]]:
    """(root, key) of everything that the roots' default configs have."""
    for root in ROOTS:
        for path, *_ in walk(compose(root)):
            if not path.startswith(("data.classes.", "data.prompts.")) and "_target_" not in path:
                yield root, path


def drawn(number: int, seed: int = 0) -> Iterator[list[str]]:
    """Command lines, most of them wrong in one place."""
    draw = random.Random(seed)
    known = list(keys())
    for _ in range(number):
        root, key = draw.choice(known)
        if draw.random() < 0.1:
            key = draw.choice(["", "+", "~", "++"]) + "".join(draw.sample(key, len(key)))[: draw.randint(1, 20)]
        value = draw.choice(BROKEN if draw.random() < 0.15 else NONSENSE)
        extra = [draw.choice(ROOTS[root])] if draw.random() < 0.3 else []
        yield [root, *extra, f"{key}={value}"]


def is_sane(path: str, value: Any) -> bool:
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


def faults(number: int, seed: int = 0) -> list[str]:
    """Check ``number`` command lines; what is wrong, an entry per fault."""
    return [f"{' '.join(line)}: {wrong}" for line in drawn(number, seed) if (wrong := fault(line))]


def fault(line: list[str]) -> str:
    """What is wrong with how a command line is taken, or an empty string."""
    try:
        call = Call.parse(line[0], line[1:])
        call.check()
    except ModisteError as error:
        return "" if "Traceback" not in str(error) else "a traceback in the sentence"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    config = compose(call.config_name, call.overrides)
    nonsense = [
        path
        for path, parent, key in walk(config)
        if not OmegaConf.is_interpolation(parent, key)
        and not OmegaConf.is_missing(parent, key)
        and not is_sane(path, parent[key])
    ]
    return f"accepted {nonsense[0]}" if nonsense else ""
