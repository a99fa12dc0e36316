"""Which CPU this is, as far as the choice of kernels depends on it: word size, cores, vector features.

ARM numbers its cores: implementer and part are fields of the register MIDR_EL1, which Linux shows in /sys (64-bit
kernels) and /proc/cpuinfo. What a program may use are features: the kernel tells each process its own in the auxiliary
vector (AT_HWCAP), also where a 32-bit program runs on a 64-bit kernel and /proc/cpuinfo speaks of the other world.
Nothing here raises: a file that is missing, or holds something else, tells nothing.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterable, Mapping
from os.path import join
from typing import NamedTuple

Part = tuple[int, int]  # implementer and part number
MIDR = "regs/identification/midr_el1"
AT_NULL, AT_HWCAP, AT_HWCAP2 = 0, 16, 26
# Bits of AT_HWCAP by the words that /proc/cpuinfo has for them (Linux: arch/arm64/kernel/cpuinfo.c, arch/arm/kernel/
# setup.c).
HWCAP: Mapping[str, tuple[str, ...]] = {
    "aarch64": (
        "fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp", "cpuid",
        "asimdrdm", "jscvt", "fcma", "lrcpc", "dcpop", "sha3", "sm3", "sm4", "asimddp", "sha512", "sve", "asimdfhm",
        "dit", "uscat", "ilrcpc", "flagm", "ssbs", "sb", "paca", "pacg",
    ),
    "armv7l": (
        "swp", "half", "thumb", "26bit", "fastmult", "fpa", "vfp", "edsp", "java", "iwmmxt", "crunch", "thumbee",
        "neon", "vfpv3", "vfpv3d16", "tls", "vfpv4", "idiva", "idivt", "vfpd32", "lpae", "evtstrm", "fphp", "asimdhp",
        "asimddp",
    ),
}  # fmt: skip
HWCAP2: Mapping[str, tuple[str, ...]] = {
    "aarch64": ("dcpodp", "sve2", "sveaes", "svepmull", "svebitperm", "svesha3", "svesm4", "flagm2", "frint", "svei8mm",
                "svef32mm", "svef64mm", "svebf16", "i8mm", "bf16"),
    "armv7l": ("aes", "pmull", "sha1", "sha2", "crc32"),
}  # fmt: skip


class Cpu(NamedTuple):
    """machine: aarch64, armv7l or x86_64, what this process's instructions are, whatever the kernel's are; another word
    of `os.uname` where it is none of them. parts: of every kind of core, ARM only, empty where nobody tells.
    features: those that all cores have, in the words of /proc/cpuinfo, empty where nobody tells."""

    machine: str
    parts: frozenset[Part]
    features: frozenset[str]


@functools.cache
def this_cpu() -> Cpu:
    """The CPU that this process runs on."""
    return read_cpu()


def read_cpu(root: str | os.PathLike[str] = "/", machine: str = "", bits: int = 0) -> Cpu:
    """root: a folder with proc and sys. machine: the word of `os.uname`; bits: of a pointer; both this process's unless
    they are given."""
    machine = userland(machine or os.uname().machine, bits or 8 * struct.calcsize("P"))
    cores = processors(read(root, "proc/cpuinfo").decode("utf-8", "replace"))
    key = "flags" if machine == "x86_64" else "Features"
    found = [set(core[key].split()) for core in cores if key in core]
    features = hwcap_features(read(root, "proc/self/auxv"), machine) or (set.intersection(*found) if found else set())
    return Cpu(machine, frozenset(_midr_parts(root) or _listed_parts(cores)), frozenset(features))


def userland(machine: str, bits: int) -> str:
    """What runs in a process of this word size on a kernel that calls the machine so."""
    if machine in ("aarch64", "arm64"):
        return "aarch64" if bits == 64 else "armv7l"
    if machine.startswith(("armv7", "armv8")):
        return "armv7l"
    if machine in ("x86_64", "amd64") and bits == 32:
        return "i686"
    return "x86_64" if machine == "amd64" else machine


def read(root: str | os.PathLike[str], path: str) -> bytes:
    """A file's contents; nothing where it cannot be read."""
    try:
        with open(join(root, path), "rb") as file:
            return file.read()
    except (OSError, ValueError):
        return b""


def processors(cpuinfo: str) -> list[dict[str, str]]:
    """The paragraphs of /proc/cpuinfo that describe a core, as key -> value. What a 32-bit kernel says once, behind all
    cores or before them, counts for each."""
    cores: list[dict[str, str]] = []
    common: dict[str, str] = {}
    for paragraph in cpuinfo.replace("\r", "").split("\n\n"):
        pairs = (line.partition(":") for line in paragraph.splitlines())
        fields = {key.strip(): value.strip() for key, colon, value in pairs if colon}
        if fields.get("processor", "").isdecimal():
            cores.append(fields)
        else:
            common |= fields
    return [common | core for core in cores] or ([common] if common else [])


def _listed_parts(cores: Iterable[Mapping[str, str]]) -> set[Part]:
    """Of cores in /proc/cpuinfo."""
    found = set()
    for core in cores:
        implementer, part = core.get("CPU implementer"), core.get("CPU part")
        if implementer and part:
            try:
                found.add((int(implementer, 16), int(part, 16)))
            except ValueError:
                continue
    return found


def _midr_parts(root: str | os.PathLike[str]) -> set[Part]:
    """Of all cores in /sys that have the register: bits 31 to 24 are the implementer, 15 to 4 the part."""
    folder, found = join(root, "sys/devices/system/cpu"), set()
    try:
        names = [name for name in os.listdir(folder) if name[:3] == "cpu" and name[3:].isdecimal()]
    except OSError:
        return set()
    for name in names:
        try:
            midr = int(read(folder, join(name, MIDR)), 16)
        except ValueError:
            continue
        if 0 < midr < 1 << 64:
            found.add((midr >> 24 & 0xFF, midr >> 4 & 0xFFF))
    return found


def hwcap_features(auxiliary: bytes, machine: str) -> set[str]:
    """The words for the bits that /proc/self/auxv holds, pairs of words as wide as a pointer; none for machines whose
    features it does not tell (x86)."""
    if machine not in HWCAP:
        return set()
    width = 8 if machine == "aarch64" else 4
    whole = auxiliary[: len(auxiliary) // (2 * width) * 2 * width]
    found: set[str] = set()
    for kind, value in struct.iter_unpack("=QQ" if width == 8 else "=LL", whole):
        if kind == AT_NULL:
            break
        words = {AT_HWCAP: HWCAP, AT_HWCAP2: HWCAP2}.get(kind, {}).get(machine, ())
        found |= {word for bit, word in enumerate(words) if value >> bit & 1}
    return found
