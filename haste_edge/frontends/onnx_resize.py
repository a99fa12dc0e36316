"""What ONNX's Resize, and Upsample before it, become in the graph."""

from __future__ import annotations

from collections.abc import Sequence

from haste_edge.frontends.builder import Builder, Rules
from haste_edge.frontends.onnx_values import Call
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.values import Computed

RULES = Rules[Call]()

_ROUNDING = {
    "floor": "floor",
    "ceil": "ceil",
    "round_prefer_floor": "half_down",
    "round_prefer_ceil": "half_up",
}


@RULES("Resize", "Upsample")
def _resize(c: Builder, call: Call) -> Computed:
    x = c.unreshaped(c.computed(call.input(0)))
    if len(x.shape) != 3:
        raise Refused(f"It resizes a value of per-frame shape {x.shape}.", "Only maps can be resized.")
    mode = call.attribute("mode", "nearest")
    coordinates, rounding = _positions(call, mode)
    factors = _factors(c, call, x)
    same = [axis for axis in range(3) if x.shape[axis] == call.shape[axis]]
    if same and x.order.index(0) not in same:  # as it lies, the first axis is not that of the channels
        x = c.led_by(x, same[-1])
    sides: dict[int, tuple[int, float]] = {}  # axis as the value lies -> new size, input pixels for an output pixel
    for axis, old, new, factor in zip(x.order, x.shape, call.shape, factors, strict=True):
        if axis == 0 and old != new:
            raise Refused("It resizes channels.", "Only height and width can be resized.")
        step = 1 / factor if new > 1 or coordinates == "half_pixel" else 1.0
        if coordinates == "align_corners":
            step = (old - 1) / (new - 1) if old > 1 and new > 1 else 1.0
        elif coordinates == "pytorch_half_pixel" and new == 1:
            step = 1.0  # the position is then 0
        elif coordinates == "half_pixel_symmetric" and new != old * factor:
            raise Refused("It centres what its factor does not fill.", "Use half_pixel.")
        sides[axis] = (new, step)
    attributes = {
        "size": (sides[1][0], sides[2][0]),
        "mode": {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}[mode],
        "step_y": sides[1][1],
        "step_x": sides[2][1],
        "coordinates": "asymmetric" if coordinates in ("asymmetric", "align_corners") else "half_pixel",
        "rounding": rounding,
    }
    return c.emit(call, "resize", [x.name], attributes, like=x)


def _positions(call: Call, mode: str) -> tuple[str, str]:
    """The mode of coordinates, and how "nearest" rounds."""
    if mode not in ("nearest", "linear", "bilinear", "cubic"):
        raise Refused(f"Its mode is {mode}.", "Use nearest, linear or cubic.")
    if call.operation == "Upsample" or call.version < 11:
        return "asymmetric", "floor"
    coordinates = call.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = call.attribute("nearest_mode", "round_prefer_floor")
    if coordinates == "tf_half_pixel_for_nn" and rounding == "floor":
        return "half_pixel", "half_up"  # floor((i + 1/2) * step), said in half pixels
    known = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
    odd = {
        "coordinate_transformation_mode": coordinates if coordinates not in known else None,
        "nearest_mode": rounding if rounding not in _ROUNDING else None,
        "antialias": call.attribute("antialias", 0) or None,
        "exclude_outside": (mode == "cubic" and call.attribute("exclude_outside", 0)) or None,
        "cubic_coeff_a": None if mode != "cubic" or abs(call.attribute("cubic_coeff_a", -0.75) + 0.75) < 1e-6 else 1,
        "keep_aspect_ratio_policy": None if call.attribute("keep_aspect_ratio_policy", "stretch") == "stretch" else 1,
    }
    wrong = [name for name, value in odd.items() if value is not None]
    if wrong:
        raise Refused(f"It has {', '.join(wrong)} of a kind without a kernel.", "Resize as torch's interpolate does.")
    return coordinates, _ROUNDING[rounding]


def _factors(c: Builder, call: Call, x: Computed) -> Sequence[float]:
    """How much larger each axis becomes: as stated, or by the ratio of the sizes."""
    ratios = [new / old for old, new in zip(x.shape, call.shape, strict=True)]
    scales = call.input(1 if call.operation == "Upsample" or call.version < 11 else 2)
    if scales is None:
        stated = call.attribute("scales", [])
    else:
        stated = c.known(scales, "scales").array.reshape(-1).tolist()
    if not len(stated):
        return ratios
    rank = len(x.shape) + 1
    axes = [axis % rank for axis in call.attribute("axes", range(rank))]
    if len(axes) != len(stated) or not all(factor > 0 for factor in stated):
        raise Refused(f"Its scales are {stated}.", "Export the model again.")
    named = dict(zip(axes, stated, strict=True))
    if named.get(0, 1) != 1:
        raise Refused("It resizes the batch.", "Each frame must be computed on its own.")
    return [named.get(axis + 1, 1.0) for axis in range(len(ratios))]
