"""Kernels compiled ahead of time on another computer (``haste-edge build-runtime``): no Numba and no LLVM needed.

Shared objects lie in this folder beside ``index.json``; the wheels that the compiler makes for devices have them, a
checkout and a wheel for all machines have none. HASTE_NATIVE names another folder with the same contents.

cpu        which CPU this is
libraries  what ``index.json`` lists
choose     which of them fits the CPU
load       the machine code itself, after it has been checked
"""
