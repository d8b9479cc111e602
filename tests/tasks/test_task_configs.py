"""Every file of conf/task builds its task, alone and together with the others."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf" / "task"
NAMES = sorted(file.stem for file in CONF.glob("*.yaml"))


def build(*names):
    data = {
        "prompts": {"colour": ["a {} garment"]},
        "classes": {"colour": {"R": "red"}},
        "captions": {"templates": ["{text}!"]},
    }
    nodes = OmegaConf.merge(*(OmegaConf.load(CONF / f"{name}.yaml") for name in names))
    cfg = OmegaConf.create({"data_dir": "data", "seed": 0, "data": data, "task": nodes})
    return {name: instantiate(node) for name, node in cfg.task.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_the_task_of_its_name(name):
    """One top-level key, the task's name; a comment on the first line."""
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")
    (key, task), *rest = build(name).items()
    assert (key, task.name, rest) == (name, name, [])


def test_configs_merge_and_follow_the_data():
    tasks = build(*NAMES)
    assert tasks["marqo"].path == Path("data/marqo-kagl")
    assert tasks["retrieval"].template == "{text}!"
    assert tasks["zeroshot"].prompts["colour"] == ["a {} garment"]
    assert tasks["zeroshot"].classes == {"colour": {"R": "red"}}
