"""Run directories, results, tables, models and caches of a stranger: no code of theirs runs, nothing outside is read.

Every case is a folder that an attacker could hand over, and a command that a victim could run on it. Outside of the
folder lies a secret; the environment holds another. A case is a fault where a process starts, code of the folder runs,
a socket opens, a file outside is opened or written, or a secret reaches what the command prints or writes.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from modiste.utils.own_process import START
from reliability import forks
from reliability.kills import TINY

SECRET = "hunter2-0b5f"
PICTURE = (64, 48)
"""Size of the secret picture."""
EVALUATE = ("evaluate", "run=evil", "task=[retrieval]")
CONTINUE = ("train", "continue=evil", "trainer.max_epochs=2")


FTP = "ftp://127.0.0.1:9/x"
HERE = f"{'../' * 12}proc/self/cwd"
"""A way from the folder of a config group to the working directory."""
EVIL_YAML = "# @package hydra.callbacks\nx:\n  _target_: torch.load\n  f: evil/x.pt\n  weights_only: false\n"


@dataclass(frozen=True)
class Case:
    """What is handed over, and what the victim runs.

    Attributes:
        name: In the report of faults.
        make: Writes into the folder; it gets the folder and the path of what is outside.
        command: Of `modiste`; ``{out}`` is outside.
        bad: A word that must not be printed, beyond the secrets.
    """

    name: str
    make: Callable[[Path, Path], Any]
    command: tuple[str, ...]
    bad: str = ""


class Payload:
    """Unpickled, it writes PWNED outside."""

    def __init__(self, outside: Path) -> None:
        self.outside = outside

    def __reduce__(self) -> Any:
        return os.system, (f"id > {self.outside}/PWNED",)


def payload(outside: Path) -> bytes:
    """A pickle that runs a command."""
    return pickle.dumps(Payload(outside))


def torch_payload(path: Path, outside: Path) -> None:
    """A file of `torch.save` that runs a command when it is unpickled."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", payload(outside))
        file.writestr("archive/version", "3")


# -------------------------------------------------------------------------------------------------------- configuration


def targets(outside: Path) -> list[dict[str, Any]]:
    """Nodes that would run or read something."""
    command = f"id > {outside}/PWNED"
    return [
        {"_target_": "os.system", "command": command},
        {"_target_": "subprocess.Popen", "args": command, "shell": True},
        {"_target_": "builtins.eval", "_args_": [f"__import__('os').system('{command}')"]},
        {"_target_": "builtins.open", "file": f"{outside}/secret.txt"},
        {"_target_": "torch.load", "f": "evil/x.pt", "weights_only": False},
        {"_target_": "torch.hub.load", "repo_or_dir": "evil", "model": "x", "source": "local"},
        {"_target_": "torch.utils.cpp_extension.load_inline", "name": "x", "cpp_sources": "int x;"},
        {"_target_": "torch.nn.modules.module.os.system", "command": command},
        {"_target_": "numpy.load", "file": "evil/x.npy", "allow_pickle": True},
        {"_target_": "pickle.loads", "_args_": ["x"]},
        {"_target_": "functools.partial", "_args_": [{"_target_": "os.system", "_partial_": True}, command]},
        {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system", "command": command}},
        {"_target_": "hydra._internal.instantiate._instantiate2.instantiate", "config": {}},
        {"_target_": "modiste.config.building.instantiate", "node": {}},
        {"_target_": "modiste.data.storage.webdataset.read_shard", "url": f"pipe:{command}", "note": None},
        {"_target_": "modiste.data.datasets.table.from_records", "records": []},
        {"_target_": "modiste.utils.run_dir.os.system", "command": command},
        {"_target_": "modiste.evaluation.verify.subprocess.run", "args": command, "shell": True},
        {"_target_": "modiste.data.storage.webdataset.Shards", "path": f"pipe:{command}"},
        {"_target_": "modiste.data.storage.webdataset.Shards", "path": f"{outside}/../../x/{{0..1}}.tar | {command}"},
        {"_target_": "lightning.pytorch.Trainer", "callbacks": [{"_target_": "os.system", "command": command}]},
        {"_target_": "transformers.pipeline", "task": "x", "model": "evil", "trust_remote_code": True},
        {"_target_": "transformers.AutoModel.from_pretrained", "_args_": ["evil"], "trust_remote_code": True},
        {"_target_": "evil.module.Class"},
        {"_target_": "torchvision.datasets.utils.download_url", "url": f"file://{outside}/secret.txt", "root": "."},
        {"_target_": "torchmetrics.utilities.imports.compare_version", "package": "x", "op": "os", "version": "1"},
    ]


def in_config(*changes: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    """A run directory with a changed ``config.yaml``."""

    def make(folder: Path, outside: Path) -> None:
        path = folder / "config.yaml"
        config = yaml.safe_load(path.read_text())
        for change in changes:
            change(config)
        path.write_text(yaml.safe_dump(config))
        torch_payload(folder / "x.pt", outside)

    return make


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets a dotted key."""

    def change(config: dict[str, Any]) -> None:
        *above, last = key.split(".")
        for name in above:
            config = config[name]
        config[last] = value

    return change


def configs(outside: Path) -> Iterator[Case]:
    """Hostile ``config.yaml``."""
    places = ["model", "model.image", "data.catalogue", "task.retrieval", "data.split"]
    for number, node in enumerate(targets(outside)):
        place = places[number % len(places)]
        yield Case(f"config.yaml: {node['_target_']} as {place}", in_config(put(place, node)), EVALUATE)
    for text in ("${oc.env:SECRET_TOKEN}", "${oc.decode:${oc.env:SECRET_TOKEN}}", "${hydra:runtime.cwd}"):
        yield Case(f"config.yaml: name: {text}", in_config(put("name", text)), EVALUATE)
    yield Case("config.yaml: a prompt that reads the environment",
               in_config(put("data.captions.templates", ["${oc.env:SECRET_TOKEN}"])), EVALUATE)  # fmt: skip
    options: dict[str, Any] = {
        "pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x.pth", "hf_hub_id": None, "source": "url"},
        "pretrained_cfg": {"file": f"{outside}/secret.txt"},
        "checkpoint_path": f"{outside}/secret.txt",
        "cache_dir": f"{outside}/cache",
    }
    for name, value in options.items():
        put_options = put("model.image.options", {name: value})
        yield Case(f"config.yaml: timm's {name}", in_config(put_options, put("model.image.pretrained", True)), EVALUATE)
    kernel = put("model.text.config.attn_implementation", "attacker/kernel")
    yield Case("config.yaml: a kernel of the hub", in_config(kernel), EVALUATE, "Traceback")
    entry = {"x": {"data": f"{HERE}/evil/conf/x"}}
    yield Case("config.yaml: a validation set out of its group", in_config(put("transfer", entry)), EVALUATE)
    for node in trainings(outside):
        parts = {"_target_": "torch.nn.Sequential", "_args_": [node]}
        yield Case(f"config.yaml: {node['_target_']} as model", in_config(put("model", node)), EVALUATE)
        yield Case(f"config.yaml: {node['_target_']} in model", in_config(put("model", parts)), EVALUATE)
    positions = {"_target_": "modiste.data.datasets.fashion_mnist.FashionMnist", "_args_": [f"{outside}/new", True]}
    yield Case("config.yaml: download by its position", in_config(put("data.catalogue", positions)), EVALUATE)
    for tag in ("!!python/object/apply:os.system [{}]", "!!python/name:os.system ''", "!!python/module:os ''"):
        text = "name: x\nmodel: " + tag.format(f"id > {outside}/PWNED")
        yield Case(f"config.yaml: {tag}", text_file("config.yaml", text), EVALUATE)
    yield Case("config.yaml: a billion laughs", text_file("config.yaml", laughs()), EVALUATE)
    yield Case("config.yaml: a target next to it, whose annotations are code", beside, EVALUATE)
    yield Case("config.yaml is a FIFO", special("config.yaml"), EVALUATE)


def trainings(outside: Path) -> list[dict[str, Any]]:
    """Parts of a training that write or ask where their arguments say."""
    return [
        {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": FTP},
        {"_target_": "modiste.training.callbacks.EpochCheckpoint", "dirpath": FTP},
        {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": FTP},
        {"_target_": "lightning.pytorch.Trainer", "default_root_dir": FTP},
        {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": str(outside), "filename": "PWNED"},
        {"_target_": "modiste.training.loggers.wandb_logger", "save_dir": f"{outside}/new"},
        {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": "http://127.0.0.1:9"},
    ]


def beside(folder: Path, outside: Path) -> None:
    """A module of the stranger's, which ``python -m modiste`` finds in the working directory."""
    in_config(put("loss", {"_target_": "evil.part.Loss", "scale": 1}))(folder, outside)
    escape = (
        "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0].__init__.__globals__"
    )
    (folder / "part.py").write_text(
        f"import os\nos.system('id > {outside}/PWNED')\n"
        f"class Loss:\n    def __init__(self, scale: {escape}['system']('id > {outside}/PWNED') = 1): ...\n"
    )


def laughs() -> str:
    """YAML aliases that expand without end."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])


def text_file(name: str, text: str) -> Callable[[Path, Path], None]:
    """One file of the folder, replaced."""

    def make(folder: Path, outside: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("{out}", str(outside)))
        torch_payload(folder / "x.pt", outside)
        (folder / "conf").mkdir(exist_ok=True)
        (folder / "conf" / "x.yaml").write_text(EVIL_YAML)

    return make


def special(name: str) -> Callable[[Path, Path], None]:
    """A FIFO in place of a file."""

    def make(folder: Path, outside: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


OVERRIDES = (
    "+hydra.callbacks.x={_target_: torch.load, f: evil/x.pt, weights_only: false}",
    "hydra.run.dir={out}",
    "hydra/launcher=slurm",
    "++hydra.searchpath=[file://evil/conf]",
    "--config-dir=evil/conf",
    "--config-path=evil/conf",
    "-m",
    "+loss@hydra.callbacks.x=clip",
    "name=${oc.env:SECRET_TOKEN}",
    "'name=${oc.env:SECRET_TOKEN}'",
    "data.catalogue={_target_: os.system, command: id}",
    "+callbacks.x={_target_: os.system, command: id}",
    "+callbacks.x={_target_: torch.load, f: evil/x.pt, weights_only: false}",
    "logger.x={_target_: subprocess.run, args: id, shell: true}",
    "data.stream.shards='pipe:id > {out}/PWNED'",
    "data.stream={shards: 'http://127.0.0.1:9/0.tar', batches: 1}",
    "data.stream={shards: 'http://127.0.0.1:9/0.tar', batches: 1, _args_: [], download: true}",
    "data.stream={shards: ['ais://x/0.tar', 'hf://x/y/0.tar', 'gs://x/0.tar'], batches: 1}",
    "callbacks.best.dirpath={out}",
    "run_dir={out}",
    "trainer.profiler={_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: '{out}', filename: PWNED}",
    "init={out}/secret.txt",
    f"loss={HERE}/evil/conf/x",
    f"callbacks=[default,{HERE}/evil/conf/x]",
    f"loss/{HERE}/evil/conf=x",
    r"name=$\{oc.env\:SECRET_TOKEN\}",
)


# Of a run whose config.yaml agrees with them.
AGREED = (
    "callbacks.best.dirpath={out}",
    f"callbacks.best.dirpath={FTP}",
    "callbacks.best.filename=../../../outside/PWNED",
    f"+callbacks.x={{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: '{FTP}'}}",
    "+callbacks.x={_target_: torch.nn.Sequential, _args_: [{_target_: os.system, command: id}]}",
    f"+logger.x={{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: '{FTP}'}}",
    "+logger.x={_target_: lightning.pytorch.loggers.TensorBoardLogger, save_dir: '{out}/new'}",
    "+logger.x={_target_: lightning.pytorch.loggers.MLFlowLogger, tracking_uri: 'http://127.0.0.1:9'}",
    "+logger.x={_target_: modiste.training.loggers.wandb_logger, save_dir: '.', "
    "settings: {base_url: 'http://127.0.0.1:9', mode: online}}",
    "+logger.x={_target_: modiste.training.loggers.wandb_logger, save_dir: '.', entity: stranger}",
    "trainer.profiler={_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: '{out}', filename: PWNED}",
    "trainer.default_root_dir={out}/new",
    "run_dir={out}/new",
    "callbacks.cost.run_dir={out}",
    "callbacks.recent.filename='{step:c}x/PWNED'",
    "logger.tensorboard.name=${cost.currency}",
    "name=../../outside/new",
    "log_dir={out}/new",
    "log_dir=/",
    "callbacks.best.dirpath=null,{out}",
    r'transfer={x-y: {data.catalogue.wardrobe: "\x24{oc.env\x3aSECRET_TOKEN}"}}',
    "transfer={x-y: {data.catalogue: {_target_: modiste.data.datasets.table.Table, path: evil/x.csv, download: true}}}",
    "+transfer.x-y.data.catalogue.download=true",
    "data={name: ../../outside/new}",
    "data.name='${loss._target_}/../../outside/new'",
    "+logger.x={_target_: lightning.pytorch.loggers.TensorBoardLogger, save_dir: '${run_dir}', version: $SECRET_TOKEN}",
    "+trainer.strategy={_target_: lightning.pytorch.strategies.FSDPStrategy}",
    "+trainer.strategy=fsdp",
    f"+model.x={{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: '{FTP}'}}",
    f"+optim.x={{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: '{FTP}'}}",
    "transfer={x: {hydra.searchpath: [evil/conf], data: x}}",
    "transfer={x: {+hydra.callbacks.x: {_target_: torch.load, f: evil/x.pt, weights_only: false}}}",
    "data.stream.shards='http://127.0.0.1:9/{0..1}.tar'",
    "data.stream.shards='gs://x/{0..1}.tar'",
)


SWEPT = (
    "trainer.profiler=${sweep.space}",
    "callbacks.best.dirpath=${tags}",
    "sweep.space={callbacks.best.dirpath: {choices: ['{out}']}}",
)


def agreed(line: str) -> Callable[[Path, Path], None]:
    """One more override of a run, and a ``config.yaml`` that does not contradict it."""

    def make(folder: Path, outside: Path) -> None:
        text_file("overrides.yaml", "")(folder, outside)
        (folder / "overrides.yaml").write_text(yaml.safe_dump([*TINY, line.replace("{out}", str(outside))]))
        path = folder / "config.yaml"
        config = yaml.safe_load(path.read_text())
        for key in ("callbacks", "logger", "trainer", "transfer", "optim"):
            config.pop(key, None)
        path.write_text(yaml.safe_dump(config))

    return make


def overrides() -> Iterator[Case]:
    """Hostile ``overrides.yaml``, continued, resumed, and of a sweep."""
    for number, line in enumerate(OVERRIDES):
        text = yaml.safe_dump([line])
        key = "resume" if number % 3 == 2 else "continue"
        yield Case(
            f"overrides.yaml, {key}: {line}",
            text_file("overrides.yaml", text),
            ("train", f"{key}=evil", "trainer.max_epochs=2"),
        )
    for line in AGREED:
        for key in ("continue", "resume"):
            yield Case(f"overrides.yaml that config.yaml agrees with, {key}: {line}", agreed(line),
                       ("train", f"{key}=evil", "trainer.max_epochs=2"))  # fmt: skip
    for line in (*AGREED[:3], "callbacks.best.dirpath=null,{out}"):
        for more in ("continue=auto", "--multirun"):
            yield Case(f"overrides.yaml that config.yaml agrees with, resume and {more}: {line}", agreed(line),
                       ("train", "resume=evil", more, "trainer.max_epochs=2"))  # fmt: skip
    space = "sweep.space={+hydra.callbacks.x: {choices: [{_target_: torch.load, f: evil/x.pt, weights_only: false}]}}"
    for line in (*OVERRIDES[:6], *OVERRIDES[-4:], space, *AGREED[:3], *SWEPT):
        yield Case(
            f"overrides.yaml of a sweep: {line}",
            text_file("overrides.yaml", yaml.safe_dump([line])),
            ("sweep", "continue=evil"),
        )


# -------------------------------------------------------------------------------------------------------------- results


def result(**changes: Any) -> dict[str, Any]:
    """A result file that the tables take."""
    metrics = {"t2i/mrr": {"value": 0.5, "low": 0.4, "high": 0.6, "count": 9}}
    return {
        "schema": 1, "task": "retrieval", "data": "synthetic", "split": "test", "model": {"name": "x"},
        "metrics": metrics,
        "primary": "t2i/mrr", "environment": {}, "command": "modiste evaluate run=evil", "examples": [], **changes,
    }  # fmt: skip


def results(outside: Path) -> Iterator[Case]:
    """Hostile result files."""
    file = "results/synthetic.test.retrieval.json"

    def case(name: str, victim: Sequence[str], bad: str = "", **changes: Any) -> Case:
        return Case(f"result: {name}", text_file(file, json.dumps(result(**changes))), tuple(victim), bad)

    verify = ("verify", f"evil/{file}")
    yield case("--config-dir", verify, overrides=["--config-dir=evil/conf", "suite=e"])
    yield case(
        "hydra.callbacks",
        verify,
        overrides=["+hydra.callbacks.x={_target_: torch.load, f: evil/x.pt, weights_only: false}"],
    )
    yield case("a resolver", verify, overrides=["run=evil", "name=${oc.env:SECRET_TOKEN}"])
    yield case("a command with a shell", verify, command=f"modiste evaluate run=evil; id > {outside}/PWNED")
    yield case("a command that substitutes", verify, command=f"modiste evaluate run=$(id > {outside}/PWNED)")
    yield case("another program", verify, command=f"sh -c 'id > {outside}/PWNED'")
    yield case("an option out of its group", verify, overrides=["run=evil", f"suite={HERE}/evil/conf/x"])
    yield case("a target", verify, overrides=["run=evil", "task.retrieval={_target_: os.system, command: id}"])
    suite = ["run=evil", "++suite.name='x/../../../../outside/PWNED'",
             "++suite.entries={e: {data: synthetic_hard, task: [retrieval]}}"]  # fmt: skip
    yield case("a suite's name that is a path", verify, overrides=suite)
    method = f"x/../../../..{outside}/PWNED"
    columns = ["phrase", "pairs", *(f"{method}/pointing{end}" for end in ("", "_low", "_high"))]
    phrases = {"columns": columns, "rows": [["red", 9, 0.5, 0.4, 0.6]]}
    yield case("a method that is a path", ("evaluate", "run=evil"), tables={"phrases": phrases})
    picture = {"kind": "t2i", "query": "a", "rank": 1, "results": [{"row": 0, "image": f"{outside}/secret.png"}]}
    yield case("pictures outside", ("evaluate", "run=evil"), examples=[picture])
    script = "<script>fetch('http://127.0.0.1:9')</script>"
    for style in ("markdown", "csv", "latex"):
        bad = "" if style == "csv" else script
        yield case(f"a name for {style}", ("table", "evil", f"format={style}"), bad, model={"name": script})
    yield case(
        "a formula",
        ("table", "evil", "format=csv"),
        "\n=HYPERLINK",
        model={"name": '=HYPERLINK("http://127.0.0.1:9","x")'},
    )
    pickled = text_file(file, json.dumps(result()))

    def arrays(folder: Path, out: Path) -> None:
        pickled(folder, out)
        with zipfile.ZipFile((folder / file).with_suffix(".npz"), "w") as archive:
            archive.writestr("t2i/mrr.npy", npy_payload(out))

    yield Case("result: pickled arrays, compare", arrays, ("compare", "evil", "evil"))
    yield Case("result: pickled arrays, table", arrays, ("table", "evil"))


def npy_payload(outside: Path) -> bytes:
    """An object array of numpy, whose elements are a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload(outside)


# ---------------------------------------------------------------------------------------------------------------- links


def links(outside: Path) -> Iterator[Case]:
    """Run directories in which places that are written lie elsewhere."""

    def linked(name: str) -> Callable[[Path, Path], None]:
        def make(folder: Path, out: Path) -> None:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.symlink_to(out / ("rc" if path.suffix else "victim"))
            (out / "victim").mkdir(exist_ok=True)

        return make

    for name in ("figures", "results", "report.html", "evaluate.log"):
        yield Case(f"link: {name}, evaluate", linked(name), EVALUATE)
    for name in ("train.log", "csv", "checkpoints", ".in_use.json", "hparams.yaml"):
        yield Case(f"link: {name}, continue", linked(name), CONTINUE)


# --------------------------------------------------------------------------------------------------------------- tables


TABLE = ("data", "data=table", "data.catalogue.path=evil/t.csv", "data.catalogue.images=evil")


def tables(outside: Path) -> Iterator[Case]:
    """Hostile tables and folders of images."""
    secret = f"{outside}/secret.png"
    for ref in (secret, "../outside/secret.png", "a/../../outside/secret.png", f"file://{secret}", "link.png",
                "link/secret.png",
                "http://127.0.0.1:9/x.png", "/dev/stdin", "fifo.png"):  # fmt: skip

        def make(folder: Path, out: Path, ref: str = ref) -> None:
            (folder / "t.csv").write_text(f"image,text\n{ref},a hat\n")
            (folder / "link.png").symlink_to(f"{out}/secret.png")
            (folder / "link").symlink_to(out)
            os.mkfifo(folder / "fifo.png")

        yield Case(f"table: image {ref}", make, TABLE, f"{PICTURE[0]}x")

    def parquet(folder: Path, out: Path, path: str = secret) -> None:
        forks.apart(write_parquet, folder / "t.parquet", path)

    for path in (secret, "/dev/zero", "../outside/secret.png"):
        yield Case(
            f"Parquet: path {path}",
            lambda f, o, path=path: parquet(f, o, path),
            (*TABLE[:2], "data.catalogue.path=evil/t.parquet", TABLE[3]),
        )
    entity = f'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file://{outside}/secret.txt">]><rss><channel><item><text>&x;</text></item></channel></rss>'
    yield Case("XML: an entity", text_file("t.xml", entity), (*TABLE[:2], "data.catalogue.path=evil/t.xml", TABLE[3]))

    def zipped(folder: Path, out: Path) -> None:
        with zipfile.ZipFile(folder / "im.zip", "w") as archive:
            archive.writestr("../outside/PWNED", "x")
            link = zipfile.ZipInfo("s.png")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, f"{out}/secret.png")
        (folder / "t.csv").write_text("image,text\n../outside/PWNED,a hat\ns.png,a tie\n")

    yield Case("zip: links and paths", zipped, (*TABLE[:3], "data.catalogue.images=evil/im.zip"))

    def tar(folder: Path, out: Path, member: str = "0.png", link: str = "") -> None:
        with tarfile.open(folder / "s.tar", "w") as archive:
            info = tarfile.TarInfo(member)
            info.type, info.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
            archive.addfile(info)

    shards = ("data", "data=shards")
    yield Case("shard: a link", lambda f, o: tar(f, o, link=secret), (*shards, "data.catalogue.path=evil/s.tar"))
    yield Case(
        "shard: a path", lambda f, o: tar(f, o, "../../outside/PWNED.png"), (*shards, "data.catalogue.path=evil/s.tar")
    )
    yield Case("shard: pipe", text_file("t", ""), (*shards, f"data.catalogue.path='pipe:id > {outside}/PWNED'"))
    yield Case(
        "shard: file name with a command",
        lambda f, o: tar(f, o),
        (*shards, f"data.catalogue.path='evil/s.tar; id > {outside}/PWNED'"),
    )


HUB = ("data", "data=hub", "data.catalogue.path=./evil/set")


def hub_folders(outside: Path) -> Iterator[Case]:
    """Hostile folders in the layouts of Hugging Face `datasets`."""

    def readme(place: str) -> Callable[[Path, Path], None]:
        return text_file("set/README.md", f"---\nconfigs: [{{config_name: default, data_files: '{place}'}}]\n---\n")

    for place in ("http://127.0.0.1:9/x.csv", "../../outside/secret.txt", "{out}/secret.txt", "hf://datasets/a/b/x.csv",
                  "zip://x.csv::http://127.0.0.1:9/x.zip"):  # fmt: skip
        yield Case(f"hub folder: README names {place}", readme(place), HUB, "Traceback")
    for name in ("../../outside/secret.txt", f"{outside}/secret.txt", "http://127.0.0.1:9/x.arrow"):
        state = json.dumps({"_data_files": [{"filename": name}], "_fingerprint": "0", "_format_type": None})
        yield Case(f"hub folder: state.json names {name}", text_file("set/state.json", state), HUB, "Traceback")

    def linked(folder: Path, out: Path) -> None:
        (folder / "set").mkdir()
        (folder / "set" / "metadata.csv").symlink_to(out / "secret.png")

    yield Case("hub folder: a link", linked, HUB, "Traceback")

    def pictures(folder: Path, out: Path, kind: str, path: str) -> None:
        (folder / "set").mkdir()
        forks.apart(write_typed, folder / "set" / "train.parquet", kind, path)

    for kind in ("Image", "Audio", "Video"):
        for path in ("http://127.0.0.1:9/x.png", f"{outside}/secret.png"):
            yield Case(
                f"hub folder: {kind} {path}",
                lambda f, o, kind=kind, path=path: pictures(f, o, kind, path),
                HUB,
                f"{PICTURE[0]}x",
            )


def write_typed(file: Path, kind: str, path: str) -> None:
    """A table of what is elsewhere, which `datasets` would decode."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"image": {"_type": kind}, "text": {"_type": "Value", "dtype": "string"}}
    table = pa.table({"text": ["a hat"], "image": [{"bytes": None, "path": path}]})
    info = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": info}), file)


def write_parquet(file: Path, path: str) -> None:
    """A table of one picture that is elsewhere."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a hat"], "image": [{"bytes": None, "path": path}]}), file)


# --------------------------------------------------------------------------------------------------- weights and caches


def weights() -> Iterator[Case]:
    """Pickles and paths in checkpoints, embeddings and manifests."""
    for name in ("best", "last"):

        def checkpoint(folder: Path, out: Path, name: str = name) -> None:
            for file in (folder / "checkpoints").iterdir():
                file.unlink()
            torch_payload(folder / "checkpoints" / f"{name}.ckpt", out)

        yield Case(f"pickle: {name}.ckpt, evaluate", checkpoint, EVALUATE)
        yield Case(f"pickle: {name}.ckpt, continue", checkpoint, CONTINUE)
    for place in ("local://{out}/victim", "../../../outside/victim", FTP):

        def deleting(folder: Path, out: Path, place: str = place) -> None:
            (out / "victim").mkdir(exist_ok=True)
            for file in folder.glob("checkpoints/[br]e*.ckpt"):
                file.unlink()
            forks.apart(name_best, folder / "checkpoints" / "last.ckpt", place.format(out=out))

        yield Case(f"last.ckpt: the best before was {place}", deleting, CONTINUE)

    def tiny_tensor(folder: Path, out: Path) -> None:
        forks.apart(stretch_scale, folder / "checkpoints" / "best.ckpt")

    yield Case("best.ckpt: a tensor of 4 bytes in 20 GB", tiny_tensor, EVALUATE, "allocate")
    yield Case(
        "pickle: init",
        lambda f, o: torch_payload(f / "x.ckpt", o),
        ("train", *TINY, "init=evil/x.ckpt", "hydra.run.dir=new"),
    )
    yield Case(
        "pickle: start.ckpt",
        lambda f, o: torch_payload(f / "start.ckpt", o),
        ("train", "continue=evil", "trainer.max_epochs=2", "term=[distill]"),
    )

    def matrices(folder: Path, out: Path) -> None:
        for side in ("image", "text"):
            (folder / f"{side}.npy").write_bytes(npy_payload(out))
            torch_payload(folder / f"{side}.pt", out)

    for suffix in ("npy", "pt"):
        files = (f"embeddings.{side}=evil/{side}.{suffix}" for side in ("image", "text"))
        yield Case(f"pickle: embeddings.{suffix}", matrices, ("evaluate", "data=synthetic_hard", *files))

    def manifest(folder: Path, out: Path) -> None:
        shard = {"file": f"{out}/secret.npy", "rows": 1, "bytes": 1, "sha256": "0"}
        content = {"format": 1, "complete": True, "shards": [shard], "preprocess": {}, "report": {}, "card": {}}
        (folder / "manifest.json").write_text(json.dumps(content))

    yield Case("manifest: a file outside", manifest, ("train", *TINY, "data.preprocessed=evil", "hydra.run.dir=new"))
    yield Case(
        "manifest: too deep",
        text_file("manifest.json", "[" * 100000),
        ("train", *TINY, "data.preprocessed=evil", "hydra.run.dir=new"),
        "Traceback",
    )
    yield Case("logger.json: another", text_file("logger.json", '{"csv": {"_target_": "os.system"}}'), CONTINUE)
    yield Case(
        "start.json: elsewhere", text_file("start.json", '{"init": "{out}/secret.txt", "resume": null}'), CONTINUE
    )


def name_best(file: Path, place: str) -> None:
    """Have a checkpoint say where the best one is, which Lightning deletes when there is a better one."""
    import torch

    checkpoint = torch.load(file, weights_only=True)
    for state in checkpoint["callbacks"].values():
        if "best_model_path" in state:
            state["best_model_path"] = f"{file.parent}/{place}" if place.startswith("..") else place
    torch.save(checkpoint, file)


def stretch_scale(file: Path) -> None:
    """Have the temperature of a checkpoint be a tensor of stride 0."""
    import torch

    checkpoint = torch.load(file, weights_only=True)
    checkpoint["state_dict"]["loss.logit_scale"] = torch.zeros(1).expand(5_000_000_000)
    torch.save(checkpoint, file)


def models(outside: Path) -> Iterator[Case]:
    """Models that bring code."""
    code = f"import os\nos.system('id > {outside}/PWNED')\nclass M: pass\n"

    def folder_of(files: dict[str, Any]) -> Callable[[Path, Path], None]:
        def make(folder: Path, out: Path) -> None:
            shutil.rmtree(folder)
            folder.mkdir()
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
            torch_payload(folder / "pytorch_model.bin", out)

        return make

    maps = {
        "AutoModel": "modeling.M",
        "AutoConfig": "modeling.M",
        "AutoProcessor": "modeling.M",
        "AutoTokenizer": ["modeling.M", None],
    }
    embed = ("embed", "data=synthetic_hard", "data.catalogue.products=20", "model=evil", "out=vectors")
    yield Case(
        "model: auto_map",
        folder_of({"config.json": {"model_type": "mine", "auto_map": maps}, "modeling.py": code}),
        embed,
    )
    yield Case("model: a pickle of weights", folder_of({"config.json": {"model_type": "clip"}}), embed)
    for kind in (
        "modeling.M",
        "os.system",
        "sentence_transformers.util.misc.importlib",
        "sentence_transformers.base.model.torch",
    ):
        modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
        yield Case(
            f"model: module {kind}",
            folder_of({"modules.json": modules, "config_sentence_transformers.json": {}, "modeling.py": code}),
            embed,
        )
    remote = {"model_cfg": {"embed_dim": 8, "text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}}
    yield Case("model: open_clip's remote code", folder_of({"open_clip_config.json": remote}), embed)
    facts = {"format": "hub"}
    yield Case(
        "model: a target of the hub's config",
        folder_of({"modiste.json": facts, "config.json": {"image": {"_target_": "os.system"}}}),
        embed,
    )
    yield Case("model: config.json too deep", folder_of({"config.json": "[" * 100000}), embed, "Traceback")
    yield Case(
        "model: modiste's own code",
        folder_of({"config.json": {"model_type": "modiste", "auto_map": maps}, "modeling.py": code}),
        embed,
    )
    card = {"name": "x", "fingerprint": "0" * 64, "preprocess": {}, "embed_dim": 4, "source": ""}
    facts = {
        "format": 1, "model": card, "data": "x", "types": {"row": "number", "product_id": "text", "text": "text"},
        "columns": {"product_id": "string", "text": "string"}, "images": None, "next_row": 1,
        "engine": {"kind": "qdrant", "url": "http://127.0.0.1:9", "collection": "x"},
        "commits": [{"version": 1, "created": "2026-01-01T00:00:00+00:00", "rows": 1, "note": ""}],
    }  # fmt: skip
    yield Case("index: a server of the stranger's", folder_of({"index.json": facts}),
               ("search", "index=evil", "like=x"), "Traceback")  # fmt: skip
    index = {"index.json": {"engine": "os.system", "model": "evil"}}
    yield Case("index: a stranger's", folder_of(index), ("search", "index=evil", "a red dress"))


def cases(outside: Path) -> list[Case]:
    """All of them."""
    from reliability import hostile_files, hostile_models

    made = (
        configs(outside),
        overrides(),
        results(outside),
        links(outside),
        tables(outside),
        hub_folders(outside),
        weights(),
        models(outside),
        hostile_models.folders(),
        hostile_models.runs(outside),
        hostile_files.cases(),
    )
    return [case for kind in made for case in kind]


# ------------------------------------------------------------------------------------------------------------- watching

TOOLS = ("uname", "lscpu", "file", "nvidia-smi", "rocm-smi")
"""What Python, torch and codecarbon ask for the machine, with arguments of their own."""
CPU = [sys.executable, str(Path(find_spec("cpuinfo").origin).with_name("cpuinfo.py")), "--json"]  # type: ignore
"""What codecarbon starts to name the processor."""
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pty.spawn")
NETWORK = ("socket.connect", "socket.getaddrinfo")


def watched(case: Path, found: Path) -> Callable[[], None]:
    """Notes what the process does that it should not."""

    def install() -> None:
        os.environ |= {
            "SECRET_TOKEN": SECRET,
            "HF_HUB_OFFLINE": "1",
            "MODISTE_CACHE": str(case / "cache"),
            "WANDB_MODE": "disabled",
        }
        os.environ.pop("MODISTE_ALLOW", None)
        descriptor = os.open(found, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def note(event: str, what: Any) -> None:
            os.write(descriptor, f"{event}: {str(what)[:200]}\n".encode())

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in PROCESSES:
                if (
                    arguments[0] not in TOOLS
                    and arguments[1:2] != (CPU,)
                    and (*arguments, ())[1][1:4] != ["-c", START, "evaluate"]
                ):
                    note(event, arguments)
            elif event in NETWORK and "AF_UNIX" not in str(arguments):
                note(event, arguments[1:])
            elif event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
                path = os.path.abspath(arguments[0])
                if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not path.startswith(
                    (str(case), "/dev/", "/proc/")
                ):
                    note("written outside", path)

        sys.addaudithook(hook)

    return install


class Opened:
    """The names in a folder that anybody opens, by Linux's inotify: libraries in C are seen, too."""

    def __init__(self, folder: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.libc.inotify_init1(os.O_NONBLOCK)
        opened, changed = 0x20, 0x2 | 0x100 | 0x80  # IN_OPEN; IN_MODIFY, IN_CREATE, IN_MOVED_TO
        self.libc.inotify_add_watch(self.descriptor, str(folder).encode(), opened | changed)

    def names(self) -> list[str]:
        """Since the last call."""
        try:
            data = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return []
        found = []
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            name = data[16 : 16 + length].rstrip(b"\0").decode()
            if name and not mask & 0x40000000:
                found.append(name)
            data = data[16 + length :]
        return found


def attack(case: Case, base: Path, folder: Path, outside: Path, opened: Opened) -> str:
    """Run a case; what is wrong, or an empty string."""
    evil, found, log = folder / "evil", folder / "found", folder / "log"
    shutil.copytree(base, evil)
    case.make(evil, outside)
    opened.names()
    command = [word.replace("{out}", str(outside)) for word in case.command]
    try:
        code = forks.wait(forks.start(command, folder, log, watched(folder, found)), 60)
    except TimeoutError:
        return "it waits for ever"
    wrong = [f"opened outside: {sorted(set(names))}"] if (names := opened.names()) else []
    printed = log.read_text(errors="replace")
    if found.is_file():
        wrong += found.read_text().splitlines()[:3]
    if case.name.startswith("last.ckpt") and not (outside / "victim").is_dir():
        wrong.append("a folder was deleted")
    if (outside / "PWNED").exists():
        (outside / "PWNED").unlink()
        wrong.append("code ran")
    if case.bad and case.bad in printed:
        wrong.append(f"printed {case.bad!r}")
    if "Traceback (most recent" in printed:
        wrong.append(f"a traceback: {printed.strip().splitlines()[-1][:150]}")
    written = [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size < 2**24]
    wrong += [
        f"the secret is in {file.relative_to(folder)}"
        for file in written
        if SECRET.encode() in file.read_bytes() and file not in sent(evil)
    ]
    if code < 0:
        wrong.append(f"killed by signal {-code}")
    return "; ".join(wrong)


def sent(evil: Path) -> list[Path]:
    """Files that hold the secret because the case put it there."""
    return [evil / "t.csv"]


def prepare(folder: Path) -> tuple[Path, Path]:
    """A finished run that cases change, and the folder outside with the secrets."""
    base, outside = folder / "base", folder / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    forks.apart(draw_secret, outside / "secret.png")
    code = forks.run(["train", *TINY, "trainer.max_epochs=1", f"hydra.run.dir={base}"], folder, folder / "base.log")
    if code:
        raise RuntimeError((folder / "base.log").read_text()[-2000:])
    return base, outside


def draw_secret(path: Path) -> None:
    """The picture that nobody may read."""
    from PIL import Image

    Image.new("RGB", PICTURE, "red").save(path)


def measure(every: int = 1, chosen: Callable[[Case], bool] = lambda case: True) -> tuple[int, list[str]]:
    """Run the cases, or every ``every``-th; how many, and what is wrong."""
    faults = []
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        base, outside = prepare(top)
        opened = Opened(outside)
        wanted = [case for case in cases(outside)[::every] if chosen(case)]
        for number, case in enumerate(wanted):
            folder = top / f"case{number}"
            folder.mkdir()
            wrong = attack(case, base, folder, outside, opened)
            if wrong:
                faults.append(f"{case.name}: {wrong}")
            shutil.rmtree(folder, ignore_errors=True)
    return len(wanted), faults
