"""A bundle over a serial line, from ``haste-edge deploy --serial`` to ``haste-run receive --serial``.

`framing` makes frames of bytes that get lost, doubled or flipped on the way; `protocol` is the conversation, as two
state machines without a port or a clock of their own; `folder` keeps what arrives, `port` brings both to a port.
"""

from __future__ import annotations
