"""Shapes are named for what they are, a cause is claimed only for its own shape, and the calculation adds up."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from growth_page import text
from growth_paper import Costs, Node, Scale, need_of, nodes_for
from growth_shape import shape_of

XS = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
COSTS = Costs(
    cpu_ms=1,
    written_kb=20,
    flushes=0.1,
    log_octets=1000,
    trace_octets=0,
    queued_octets=0,
    network_kb=20,
    memory_mb=100,
    domain_cpu_ms=0,
    domain_network_kb=0,
    domain_questions=5,
    domain_memory_kb=0,
)
NOTHING_ELSE = Node(cores=1, busy=1, memory_gb=1e9, written_mb=1e9, flushes=1e9, network_mb=1e9, questions=1e9)


@pytest.mark.parametrize(
    ("name", "grow"),
    [
        ("constant", lambda x: 7 + (x > 50) * 0.2),
        ("logarithmic", lambda x: 5 + 3 * math.log10(x)),
        ("linear", lambda x: 5 + 0.02 * x),
        ("n log n", lambda x: 0.1 + 2 * x * math.log10(x)),
        ("quadratic", lambda x: 1 + 0.5 * x * x),
    ],
)
def test_a_shape_is_named_for_what_it_is(name: str, grow: Callable[[float], float]) -> None:
    shape = shape_of([(x, grow(x)) for x in XS])
    assert shape is not None
    assert (shape.name, shape.fits) == (name, True)


def test_a_line_is_found_with_its_start_and_slope() -> None:
    shape = shape_of([(x, 5 + 0.02 * x) for x in XS])
    assert shape is not None
    assert (shape.start, shape.slope, shape.error) == pytest.approx((5, 0.02, 0))


def test_what_no_shape_fits_is_said_to_fit_none() -> None:
    shape = shape_of([(1, 1), (10, 100), (100, 1), (1000, 100)])
    assert shape is not None
    assert not shape.fits


def test_two_points_that_differ_have_no_shape() -> None:
    assert shape_of([(1, 1), (2, 3)]) is None


def test_a_cause_is_claimed_only_for_the_shape_that_it_explains() -> None:
    def page(*cpu: float) -> str:
        points = {
            str(10**n): {"cpu_ms": ms, "wall_ms": ms, "memory_mb": 70.0 * 3**n, "messages_per_second": 1000 / ms}
            for n, ms in enumerate(cpu, 3)
        }
        return text("A machine.", {"queue": points}, "growth.svg")

    cause = "through an index"
    assert cause in page(1, 1, 1, 1)
    assert cause not in page(1, 10, 100, 1000)
    assert "Not calculated" in page(1, 1, 1, 1)


def test_machines_are_as_many_as_the_scarcest_resource_needs() -> None:
    scale = Scale(messages=86_400_000, domains=1)  # 3,000 a second at the peak
    need = nodes_for(COSTS, scale, NOTHING_ELSE)
    assert (need.nodes, need.first) == (3, "cores")
    slow_disk = replace(NOTHING_ELSE, flushes=50)
    assert (nodes_for(COSTS, scale, slow_disk).nodes, nodes_for(COSTS, scale, slow_disk).first) == (6, "flushes")


def test_domains_are_met_anew_when_their_ttl_is_over_or_they_were_forgotten() -> None:
    few = need_of(COSTS, Scale(messages=864_000_000, domains=3600), NOTHING_ELSE, 1)
    assert few.questions == pytest.approx(5)  # one domain a second
    many = need_of(COSTS, Scale(messages=864_000, domains=10**9), NOTHING_ELSE, 1)
    assert many.questions == pytest.approx(30 * 0.2 * 5, rel=0.001)
