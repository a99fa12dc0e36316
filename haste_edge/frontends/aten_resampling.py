"""What ATen operators that resize, pad, reduce or normalise along an axis become in the graph."""

from __future__ import annotations

from haste_edge.frontends.aten import Call, Computed, Converter, Rules
from haste_edge.frontends.aten_shapes import ints
from haste_edge.frontends.refusals import Refused

RULES = Rules()


@RULES("pad.default", "constant_pad_nd.default")
def _pad(c: Converter, call: Call) -> Computed:
    mode, x, pads = call.get("mode", "constant"), c.map(call["self"]), ints(call["pad"], "padding")
    pads = [*pads, *[0] * (8 - len(pads))]
    if any(pads[6:]):
        raise Refused("It pads the batch.", "Each frame must be computed on its own.")
    if min(pads) < 0:
        raise Refused("It crops by negative padding.", "Write a slice instead.")
    left, right, top, bottom, before, after = pads[:6]
    if mode != "constant":
        return c.emit(call, "extend", [x], {"pads": (top, left, bottom, right), "mode": mode})
    value = 0.0 if call["value"] is None else float(call["value"])
    return c.emit(call, "pad", [x], {"pads": (before, after, top, bottom, left, right), "value": value})


@RULES(
    "upsample_nearest2d.vec",
    "_upsample_nearest_exact2d.vec",
    "upsample_bilinear2d.vec",
    "upsample_bicubic2d.vec",
)
def _resize(c: Converter, call: Call) -> Computed:
    """torch scales by the factors it is given, and where it is given a size by the ratio of the sizes."""
    x = c.map(call["input"])
    aligned, factors = bool(call.get("align_corners")), call["scale_factors"]
    steps = []
    for axis, (old, new) in enumerate(zip(c.shapes[x][1:], call.shape[1:], strict=True)):
        if aligned:
            steps.append((old - 1) / (new - 1) if old > 1 and new > 1 else 1.0)
        else:
            steps.append(1 / factors[axis] if factors is not None else old / new)
    kind = call.operation.split(".")[0]
    attributes = {
        "size": call.shape[1:],
        "mode": "linear" if "bilinear" in kind else "cubic" if "bicubic" in kind else "nearest",
        "step_y": steps[0],
        "step_x": steps[1],
        "coordinates": "asymmetric" if aligned or kind == "upsample_nearest2d" else "half_pixel",
        "rounding": "half_up" if kind.startswith("_upsample_nearest_exact") else "floor",
    }
    return c.emit(call, "resize", [x], attributes)


_REDUCTIONS = {"mean": "mean", "sum": "sum", "amax": "maximum", "amin": "minimum", "max": "maximum", "min": "minimum"}


@RULES("mean.dim", "sum.dim_IntList", "amax.default", "amin.default")
def _reduce(c: Converter, call: Call) -> Computed:
    x, axes = call["self"], call["dim"]
    if not isinstance(x, Computed) or not axes or call.get("dtype") is not None:
        raise Refused("It reduces everything, the batch too.", "Name the axes: x.mean((2, 3)).")
    rank = len(x.shape) + 1
    over, own = sorted(axis % rank for axis in axes), c.shapes[x.name]
    kind, flat = call.operation.split(".")[0], len(own) == 3 and x.shape == (own[0], own[1] * own[2])
    if kind == "mean" and over == [2] and flat and not call["keepdim"]:
        return c.emit(call, "mean", [x.name], {"keepdim": 0})  # x.flatten(2).mean(2)
    if kind == "mean" and over == [2, 3] and rank == 4:
        return c.emit(call, "mean", [c.map(x)], {"keepdim": int(call["keepdim"])})
    return _reduced(c, call, over, _REDUCTIONS[kind])


def _reduced(c: Converter, call: Call, over: list[int], function: str) -> Computed:
    if over[0] == 0:
        raise Refused("It reduces the batch.", "Each frame must be computed on its own.")
    axes = tuple(axis - 1 for axis in over)
    return Computed(
        c.make(call, "reduce", [c.value(call["self"])], {"function": function, "axes": axes}).name, call.shape
    )


@RULES("max.dim", "min.dim")
def _extreme(c: Converter, call: Call) -> tuple[Computed | None, ...]:
    function = _REDUCTIONS[call.operation.split(".")[0]]
    return _reduced(c, call, [call["dim"] % (len(call["self"].shape) + 1)], function), None


@RULES("softmax.int", "_softmax.default")
def _softmax(c: Converter, call: Call) -> Computed:
    axis = call["dim"] % (len(call.shape) + 1) - 1
    if axis < 0:
        raise Refused("It works along the batch.", "Each frame must be computed on its own.")
    return c.emit(call, "softmax", [c.value(call["self"])], {"axis": axis})
