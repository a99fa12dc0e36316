"""Frozen dataclasses that are quick to define: ``@record(frozen=True)``.

`dataclasses.dataclass` writes and compiles six methods for every class, about a millisecond each on a small computer,
and a session needs a dozen classes before it can start. Here all classes share the methods; `dataclasses.replace`,
`fields` and `asdict` work as ever. Type checkers take it for `dataclasses.dataclass`. For classes whose objects are
made by the hundred, not by the million: making one takes a little longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import MISSING, FrozenInstanceError, dataclass

    def _init(self, *args: Any, **given: Any) -> None:
        values, fields = self.__dict__, type(self).__dataclass_fields__
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} values, {len(args)} were given")
        values.update(zip(fields, args, strict=False))
        for name, field in list(fields.items())[len(args) :]:
            if name in given:
                values[name] = given.pop(name)
            elif field.default is not MISSING:
                values[name] = field.default
            elif field.default_factory is not MISSING:
                values[name] = field.default_factory()
            else:
                raise TypeError(f"{type(self).__name__} needs a value for {name!r}")
        if given:
            raise TypeError(f"{type(self).__name__} has no {', '.join(given)} to be given, or has it already")
        if hasattr(self, "__post_init__"):
            self.__post_init__()

    def _refuse(self, name: str, *value: Any) -> None:
        raise FrozenInstanceError(f"cannot change {name!r} of a {type(self).__name__}")

    def _repr(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
        return f"{type(self).__qualname__}({values})"

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def _equal(self, other: Any) -> Any:
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def _hash(self) -> int:
        return hash(_values(self))

    def record(*, frozen: bool, eq: bool = True):
        """``frozen`` must be True. eq: compare and hash by value, not by identity."""
        assert frozen
        shared = {"__init__": _init, "__setattr__": _refuse, "__delattr__": _refuse, "__repr__": _repr}
        shared |= {"__eq__": _equal, "__hash__": _hash} if eq else {}

        def decorate(cls):
            made = dataclass(init=False, repr=False, eq=False)(cls)
            for name, method in shared.items():
                if name not in cls.__dict__:
                    setattr(made, name, method)
            return made

        return decorate


__all__ = ["record"]
