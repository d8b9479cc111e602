"""Tiny training runs for the tests: the synthetic catalogue, towers of a few thousand parameters, the command line."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TIMEOUT = 300  # seconds
READ_LATE = ("CUBLAS_", "MODISTE_", "NVIDIA_", "OMP_NUM_THREADS", "PYTHONPATH", "PYTEST_")
"""Beginnings of variables that nothing reads while it is imported. wandb does, and makes a directory, which the first
fork to end would take away from the others."""

TOWERS = [
    "image=timm",
    "image.name=test_efficientnet",
    "image.pretrained=false",
    "image.size=32",
    "text.config.hidden_size=32",
    "text.config.intermediate_size=32",
    "model.embed_dim=32",
]
TINY = [
    "data=synthetic",
    "data.catalogue.products=160",
    "data.catalogue.size=32",
    "data.batch_size=16",
    "data.num_workers=1",
    *TOWERS,
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1",
]


def modiste(*arguments, cwd, background=False, fork=True, **environment):
    """Runs `modiste` in a process of its own; returns what it printed, or the process itself.

    ``fork=False``: by a Python of its own, where the command pickles things for others.
    """
    command = [sys.executable, "-m", "modiste", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    if background:
        return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not fork or any(env.get(name) != os.environ.get(name) for name in env if not name.startswith(READ_LATE)):
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    return forked(command, cwd, env)


def forked(command, cwd, env):
    """As `subprocess.run`, by a fork of a process that has imported everything (`forkserver`)."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {"arguments": command[3:], "cwd": str(cwd), "env": env, "timeout": TIMEOUT}
        server = forkserver()
        print(json.dumps(request | {"stdout": str(out), "stderr": str(err)}), file=server.stdin, flush=True)
        code = json.loads(server.stdout.readline())
        if code is None:
            raise subprocess.TimeoutExpired(command, TIMEOUT)
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())


@functools.cache
def forkserver():
    """Started by the first test that needs it, ended with the tests."""
    command = [sys.executable, str(Path(__file__).with_name("forkserver.py"))]
    # No thread may be running when it forks.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    env["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # jemalloc has a thread
    server = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server
