"""What ONNX's layers become in the graph: convolutions, matrix products, batch norm, pools and averages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from haste_edge.frontends.builder import Builder, Rules
from haste_edge.frontends.elementwise import as_float, scale_and_shift
from haste_edge.frontends.onnx_shapes import numbers
from haste_edge.frontends.onnx_values import Call
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.transposed_conv import as_convolution
from haste_edge.frontends.values import Array, Computed, Known

RULES = Rules[Call]()

_MOST_WEIGHTS = 2**26  # of a transposed convolution, written as an ordinary one


def _pair(call: Call, name: str, default: int = 1) -> tuple[int, int]:
    """(y, x)"""
    numbers = call.attribute(name, [default, default])
    if len(numbers) != 2:
        raise Refused(f"Its {name} are {numbers}.", "Only 2-d maps can be compiled.")
    return int(numbers[0]), int(numbers[1])


def _padding(
    call: Call, size: Sequence[int], kernel: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """top, left, bottom, right of a window, stated or worked out. size: height and width of what it moves over."""
    mode = call.attribute("auto_pad", "NOTSET")
    pads = call.attribute("pads", [0, 0, 0, 0])
    if mode == "NOTSET" and len(pads) == 4:
        return int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3])
    if mode not in ("VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Refused(f"Its padding is {pads}, its auto_pad {mode}.", "Give pads for height and width.")
    if mode == "VALID":
        return 0, 0, 0, 0
    before, after = [], []
    for extent, step, taps, gap in zip(size, _pair(call, "strides"), kernel, dilation, strict=True):
        total = max((-(-extent // step) - 1) * step + (taps - 1) * gap + 1 - extent, 0)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before[0], before[1], after[0], after[1]


# --- layers with weights ---------------------------------------------------------------------------------------------


@RULES("Conv")
def _conv(c: Builder, call: Call) -> Computed:
    x, weight = c.map(call.input(0)), c.known(call.input(1), "weight")
    if weight.array.ndim != 4:
        raise Refused("It is not two-dimensional.", "Only 2-d convolutions can be compiled.")
    kernel, dilation = (int(weight.array.shape[2]), int(weight.array.shape[3])), _pair(call, "dilations")
    if list(call.attribute("kernel_shape", kernel)) != list(kernel):
        raise Refused(f"Its kernel_shape differs from its weight's {kernel}.", "Export the model again.")
    attributes = {
        "stride": _pair(call, "strides"),
        "padding": _padding(call, c.shapes[x][1:], kernel, dilation),
        "dilation": dilation,
        "groups": int(call.attribute("group", 1)),
        "activation": "none",
    }
    bias = call.input(2)
    constants = {"weight": weight, "bias": None if bias is None else c.known(bias, "bias")}
    return c.emit(call, "conv", [x], attributes, constants)


@RULES("ConvTranspose")
def _transposed_conv(c: Builder, call: Call) -> Computed:
    x, weight, bias = c.map(call.input(0)), c.known(call.input(1), "weight"), call.input(2)
    if weight.array.ndim != 4:
        raise Refused("It is not two-dimensional.", "Only 2-d convolutions can be compiled.")
    size, stride, dilation = c.shapes[x][1:], _pair(call, "strides"), _pair(call, "dilations")
    extra = _pair(call, "output_padding", 0)
    kernel = (int(weight.array.shape[2]), int(weight.array.shape[3]))
    reach = [(taps - 1) * gap + 1 for taps, gap in zip(kernel, dilation, strict=True)]
    whole = [(n - 1) * step + r + e for n, step, r, e in zip(size, stride, reach, extra, strict=True)]
    cut = [before - after for before, after in zip(whole, call.shape[1:], strict=True)]
    mode, pads = call.attribute("auto_pad", "NOTSET"), call.attribute("pads", [0] * 4)
    if mode.startswith("SAME") or call.attribute("output_shape") is not None:  # from the shape that is wanted
        small = [total // 2 for total in cut]
        large = [total - half for total, half in zip(cut, small, strict=True)]
        pads = [*small, *large] if mode == "SAME_UPPER" else [*large, *small]
    if len(pads) != 4 or min(pads) < 0:
        raise Refused(f"Its padding is {pads}.", "Use padding that is not negative.")
    group = int(call.attribute("group", 1))
    padding = (int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3]))
    channels = int(weight.array.shape[0])
    if group < 1 or channels % group or c.shapes[x][0] != channels:
        raise Refused(f"Its weight is for {channels} channels in {group} groups.", "Export the model again.")
    phases = math.prod(-(-r // step) * step for r, step in zip(reach, stride, strict=True))
    if channels * weight.array.shape[1] * phases > _MOST_WEIGHTS:
        raise Refused(f"Its stride {stride} makes too large a kernel.", "Use a smaller one.")
    made = as_convolution(as_float(weight.array), (size[0], size[1]), stride, padding, extra, dilation, group)
    if made is None:
        raise Refused("Its padding is wider than its kernel.", "Use less padding.")
    repeated = None if bias is None else Known(np.repeat(c.known(bias, "bias").array, made.phases))
    constants = {"weight": Known(made.weight), "bias": repeated}
    y = c.emit(call, "conv", [x], made.convolution, constants, result=None)
    y = c.emit(call, "rearrange", [y.name], made.shuffle, label="pixels", result=None)
    return c.emit(call, "slice", [y.name], made.crop, label="crop")


@RULES("Gemm")
def _gemm(c: Builder, call: Call) -> Computed:
    x, matrix, bias = call.input(0), c.known(call.input(1), "weight"), call.input(2)
    if call.attribute("transA", 0):
        raise Refused("It transposes its input, which mixes frames.", "Each frame must be computed on its own.")
    if not call.attribute("transB", 0):
        matrix = Known(matrix.array.T)
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    if alpha != 1:
        matrix = Known(as_float(matrix.array) * alpha)
    constant = None
    if bias is not None:
        given = c.known(bias, "bias")
        constant = given
        if beta != 1 or given.array.shape != call.shape:
            constant = Known(np.broadcast_to(_per_feature(given.array) * beta, call.shape))
    return c.emit(call, "linear", [c.vector(x)], {"activation": "none"}, {"weight": matrix, "bias": constant})


def _per_feature(array: Array) -> Array:
    """The numbers of a bias, which may have a batch dimension of 1."""
    if array.ndim > 1 and array.shape[0] != 1:
        raise Refused("Its bias differs from frame to frame.", "Each frame must be computed on its own.")
    return as_float(array).reshape(array.shape[-1:] or (1,))


@RULES("MatMul")
def _matmul(c: Builder, call: Call) -> Computed:
    """A frame's vector times a matrix; or the numbers of all channels at a place of a map, wherever its axes lie."""
    x, matrix = c.computed(call.input(0)), c.known(call.input(1), "matrix")
    if matrix.array.ndim != 2:
        raise Refused("It multiplies by more than one matrix.", "Use linear layers.")
    if len(x.shape) == 1:
        weight = Known(matrix.array.T)
        return c.emit(call, "linear", [c.vector(x)], {"activation": "none"}, {"weight": weight, "bias": None})
    x = c.unreshaped(x)
    if len(x.shape) != 3:
        raise Refused(f"It multiplies a value of per-frame shape {x.shape}.", "Use linear layers or convolutions.")
    if x.order != (1, 2, 0):  # to channels last, as the multiplication has it
        first = c.plain(c.transposed(x, (2, 0, 1)))
        x = Computed(first, (1, 2, 0), x.shape)
    attributes = {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1, "activation": "none"}
    weight = Known(matrix.array.T[:, :, None, None])
    return c.emit(call, "conv", [x.name], attributes, {"weight": weight}, like=x)


@RULES("BatchNormalization")
def _batch_norm(c: Builder, call: Call) -> Computed:
    if call.attribute("training_mode", 0) or not call.attribute("spatial", 1):
        raise Refused("It normalises with statistics of the batch.", "Export the model in inference mode.")
    roles = ("scale", "bias", "mean", "variance")
    scale, shift, mean, variance = (
        as_float(c.known(call.input(i), role).array) for i, role in enumerate(roles, start=1)
    )
    scale = scale / np.sqrt(variance + call.attribute("epsilon", 1e-5))
    x = c.led_by(c.computed(call.input(0)), 0)
    return c.emit(call, "scale", [x.name], {"activation": "none"}, scale_and_shift(scale, shift - mean * scale), like=x)


# --- pooling ---------------------------------------------------------------------------------------------------------


def _window(
    c: Builder, call: Call, x: str, dilation: tuple[int, int]
) -> tuple[dict[str, Any], tuple[int, int, int, int]]:
    """A window's attributes, and the padding asked for; rounding up is expressed by more of it, after the map.

    Windows that would begin after the map are left out, as frameworks do it. The standard says so since version 22
    only, so onnx's shape inference is not asked.
    """
    kernel, stride = _pair(call, "kernel_shape"), _pair(call, "strides")
    asked = _padding(call, c.shapes[x][1:], kernel, dilation)
    padding = list(asked)
    if call.attribute("ceil_mode", 0):
        for axis, extent in enumerate(c.shapes[x][1:]):
            before, after, step = asked[axis], asked[2 + axis], stride[axis]
            reach = (kernel[axis] - 1) * dilation[axis] + 1
            last = -(-max(extent + before + after - reach, 0) // step) * step
            if last >= extent + before:
                last -= step
            padding[2 + axis] = max(after, last + reach - extent - before)
    return {"kernel": kernel, "stride": stride, "padding": tuple(padding)}, asked


@RULES("MaxPool")
def _max_pool(c: Builder, call: Call) -> Computed:
    x, dilation = c.map(call.input(0)), _pair(call, "dilations")
    attributes, _ = _window(c, call, x, dilation)
    return c.emit(call, "max_pool", [x], {**attributes, "dilation": dilation}, result=None)


@RULES("AveragePool")
def _avg_pool(c: Builder, call: Call) -> Computed:
    if _pair(call, "dilations") != (1, 1):
        raise Refused("Its window has gaps.", "Leave out dilations.")
    x = c.map(call.input(0))
    attributes, asked = _window(c, call, x, (1, 1))
    counted = int(call.attribute("count_include_pad", 0))
    if counted and attributes["padding"] != asked:
        # The padding asked for counts, but not what rounding up adds: so the former becomes part of the map.
        top, left, bottom, right = asked
        if any(asked):
            x = c.emit(
                call, "pad", [x], {"pads": (0, 0, top, bottom, left, right), "value": 0.0}, label="pad", result=None
            ).name
        added = tuple(all_ - some for all_, some in zip(attributes["padding"], asked, strict=True))
        attributes, counted = {**attributes, "padding": added}, 0
    return c.emit(call, "avg_pool", [x], {**attributes, "count_include_pad": counted}, result=None)


@RULES("GlobalAveragePool")
def _global_avg_pool(c: Builder, call: Call) -> Computed:
    return c.emit(call, "mean", [c.map(call.input(0))], {"keepdim": 1})


@RULES("GlobalMaxPool")
def _global_max_pool(c: Builder, call: Call) -> Computed:
    return c.emit(call, "adaptive_max_pool", [c.map(call.input(0))], {"size": (1, 1)})


_REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "maximum", "ReduceMin": "minimum"}


@RULES(*_REDUCTIONS)
def _reduce(c: Builder, call: Call) -> Computed:
    axes = numbers(c, call, "axes", 1)
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            return c.computed(call.input(0))
        raise Refused("It reduces everything, the batch too.", "Name the axes: those of height and width, say.")
    x, keep, function = c.computed(call.input(0)), int(call.attribute("keepdims", 1)), _REDUCTIONS[call.operation]
    over = sorted({axis % (len(x.shape) + 1) for axis in axes})
    if 0 in over:
        raise Refused("It reduces the batch.", "Each frame must be computed on its own.")
    own = c.shapes[x.name]
    flat = len(own) == 3 and x.shape == (own[0], own[1] * own[2]) and x.order == (0, 1, 2)
    if function == "mean" and over == [2] and flat and not keep:
        return c.emit(call, "mean", [x.name], {"keepdim": 0})  # flattened first, then averaged
    x = c.unreshaped(x)
    inside = tuple(sorted(x.order[axis - 1] for axis in over))
    if function == "mean" and len(x.shape) == 3 and inside == (1, 2):
        return c.emit(call, "mean", [x.name], {"keepdim": keep}, like=x)
    y = c.emit(call, "reduce", [x.name], {"function": function, "axes": inside}, like=x, result=None)
    return replace(y, shape=call.shape)


# --- along an axis ---------------------------------------------------------------------------------------------------


@RULES("Softmax")
def _softmax(c: Builder, call: Call) -> Computed:
    """Until version 13 of the standard the axes from ``axis`` on were one."""
    x = c.computed(call.input(0))
    axis = call.attribute("axis", -1 if call.version >= 13 else 1) % (len(x.shape) + 1)
    if axis == 0:
        raise Refused("It works along the batch.", "Each frame must be computed on its own.")
    if call.version < 13 and math.prod(x.shape[axis:]) > 1:
        if axis > 1:
            raise Refused(f"It works along all axes from {axis} on.", "Export it with opset_version 13 or later.")
        flat = c.plain(replace(x, shape=(math.prod(x.shape),)))
        return replace(c.emit(call, "softmax", [flat], {"axis": 0}, result=None), shape=x.shape)
    x = c.unreshaped(x)
    return c.emit(call, "softmax", [x.name], {"axis": x.order[axis - 1]}, like=x)


@RULES("LRN")
def _lrn(c: Builder, call: Call) -> Computed:
    attributes = {
        "size": int(call.attribute("size")),
        "alpha": float(call.attribute("alpha", 1e-4)),
        "beta": float(call.attribute("beta", 0.75)),
        "bias": float(call.attribute("bias", 1.0)),
    }
    return c.emit(call, "lrn", [c.map(call.input(0))], attributes)
