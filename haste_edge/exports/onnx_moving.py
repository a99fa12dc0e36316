"""What the graph's operators that move and resample numbers become in ONNX: part of `onnx_nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haste_edge.exports.onnx_writer import TO_LAST, Call, OnnxRule
from haste_runtime.graph import Shape
from haste_runtime.resampling import Taps, resize_taps


def _reshaped(c: Call, x: str, shape: Shape) -> str:
    return c.step("Reshape", x, c.numbers((0, *shape)))  # 0: as it is, which is the batch


def _reshape(c: Call) -> str:
    return _reshaped(c, c.inputs[0], c["shape"])


def _flatten(c: Call) -> str:
    x, turned = c.inputs[0], c["order"] == "HWC" and len(c.shapes[0]) == 3
    return c.step("Flatten", c.step("Transpose", x, perm=TO_LAST) if turned else x, axis=1)


def _rearrange(c: Call) -> str:
    x, split, axes, shape = c.inputs[0], c["split"], c["axes"], c["shape"]
    if split != c.shapes[0]:
        x = _reshaped(c, x, split)
    x = c.step("Transpose", x, perm=(0, *(axis + 1 for axis in axes)))
    return x if tuple(split[axis] for axis in axes) == shape else _reshaped(c, x, shape)


def _concat(c: Call) -> str:
    return c.step("Concat", *c.inputs, axis=c["axis"] + 1)


def _slice(c: Call) -> str:
    axes = c.numbers(range(1, 1 + len(c["starts"])))
    return c.step("Slice", c.inputs[0], c.numbers(c["starts"]), c.numbers(c["stops"]), axes, c.numbers(c["steps"]))


def _pad(c: Call) -> str:
    pads = c["pads"]
    return c.step("Pad", c.inputs[0], c.numbers((0, *pads[::2], 0, *pads[1::2])), c.number(c["value"]))


def _extend(c: Call) -> str:
    x, (top, left, bottom, right), mode = c.inputs[0], c["pads"], c["mode"]
    if mode != "circular":
        pads = c.numbers((0, 0, top, left, 0, 0, bottom, right))
        return c.step("Pad", x, pads, mode={"reflect": "reflect", "replicate": "edge"}[mode])
    for axis, extent, before, after in ((2, c.shapes[0][1], top, bottom), (3, c.shapes[0][2], left, right)):
        parts = [x]  # Pad wraps only since operator set 19
        if before:
            parts.insert(0, _part(c, x, axis, extent - before, extent))
        if after:
            parts.append(_part(c, x, axis, 0, after))
        x = c.step("Concat", *parts, axis=axis) if len(parts) > 1 else x
    return x


def _part(c: Call, x: str, axis: int, start: int, stop: int) -> str:
    return c.step("Slice", x, c.numbers([start]), c.numbers([stop]), c.numbers([axis]))


# --- resizing --------------------------------------------------------------------------------------------------------

_ROUNDING: Mapping[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {  # ONNX's name, and what it does
    "floor": ("floor", np.floor),
    "ceil": ("ceil", np.ceil),
    "half_down": ("round_prefer_floor", lambda position: np.ceil(position - 0.5)),
    "half_up": ("round_prefer_ceil", lambda position: np.floor(position + 0.5)),
}
_PRECISIONS: tuple[Any, ...] = (np.float32, np.float64)


def _resize(c: Call) -> str:
    """A Resize where it says the same to every runtime, else weighted sums of the pixels that are picked."""
    extents, sizes, steps = c.shapes[0][1:], c["size"], (c["step_y"], c["step_x"])
    axes = [_Axis(*numbers) for numbers in zip(extents, sizes, steps, strict=True)]
    for coordinates in (c["coordinates"], *(["align_corners"] if c["coordinates"] == "asymmetric" else [])):
        factors = [axis.factor(coordinates) for axis in axes]
        known = [factor for factor in factors if factor is not None]
        if len(known) == 2 and all(axis.certain(coordinates, c["mode"], c["rounding"]) for axis in axes):
            return c.step(
                "Resize", c.inputs[0], "", c.numbers([1.0, 1.0, *map(float, known)], np.float32),
                mode=c["mode"], coordinate_transformation_mode=coordinates, nearest_mode=_ROUNDING[c["rounding"]][0],
            )  # fmt: skip
    x = c.inputs[0]
    for number, (extent, size, step) in ((3, axes[1]), (2, axes[0])):
        x = _sum_of_taps(c, x, number, resize_taps(extent, size, step, c["mode"], c["coordinates"], c["rounding"]))
    return x


class _Axis(NamedTuple):
    """An axis of length ``extent`` that becomes ``size`` long; step: see `haste_runtime.resampling.resize_taps`."""

    extent: int
    size: int
    step: float

    def factor(self, coordinates: str) -> np.float32 | None:
        """What the length is multiplied by, so that rounding down gives the size however it is computed."""
        wanted = 1 / self.step
        if coordinates == "align_corners":  # the factor says the size alone
            wanted = self.size / self.extent
            if not math.isclose(self.step, self.aligned_step, rel_tol=1e-7):
                return None
        near = np.float32(wanted)
        for factor in (near, np.nextafter(near, np.float32(np.inf))):
            products = np.float32(self.extent) * factor, self.extent * float(factor)
            if all(int(product) == self.size for product in products):
                return factor
        return None

    @property
    def aligned_step(self) -> float:
        return (self.extent - 1) / (self.size - 1) if self.extent > 1 and self.size > 1 else 1.0

    def certain(self, coordinates: str, mode: str, rounding: str) -> bool:
        """Whether every runtime makes the same of it: the nearest pixels are ours in single and double precision, and
        cubic does not shrink, which ONNX Runtime refuses wherever its optimiser moves a transpose across."""
        factor = self.factor(coordinates)
        if mode == "cubic":
            return self.size >= self.extent
        if mode == "linear" or factor is None:
            return True
        own = "asymmetric" if coordinates == "align_corners" else coordinates
        wanted = resize_taps(self.extent, self.size, self.step, mode, own, rounding).places[:, 0]
        return all(
            np.array_equal(_ROUNDING[rounding][1](position).clip(0, self.extent - 1), wanted)
            for kind in _PRECISIONS
            for position in self._positions(coordinates, kind(factor), kind)
        )

    def _positions(self, coordinates: str, factor: Any, kind: Any) -> Iterator[NDArray[Any]]:
        """Where the output pixels are, in every way that runtimes compute it, in one precision."""
        numbers: NDArray[Any] = np.arange(self.size, dtype=kind)
        if coordinates == "align_corners":
            for size in (kind(self.size), factor * kind(self.extent)):  # the new length, before it is rounded or after
                yield numbers * kind(self.extent - 1) / (size - 1 if self.size > 1 else kind(1))
        elif coordinates == "asymmetric":
            yield numbers / factor
        else:
            yield (numbers + kind(0.5)) / factor - kind(0.5)


def _sum_of_taps(c: Call, x: str, axis: int, taps: Taps) -> str:
    parts = []
    for places, weights in zip(taps.places.T, taps.weights.T, strict=True):
        part = c.step("Gather", x, c.numbers(places), axis=axis)
        if (weights != 1).any():
            part = c.step("Mul", part, c.numbers(weights.reshape(-1, *(1,) * (3 - axis)), np.float32))
        parts.append(part)
    total = parts[0]
    for part in parts[1:]:
        total = c.step("Add", total, part)
    return total


MOVING: Mapping[str, OnnxRule] = {
    "flatten": _flatten,
    "reshape": _reshape,
    "rearrange": _rearrange,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "extend": _extend,
    "resize": _resize,
}
