"""Search an index by text, photo or product: modiste search index=shop.index "red running shoes" k=20"""

from __future__ import annotations

import sys

from omegaconf import DictConfig, OmegaConf

from modiste.utils.arrow import spare_pandas


def run(cfg: DictConfig) -> None:
    """Print the results as a table, and write the gallery ``html`` if it is given.

    Raises:
        ModisteError: The index or the query is invalid, or ``html`` is not a file in an existing folder.
    """
    spare_pandas()
    import modiste.search
    from modiste.search.gallery import gallery_file, print_results, write_gallery

    words = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(words, dict)
    file = gallery_file(words["html"]) if words["html"] else None
    index = modiste.search.open(words["index"], words["at"], words["qdrant"]["url"])
    asked = words["query"]
    results = index.search(
        **asked, where=words["where"], k=words["k"], weights=words["weights"], hybrid=words["hybrid"],
        group=words["group"],
    )  # fmt: skip
    print_results(results, words["columns"], sys.stdout)
    if file:
        write_gallery(file, index, results, {**asked, "where": words["where"]})
        print(f"Gallery: {file}")
