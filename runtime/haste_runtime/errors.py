"""Every error a user can meet. Each says what is wrong in one sentence and, in `hint`, what to do about it."""

from __future__ import annotations


class HasteError(Exception):
    """Base of all errors of haste-edge and haste-runtime. ``hint`` is a sentence of advice, possibly empty."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InputError(HasteError, ValueError):
    """An array given to `Session.run` has the wrong name, shape, type or holds NaN or infinity."""

    exit_code = 2


class LevelError(HasteError, ValueError):
    """A level outside the bundle's ladder was asked for."""

    exit_code = 2


class BackendError(HasteError, RuntimeError):
    """The backend asked for cannot run here (for example numba is not installed)."""

    exit_code = 4


class NativeError(BackendError):
    """There are no kernels compiled ahead of time that can run here; the message says why.

    damaged: some are there for this machine, but they are broken or of another release, so somebody should know.
    """

    def __init__(self, message: str, hint: str = "", damaged: bool = True) -> None:
        super().__init__(message, hint)
        self.damaged = damaged


class BundleError(HasteError, ValueError):
    """Base of everything that can be wrong with a bundle file; the subclasses name the cause."""

    exit_code = 3


class GraphError(HasteError, ValueError):
    """A graph is not well formed: the message names the node and the rule it breaks."""

    exit_code = 3


class SignalError(HasteError, RuntimeError):
    """A signal cannot be set up: a wrong argument, or a package that is not installed.

    What goes wrong later, while it measures, is no exception but a `Reading` that is not ok.
    """

    exit_code = 2


class PolicyError(HasteError, ValueError):
    """A policy cannot be read; the message names the key and says what is allowed there."""

    exit_code = 2
