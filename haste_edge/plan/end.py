"""Where the ladder ends: the last point on the path before the network is spoilt.

Strong settings of single layers say little about what they do together, so points of the path are tried jointly: some
all along it, and then some more where it goes from useful to spoilt, which it may do within a few points.
Synthetic pictures are then others than those the layers were measured on: budgets suit the pictures they were chosen
on, and distort others more.

On pictures of the user's own, equal answers are counted: what a classifier loses in accuracy is a fixed share of the
answers that change, of every network alike. Noise tells that badly, as networks are sure of their answers on
photographs and unsure on noise, some of them far more than others. There the change of the outputs is what is left,
and on dead leaves it means nearly the same for all networks; on pink noise, thin networks hardly change until they
fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from haste_edge.plan import ladder
from haste_edge.plan.joint import Joint
from haste_edge.plan.ladder import Point

TRIALS = 10  # points on the path that are measured jointly
CLOSER = 6  # more of them, between the last useful one and the next
MOST_DISTORTION = 0.22  # on dead leaves: there the networks tried had lost two to three points of accuracy
LEAST_AGREEMENT = 92.0  # percent, on pictures of the user's own: about three points


def harm(joint: Joint, by_agreement: bool) -> float:
    """How near a level is to spoiling the network, which it does at 1."""
    if by_agreement and joint.agreement is not None:
        return (100.0 - joint.agreement) / (100.0 - LEAST_AGREEMENT)
    return joint.distortion / MOST_DISTORTION


def between(points: Sequence[Point], tried: Mapping[int, float]) -> list[int]:
    """Indices of at most `CLOSER` points, evenly spaced in saving, before the first that spoils the network and behind
    the trial before it. tried: as for `last_useful`."""
    before = -1
    for index, harmed in tried.items():
        if harmed > 1.0:
            return ladder.inside(points, before, index, CLOSER)
        before = index
    return []


def last_useful(points: Sequence[Point], tried: Mapping[int, float]) -> int:
    """The last point before the network is spoilt: between two trials by what points save alone; -1 if the first point
    spoils it.

    tried: the harm of some points by their index, rising.
    """
    before = (0.0, 0.0)  # saving, harm
    for index, harmed in tried.items():
        saving = points[index].saving
        if harmed > 1.0:
            share = (1.0 - before[1]) / (harmed - before[1])
            last = ladder.nearest(points, before[0] + share * (saving - before[0]))
            return -1 if last == 0 and tried.get(0, 0.0) > 1.0 else last
        before = (saving, harmed)
    return len(points) - 1
