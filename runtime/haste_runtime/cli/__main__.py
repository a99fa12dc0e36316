"""``python -m haste_runtime.cli`` is ``haste-run``, for when the command is not on the PATH."""

from haste_runtime.cli import main

main()
