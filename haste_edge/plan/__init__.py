"""Planning: which convolutions merge, on which patches, and with how many bits at which level.

`make_plan` is the whole of it; `explain` prints a plan. One idea per module: candidates (what may merge), cost_model
(time on a target), pictures (what is looked at), measure (what merging costs and saves), ladder (which layers at which
level), joint (what they do together), end (the strongest level worth having), reasons and explain (words).
"""

from haste_edge.plan.explain import explain
from haste_edge.plan.make import make_plan

__all__ = ["explain", "make_plan"]
