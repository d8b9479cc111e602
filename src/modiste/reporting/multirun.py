"""The table at the end of a grid of training runs (``modiste train -m``)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from modiste.errors import ModisteError

if TYPE_CHECKING:
    from omegaconf import DictConfig


class GridTable(Callback):
    """Hydra callback that prints the grid's table after its last run, and the command for every metric."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from modiste.reporting.tables import grid, print_sheets

        folder = Path(config.hydra.sweep.dir)
        try:
            print()
            print_sheets([grid(folder)])
        except ModisteError as error:  # debug=step validates nothing
            print(error, file=sys.stderr)
            return
        print(f"\nEvery metric: modiste table {shlex.quote(str(folder))} all=true")
