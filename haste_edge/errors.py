"""Errors of the host side. Each says what is wrong in one sentence and, in `hint`, what to do about it."""

from __future__ import annotations

from haste_runtime.errors import HasteError


class TargetError(HasteError, ValueError):
    """A target is not known, or its file is wrong; the message names the file and the field."""

    exit_code = 2


class PlanError(HasteError, ValueError):
    """The planner was asked for something that makes no sense, such as less than one level or an unknown objective."""

    exit_code = 2
