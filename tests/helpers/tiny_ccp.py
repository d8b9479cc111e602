"""CCP in its real layout, with a handful of tiny photos."""

import io
import zipfile

import numpy as np
from scipy.io import savemat

from helpers.tiny_data import encoded, picture

LABELS = ["null", "bag", "dress", "hair", "heels", "purse", "shoes"]
PARTS = {"dress": ["dress"], "shoes": ["shoes", "heels"], "bag": ["bag", "purse"]}
IGNORE = ["null", "hair"]
WIDTH, HEIGHT = 12, 16


def groundtruth(number):
    """Hair on top; a dress (2) in the first photo, a purse (5) and heels (4) in the second, shoes in all."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[:2, 4:8] = 3
    if number == 1:
        pixels[2:10, 3:9] = 2
    if number == 2:
        pixels[5:8, 1:3], pixels[14, 2] = 5, 4
    pixels[15, 2:10:3] = 6
    return pixels


def matlab(**variables):
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=True)
    return buffer.getvalue()


def label_list(labels=LABELS):
    cells = np.empty((1, len(labels)), dtype=object)
    cells[0] = labels
    return matlab(label_list=cells)


def content(count=3, **changes):
    files = {"label_list.mat": label_list()}
    for number in range(1, count + 1):
        files[f"photos/{number:04d}.jpg"] = encoded(picture(number, (WIDTH, HEIGHT)), "JPEG")
        files[f"annotations/pixel-level/{number:04d}.mat"] = matlab(groundtruth=groundtruth(number))
    # Photos with labels of the whole image only.
    files["photos/1005.jpg"] = encoded(picture(9, (WIDTH, HEIGHT)), "JPEG")
    files["annotations/image-level/1005.mat"] = matlab(tags=np.array([[1]]))
    return {name: data for name, data in {**files, **changes}.items() if data is not None}


def write(path, files, layout="folder"):
    if layout == "folder":
        for name, data in files.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return str(path)
    prefix = "clothing-co-parsing-master/" if layout == "zip of the repository" else ""
    with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(prefix + name, data)
    return str(path.with_suffix(".zip"))
