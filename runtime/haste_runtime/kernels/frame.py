"""One call per frame: walk the execution table. Python is not in the loop."""

from __future__ import annotations

from haste_runtime.kernels import layout as t
from haste_runtime.kernels.deep_conv import deep_conv
from haste_runtime.kernels.dense_conv import dense_conv
from haste_runtime.kernels.depthwise_conv import depthwise_conv
from haste_runtime.kernels.elementwise import binary, prelu, unary
from haste_runtime.kernels.jit import kernel, simd
from haste_runtime.kernels.look import first_look, record_dense
from haste_runtime.kernels.merged_conv import merged_conv
from haste_runtime.kernels.move import clear_border, move, reshape
from haste_runtime.kernels.parted_conv import parted_conv
from haste_runtime.kernels.pointwise import activation, add, scale
from haste_runtime.kernels.pool import adaptive_pool, average_pool, max_pool, mean
from haste_runtime.kernels.reduce import reduce
from haste_runtime.kernels.resample import resample
from haste_runtime.kernels.softmax import lrn, softmax
from haste_runtime.kernels.take_input import take_inputs
from haste_runtime.kernels.winograd_conv import winograd_conv
from haste_runtime.kernels.winograd_merged import merged_winograd

at = simd.at
SPINS = 2000  # a few microseconds: most operations end together


@kernel
def convolve(op, levels, arena, packed, index, scratch, counters, trace, worker, workers):
    """Dense or merged, as this frame's level says, and the patch in the middle if it is asked."""
    slot = op[t.SLOT]
    if slot >= 0 and levels[slot * t.LEVEL_COLUMNS + t.PATCH] > 0:
        level, counts = at(levels, slot * t.LEVEL_COLUMNS), at(counters, slot * t.COUNTERS)
        dense, live, singles, groups = first_look(op, level, arena, index, scratch, counts, worker)
        seen = (live, singles, groups)
        if not dense:
            if level[t.MERGED_WINOGRAD + t.EDGE] > 0:
                merged_winograd(op, level, arena, packed, index, scratch, counts, trace, seen, worker, workers)
            else:
                merged_conv(op, level, arena, packed, index, scratch, counts, trace, seen, worker, workers)
            return
        if level[t.TRACE] >= 0 and worker == 0:
            record_dense(op, level, trace)
    if op[t.WINOGRAD + t.EDGE] > 0:
        winograd_conv(op, arena, packed, index, scratch, worker, workers)
    elif op[t.DEEP]:
        deep_conv(op, arena, packed, index, scratch, worker, workers)
    elif op[t.PART] > 0:
        parted_conv(op, arena, packed, index, scratch, worker, workers)
    else:
        dense_conv(op, arena, packed, index, scratch, worker, workers)


@kernel
def run_other(op, arena, packed, index, scratch, worker, workers):
    kind = op[t.KIND]
    if kind == t.UNARY:
        unary(op, arena, packed, scratch, worker, workers)
    elif kind == t.PRELU:
        prelu(op, arena, packed, scratch, worker, workers)
    elif kind == t.BINARY:
        binary(op, arena, packed, scratch, worker, workers)
    elif kind == t.RESAMPLE:
        resample(op, arena, packed, index, scratch, worker, workers)
    elif kind == t.REDUCE:
        reduce(op, arena, scratch, worker, workers)
    elif kind == t.SOFTMAX:
        softmax(op, arena, scratch, worker, workers)
    elif kind == t.LRN:
        lrn(op, arena, packed, scratch, worker, workers)
    elif kind == t.RESHAPE:
        reshape(op, arena, worker, workers)
    else:
        move(op, arena, worker, workers)


@kernel
def run_operation(op, levels, arena, packed, index, scratch, counters, trace, worker, workers):
    kind = op[t.KIND]
    if kind == t.CONV:
        convolve(op, levels, arena, packed, index, scratch, counters, trace, worker, workers)
    elif kind == t.DEPTHWISE:
        depthwise_conv(op, arena, packed, index, scratch, worker, workers)
    elif kind == t.ADD:
        add(op, arena, worker, workers)
    elif kind == t.SCALE:
        scale(op, arena, packed, worker, workers)
    elif kind == t.ACTIVATE:
        activation(op, arena, worker, workers)
    elif kind == t.MAX_POOL:
        max_pool(op, arena, worker, workers)
    elif kind == t.AVERAGE_POOL:
        average_pool(op, arena, worker, workers)
    elif kind == t.ADAPTIVE_AVERAGE or kind == t.ADAPTIVE_MAX:
        adaptive_pool(op, arena, worker, workers)
    elif kind == t.MEAN:
        mean(op, arena, worker, workers)
    else:
        run_other(op, arena, packed, index, scratch, worker, workers)


@kernel
def meet(arrivals, expected):
    """Wait until ``expected`` arrivals have been counted, this one included: a short spin, then the core is offered."""
    simd.atomic_add(arrivals, 1)
    spins = 0
    while simd.atomic_load(arrivals) < expected:
        spins += 1
        if spins > SPINS:
            simd.yield_processor()


@kernel
def run_frame(
    table, operations, levels, slots, arena, packed, index, scratch, room, counters, trace, staged, inputs, given,
    meeting, worker, workers,
):  # fmt: skip
    """Run all operations of one frame as worker ``worker`` of ``workers``, who meet after each operation.

    table: int64, ``operations`` rows of layout.COLUMNS. levels: int64, this level's ``slots`` rows of LEVEL_COLUMNS.
    arena: float32 for all maps and, from ``scratch`` on, ``room`` floats of scratch for each worker.
    packed: float32 weights. index: int32 lists. counters: int64, for each worker ``slots`` rows of COUNTERS, cleared
    here. trace: int32 codes and leaders, if recorded. staged: float32, the frame's inputs one behind the other, and
    inputs: int64, ``given`` rows of COLUMNS that say where each lies (X) and where it belongs (Y and what follows);
    none where the arena holds them already. meeting: two int64, 0 at the start: arrivals, and the number, from 1 on, of
    an input that holds NaN or infinity, whereupon nothing is run.
    """
    own_counters = at(counters, worker * slots * t.COUNTERS)
    own_scratch = scratch + worker * room
    for i in range(slots * t.COUNTERS):
        own_counters[i] = 0
    if given > 0:
        if worker == 0:
            meeting[1] = take_inputs(inputs, given, staged, arena)
        if workers > 1:
            meet(meeting, workers)
        if meeting[1] > 0:
            return
    before = workers if given > 0 else 0
    for i in range(operations):
        op = at(table, i * t.COLUMNS)
        if op[t.YBORDER] > 0 and worker == 0:
            clear_border(op, arena)
        run_operation(op, levels, arena, packed, index, own_scratch, own_counters, trace, worker, workers)
        if workers > 1:
            meet(meeting, before + (i + 1) * workers)
