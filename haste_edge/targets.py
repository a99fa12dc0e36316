"""The boards haste-edge knows: one TOML file each, checked against a schema, with a source for every figure.

A target says how fast one core computes and reads memory; the plan's cost model needs no more. Files live in the
repository's ``targets/`` folder and, installed from a wheel, in the package's ``_targets`` folder.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from haste_edge.errors import TargetError

Words = Annotated[str, Field(min_length=3)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cache(_Strict):
    """kib: size in KiB. shared: between several cores, or each core has its own. gb_s: what one core reads from it,
    10^9 bytes a second, where known."""

    kib: int = Field(ge=1, le=1 << 20)
    shared: bool
    gb_s: float | None = Field(default=None, gt=0)


class Caches(_Strict):
    """Data caches from the core outwards; a level the chip does not have is left out."""

    l1d: Cache
    l2: Cache | None = None
    l3: Cache | None = None

    @property
    def last(self) -> Cache:
        """The cache farthest from the core."""
        return self.l3 or self.l2 or self.l1d


class Simd(_Strict):
    """lanes: float32 numbers in one vector. fma_per_cycle: vector multiply-adds one core starts in a cycle."""

    lanes: int = Field(ge=1, le=64)
    fma_per_cycle: float = Field(gt=0, le=8)


class Memory(_Strict):
    """size_mib: of the board. bandwidth_gb_s: what one core sustains (reads and writes), 10^9 bytes a second.

    peak_gb_s: what the memory interface could give to all that use it, where known.
    """

    size_mib: int = Field(ge=1)
    bandwidth_gb_s: float = Field(gt=0)
    peak_gb_s: float | None = Field(default=None, gt=0)


class Software(_Strict):
    """userland: operating systems that run there. notes: what a user should know before the first start."""

    userland: Words
    notes: Words


class Sources(_Strict):
    """For each figure, in words, where it comes from: a data sheet, a public measurement, or an honest assumption."""

    core: Words
    cores: Words
    clock_mhz: Words
    simd: Words
    caches: Words
    memory_size: Words
    memory_bandwidth: Words
    software: Words


class Target(_Strict):
    """One board. core: the vendor's name, llvm_cpu: what LLVM calls it (``-mcpu``). clock_mhz: highest steady clock."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: Words
    architecture: Literal["aarch64", "armv7l", "x86_64", "native"]
    core: Words
    llvm_cpu: str = Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")
    cores: int = Field(ge=1, le=1024)
    clock_mhz: int = Field(ge=1, le=10000)
    simd: Simd
    caches: Caches
    memory: Memory
    software: Software
    sources: Sources

    @property
    def peak_gmac_s(self) -> float:
        """Multiply-adds one core can do at best, 10^9 a second."""
        return self.simd.lanes * self.simd.fma_per_cycle * self.clock_mhz / 1000


def list_targets() -> list[str]:
    """Names of the targets that come with haste-edge, sorted."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def load_target(name_or_path: str | Path) -> Target:
    """The target of that name, or the one in that file (anything with a slash or ending in ``.toml`` is a path).

    Raises TargetError for an unknown name, an unreadable file, and a wrong file (the message names file and field).
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(".toml"):
        path = Path(name_or_path)
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TargetError(f"The target file {path} cannot be read: {error}.", _known()) from error
        return _parse(content, str(path))
    if text not in list_targets():
        raise TargetError(f"There is no target {text!r}.", _known())
    target = _parse((_folder() / f"{text}.toml").read_text(encoding="utf-8"), f"{text}.toml")
    if target.name != text:
        raise TargetError(
            f"{text}.toml: name: is {target.name!r}, but the file's name says {text!r}.", "Make them equal."
        )
    return target


def _folder() -> Traversable:
    """In a wheel the files are package data; in the repository they lie beside the package."""
    packaged = resources.files("haste_edge") / "_targets"
    if packaged.is_dir():
        return packaged
    beside = Path(__file__).resolve().parent.parent / "targets"
    if beside.is_dir():
        return beside
    raise TargetError("The target files of haste-edge are missing.", "Install haste-edge again.")


def _known() -> str:
    return f"Known targets: {', '.join(list_targets())}; or give the path of a .toml file made like one of theirs."


def _parse(content: str, file: str) -> Target:
    try:
        values = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{file} is not a TOML file: {error}.", "Correct the line it names.") from error
    try:
        return Target.model_validate(values, strict=False)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise TargetError(f"{file}: {wrong}.", "Compare with targets/rpi4.toml, which has every field.") from error
