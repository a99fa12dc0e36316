"""What each ATen operator becomes in the graph: one small rule per family, and the table `RULES`.

To support another operator: write a rule and decorate it with its ATen names, here or, for what has no weights and no
windows, in `aten_elementwise`, `aten_resampling` or `aten_shapes`. Rules refuse rather than approximate.
"""

from __future__ import annotations

from typing import Any

import torch

from haste_edge.frontends.aten import Argument, Call, Computed, Converter, Known, Rules
from haste_edge.frontends.aten_elementwise import RULES as ELEMENTWISE
from haste_edge.frontends.aten_elementwise import emit_scale
from haste_edge.frontends.aten_resampling import RULES as RESAMPLING
from haste_edge.frontends.aten_shapes import RULES as SHAPES
from haste_edge.frontends.aten_shapes import rearrange
from haste_edge.frontends.refusals import Refused
from haste_edge.frontends.transposed_conv import as_convolution

RULES = Rules(ELEMENTWISE | RESAMPLING | SHAPES)


def _pair(value: Argument) -> tuple[int, int]:
    """(y, x) from torch's int, [n] or [y, x]."""
    numbers = [value] if isinstance(value, int) else list(value)
    numbers = numbers * 2 if len(numbers) == 1 else numbers
    if len(numbers) != 2 or not all(isinstance(n, int) for n in numbers):
        raise Refused("It is not two-dimensional, or its sizes depend on the batch.", "Only 2-d maps can be compiled.")
    return numbers[0], numbers[1]


# --- layers with weights ---------------------------------------------------------------------------------------------


@RULES("conv2d.default", "conv2d.padding", "convolution.default")
def _conv(c: Converter, call: Call) -> Computed:
    x = c.map(call.get("input"))
    if call.get("transposed"):
        return _transposed(c, call, x)
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


@RULES("conv_transpose2d.input")
def _conv_transpose(c: Converter, call: Call) -> Computed:
    return _transposed(c, call, c.map(call["input"]))


def _transposed(c: Converter, call: Call, x: str) -> Computed:
    weight, bias = c.known(call["weight"], "weight"), call["bias"]
    made = as_convolution(
        weight.tensor.double().numpy(),
        _pair(c.shapes[x][1:]),
        _pair(call["stride"]),
        _pair(call["padding"]) * 2,
        _pair(call["output_padding"]),
        _pair(call["dilation"]),
        int(call["groups"]),
    )
    if made is None:
        raise Refused("Its padding is wider than its kernel.", "Use less padding.")
    constants = {"weight": Known(torch.from_numpy(made.weight)), "bias": None}
    if bias is not None:
        constants["bias"] = Known(c.known(bias, "bias").tensor.repeat_interleave(made.phases))
    y = c.make(call, "conv", [x], made.convolution, constants)
    y = rearrange(c, call, y.name, **made.shuffle)
    return c.emit(call, "slice", [y.name], made.crop)


def _emit_linear(c: Converter, call: Call, x: Argument, weight: Known, bias: Known | None) -> Computed:
    return c.emit(call, "linear", [c.vector(x)], {"activation": "none"}, {"weight": weight, "bias": bias})


@RULES("linear.default")
def _linear(c: Converter, call: Call) -> Computed:
    bias = None if call["bias"] is None else c.known(call["bias"], "bias")
    return _emit_linear(c, call, call["input"], c.known(call["weight"], "weight"), bias)


@RULES("addmm.default", "mm.default", "matmul.default")
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


@RULES(
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
    result = emit_scale(c, call, call["input"], Known(scale, keys[0]), Known(shift, keys[1]))
    return result if call.operation == "batch_norm.default" else (result, None, None, None, None)


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


@RULES("max_pool2d.default", "max_pool2d_with_indices.default")
def _max_pool(c: Converter, call: Call) -> Computed | tuple[Computed | None, ...]:
    dilation = _pair(call["dilation"])
    x, attributes, _ = _window(c, call, dilation)
    result = c.emit(call, "max_pool", [x], {**attributes, "dilation": dilation})
    return result if call.operation == "max_pool2d.default" else (result, None)


@RULES("avg_pool2d.default")
def _avg_pool(c: Converter, call: Call) -> Computed:
    x, attributes, overhang = _window(c, call, (1, 1))
    counted, divisor = bool(call["count_include_pad"]), call["divisor_override"]
    if overhang and counted and divisor is None and not any(_pair(call["padding"])):
        counted = False  # torch does not count what rounding up adds; without any padding that leaves the pixels
    elif divisor is not None or (overhang and counted):
        mean = c.make(call, "avg_pool", [x], {**attributes, "count_include_pad": 1})
        rows, columns = (_counted(call, attributes, axis, c.shapes[x][1 + axis]) for axis in (0, 1))
        seen = rows[:, None] * columns if divisor is None else torch.full((1, 1), float(divisor)).double()
        factor = Known((attributes["kernel"][0] * attributes["kernel"][1] / seen)[None])
        return c.emit(call, "binary", [mean.name], {"function": "multiply", "activation": "none"}, {"other": factor})
    return c.emit(call, "avg_pool", [x], {**attributes, "count_include_pad": int(counted)})


def _counted(call: Call, attributes: dict[str, Any], axis: int, extent: int) -> torch.Tensor:
    """How many rows (axis 0) or columns of each window lie in the map or in the padding that was asked for."""
    before, kernel = attributes["padding"][axis], attributes["kernel"][axis]
    start = torch.arange(call.shape[1 + axis], dtype=torch.float64) * attributes["stride"][axis] - before
    return (start + kernel).clamp(max=extent + before) - start


@RULES("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def _adaptive_avg_pool(c: Converter, call: Call) -> Computed:
    return c.emit(call, "adaptive_avg_pool", [c.map(call["self"])], {"size": call.shape[1:]})


@RULES("adaptive_max_pool2d.default")
def _adaptive_max_pool(c: Converter, call: Call) -> tuple[Computed | None, ...]:
    return c.emit(call, "adaptive_max_pool", [c.map(call["self"])], {"size": call.shape[1:]}), None
