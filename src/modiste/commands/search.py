"""Search an index by text, photo or product: modiste search index=shop.index "red running shoes" k=20"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from modiste.errors import ModisteError


class _NoPandas:
    """An import hook that hides pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ImportError(name)


def _spare_pandas() -> None:
    """Hide pandas from pyarrow, which would spend a second importing it at the first conversion."""
    import pyarrow

    sys.meta_path.insert(0, _NoPandas)
    try:
        pyarrow.array([0])  # pyarrow looks for pandas only once
    finally:
        sys.meta_path.remove(_NoPandas)


def run(cfg: DictConfig) -> None:
    """Print the results as a table, and write the gallery ``html`` if it is given.

    Raises:
        ModisteError: The index or the query is invalid, or ``html`` is not a file in an existing folder.
    """
    _spare_pandas()
    import modiste.search
    from modiste.search.gallery import print_results, write_gallery

    words = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(words, dict)
    if words["html"] and not Path(words["html"]).expanduser().absolute().parent.is_dir():
        raise ModisteError(f"html={words['html']}: the folder does not exist: create it, or choose another.")
    if words["html"] and Path(words["html"]).expanduser().is_dir():
        raise ModisteError(f"html={words['html']} is a folder: name a file in it.")
    index = modiste.search.open(words["index"], words["at"], words["qdrant"]["url"])
    asked = words["query"]
    results = index.search(
        **asked, where=words["where"], k=words["k"], weights=words["weights"], hybrid=words["hybrid"],
        group=words["group"],
    )  # fmt: skip
    print_results(results, words["columns"], sys.stdout)
    if words["html"]:
        file = Path(words["html"]).expanduser()
        write_gallery(file, index, results, {**asked, "where": words["where"]})
        print(f"Gallery: {file}")
