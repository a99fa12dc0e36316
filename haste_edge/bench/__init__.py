"""Compare a bundle with other runtimes on the same network: fairly, and without leaving anything behind.

peers.py       who the others are, what each needs, which files it is given
environments.py  a virtual environment for each, made on demand in the user's cache folder
source.py      the network all of them are given, and how it gets into their formats
own_exports.py our own exports, where the network is no torch program or where it is asked for
rounds.py      interleaved rounds: outputs compared, then time taken
compare.py     all of that in order, with what could not take part and why
report.py, plot.py   a table, and latency against accuracy
foreign/       scripts that run in the others' environments
"""
