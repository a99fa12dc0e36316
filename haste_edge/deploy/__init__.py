"""Bring a bundle, and what runs it, to a device: over the system's ssh and rsync, or over a serial line.

`remote` runs commands there and turns what ssh says into errors with advice, `device_side` is the script that does on
the device what has to be atomic, `steps` knows what is to be done, and in which order.
"""

from __future__ import annotations
