"""Number types with bounds, for the annotations of config targets.

A part declares the range of an argument by its annotation, as in ``margin: NonNegative`` or
``views: Annotated[int, Range(least=1, most=1000)]``; the range is checked before torch is imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """Bounds of a number: ``least`` and ``most`` are inclusive, ``above`` is exclusive.

    >>> Range(above=0).contains(0), Range(least=0, most=1).contains(1), str(Range(least=0, most=1))
    (False, True, 'from 0 to 1')
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def contains(self, number: float) -> bool:
        """Whether ``number`` is within the bounds."""
        return self.least <= number <= self.most and number > self.above

    def __str__(self) -> str:
        if self.above > -math.inf:
            return f"above {self.above:g}" + (f" and at most {self.most:g}" if self.most < math.inf else "")
        if self.most < math.inf:
            return f"from {self.least} to {self.most}"
        return f"of at least {self.least}"


Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
PositiveFraction = Annotated[float, Range(above=0, most=1)]
Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]
BadRows = Natural | Fraction  # number of bad rows, or their fraction
Seed = Annotated[int, Range(least=0, most=2**32 - 1)]
Workers = Annotated[int, Range(least=1, most=1024)]  # processes or threads of one machine
Side = Annotated[int, Range(least=1, most=8192)]  # pixels
Width = Annotated[int, Range(least=1, most=65536)]  # dimensions of an embedding, or tokens of a text
NAMES = {
    "Positive": Positive,
    "NonNegative": NonNegative,
    "Fraction": Fraction,
    "PositiveFraction": PositiveFraction,
    "Count": Count,
    "Natural": Natural,
    "BadRows": BadRows,
    "Seed": Seed,
    "Workers": Workers,
    "Side": Side,
    "Width": Width,
}
