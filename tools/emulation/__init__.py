"""ARM code on this computer, without a board: Debian's Python for ARM, run by QEMU's user mode.

architectures.py  the two kinds of ARM, and the processors that are imitated
packages.py       Debian packages and wheels for another architecture, from this machine's own sources
root.py           a folder with Python, numpy and safetensors for one architecture, and overlays on it
machine.py        its Python as a command, for one processor
options.py        which processor and which kernels, for the tools that run compiled code
plugin.py, count.c  a plugin for QEMU that counts instructions
counting.py, count_frames.py  what a runtime takes for a frame
mca.py            cycles of inner loops, as LLVM estimates them
"""
