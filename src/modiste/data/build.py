"""Build the catalogue and captions of a ``data`` config node."""

from __future__ import annotations

import inspect
import json
import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from modiste.config import instantiate, literal_config, load_run_config
from modiste.data.captions import BoundCaptions, Captions
from modiste.data.catalogue import Catalogue
from modiste.data.corruptions import corrupt
from modiste.data.derive import derive
from modiste.data.splits import HeldOut
from modiste.data.storage.preprocessed import Preprocessed
from modiste.errors import ModisteError
from modiste.utils.run_dir import RunDir

# The keys of a data node that `load` reads.
PARTS = ("name", "catalogue", "split", "derive", "preprocessed", "held_out", "corruptions")


def load(data_cfg: DictConfig) -> Catalogue:
    """Return the catalogue of a ``data`` node, with derived columns, split, held-out values, corruptions.

    Raises:
        ModisteError: The preprocessed images belong to another data set, or the node corrupts preprocessed images.
    """
    # Older runs lack some of these keys.
    catalogue = derive(_whole(data_cfg), data_cfg.get("derive") or {})
    catalogue = _part(data_cfg, "split", catalogue)(catalogue)
    if data_cfg.get("held_out"):
        catalogue = HeldOut.parse(instantiate(data_cfg.held_out))(catalogue)
    return corrupt(catalogue, instantiate(data_cfg.corruptions)) if data_cfg.get("corruptions") else catalogue


def from_run(run: RunDir | str | Path) -> Catalogue:
    """Load the catalogue that a run's configuration names, with its splits.

    Args:
        run: A run directory, or what `modiste.train` returns. A catalogue that was passed to `modiste.train` is in no
            configuration: keep it.

    Raises:
        ModisteError: It is no run, or its data are missing.

    >>> import tempfile
    >>> from modiste.config import compose
    >>> config = compose("evaluate", ["data.catalogue.products=12", "run_dir=unused"])
    >>> run = RunDir(tempfile.mkdtemp())
    >>> OmegaConf.save(config, run.config, resolve=True)  # as modiste.train does
    >>> catalogue = from_run(run)
    >>> catalogue.card.name, len(set(catalogue.column("product_id")))
    ('synthetic', 12)
    """
    found = RunDir.find(run.path if isinstance(run, RunDir) else run)
    return load(load_run_config(found.config).data)


def captions_of(data_cfg: DictConfig) -> Captions:
    """Return the captions of a ``data`` node: templates, words and synonyms.

    >>> from modiste.config import compose
    >>> captions_of(compose("train", ["data=kagl"]).data).templates
    ['{text}']
    """
    # A copy of the node would lose its parent, which ${data.classes} in captions.words refers to.
    node = data_cfg if OmegaConf.is_config(data_cfg) else literal_config(data_cfg)
    plain: Any = OmegaConf.to_container(node.captions, resolve=True)
    return Captions(**plain)


def bind_captions(data_cfg: DictConfig, catalogue: Catalogue) -> BoundCaptions:
    """Apply the caption templates of a ``data`` node to the rows of a catalogue.

    Args:
        data_cfg: The node that ``catalogue`` was loaded from.
        catalogue: All rows, or some of them.

    Raises:
        ModisteError: A template names an unknown column, or the captions are invalid (see `Captions`).
    """
    return captions_of(data_cfg).bind(catalogue)


def identity(data_cfg: DictConfig) -> str:
    """Return a string that identifies the catalogue that `load` returns: equal strings, equal catalogues.

    >>> from modiste.config import compose
    >>> a, b, c = (compose("train", words).data for words in ([], ["data.batch_size=8"], ["data.split.seed=1"]))
    >>> identity(a) == identity(b), identity(a) == identity(c)
    (True, False)
    """
    plain: Any = OmegaConf.to_container(data_cfg, resolve=True)
    return json.dumps({name: plain.get(name) for name in PARTS}, sort_keys=True)


def _part(data_cfg: Any, name: str, *arguments: Any) -> Any:
    """Instantiate ``name``. Raises ModisteError if its target has another signature, as in a damaged file."""
    part = instantiate(data_cfg[name])
    try:
        inspect.signature(part).bind(*arguments)
    except TypeError:
        raise ModisteError(f"'data.{name}' is {data_cfg[name].get('_target_')}, which is not a {name}.") from None
    return part


def _whole(data_cfg: Any) -> Catalogue:
    folder = data_cfg.get("preprocessed")
    if not folder:
        return _part(data_cfg, "catalogue")()
    catalogue = Preprocessed(folder)()
    wanted = data_cfg["name"]
    if catalogue.card.name != wanted and not catalogue.card.name.startswith(f"{wanted}_"):  # or a subset of it
        raise ModisteError(
            f"{folder} holds images of '{catalogue.card.name}', not of '{wanted}': "
            f"set data={shlex.quote(catalogue.card.name)}, or another data.preprocessed."
        )
    return catalogue
