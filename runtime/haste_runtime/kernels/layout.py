"""Columns of the execution table: one row of int64 per operation, and one row per merging layer and level.

Offsets count elements: float32 of the arena (X, Y, R and all of a level's scratch), float32 of the packed weights
(WEIGHT, BIAS), int32 of the index table (TAPS, CHANNELS). A map lies as rows of pixels of channels (HWC) with a border
of zeros as wide as the widest padding among its readers; a vector is a map of one pixel. Never a pointer: the table
means the same in every process.
"""

from __future__ import annotations

# ---- kinds of operation
CONV, DEPTHWISE, SCALE, ADD, ACTIVATE, MAX_POOL, AVERAGE_POOL, ADAPTIVE_AVERAGE, ADAPTIVE_MAX = range(9)
MEAN, FLATTEN, COPY = range(9, 12)  # COPY: a strided box of one map into a box of another (slice, pad, concat)

# ---- columns of an operation
KIND, CLEAR, ACTIVATION = 0, 1, 2  # CLEAR: 1 fills the whole output with FILL first (pad); ACTIVATION: see below
X, XH, XW, XC, XROW, XPIXEL = range(3, 9)  # input: offset of its first real element, size, strides
Y, YH, YW, YC, YROW, YPIXEL, YBORDER = range(9, 16)  # output, and the width of its border
R, RROW, RPIXEL = range(16, 19)  # residual or second operand; R < 0: none
KY, KX, SY, SX, PTOP, PLEFT, DY, DX = range(19, 27)  # window
GROUPS, GROUP_IN, GROUP_OUT, VECTORS, BLOCKS = range(27, 32)  # convolution blocks: VECTORS * W channels each
WEIGHT, BIAS, TAPS, CHANNELS, STRIP, SLOT = range(32, 38)  # STRIP: pixels per pass; SLOT: row of the level table or -1
SPILL, PIXELS, ROOM = 38, 39, 40  # scratch: one tile; three lists of ROOM pixel offsets (input, output, residual)
OPTION, FILL = 41, 42  # pool counts padding / flatten in HWC order; bits of the float to fill with
CY, CX, CC, OY, OX, OC, TY, TX, TC = range(43, 52)  # COPY: first element, first in the output, step
BY, BX, BC = range(52, 55)  # COPY: size of the box
COLUMNS = 55

NO_LIMIT, RELU, RELU6 = 0, 1, 2  # activations

# ---- columns of a level: one row per layer that may merge
PATCH, BITS, SIDE, TILES_Y, TILES_X = range(5)  # PATCH 0: dense at this level; SIDE: n, input pixels
POLICY, IMPORTANCE, BUDGET = 5, 6, 7  # see below; int32 table: the channels' weights; bits of a float64
SIGNS, STARTS = 8, 9  # int32 table: pixel lists of the projection; where each bit's + and - list begins
PLANE, SPAN = 10, 11  # floats per plane; int16 per quantised plane
PLANES, FILTERS, QUANTISED, SUMS, CODES, TABLE, LEADERS, MEMBERS_OF, START, MEMBERS, SCALES = range(12, 23)  # scratch
INPUTS, WEIGHTS, MERGED_TAPS, TRACE = range(23, 27)  # entry lists; tap offsets; where codes are recorded or -1
SPREAD, ENERGIES, TOTAL, PRODUCTS, FOUND, FOUND_CODES, SHARES = range(27, 34)  # scratch that only some policies need
LEVEL_COLUMNS = 34

BY_MEAN, BY_SCALE, WITHIN_BUDGET = 0, 1, 2  # policies, as `haste_runtime.plan.POLICIES` lists them

# ---- counters of the last frame: one row per worker and merging layer, the fields of `haste_runtime.flops.LayerCounts`
PATCHES, KEPT, MERGED, KEPT_PIXELS, COMPARED, VERIFIED = range(6)
COUNTERS = 6

ROWS = 6  # output pixels of a full register tile
CHUNK = 258  # int16 additions of values up to 127 that cannot overflow
RUN = 512  # products of an int16 and a quantised value that cannot overflow an int32
SQUARES = 1 << 16  # squares of quantised values whose sum cannot overflow an int32
POSITION_BITS = 26  # of a key: below a distance of at most 31 bits, which leaves a positive int32
NO_KEY = 0x7FFFFFFF  # larger than every key
