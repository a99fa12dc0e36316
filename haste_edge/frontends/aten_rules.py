"""What each ATen operator becomes in the graph: one small rule per family, and the table `RULES`.

To support another operator: write a rule and decorate it with its ATen names. Rules refuse rather than approximate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from haste_edge.frontends.aten import Argument, Call, Computed, Converter, Known, Rule
from haste_edge.frontends.refusals import Refused

RULES: dict[str, Rule] = {}

_BROADCAST = "Only a residual of the same shape, or a constant per channel, can be compiled."


def _rule(*operations: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, rule))
        return rule

    return register


def _pair(value: Argument) -> tuple[int, int]:
    """(y, x) from torch's int, [n] or [y, x]."""
    numbers = [value] if isinstance(value, int) else list(value)
    numbers = numbers * 2 if len(numbers) == 1 else numbers
    if len(numbers) != 2 or not all(isinstance(n, int) for n in numbers):
        raise Refused("It is not two-dimensional, or its sizes depend on the batch.", "Only 2-d maps can be compiled.")
    return numbers[0], numbers[1]


# --- layers with weights ---------------------------------------------------------------------------------------------


@_rule("conv2d.default", "conv2d.padding", "convolution.default")
def _conv(c: Converter, call: Call) -> Computed:
    x = c.map(call.get("input"))
    if call.get("transposed"):
        raise Refused("Transposed convolutions have no kernel.", "Upsampling networks cannot be compiled.")
    weight, bias = c.known(call["weight"], "weight"), call["bias"]
    dilation, kernel = _pair(call["dilation"]), weight.tensor.shape[2:]
    if isinstance(call["padding"], str):
        total = [d * (k - 1) if call["padding"] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        top, left = total[0] // 2, total[1] // 2
        padding = (top, left, total[0] - top, total[1] - left)
    else:
        padding = _pair(call["padding"]) * 2
    attributes = {
        "stride": _pair(call["stride"]),
        "padding": padding,
        "dilation": dilation,
        "groups": int(call["groups"]),
        "activation": "none",
    }
    constants = {"weight": weight, "bias": None if bias is None else c.known(bias, "bias")}
    return c.emit(call, "conv", [x], attributes, constants)


def _emit_linear(c: Converter, call: Call, x: Argument, weight: Known, bias: Known | None) -> Computed:
    return c.emit(call, "linear", [c.vector(x)], {"activation": "none"}, {"weight": weight, "bias": bias})


@_rule("linear.default")
def _linear(c: Converter, call: Call) -> Computed:
    bias = None if call["bias"] is None else c.known(call["bias"], "bias")
    return _emit_linear(c, call, call["input"], c.known(call["weight"], "weight"), bias)


@_rule("addmm.default", "mm.default", "matmul.default")
def _matrix(c: Converter, call: Call) -> Computed:
    x, matrix = (call.get("mat1"), call.get("mat2")) if call.operation.startswith("add") else (None, None)
    if matrix is None:
        x, matrix = call["self"], call["mat2"] if call.operation.startswith("mm") else call["other"]
    matrix = c.known(matrix, "matrix")
    if call.get("beta", 1) != 1 or call.get("alpha", 1) != 1 or matrix.tensor.dim() != 2:
        raise Refused("It is more than input times weight plus bias.", "Use a linear layer.")
    bias = None
    if call.operation.startswith("add"):
        bias = c.known(call["self"], "bias")
        bias = Known(bias.tensor.expand(call.shape), bias.key if bias.tensor.shape == call.shape else "")
    return _emit_linear(c, call, x, Known(matrix.tensor.T, matrix.transposed), bias)


@_rule(
    "_native_batch_norm_legit_no_training.default",
    "_native_batch_norm_legit.default",
    "_native_batch_norm_legit.no_stats",
    "_native_batch_norm_legit_functional.default",
    "_batch_norm_with_update_functional.default",
    "native_batch_norm.default",
    "batch_norm.default",
)
def _batch_norm(c: Converter, call: Call) -> Computed | tuple[Computed | None, ...]:
    fixed = call.operation.startswith("_native_batch_norm_legit_no_training") or call.get("training") is False
    if not fixed or call.get("running_var") is None:
        raise Refused("It normalises with statistics of the batch.", "Export in eval mode, with running statistics.")
    variance = c.known(call["running_var"], "variance").tensor.double()
    mean = c.known(call["running_mean"], "mean").tensor.double()
    scale = torch.rsqrt(variance + call["eps"])
    if call["weight"] is not None:
        scale = scale * c.known(call["weight"], "weight").tensor.double()
    shift = -mean * scale
    if call["bias"] is not None:
        shift = shift + c.known(call["bias"], "bias").tensor.double()
    layer = c.known(call["running_var"], "variance").key.removesuffix(".running_var")
    keys = [f"{layer}.{role}" if layer else "" for role in ("scale", "shift")]  # shared by all calls of the layer
    result = _emit_scale(c, call, call["input"], Known(scale, keys[0]), Known(shift, keys[1]))
    return result if call.operation == "batch_norm.default" else (result, None, None, None, None)


def _emit_scale(c: Converter, call: Call, x: Argument, scale: Known, shift: Known) -> Computed:
    return c.emit(call, "scale", [c.value(x)], {"activation": "none"}, {"scale": scale, "shift": shift})


# --- elementwise -----------------------------------------------------------------------------------------------------


def _activation(c: Converter, call: Call, kind: str) -> Computed:
    return c.emit(call, "activation", [c.value(call["self"])], {"activation": kind}, label=kind)


@_rule("relu.default")
def _relu(c: Converter, call: Call) -> Computed:
    return _activation(c, call, "relu")


@_rule("relu6.default")
def _relu6(c: Converter, call: Call) -> Computed:
    return _activation(c, call, "relu6")


@_rule("hardtanh.default", "clamp.default", "clamp_min.default", "clamp_max.default")
def _clamp(c: Converter, call: Call) -> Computed:
    low, high = call.get("min_val", call.get("min")), call.get("max_val", call.get("max"))
    high = math.inf if high is None else high
    if low == 0 and high in (6, math.inf):
        return _activation(c, call, "relu6" if high == 6 else "relu")
    raise Refused(f"It clips to [{low}, {high}].", "Only [0, inf), ReLU, and [0, 6], ReLU6, have kernels.")


@_rule(*(f"{kind}.{other}" for kind in ("add", "sub", "rsub", "mul", "div") for other in ("Tensor", "Scalar")))
def _arithmetic(c: Converter, call: Call) -> Computed:
    """Adding two values of one shape, or any of the four operations with a constant per channel."""
    kind, a, b = call.operation.split(".")[0], call["self"], call["other"]
    if kind == "rsub":
        kind, a, b = "sub", b, a
    if isinstance(a, Computed) and isinstance(b, Computed):
        if kind != "add" or call.get("alpha", 1) != 1:
            hint = "Squeeze-and-excitation and gating cannot be compiled." if kind == "mul" else "Only sums can."
            raise Refused(f"It is a {kind} of two computed values.", hint)
        if a.shape != b.shape:
            raise Refused(f"It adds values of per-frame shapes {a.shape} and {b.shape}.", _BROADCAST)
        return c.emit(call, "add", [c.value(a), c.value(b)], {"activation": "none"})
    x, constant = (a, b) if isinstance(a, Computed) else (b, a)
    number = _per_channel(call, constant)
    one, zero = torch.ones_like(number), torch.zeros_like(number)
    if kind in ("add", "sub"):  # a + factor * b
        factor = call.get("alpha", 1) if kind == "add" else -call.get("alpha", 1)
        scale, shift = (one, factor * number) if x is a else (factor * one, number)
    elif kind == "mul":
        scale, shift = number, zero
    elif x is a:
        scale, shift = 1 / number, zero
    else:
        raise Refused("It divides by a computed value.", _BROADCAST)
    return _emit_scale(c, call, x, Known(scale), Known(shift))


def _per_channel(call: Call, constant: Argument) -> torch.Tensor:
    """A constant that is broadcast over a frame, as one float64 number per channel."""
    tensor = constant.tensor.double() if isinstance(constant, Known) else torch.tensor(float(constant)).double()
    channels, rank = call.shape[0], len(call.shape)
    if tensor.numel() == 1:
        return tensor.reshape(1).expand(channels)
    extents = (1,) * (rank + 1 - tensor.dim()) + tuple(tensor.shape)
    if extents != (1, channels, *(1,) * (rank - 1)):
        raise Refused(
            f"It combines a frame of shape {call.shape} with a constant of {tuple(tensor.shape)}.", _BROADCAST
        )
    return tensor.reshape(channels)


# --- pooling ---------------------------------------------------------------------------------------------------------


def _window(c: Converter, call: Call, dilation: tuple[int, int]) -> tuple[str, dict[str, Any], bool]:
    """The map, its window attributes, and whether rounding up makes windows hang over the padding.

    Rounding up is expressed by more padding at the bottom and the right.
    """
    x = c.map(call["self"])
    kernel = _pair(call["kernel_size"])
    stride = _pair(call["stride"]) if call["stride"] not in (None, []) else kernel
    before = _pair(call["padding"])
    after = []
    for axis in (0, 1):
        reach = (call.shape[1 + axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1
        after.append(max(before[axis], reach - c.shapes[x][1 + axis] - before[axis]))
    padding = (*before, *after)
    return x, {"kernel": kernel, "stride": stride, "padding": padding}, tuple(after) != before


@_rule("max_pool2d.default", "max_pool2d_with_indices.default")
def _max_pool(c: Converter, call: Call) -> Computed | tuple[Computed | None, ...]:
    dilation = _pair(call["dilation"])
    x, attributes, _ = _window(c, call, dilation)
    result = c.emit(call, "max_pool", [x], {**attributes, "dilation": dilation})
    return result if call.operation == "max_pool2d.default" else (result, None)


@_rule("avg_pool2d.default")
def _avg_pool(c: Converter, call: Call) -> Computed:
    if call["divisor_override"] is not None:
        raise Refused("It divides by a number of its own.", "Leave out divisor_override.")
    x, attributes, overhang = _window(c, call, (1, 1))
    counted = bool(call["count_include_pad"])
    if overhang and counted:
        # torch counts the padding asked for but not what rounding up adds; without any padding that is the pixels.
        if any(_pair(call["padding"])):
            raise Refused("It rounds up and counts its padding.", "Use count_include_pad=False or ceil_mode=False.")
        counted = False
    return c.emit(call, "avg_pool", [x], {**attributes, "count_include_pad": int(counted)})


@_rule("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def _adaptive_avg_pool(c: Converter, call: Call) -> Computed:
    return c.emit(call, "adaptive_avg_pool", [c.map(call["self"])], {"size": call.shape[1:]})


@_rule("adaptive_max_pool2d.default")
def _adaptive_max_pool(c: Converter, call: Call) -> tuple[Computed | None, ...]:
    return c.emit(call, "adaptive_max_pool", [c.map(call["self"])], {"size": call.shape[1:]}), None


@_rule("mean.dim")
def _mean(c: Converter, call: Call) -> Computed:
    x, axes = call["self"], call["dim"]
    if not isinstance(x, Computed) or axes is None or call["dtype"] is not None:
        raise Refused("It averages over everything.", "Average over height and width: x.mean((2, 3)).")
    rank = len(x.shape) + 1
    over = sorted(axis % rank for axis in axes)
    own = c.shapes[x.name]
    if over == [2] and len(own) == 3 and x.shape == (own[0], own[1] * own[2]) and not call["keepdim"]:
        return c.emit(call, "mean", [x.name], {"keepdim": 0})  # x.flatten(2).mean(2)
    if over != [2, 3]:
        raise Refused(f"It averages over axes {over}.", "Average over height and width: x.mean((2, 3)).")
    return c.emit(call, "mean", [c.map(x)], {"keepdim": int(call["keepdim"])})


# --- shapes ----------------------------------------------------------------------------------------------------------


@_rule(
    "view.default",
    "_unsafe_view.default",
    "reshape.default",
    "flatten.using_ints",
    "squeeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "unsqueeze.default",
    "view_as.default",
)
def _reshape(c: Converter, call: Call) -> Computed:
    """All of these keep the order of the numbers, so the shape says it all; only flattening makes a node."""
    x = call["self"]
    if not isinstance(x, Computed) or math.prod(call.shape) != math.prod(x.shape):
        raise Refused("It reshapes across frames.", "Each frame must be computed on its own.")
    own = c.shapes[x.name]
    if len(call.shape) == 1 and len(own) == 3:
        return c.emit(call, "flatten", [x.name], {"order": "CHW"})
    return Computed(x.name, call.shape)


def _ints(values: Sequence[Argument], what: str) -> list[int]:
    if not all(isinstance(value, int) for value in values):
        raise Refused(f"Its {what} depends on the batch or on data.", "Use fixed numbers.")
    return list(values)


@_rule("slice.Tensor")
def _slice(c: Converter, call: Call) -> Computed:
    x = call["self"]
    name = c.value(x)
    axis = call["dim"] % (len(x.shape) + 1) - 1
    if axis < 0:  # the batch; `Call.shape` is only there if it is kept whole
        return Computed(x.name, x.shape)
    extent = x.shape[axis]
    start = 0 if call["start"] is None else call["start"]
    stop = extent if call["end"] is None else call["end"]
    low, high, step = slice(*_ints([start, stop, call["step"]], "range")).indices(extent)
    if high <= low:
        raise Refused("It takes an empty slice.", "Remove it.")
    starts, stops, steps = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    starts[axis], stops[axis], steps[axis] = low, low + (high - low - 1) // step * step + 1, step  # just after the last
    ranges = {"starts": tuple(starts), "stops": tuple(stops), "steps": tuple(steps)}
    return c.emit(call, "slice", [name], ranges)


@_rule("pad.default", "constant_pad_nd.default")
def _pad(c: Converter, call: Call) -> Computed:
    if call.get("mode", "constant") != "constant":
        raise Refused(f"It pads by {call['mode']}.", "Only padding with a constant can be compiled.")
    x, pads = c.map(call["self"]), _ints(call["pad"], "padding")
    pads = [*pads, *[0] * (8 - len(pads))]
    if any(pads[6:]):
        raise Refused("It pads the batch.", "Each frame must be computed on its own.")
    if min(pads) < 0:
        raise Refused("It crops by negative padding.", "Write a slice instead.")
    left, right, top, bottom, before, after = pads[:6]
    value = 0.0 if call["value"] is None else float(call["value"])
    return c.emit(call, "pad", [x], {"pads": (before, after, top, bottom, left, right), "value": value})


@_rule("cat.default")
def _concat(c: Converter, call: Call) -> Computed:
    parts = call["tensors"]
    if not all(isinstance(part, Computed) for part in parts):
        raise Refused("It puts constants beside computed values.", "Use padding for zeros.")
    axis = call["dim"] % (len(call.shape) + 1) - 1
    if axis < 0:
        raise Refused("It joins along the batch.", "Each frame must be computed on its own.")
    names = [c.value(part) for part in parts]
    if len(names) == 1:
        return Computed(names[0], call.shape)
    return c.emit(call, "concat", names, {"axis": axis})


# --- identities ------------------------------------------------------------------------------------------------------


@_rule(
    "alias.default",
    "clone.default",
    "contiguous.default",
    "detach.default",
    "lift_fresh_copy.default",
    "_to_copy.default",
    "to.dtype",
    "to.dtype_layout",
)
def _identity(c: Converter, call: Call) -> Computed:
    x = call["self"]
    if not isinstance(x, Computed):
        raise Refused("It copies a constant whose shape depends on the batch.")
    if call.get("dtype") not in (None, torch.float32):
        raise Refused(f"It converts to {call['dtype']}.", "Export the model in float32, without autocast.")
    return Computed(x.name, call.shape)


@_rule("dropout.default", "feature_dropout.default", "alpha_dropout.default", "native_dropout.default")
def _dropout(c: Converter, call: Call) -> Computed | tuple[Computed | None, ...]:
    x = call["input"]
    if call["train"] or not isinstance(x, Computed):
        raise Refused("It drops values at random.", "Export the model in eval mode.")
    result = Computed(x.name, call.shape)
    return (result, None) if call.operation == "native_dropout.default" else result
