"""`modiste serve` from the command line: what it refuses at once, and a life from the first request to SIGTERM."""

import logging
import re
import signal
import socket
import time

import httpx
import pytest

from helpers.commands import modiste
from modiste.cli import main


@pytest.fixture(autouse=True)
def same_handlers():
    """The command puts a handler of its own on the root logger, whose stream ends with the test."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "No index given"),
        (["index=absent.index"], "There is no index absent.index"),
        (["index=.", "host=0.0.0.0"], "set token="),
        (["index=.", "max_batch=0"], "must be positive"),
        (["index=.", "max_inputs=10000"], "max_inputs=10000 is too large: give at most 8192"),
        (["index=.", "port=70000"], "port=70000 is invalid"),
        (["index=.", "port=1.5"], "port=1.5 must be a whole number"),
        (["index=.", "max_batch=1.5"], "max_batch=1.5 must be a whole number"),
        (["index=.", "port=TAKEN"], "Cannot listen"),
        (["index=.", "prot=80"], "prot"),
        (["index=."], "is not an index"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [argument.replace("TAKEN", str(taken.getsockname()[1])) for argument in arguments]
        given += [] if any(argument.startswith("port=") for argument in given) else ["port=0"]
        assert main(["serve", *given]) in (1, 2)
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "number", "codes"),
    [
        ("torch", signal.SIGTERM, (0, -signal.SIGTERM)),
        ("torch", signal.SIGINT, (0, 130)),
        ("auto", signal.SIGTERM, (0, -signal.SIGTERM)),  # the towers are still being converted in the background
        ("auto", signal.SIGINT, (0, 130)),
    ],
)
def test_it_serves_and_stops_on_a_signal(indexes, tmp_path, monkeypatch, backend, number, codes):
    monkeypatch.setenv("MODISTE_CACHE", str(tmp_path / "cache"))  # nothing is converted yet
    process = modiste("serve", f"index={indexes[0]}", "port=0", f"backend={backend}", cwd=tmp_path, background=True)
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        address = re.search(r"http://\S+", lines[1])[0]
        end = time.monotonic() + 30
        while time.monotonic() < end:  # the port takes connections before the server answers them
            try:
                answer = httpx.get(f"{address}/search", params={"text": "red dress", "k": 3}, timeout=30)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        assert len(answer.json()["results"]) == 3
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode in codes, output
    assert "Traceback" not in output
    assert "terminate called" not in output
