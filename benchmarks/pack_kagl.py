"""Packs KAGL into a zip of at most 64 MiB, in the format of its users, for a machine that takes no more.

python benchmarks/pack_kagl.py OUT                    # JPEG quality 70, all products; MODISTE_DATA holds the original
modiste train experiment=kagl_adapt data_dir=OUT …    # as with the original: same rows, ids and splits

The images stay 60×80; only their JPEG quality is lower, which the zip's comment says, so that no number is compared
with one of the original without saying so. The published queries of the Marqo protocol are copied next to the zip.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

ZIP, QUERIES = "fashion-product-images-small.zip", "marqo-kagl"
LIMIT = 64 * 2**20


def packed(content: bytes, quality: int) -> bytes:
    """A JPEG again, at another quality, or as it is where that is smaller."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return min(buffer.getvalue(), content, key=len)


def pack(source: Path, out: Path, quality: int) -> int:
    """Write the zip; return its bytes."""
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(source / ZIP) as original, zipfile.ZipFile(out / ZIP, "w") as small:
        files = [info for info in original.infolist() if not info.is_dir()]
        pictures = [info for info in files if info.filename.lower().endswith(".jpg")]
        for info in files:
            if info not in pictures:
                small.writestr(info.filename, original.read(info), zipfile.ZIP_DEFLATED)
        with ThreadPoolExecutor() as pool:
            small.comment = f"JPEG quality {quality}".encode()
            for start in range(0, len(pictures), 1024):  # a zip is read by one thread
                part = pictures[start : start + 1024]
                contents = [original.read(info) for info in part]
                made = pool.map(packed, contents, [quality] * len(part))
                for info, content in zip(part, made, strict=True):
                    small.writestr(info.filename, content, zipfile.ZIP_STORED)
    for file in (source / QUERIES).glob("*.json"):
        (out / QUERIES).mkdir(exist_ok=True)
        shutil.copyfile(file, out / QUERIES / file.name)
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def main() -> None:
    """Pack, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", type=Path, default=Path(os.environ.get("MODISTE_DATA", "data")))
    parser.add_argument("--quality", type=int, default=70)
    chosen = parser.parse_args()
    if not (chosen.source / ZIP).is_file():
        raise SystemExit(f"There is no {chosen.source / ZIP}: set MODISTE_DATA or --source.")
    size = pack(chosen.source, chosen.out, chosen.quality)
    fits = "fits" if size <= LIMIT else "does not fit: lower --quality"
    print(f"{chosen.out}: {size / 2**20:.1f} MiB, which {fits} into {LIMIT / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
