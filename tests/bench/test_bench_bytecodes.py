"""The count of bytecodes is the same each time, and grows with what is done."""

import sys

from bytecode_counter import Count


def _spin(turns: int) -> None:
    for _ in range(turns):
        pass


def _count(turns: int) -> tuple[int, int]:
    counter, before = Count(), sys.gettrace()
    sys.settrace(counter.trace)
    try:
        _spin(turns)
    finally:
        sys.settrace(before)
    [(bytecodes, calls)] = [(n, calls) for n, calls, name, _ in counter.found() if name == "_spin"]
    return bytecodes, calls


def test_the_same_work_counts_the_same() -> None:
    assert _count(7) == _count(7)


def test_each_turn_of_a_loop_counts() -> None:
    assert _count(30)[0] - _count(20)[0] == _count(20)[0] - _count(10)[0] > 0
    assert _count(30)[1] == 1
