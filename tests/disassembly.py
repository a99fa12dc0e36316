"""Machine code read back as instructions, to prove what is in it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import capstone
from elftools.elf.elffile import ELFFile

MODES = {
    "EM_AARCH64": (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM),
    "EM_ARM": (capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM),
}


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        if not self.name.startswith(("b", "cb", "tb")) or self.name in ("bl", "blr", "br", "bx", "blx", "bic", "bfi"):
            return None
        _, mark, address = self.operands.rpartition("#")
        return int(address, 16) if mark and address.startswith("0x") else None

    @property
    def touches_stack(self) -> bool:
        return "[sp" in self.operands or self.operands.startswith("sp,")

    @property
    def multiplies_and_adds_vectors(self) -> bool:
        return (self.name == "fmla" and ".4s" in self.operands) or (
            self.name == "vfma.f32" and self.operands.startswith("q")
        )


def instructions(code: bytes) -> list[Instruction]:
    """All of an object file's or a library's ``.text``; what is no instruction of that machine has an empty name."""
    file = ELFFile(io.BytesIO(code))
    text = file.get_section_by_name(".text")
    decoder = capstone.Cs(*MODES[file["e_machine"]])
    decoder.skipdata = True
    return [
        Instruction(address, "" if name.startswith(".") else name, operands)
        for address, _, name, operands in decoder.disasm_lite(text.data(), text["sh_addr"])
    ]


def innermost_loops(code: bytes) -> list[list[Instruction]]:
    """From the target of each backward branch to the branch, where no other loop lies within."""
    listing = instructions(code)
    places = {instruction.address: place for place, instruction in enumerate(listing)}
    spans = sorted(
        {
            (places[instruction.target], place)
            for place, instruction in enumerate(listing)
            if instruction.target in places and places[instruction.target] <= place
        }
    )
    inner: list[tuple[int, int]] = []
    for first, last in sorted(spans, key=lambda span: span[1] - span[0]):
        if not any(first <= begin and end <= last for begin, end in inner):
            inner.append((first, last))
    return [listing[first : last + 1] for first, last in sorted(inner)]
