"""The argument ``data`` of `modiste.evaluate` and `modiste.embed`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from modiste.config import compose, escape_interpolations, load_run_config
from modiste.config.inherit import from_run
from modiste.config.overrides import as_overrides
from modiste.data.catalogue import Catalogue
from modiste.errors import ModisteError
from modiste.utils.run_dir import RunDir

Entry = str | Mapping[str, Any]
"""A data set's name, or config groups and keys of a command with values: ``{data: kagl, task: [marqo]}``."""


def entry_overrides(entry: Entry) -> list[str]:
    """Convert an entry to overrides of the command line.

    Raises:
        ModisteError: It is neither a name nor a mapping, or has a key that is not in Modiste's configuration.

    >>> entry_overrides("kagl"), entry_overrides({"data": "kagl", "data/split": "marqo"})
    (['data="kagl"'], ['data="kagl"', 'data/split="marqo"'])
    """
    if isinstance(entry, str):
        entry = {"data": entry}
    if not isinstance(entry, Mapping):
        raise ModisteError(
            f"'{entry}' does not name data to evaluate: give a data set, or config groups and keys with their values, "
            "{data: kagl, data/split: marqo, task: [zeroshot]}."
        )
    return as_overrides(entry)


@dataclass(frozen=True)
class Composed:
    """A command's configuration for the given data.

    Attributes:
        config: The configuration; its ``data`` has the captions and prompts, also of a given catalogue.
        overrides: Overrides that compose it.
        catalogue: The given catalogue; None: ``config.data`` names it.
        trained: Configuration of the model's run; None: the model is not of a run.
    """

    config: DictConfig
    overrides: tuple[str, ...]
    catalogue: Catalogue | None
    trained: DictConfig | None


def compose_for(
    command: str, data: Catalogue | Entry | None, run: RunDir | None, overrides: Sequence[str] = ()
) -> Composed:
    """Compose the configuration of a command for data that a user gave.

    Args:
        command: ``evaluate`` or ``embed``.
        data: A catalogue, a data set's name, or config groups and keys with values; None: the data of ``run``.
        run: The run directory of the model, if it has one. Unless ``data`` names a data set, its data node applies,
            with its captions; without a run, that of ``data=table`` applies to a catalogue.
        overrides: Further overrides of the command.

    Raises:
        ModisteError: ``data`` is none of these, a name is unknown, or neither data nor a run is given.

    >>> from modiste.data.synthetic import Synthetic
    >>> composed = compose_for("embed", Synthetic(products=10, views=1, size=32)(), None)
    >>> composed.config.data.name, composed.config.data.captions.templates, len(composed.catalogue)
    ('synthetic', ['{text}'], 10)
    """
    given = data if isinstance(data, Catalogue) else None
    entry = {} if data is None or isinstance(data, Catalogue) else data
    if not isinstance(entry, (str, Mapping)):
        raise ModisteError("data: give a Catalogue, a data set's name, or config groups and keys with their values.")
    if data is None and run is None:
        raise ModisteError("No data given: name a data set or pass a catalogue; only runs have default data.")
    words = (*entry_overrides(entry), *overrides)
    node = [] if given is None else ["data=table", "data.catalogue.path=memory"]
    config, trained = compose(command, [*node, *words]), None
    if run is not None:
        trained = load_run_config(RunDir.find(run.path).config)
        config = from_run(config, trained, words)
    if given is not None:
        config.data.name = escape_interpolations(given.card.name)
    return Composed(config, words, given, trained)
