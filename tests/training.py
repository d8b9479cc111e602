"""Tiny trainings for the tests: the drawn catalogue, towers of a few thousand parameters, run by the command line."""

import os
import subprocess
import sys

TINY = [
    "data=synthetic",
    "data.catalogue.products=160",
    "data.catalogue.size=32",
    "data.batch_size=16",
    "data.num_workers=1",
    "image=timm",
    "image.name=test_efficientnet",
    "image.pretrained=false",
    "image.size=32",
    "text.config.hidden_size=32",
    "text.config.intermediate_size=32",
    "model.embed_dim=32",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1",
]


def modiste(*arguments, cwd, background=False, **environment):
    """Runs `modiste` in a process of its own; returns what it printed, or the process itself."""
    command = [sys.executable, "-m", "modiste", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    if background:
        return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
