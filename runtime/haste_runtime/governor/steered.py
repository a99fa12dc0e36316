"""The part of a `Session` that lets something choose its level: a policy that follows signals."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when something is followed
    from haste_runtime.governor.follow import Governor
    from haste_runtime.governor.policy import Policy, PolicyLike
    from haste_runtime.signals.push import Reports
    from haste_runtime.signals.signal import Source


class Steered:
    """Something that has a level, and may follow a policy. Subclasses have `level`, `_set_level` and `_costs`.

    when_level_changed: called with (old level, new level, reason) after each change while a policy is followed, by the
    governor's thread. It may take its time; what it raises is logged.
    """

    level: int

    def __init__(self) -> None:
        self.when_level_changed: Callable[[int, int, str], object] | None = None
        self._governor: Governor | None = None
        self._reports: Reports | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    def follow(
        self,
        *sources: Source,
        policy: PolicyLike | None = None,
        trace: str | os.PathLike[str] | None = None,
    ) -> Governor:
        """Let a policy choose the level from now on, instead of what was followed before.

        sources: signals of `haste_runtime.signals`, such as ``Battery()``; where two give the same name, the first that
        has a value counts. The session's own latency, and what is reported, need not be named. policy: a path, a TOML
        string, or a dict (docs/steering.md). trace: a file for every decision, which ``haste-run replay`` reads.

        The governor that is returned tells the last readings and the reason for the level. It ends with `unfollow`,
        with the session, or at the end of a ``with``. Raises PolicyError, SignalError or TraceError, or
        CalibrationError where a rule asks for milliseconds and nobody has measured them, and goes on with what was
        followed before.
        """
        from haste_runtime.governor.follow import Governor
        from haste_runtime.governor.policy import Policy, read_policy

        governor = Governor(
            self._resolved(Policy() if policy is None else read_policy(policy)),
            [self._reported(), *sources],
            level=self.level,
            costs=self._costs(),
            set_level=_weakly(self._set_level),
            changed=_weakly(self._changed),
            ended=_weakly(self._ended),
            trace=trace,
        )
        self.unfollow()
        self._governor = governor
        self._finalizer = weakref.finalize(self, governor.stop)  # nobody closed it: its thread ends all the same
        governor.start()
        return governor

    def on_signal(
        self, function: Callable[[], float | None], name: str, policy: PolicyLike | None = None, unit: str = ""
    ) -> Governor:
        """Follow a function of one's own, which returns a number, or None while it knows none.

        It is called about once per period in a thread of its own, may block, and may raise: then its value is missing.
        With a policy, this is ``follow(Callback(function, name), policy=policy)``; without, the function is one more
        signal for what is followed already.
        """
        from haste_runtime.signals.callback import Callback

        signal, governor = Callback(function, name, unit), self._governor
        if policy is not None or governor is None:
            return self.follow(signal, policy=policy)
        governor.add(signal)
        return governor

    def report(self, name: str, value: float | None, unit: str = "", valid_s: float | None = None) -> None:
        """Tell a number that the program knows by itself, such as ``report("battery", 41)``; from any thread.

        valid_s: how long it may be acted on, by default until the next report. None as the value: it is not known.
        """
        self._reported().report(name, value, time.monotonic(), unit=unit, valid_s=valid_s)

    def unfollow(self) -> None:
        """Follow nothing any more; the level stays as it is. Harmless where nothing is followed."""
        governor = self._governor
        if governor is not None:
            governor.stop()

    @property
    def governor(self) -> Governor | None:
        """What chooses the level, None where the program does."""
        return self._governor

    def _set_level(self, level: int) -> None:
        """Takes effect at the next frame."""
        raise NotImplementedError

    def _resolved(self, policy: Policy) -> Policy:
        """The policy with levels where it names milliseconds. Raises HasteError where that cannot be told."""
        return policy

    def _costs(self) -> Sequence[float]:
        """The expected cost of a frame at each level, relative to each other."""
        raise NotImplementedError

    def _reported(self) -> Reports:
        if self._reports is None:
            from haste_runtime.signals.push import Reports

            self._reports = Reports()
        return self._reports

    def _changed(self, old: int, new: int, reason: str) -> None:
        if self.when_level_changed is not None:
            self.when_level_changed(old, new, reason)

    def _ended(self, governor: Governor) -> None:
        if self._governor is governor:
            self._governor = None
            if self._finalizer is not None:
                self._finalizer.detach()


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same, without keeping the method's owner alive; nothing happens once it is gone."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        alive = reference()
        return None if alive is None else alive(*arguments)

    return call
