"""Studies of the method on a network: policies and baselines over their settings and seeds, and the plot of them.

configuration   one run's settings, and the grid of them
subject         the network, the pictures, the layers that may merge
baselines       other ways to group channels, at the number of groups that the paper's has
cost            what each of them executes
run             one configuration on the whole network
sweep           all of them through joblib, resumable
curves, plot    means and spreads over seeds, and their picture
"""

from __future__ import annotations

from haste_edge.study.backends import backend
from haste_edge.study.configuration import BASELINES, Configuration, StudyError, grid
from haste_edge.study.subject import Source, Subject, load
from haste_edge.study.sweep import sweep

__all__ = ["BASELINES", "Configuration", "Source", "StudyError", "Subject", "backend", "grid", "load", "sweep"]
