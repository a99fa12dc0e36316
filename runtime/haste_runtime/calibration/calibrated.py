"""The part of a `Session` that knows what a level costs on this computer, if it has been calibrated here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from haste_runtime.governor.steered import Steered

if TYPE_CHECKING:  # imported when it is asked for
    from haste_runtime.calibration.record import Calibration
    from haste_runtime.governor.policy import Policy


class Calibrated(Steered):
    """A session with a calibration, which is looked up when it is first needed. Subclasses have `levels`, `_running`
    and `threads`."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        super().__init__()
        self._path = path
        self._calibration: tuple[Calibration | None, str] | None = None

    @property
    def levels(self) -> tuple[Any, ...]:
        """What `Session.levels` says."""
        raise NotImplementedError

    @property
    def threads(self) -> int:
        """How many threads share a frame."""
        raise NotImplementedError

    @property
    def calibration(self) -> Calibration | None:
        """What ``haste-run calibrate`` has measured of this bundle on this computer with this backend; None where it
        has not, or where something has changed since: `calibration_reason` says what."""
        return self._found()[0]

    @property
    def calibration_reason(self) -> str:
        """Where the calibration comes from, or why there is none, in words."""
        return self._found()[1]

    def level_for(self, latency_ms: float) -> int:
        """The most exact level whose frames are expected to take no longer than this on this computer, with the
        session's threads; the quickest level where none is so quick.

        Raises CalibrationError without a calibration, or for a latency that makes no sense.
        """
        from haste_runtime.calibration.record import CalibrationError

        calibration = self.calibration
        if calibration is None:
            raise CalibrationError(
                f"Nobody knows here how long a frame takes: {self.calibration_reason}.",
                "Run `haste-run calibrate BUNDLE` on this computer once, or ask for a level.",
            )
        return calibration.level_for(latency_ms, self.threads)

    def best_threads(self) -> int:
        """How many threads ``haste-run calibrate`` found to be best for this bundle here; 1 where it has not run."""
        from haste_runtime.calibration.sidecar import best_threads

        return 1 if self._path is None else best_threads(self._path)

    def _found(self) -> tuple[Calibration | None, str]:
        if self._calibration is None:
            from haste_runtime.calibration.sidecar import find, key_for
            from haste_runtime.errors import BundleError

            if self._path is None:
                self._calibration = None, "a bundle that is only in memory has none"
            else:
                try:
                    key = key_for(self._path, self._running())
                except BundleError as error:  # the file has gone, or another one has come
                    self._calibration = None, f"the bundle cannot be read any more ({error.message})"
                else:
                    self._calibration = find(self._path, key, len(self.levels))
        return self._calibration

    def _resolved(self, policy: Policy) -> Policy:
        from haste_runtime.governor.policy import with_levels

        return with_levels(policy, self.level_for)

    def _costs(self) -> Sequence[float]:
        """Milliseconds where they are known here, else the share of FLOPs that is left."""
        self._running()  # a closed session follows nothing
        if self.calibration is not None:
            return self.calibration.relative(self.threads)
        return [max(0.01, 1 - level.flops_reduction_network / 100) for level in self.levels]

    def _running(self) -> Any:
        """The backend. Raises HasteError once the session is closed."""
        raise NotImplementedError
