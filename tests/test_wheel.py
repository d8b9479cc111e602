"""The wheel that is built from the sdist works from an empty folder, without the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import modiste

ROOT = Path(modiste.__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="modiste is not imported from a checkout"),
]


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder of an sdist, and of the wheel that is built from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    built = run("-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """Runs Python in an empty folder, where `import modiste` finds the wheel and not the checkout."""
    site = tmp_path_factory.mktemp("site")
    (wheel,) = dist.glob("*.whl")
    pip = run("-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", site, wheel, cwd=dist)
    assert pip.returncode == 0, pip.stderr
    empty = tmp_path_factory.mktemp("empty")
    return lambda *arguments: run(*arguments, cwd=empty, PYTHONPATH=str(site)), site, empty


def version_of(wheel):
    return Path(wheel).name.split("-")[1]


def test_the_distributions_hold_every_config_and_module_and_no_rubbish(dist):
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    confs = {file.relative_to(ROOT) for file in (ROOT / "conf").rglob("*.yaml") if "local" not in file.parts}
    modules = {file.relative_to(ROOT / "src") for file in (ROOT / "src").rglob("*.py")}
    assert {f"modiste/{file.as_posix()}" for file in confs} <= in_wheel
    assert {file.as_posix() for file in modules} <= in_wheel
    package = ROOT / "src" / "modiste"
    data = {f for kind in ("html", "css", "js", "csv", "yaml") for f in (package / "reporting").rglob(f"*.{kind}")}
    assert {file.relative_to(package.parent).as_posix() for file in data} <= in_wheel
    assert len(data) > 8  # templates, published numbers and their names
    assert {file.as_posix() for file in confs} | {"LICENSE", "README.md", "pyproject.toml"} <= in_sdist
    assert not [name for name in in_wheel | in_sdist if "__pycache__" in name or name.endswith((".ckpt", ".zip"))]
    top = {name.split("/")[0] for name in in_wheel}
    assert top == {"modiste", f"modiste-{version_of(wheel)}.dist-info"}


def test_the_installed_package_finds_its_own_conf(installed):
    python, site, _ = installed
    script = "import modiste; from modiste.config import config_dir; print(modiste.__file__); print(config_dir())"
    package = (site / "modiste").resolve()
    assert python("-c", script).stdout.splitlines() == [f"{package / '__init__.py'}", f"{package / 'conf'}"]


def test_help_and_configs_from_the_wheel(installed, dist):
    python, site, _ = installed
    (wheel,) = dist.glob("*.whl")
    assert python("-m", "modiste", "--version").stdout == f"modiste {version_of(wheel)}\n"
    assert python(site / "bin" / "modiste", "--version").stdout == f"modiste {version_of(wheel)}\n"
    for command in modiste_commands():
        shown = python("-m", "modiste", command, "--help")
        assert shown.returncode == 0, shown.stderr
        assert f"Usage: modiste {command}" in shown.stdout
    shown = python("-m", "modiste", "train", "--cfg", "job", "loss=siglip")
    assert shown.returncode == 0, shown.stderr
    assert "modiste.losses.siglip" in shown.stdout


def modiste_commands():
    from modiste.cli.outline import commands

    return commands()


def test_the_wheel_trains_from_an_empty_folder_and_sweeps(installed):
    python, _, empty = installed
    step = python("-m", "modiste", "train", "debug=step", "data=synthetic")
    assert step.returncode == 0, step.stderr
    assert not (empty / "conf").exists()
    sweep = python("-m", "modiste", "train", "-m", "debug=step", "loss=siglip")
    assert sweep.returncode == 0, sweep.stderr
