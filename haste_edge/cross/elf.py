"""What an object file or a shared object refers to, and what it offers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from haste_edge.cross.extra import needed

# What any Linux has, and any process that could load a library: its memory routines and the scheduler.
SYSTEM = frozenset({"memcpy", "memmove", "memset", "sched_yield"})


def _symbols(content: bytes) -> Iterator[Any]:
    needed("elftools", "pyelftools")
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    for section in ELFFile(io.BytesIO(content)).iter_sections():
        if isinstance(section, SymbolTableSection):
            yield from section.iter_symbols()


def undefined(content: bytes) -> list[str]:
    """Names that something else has to define, sorted. LLVM's own helpers, which no module lists, are among them."""
    return sorted({s.name for s in _symbols(content) if s.name and s["st_shndx"] == "SHN_UNDEF"})


def offered(content: bytes) -> list[str]:
    """Functions that others may call, sorted."""
    return sorted(
        {
            s.name
            for s in _symbols(content)
            if s["st_shndx"] != "SHN_UNDEF"
            and s["st_info"]["bind"] == "STB_GLOBAL"
            and s["st_info"]["type"] == "STT_FUNC"
        }
    )
