"""Write the constraints with hashes that CI tests next to the open ranges: python requirements/lock.py

pip resolves the extra ``dev`` for this Python and platform, without installing it, and says which files it chose.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
TORCH = ("torch==2.14.1", "torchvision==0.29.1")  # as in the Makefile


def target() -> Path:
    """The file of this Python and platform."""
    version = "".join(map(str, sys.version_info[:2]))
    return HERE / f"{sys.platform}-{platform.machine()}-py{version}.txt"


def resolve() -> list[dict]:
    """What pip would install."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", report]
        subprocess.run([*pip, *TORCH, "--editable", f"{HERE.parent}[dev]"], check=True)
        return json.loads(report.read_text())["install"]


def lines(packages: list[dict]) -> list[str]:
    """``name==version --hash=sha256:…``, by name; Modiste itself is none of them."""
    found = []
    for package in packages:
        hashes = package["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" in hashes:
            name, version = (package["metadata"][key] for key in ("name", "version"))
            found.append(f"{name.lower().replace('_', '-')}=={version} --hash=sha256:{hashes['sha256']}")
    return sorted(found)


if __name__ == "__main__":
    head = [f"# Made by {Path(__file__).parent.name}/{Path(__file__).name}; CI installs it with --require-hashes."]
    target().write_text("\n".join([*head, *lines(resolve())]) + "\n")
    print(target())
