"""How a figure grows: the simplest shape that measured points bear out. **Pure.**"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

FLAT = 0.10
NEAR = 0.15
"""A shape fits if the root mean square of its relative errors is not above this: a constant FLAT, any other NEAR."""

Points = Sequence[tuple[float, float]]
_GROWTH: dict[str, Callable[[float], float]] = {
    "logarithmic": math.log10,
    "linear": lambda x: x,
    "n log n": lambda x: x * math.log10(x),
    "quadratic": lambda x: x * x,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """y = start + slope × f(x), where f is what `name` says; `error` is relative (root mean square).

    Of a constant the slope is 0; of a logarithm it is what each tenfold adds.
    """

    name: str
    start: float
    slope: float
    error: float

    @property
    def fits(self) -> bool:
        return self.error <= (FLAT if self.name == "constant" else NEAR)


def shape_of(points: Points) -> Shape | None:
    """Return the first shape that fits, from constant to quadratic, or that with the least error if none does.

    None for fewer than three points that are not alike: any line goes through two.
    """
    constant = _fit("constant", points, lambda _: 0.0)
    if constant.fits or len(points) < 3:
        return constant if constant.fits else None
    shapes = [constant, *(_fit(name, points, f) for name, f in _GROWTH.items())]
    return next((one for one in shapes if one.fits), min(shapes, key=lambda one: one.error))


def _fit(name: str, points: Points, f: Callable[[float], float]) -> Shape:
    """Least squares of relative errors, so that points of 1 and of 1,000,000 weigh alike."""
    rows = [(1 / y, f(x) / y) for x, y in points]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = sum(row[0] for row in rows), sum(row[1] for row in rows)
    determinant = aa * bb - ab * ab
    slope = (aa * b - ab * a) / determinant if determinant else 0.0
    start = (a - ab * slope) / aa
    error = math.sqrt(sum((start * one + slope * grown - 1) ** 2 for one, grown in rows) / len(rows))
    return Shape(name, start, slope, error)
