"""The compiled kernels: plain Python over typed pointers, translated by Numba; nothing here allocates.

simd_types    vector and register-tile types;  simd: the few intrinsics on them;  simd_integers: those on integers;
              simd_emit: what both are built from;  simd_twins: the same in numpy
tile_conv     the convolution micro-kernel: a tile of output pixels x channels held in registers
dense_conv    dense convolution of one map;  deep_conv: of a small map with more weights than a cache holds;
              parted_conv: of so many input channels that not even one block's weights stay there
hash_patch    quantise, project and code the channels of one patch
group_patch   which of them share a plane, by the level's policy
merged_conv   convolution with merged channels, patch by patch
winograd_conv 3x3 convolution by Winograd's algorithm;  winograd_merged: of merged channels;  winograd_tile: the
              transforms of a tile;  winograd_multiply: the products;  winograd_points: the constants
pointwise     add, scale, activation;  pool: max, average, adaptive, mean;  move: pad, slice, concat, flatten
frame         walks the execution table: one call per frame
layout        the columns of that table;  exports: the functions that machine code of all this has;  about: what it says
              of itself;  lowering: what 32-bit ARM has no instruction for

Every kernel has a plain twin in `haste_runtime.backends.numpy_backend`, which is the definition.
"""
