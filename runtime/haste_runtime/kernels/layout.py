"""Columns of the execution table: one row of int64 per operation, and one row per merging layer and level.

Offsets count elements: float32 of the arena (X, Y, R and all of a level's scratch), float32 of the packed weights
(WEIGHT, BIAS, SCALE; within a layer, in CHANNELS, numbers as they are stored), int32 of the index table (TAPS,
CHANNELS). A map lies as rows of pixels of channels (HWC) with a border of zeros as wide as the widest padding among its
readers; a vector is a map of one pixel. Never a pointer: the table means the same in every process.
"""

from __future__ import annotations

# Machine code and the Python that feeds it may come from different releases; both know this number. It is raised with
# every change to what the kernels read or write: these columns, the arguments in `haste_runtime.kernels.exports`, or
# how weights lie in `packed`. A test notices the first two.
ABI = 9

# ---- kinds of operation
CONV, DEPTHWISE, SCALE, ADD, ACTIVATE, MAX_POOL, AVERAGE_POOL, ADAPTIVE_AVERAGE, ADAPTIVE_MAX = range(9)
MEAN, RESHAPE, MOVE, UNARY, PRELU, BINARY, RESAMPLE, REDUCE, SOFTMAX, LRN = range(9, 19)  # MOVE: slice, pad, concat ...

# ---- columns of an operation
KIND, CLEAR, ACTIVATION = 0, 1, 2  # CLEAR: 1 fills the whole output with FILL first (pad); ACTIVATION: see below
X, XH, XW, XC, XROW, XPIXEL = range(3, 9)  # input: offset of its first real element, size, strides
Y, YH, YW, YC, YROW, YPIXEL, YBORDER = range(9, 16)  # output, and the width of its border
R, RROW, RPIXEL = range(16, 19)  # residual or second operand; R < 0: none
KY, KX, SY, SX, PTOP, PLEFT, DY, DX = range(19, 27)  # window
GROUPS, GROUP_IN, GROUP_OUT, VECTORS, BLOCKS = range(27, 32)  # convolution blocks: VECTORS * W channels each
WEIGHT, BIAS, TAPS, CHANNELS, STRIP, SLOT = range(32, 38)  # STRIP: pixels per pass; SLOT: row of the level table or -1
SPILL, PIXELS, ROOM = 38, 39, 40  # scratch: one tile; four lists of ROOM offsets (input, output, residual, plane)
OPTION, FILL = 41, 42  # pool counts padding / which function / taps / where MOVE begins; bits of the float to fill with
PART = 43  # of a convolution: input channels at a time (`kernels.parted_conv`), 0: all
XSTEP, RSTEP = 43, 44  # BINARY: from one channel to the next of the operands: 1, or 0 where one is for all
REDUCED_H, REDUCED_W, REDUCED_C, INNER, DIVISOR = range(43, 48)  # REDUCE: sizes of what becomes one element
N, FROM, TO = 43, 49, 55  # MOVE, SOFTMAX: six axes' sizes, and steps in the input and the output; not of convolutions
# TAPS: offsets of the window's elements in every input channel, channel after channel; CHANNELS: of each channel in the
# input, then of its filters
STORED, SCALE = 55, 56  # how the weights are stored, see below; where their scales begin in the packed weights, or -1
DEEP, CHANNEL_STEP, BLOCK_STEP, TOTALS = range(57, 61)  # 1: `kernels.deep_conv`; stored weights from one input channel,
# and from one block of output channels, to the next; scratch for the sums of a whole output, or
# of a strip of one block
WINOGRAD = 61  # here begin the Winograd columns, see below
COLUMNS = 70

NO_LIMIT, RELU, RELU6 = 0, 1, 2  # activations
LEAKY_RELU, ELU, CLIP, HARD_SIGMOID, HARD_SWISH, SIGMOID, SILU, TANH, GELU, GELU_TANH = range(10)  # OPTION of UNARY,
SOFTPLUS, MISH, EXP, SQRT, ABSOLUTE, NEGATIVE, RECIPROCAL = range(10, 17)  # whose alpha and beta lie at WEIGHT
PLUS, MINUS, TIMES, OVER, LEAST, MOST = range(6)  # OPTION of BINARY and REDUCE; a constant operand lies at WEIGHT
FLOATS, HALVES, BYTES = 0, 1, 2  # stored weights: float32, float16, int8 with a scale for each output channel

# ---- columns of a level: one row per layer that may merge
PATCH, BITS, SIDE, TILES_Y, TILES_X = range(5)  # PATCH 0: dense at this level; SIDE: n, input pixels
POLICY, IMPORTANCE, BUDGET = 5, 6, 7  # see below; int32 table: the channels' weights; bits of a float64
SIGNS, STARTS = 8, 9  # int32 table: pixel lists of the projection; where each bit's + and - list begins
PLANE, SPAN = 10, 11  # floats per merged plane; int16 per quantised plane
PLANES, FILTERS, QUANTISED, SUMS, CODES, TABLE, LEADERS, MEMBERS_OF, START, MEMBERS, SCALES = range(12, 23)  # scratch
INPUTS, WEIGHTS, MERGED_TAPS, TRACE = range(23, 27)  # entry lists; tap offsets; where codes are recorded or -1
SPREAD, ENERGIES, TOTAL, PRODUCTS, FOUND, FOUND_CODES, SHARES = range(27, 34)  # scratch that only some policies need
INSIDE, MASSES, PRINTS, FOUND_PRINTS, ORDER, COUNTS = range(34, 40)  # the same, for `WITHIN_AFFINE_BUDGET`
LEVELLED, OFFSETS, STEP, CONSTANT, EVERY, ADDENDS, ADDEND_PLACES = range(40, 47)
MOST_KEPT = 47  # more channels kept by the patch in the middle, and the layer stays dense; -1: it is not asked
MERGED_WINOGRAD = 48  # here begin the Winograd columns of a layer's merged patches
LEVEL_COLUMNS = 57

# ---- policies, as `haste_runtime.plan.POLICIES` lists them
BY_MEAN, BY_SCALE, WITHIN_BUDGET, WITHIN_AFFINE_BUDGET, BY_ENERGY = range(5)

# ---- Winograd columns: the same in an operation, for the dense layer, and in a level, for its merged patches
EDGE, FILTERS_AT, BIASES_AT = 0, 1, 2  # side m of a tile, 0: computed directly; transformed filters, biases in packed
ROOM_TILES, VALUES, VALUES_STEP = 3, 4, 5  # tiles at a time; scratch for their inputs; from one position to the next
SUMS_AT, LINES, LISTS = 6, 7, 8  # scratch for the products' sums, for some vectors, and for lists of offsets

# ---- counters of the last frame: one row per worker and merging layer, the fields of `haste_runtime.flops.LayerCounts`
PATCHES, KEPT, MERGED, KEPT_PIXELS, COMPARED, VERIFIED, WITH_CONSTANT, CONSTANT_ADDS, UNSEEN = range(9)
COUNTERS = 9

ROWS = 6  # output pixels of a full register tile
UNROLLED = 4  # entries that Winograd's multiplication takes at once where they lie in a row
ENTRIES = 4  # of a deep convolution, which pass over all output channels together
TOGETHER = 4  # Winograd's positions whose groups' sums are formed at once; 4 divides both 16 and 36
CHUNK = 258  # int16 additions of values up to 127 that cannot overflow
RUN = 512  # products of an int16 and a quantised value that cannot overflow an int32
SQUARES = 1 << 16  # squares of quantised values whose sum cannot overflow an int32
POSITION_BITS = 26  # of a key: below a distance of at most 31 bits, which leaves a positive int32
SHORT_POSITION_BITS = 16  # of a key that ranks products of fingerprints, which are below 2^15
NO_KEY = 0x7FFFFFFF  # larger than every key
