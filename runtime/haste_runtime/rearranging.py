"""Splitting the axes of a shape, and where their numbers lie: what moving values in memory is worked out with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from haste_runtime.graph import Shape


def grouped(shape: Shape, factors: Shape) -> tuple[Shape, ...] | None:
    """For each axis of ``shape`` the factors, in order, that it splits into; None if they do not fit axis by axis."""
    groups: list[Shape] = []
    rest = list(factors)
    for extent in shape:
        group: list[int] = []
        while rest and math.prod(group) < extent:
            group.append(rest.pop(0))
        if math.prod(group) != extent:
            return None
        groups.append(tuple(group))
    if any(factor != 1 for factor in rest):
        return None
    groups[-1] += tuple(rest)
    return tuple(groups)


def split_strides(shape: Shape, strides: Sequence[int], factors: Shape) -> list[int]:
    """The step in memory along each factor, if that along each axis is known. The factors must fit (`grouped`)."""
    groups = grouped(shape, factors)
    assert groups is not None
    steps = []
    for group, stride in zip(groups, strides, strict=True):
        steps += [stride * math.prod(group[i + 1 :]) for i in range(len(group))]
    return steps


def common_split(first: Shape, second: Shape) -> Shape | None:
    """The fewest factors into which both shapes, which have as many elements, split; None where there are none."""
    factors: list[int] = []
    a, b = [n for n in first if n > 1], [n for n in second if n > 1]
    while a and b:
        step = min(a[0], b[0])
        if a[0] % step or b[0] % step:
            return None
        factors.append(step)
        for rest in (a, b):
            rest[0] //= step
            if rest[0] == 1:
                del rest[0]
    return tuple(factors) or (1,)
