"""Errors of the host side. Each says what is wrong in one sentence and, in `hint`, what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from haste_runtime.errors import HasteError


class TargetError(HasteError, ValueError):
    """A target is not known, or its file is wrong; the message names the file and the field."""

    exit_code = 2


class PlanError(HasteError, ValueError):
    """The planner was asked for something that makes no sense, such as less than one level or an unknown objective."""

    exit_code = 2


class ModelError(HasteError, ValueError):
    """The model cannot be loaded: its name, its file, its weights or its input shape is wrong."""

    exit_code = 2


class DeployError(HasteError, RuntimeError):
    """A bundle cannot be brought to a device: the message says what stands in the way there, or between."""


class BuildError(HasteError, RuntimeError):
    """Kernels or wheels for another computer cannot be made: something is not installed, or what came out is wrong."""

    exit_code = 1


@dataclass(frozen=True)
class Refusal:
    """One operation that cannot be compiled.

    node: its name in the graph. operation: ATen's name for it. location: file, line and source, empty where the export
    kept none. reason and hint: sentences.
    """

    node: str
    operation: str
    location: str
    reason: str
    hint: str

    def __str__(self) -> str:
        where = f" at {self.location}" if self.location else ""
        return f"{self.node} ({self.operation}){where}: {self.reason} {self.hint}".rstrip()


class UnsupportedModelError(HasteError, ValueError):
    """The model loads but cannot be compiled; `refusals` names every operation in the way, in graph order."""

    exit_code = 5

    def __init__(self, message: str, hint: str = "", refusals: tuple[Refusal, ...] = ()) -> None:
        super().__init__(message, hint)
        self.refusals = refusals
