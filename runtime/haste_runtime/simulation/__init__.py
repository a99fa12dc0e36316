"""A day of a device that does not exist: battery, heat and frames by simple physics, the level by the real governor.

`device` reads what a simulated board is made of, `board` is its physics, `ladder` what a frame costs at each level, and
`day` lets the policy's own decision (`haste_runtime.governor.decide`) choose the level from one period to the next.
`docs/simulation.md` says what the model has and what it leaves out.
"""

from __future__ import annotations
