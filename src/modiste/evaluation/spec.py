"""What is evaluated: a data set, a split and tasks, from nodes of the configuration."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from modiste.config import compose, instantiate, validate
from modiste.config.inherit import from_run
from modiste.config.overrides import override_key
from modiste.data.argument import Entry, entry_overrides
from modiste.data.catalogue import EVERY_ROW
from modiste.errors import ModisteError

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue
    from modiste.tasks.result import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Tasks on a split of a loaded catalogue.

    Attributes:
        spec: Specification that it was loaded from.
        catalogue: The whole data set.
        tasks: Tasks by name.
    """

    spec: EvaluationSpec
    catalogue: Catalogue
    tasks: Mapping[str, Task]


@dataclass(frozen=True, eq=False)
class EvaluationSpec:
    """Data set, split and tasks to evaluate, for evaluate, suites, validation, merge and audit.

    Attributes:
        name: Name in messages, and in the metrics of a validation set.
        config: The composed ``evaluate`` configuration.
        overrides: Overrides that compose it on the command line.

    >>> spec = EvaluationSpec.compose("shoes", {"data": "kagl", "split": "val", "task": ["retrieval"]})
    >>> spec.split, list(spec.config.task), spec.config.data.name
    ('val', ['retrieval'], 'kagl')
    """

    name: str
    config: DictConfig
    overrides: tuple[str, ...] = ()

    @classmethod
    def compose(
        cls,
        name: str,
        entry: Entry,
        shared: Sequence[str] = (),
        last: Sequence[str] = (),
        config_dirs: Sequence[Path] = (),
    ) -> EvaluationSpec:
        """Compose the specification of an entry.

        Args:
            name: Name of the specification.
            entry: What is evaluated.
            shared: Overrides before those of the entry.
            last: Overrides after those of the entry.
            config_dirs: Folders with the user's config groups.

        Raises:
            ModisteError: The entry cannot be composed.
        """
        overrides = (*shared, *entry_overrides(entry), *last)
        return cls(name, compose("evaluate", overrides, config_dirs), overrides)

    @property
    def split(self) -> str:
        return self.config.split

    @property
    def named(self) -> set[str]:
        """Keys and groups that the overrides set."""
        return {override_key(override) for override in self.overrides}

    def of_run(self, trained: DictConfig) -> EvaluationSpec:
        """The specification with the model of a run and, unless the overrides name one, its data set.

        Args:
            trained: The run's configuration.

        Raises:
            ModisteError: The overrides also name a model, or a split but no data set.
        """
        return replace(self, config=from_run(self.config, trained, self.overrides))

    def load(self, catalogue: Catalogue | None = None) -> Evaluation:
        """Validate the configuration, build the tasks and load the data.

        Args:
            catalogue: The catalogue of the data node, if it is already loaded.

        Raises:
            ModisteError: The configuration is invalid, or the data are missing.
        """
        from modiste.data.build import load

        validate(self.config)
        tasks = {str(name): instantiate(node) for name, node in self.config.task.items()}
        catalogue = load(self.config.data) if catalogue is None else catalogue
        if self.split == EVERY_ROW:  # tasks also compare the column
            catalogue = catalogue.replace_column("split", [EVERY_ROW] * len(catalogue))
        elif "data" in self.named and self._is_split_at_random:
            part = catalogue.splits.get(self.split, 0)
            log.warning(
                "%s: evaluating %d of %d rows, the random split '%s'; split=all evaluates every row.",
                catalogue.card.name, part, len(catalogue), self.split,
            )  # fmt: skip
        return Evaluation(self, catalogue, tasks)

    @property
    def _is_split_at_random(self) -> bool:
        """Whether the data are a user's table with a random split."""
        targets = (str(self.config.data[part].get("_target_")) for part in ("catalogue", "split"))
        return tuple(target.rpartition(".")[2] for target in targets) == ("Table", "RandomSplit")

    def for_task(self, task: str) -> list[str]:
        """Overrides that give the result of ``task`` alone.

        >>> words = ("task=[marqo,probe]", "task.probe.seed=1", "task.marqo.seed=2")
        >>> EvaluationSpec("", OmegaConf.create(), words).for_task("marqo")
        ['task.marqo.seed=2', 'task=[marqo]']
        """

        def applies(override: str) -> bool:
            key = override_key(override)
            other = key.startswith("task.") and key.split(".")[1] != task
            return not other and key not in ("task", "overwrite", "cache")

        return [*filter(applies, self.overrides), f"task=[{task}]"]


def named_entries(given: object) -> dict[str, Entry]:
    """Entries by name, from a mapping of names to entries, or from names of data sets.

    Raises:
        ModisteError: It is neither.

    >>> named_entries("fashion_mnist"), named_entries({"grey": {"data": "kagl"}}), named_entries(None)
    ({'fashion_mnist': 'fashion_mnist'}, {'grey': {'data': 'kagl'}}, {})
    """
    if OmegaConf.is_config(given):
        given = OmegaConf.to_container(given, resolve=True)
    if not given:
        return {}
    if isinstance(given, str):
        return {given: given}
    if isinstance(given, list) and all(isinstance(name, str) and "=" not in name for name in given):
        return {name: name for name in given}
    if not isinstance(given, Mapping):
        raise ModisteError(
            f"'{given}' names no data sets: give one (fashion_mnist), several ([fashion_mnist,ccp_garments]), or sets "
            "by name ({grey: {data: fashion_mnist, split: val}})."
        )
    return {str(name): entry for name, entry in given.items()}
