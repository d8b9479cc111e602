"""Energy and CO2e of a computation, measured by codecarbon in offline mode without output files."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from modiste.errors import ModisteError, did_you_mean

NOT_INSTALLED = "Energy and CO2e are not measured: pip install 'modiste[cost]'."
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Energy:
    """Electricity in kWh and its emissions in kg CO2e; nan where not measured.

    >>> Energy(1.0, 0.5) + Energy(0.5, 0.25)
    Energy(kwh=1.5, co2e_kg=0.75)
    >>> (Energy(1.0, 0.5) + Energy()).measured  # the sum is unknown where one term is
    False
    """

    kwh: float = math.nan
    co2e_kg: float = math.nan

    def __add__(self, other: Energy) -> Energy:
        return Energy(self.kwh + other.kwh, self.co2e_kg + other.co2e_kg)

    def __mul__(self, factor: float) -> Energy:
        return Energy(self.kwh * factor, self.co2e_kg * factor)

    @property
    def measured(self) -> bool:
        """Whether both are known."""
        return math.isfinite(self.kwh) and math.isfinite(self.co2e_kg)


class EnergyMeter:
    """Energy of the whole machine since `start`, in codecarbon's ``machine`` mode.

    Other processes on the machine are included. Without readable RAPL counters, as in most containers and virtual
    machines, codecarbon estimates the processor's power from its load and its thermal design power.

    Args:
        country: ISO 3166-1 alpha-3 code (``FRA``) of the country whose electricity mix is used; None: world average.

    Raises:
        ModisteError: The country is unknown.

    >>> EnergyMeter().read().measured  # before start
    False
    """

    def __init__(self, country: str | None = None) -> None:
        self._tracker: Any = None
        self._read = Energy()
        try:
            from codecarbon.input import DataSource
        except ImportError:
            self.installed = False
            return
        self.installed = True
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        if country is not None:
            known = DataSource().get_global_energy_mix_data()
            if country not in known:
                raise ModisteError(
                    f"cost.country={country} is not an ISO 3166-1 alpha-3 code. {did_you_mean(country, known)}"
                )
        self.country = country

    def start(self) -> None:
        """Start measuring; detecting the hardware takes a second or two, once per process.

        Not in a thread: detection starts processes, and a loader's worker forked meanwhile would hold their pipes open,
        so that detection ended with the worker.
        """
        if not self.installed:
            log.info(NOT_INSTALLED)
            return
        try:
            from codecarbon import OfflineEmissionsTracker

            tracker = OfflineEmissionsTracker(
                country_iso_code=self.country,
                output_methods=[],
                output_handlers=[_handler(self)],
                # Overrides any .codecarbon.config, here or in the home folder: no network access.
                emissions_endpoint=None,
                electricitymaps_api_token="",
                allow_multiple_runs=True,  # no lock file, and no signal handlers that come with it
                log_level="critical",
            )
            tracker.start()
        except Exception as error:  # codecarbon probes the machine through many libraries and files
            log.warning("Energy and CO2e are not measured: codecarbon failed (%s: %s).", type(error).__name__, error)
            return
        self._tracker = tracker

    def read(self) -> Energy:
        """Return the energy since `start`; nan where codecarbon is not installed or failed."""
        if self._tracker is not None:
            self._tracker.flush()
        return self._read

    def stop(self) -> None:
        """Stop measuring; `read` keeps returning the total."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.stop()

    def take(self, kwh: float, co2e_kg: float) -> None:
        """Record the totals that codecarbon reports."""
        self._read = Energy(kwh, co2e_kg)


def _handler(meter: EnergyMeter) -> Any:
    """Return a handler that passes codecarbon's totals to ``meter``; `flush` returns emissions only."""
    from codecarbon.output_methods.base_output import BaseOutput

    class Handler(BaseOutput):
        def out(self, total: Any, delta: Any) -> None:
            meter.take(total.energy_consumed, total.emissions)

    return Handler()
