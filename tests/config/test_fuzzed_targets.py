"""No config target, whatever its arguments, starts a process, opens an address, or writes outside its folder."""

import inspect
import os
import platform
import random
import sys
import tempfile
from pathlib import Path

import pytest

from modiste.config import instantiate
from modiste.config.targets import LISTED, locate, registry
from modiste.errors import ModisteError

NUMBER = int(os.environ.get("MODISTE_FUZZ", "60"))
PROCESS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
}
NETWORK = {"socket.connect", "socket.getaddrinfo", "urllib.Request", "http.client.connect", "ftplib.connect"}
WRITES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
WRITES |= {"os.chmod", "os.chown", "shutil.move", "shutil.copyfile"}
CODE = {"pickle.find_class"}
# What codecarbon asks for the machine's hardware, with arguments of its own.
TOOLS = {"lscpu", "nvidia-smi", "rocm-smi", "uname", "powermetrics"}
watch = {"folder": None, "outside": "", "found": []}


def hook(event, arguments):
    """Python's audit hook; it cannot be removed, so it looks only while it is asked to."""
    if watch["folder"] is None:
        return
    if event == "subprocess.Popen" and arguments[0] in TOOLS and watch["outside"] not in str(arguments):
        return
    if event in PROCESS | NETWORK | CODE:
        watch["found"].append((event, str(arguments)[:200]))
    elif event in WRITES or (event == "open" and is_write(arguments)):
        path = os.path.abspath(str(arguments[0])) if arguments and isinstance(arguments[0], (str, os.PathLike)) else ""
        if path and not path.startswith((watch["folder"], "/dev/null", "/proc/", "/dev/shm")):
            watch["found"].append((event, path))


def is_write(arguments):
    """Whether an `open` may change a file."""
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def hostile(outside):
    """Values that somebody would try."""
    return [
        f"pipe:touch {outside}/PWNED",
        f"|touch {outside}/PWNED",
        f"$(touch {outside}/PWNED)",
        f"`touch {outside}/PWNED`",
        f"; touch {outside}/PWNED",
        "http://127.0.0.1:9/x.tar",
        "https://127.0.0.1:9/model",
        "ftp://127.0.0.1:9/x",
        "hf-hub:127.0.0.1/x",
        "s3://bucket/x",
        "gs://bucket/x",
        f"file://{outside}/x",
        f"{outside}/x.pt",
        f"{outside}/x.parquet",
        f"{outside}/",
        "/dev/stdin",
        "../../../../etc/passwd",
        "__import__('os').system('id')",
        "{x.__class__.__mro__}",
        "\0",
        -1,
        [f"pipe:touch {outside}/PWNED"],
        {"text": f"pipe:touch {outside}/PWNED"},
        {"_target_": "modiste.data.storage.webdataset.Shards", "path": f"pipe:touch {outside}/PWNED"},
        {"_target_": "torch.optim.SGD", "_partial_": True},
        {"_target_": "modiste.texts.words.HashTokenizer", "buckets": 2, "max_length": 2},
    ]


def arguments_of(target, draw, values):
    """One or two hostile arguments, and something for the others that must be given."""
    try:
        parameters = inspect.signature(locate(target)).parameters.values()
    except ValueError:
        return {}
    # `download` is leave to fetch a data set from the one address that its adapter has.
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "download"]
    chosen = draw.sample(named, min(len(named), draw.randint(1, 2)))
    return {p.name: draw.choice(values) for p in named if p.default is p.empty or p in chosen}


def test_no_target_starts_a_process_or_touches_what_is_outside(tmp_path, monkeypatch):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    monkeypatch.chdir(inside)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_MODE"):
        monkeypatch.setenv(name, {"WANDB_MODE": "disabled"}.get(name, "1"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read when it was imported
    monkeypatch.setattr(tempfile, "tempdir", str(inside))
    monkeypatch.delenv("MODISTE_ALLOW", raising=False)
    targets = []
    for target in sorted(registry() | LISTED):
        try:
            locate(target)
            targets.append(target)
        except ModisteError:  # of a package that is not installed
            continue
    assert len(targets) > 100
    draw, values = random.Random(0), hostile(outside)
    platform.processor()  # asks `uname` once, and packages ask for it when they are imported
    sys.addaudithook(hook)
    own = sorted(set(targets) & registry())
    built = 0
    for number in range(NUMBER):
        target = own[number % len(own)] if number < 3 * len(own) else draw.choice(targets)
        node = {"_target_": target, **arguments_of(target, draw, values)}
        watch.update(folder=str(inside), outside=str(outside), found=[])
        try:
            thing = instantiate(node)
            built += 1
            if target.startswith("modiste.data.") and callable(thing) and not inspect.signature(thing).parameters:
                thing()
        except Exception:  # refused in one way or another
            pass
        except SystemExit:
            pass
        finally:
            watch["folder"] = None
        assert not watch["found"], (node, watch["found"])
    assert built > NUMBER / 20
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    "value",
    ["os", "os.path", "subprocess", "builtins.eval", "torch", "modiste", "modiste.x y", "a b", "a,*", "my-package",
     "a..b", ".a", "a.", "a.__class__", "x;y", "../x", "pipe,os"],
)  # fmt: skip
def test_what_would_open_everything_is_refused_in_modiste_allow(monkeypatch, value):
    monkeypatch.setenv("MODISTE_ALLOW", value)
    with pytest.raises(ModisteError, match="MODISTE_ALLOW"):
        locate("somewhere.Thing")


def test_modiste_allow_takes_packages_modules_and_classes_and_nothing_that_begins_alike(monkeypatch):
    monkeypatch.setenv("MODISTE_ALLOW", " pipe , my_losses, torch.optim.SparseAdam,")
    assert locate("torch.optim.SparseAdam").__name__ == "SparseAdam"
    with pytest.raises(ModisteError, match="'my_losses', which is not installed"):
        locate("my_losses.Hinge")
    for target in ("my_losses_too.Hinge", "pipes.quote", "torch.optim.SparseAdam2", "torch.load"):
        with pytest.raises(ModisteError, match="may not be instantiated"):
            locate(target)
    assert not Path("PWNED").exists()
