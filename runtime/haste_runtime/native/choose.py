"""Which shared object fits this CPU, and why."""

from __future__ import annotations

import os
from typing import NamedTuple

from haste_runtime.errors import NativeError
from haste_runtime.native.cpu import Cpu, Part
from haste_runtime.native.libraries import Index, Library

CPU_VARIABLE = "HASTE_CPU"


class Choice(NamedTuple):
    """reason: why this library, in words."""

    library: Library
    reason: str


def choose(index: Index, cpu: Cpu) -> Choice:
    """$HASTE_CPU, if it names a library; else the one made for all of the CPU's kinds of cores; else the first, which
    is the most capable, whose features the CPU has.

    Raises NativeError where none can run, and for a $HASTE_CPU that is not there, is for another machine, or needs
    features that this CPU is known to lack.
    """
    fitting = [library for library in index.libraries if library.machine == cpu.machine]
    forced = os.environ.get(CPU_VARIABLE)
    if forced:
        return Choice(_forced(forced, index, fitting, cpu), f"asked for by {CPU_VARIABLE}")
    if not fitting:
        there = ", ".join(sorted({library.machine for library in index.libraries})) or "nothing"
        raise NativeError(
            f"The native kernels in {index.folder} are for {there}, and this is {cpu.machine}.",
            f"Install the wheel for {cpu.machine}, or use another backend.",
        )
    for library in fitting:
        if cpu.parts and cpu.parts <= library.parts and not missing(library, cpu):
            return Choice(library, f"made for this CPU's cores ({_words(cpu.parts)})")
    for library in fitting:
        if cpu.features and not missing(library, cpu):
            unknown = f"no others are made for its cores ({_words(cpu.parts)})" if cpu.parts else ""
            return Choice(library, f"this CPU has the features they need{', and ' + unknown if unknown else ''}")
    if not cpu.features:
        raise NativeError(
            "Neither /proc nor /sys tells what this CPU can do.",
            f"Name it: {CPU_VARIABLE}={' or '.join(library.name for library in fitting)}.",
        )
    least = fitting[-1]
    raise NativeError(
        f"No native kernels are made for this CPU: even those for {least.name} need {' '.join(missing(least, cpu))}, "
        "which it lacks.",
        "Use another backend.",
        damaged=False,
    )


def missing(library: Library, cpu: Cpu) -> list[str]:
    """What the library needs and the CPU lacks; nothing is known to be lacking where no features are known at all."""
    return sorted(library.features - cpu.features) if cpu.features else []


def _forced(name: str, index: Index, fitting: list[Library], cpu: Cpu) -> Library:
    library = next((library for library in fitting if library.name == name), None)
    if library is None:
        elsewhere = [other.machine for other in index.libraries if other.name == name]
        what = f"kernels for {elsewhere[0]}, and this is {cpu.machine}" if elsewhere else "no kernels that are here"
        names = " or ".join(other.name for other in fitting)
        hint = f"Unset it, or choose {names}." if fitting else f"There are none for {cpu.machine}: unset it."
        raise NativeError(f"{CPU_VARIABLE}={name} names {what}.", hint)
    lacking = missing(library, cpu)
    if lacking:
        raise NativeError(
            f"{CPU_VARIABLE}={name} asks for kernels that need {' '.join(lacking)}, which this CPU lacks.",
            f"Unset {CPU_VARIABLE}, or choose others.",
        )
    return library


def _words(parts: frozenset[Part]) -> str:
    return ", ".join(f"implementer {implementer:#04x} part {part:#05x}" for implementer, part in sorted(parts))
