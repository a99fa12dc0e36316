"""The runtime's kernels as machine code for other computers, made here: no compiler, LLVM or Numba is needed there.

cores       the CPU cores there is machine code for, and which of them a board has
objects     kernels to an object file, in a process of its own per core;  worker: that process
elf         what an object or a library refers to and offers
libraries   object files to shared objects, and the index that the device chooses from
wheels      haste_runtime as installed, with those inside
"""
