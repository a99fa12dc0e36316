"""Read a ``.pt2`` archive (`torch.export.save`) as data: its program as JSON, its weights as raw bytes.

`torch.export.load` is not used, on purpose. It unpickles weights, constants and sample inputs where the file says so,
evaluates the file's size expressions as Python, resolves operators by attribute look-up from ``torch``, compiles the
file's names into Python source and loads shared libraries that lie in the archive; it has no weights-only mode. So a
file from a stranger could run any code. Here nothing of the file is ever executed or unpickled: sample inputs, guards
and compiled code are not read, pickled weights are refused, and `exported_program` rebuilds the program from a list of
operators that are known to be harmless.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from haste_edge.errors import ModelError

SCHEMA_MAJOR = 8  # of torch.export's JSON, since torch 2.5
ARCHIVE_VERSION = "0"

# The schema's numbers for element types (torch._export.serde.schema.ScalarType).
DTYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}

_RESAVE = (
    "Export it again with this version of PyTorch: torch.export.save(torch.export.export(model, inputs), 'x.pt2')."
)


@dataclass(frozen=True)
class Archive:
    """program: the JSON object of the exported program. tensors: parameters, buffers and constants by their names."""

    program: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def read_archive(path: Path) -> Archive:
    """Raises ModelError if the file is damaged, of another format, or holds anything but plain tensors."""
    try:
        with zipfile.ZipFile(path) as file:
            return _read(path, file)
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.", "Give the path of a .pt2 file.") from error
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        why = str(error) or "it ends too early"
        raise ModelError(f"{path} is not a .pt2 archive: {why}.", _RESAVE) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{path} is damaged or of another version ({type(error).__name__}: {error}).", _RESAVE
        ) from error


def _read(path: Path, file: zipfile.ZipFile) -> Archive:
    names = [info.filename for info in file.infolist()]
    root = names[0].split("/")[0] if names else ""
    if f"{root}/archive_format" not in names or _record(file, f"{root}/archive_format") != b"pt2":
        raise ModelError(f"{path} is not a .pt2 archive, or one of an older PyTorch.", _RESAVE)
    version = _record(file, f"{root}/archive_version").decode()
    if version != ARCHIVE_VERSION:
        raise ModelError(f"{path} is of archive version {version}; {ARCHIVE_VERSION} is read.", _RESAVE)
    if any(name.startswith(f"{root}/data/aotinductor/") for name in names):
        raise ModelError(f"{path} holds machine code for another runtime.", _RESAVE)
    models = [name for name in names if name.startswith(f"{root}/models/")]
    if len(models) != 1:
        raise ModelError(f"{path} holds {len(models)} models; one is needed.", _RESAVE)
    if _record(file, f"{root}/byteorder") != b"little":
        raise ModelError(f"{path} was saved on a big-endian computer.", _RESAVE)
    model = Path(models[0]).stem
    program = json.loads(_record(file, models[0]))
    major = program["schema_version"]["major"]
    if major != SCHEMA_MAJOR:
        raise ModelError(f"{path} is of schema version {major}; {SCHEMA_MAJOR} is read.", _RESAVE)
    tensors: dict[str, Tensor] = {}
    for folder, config in (("weights", "weights_config"), ("constants", "constants_config")):
        entries = json.loads(_record(file, f"{root}/data/{folder}/{model}_{config}.json"))["config"]
        for key, entry in entries.items():
            if entry["use_pickle"] or entry["tensor_meta"] is None:
                raise ModelError(
                    f"{path} holds {key!r} as a pickle, which may run any code when it is loaded.",
                    "Export a model whose parameters and constants are plain tensors.",
                )
            data = _record(file, f"{root}/data/{folder}/{entry['path_name']}")
            tensors[key] = _tensor(key, data, entry["tensor_meta"])
    return Archive(program, tensors)


def _record(file: zipfile.ZipFile, name: str) -> bytes:
    info = file.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"record {name} is compressed")  # torch stores; a small file must not unpack to a huge one
    if info.header_offset + info.compress_size > file.start_dir:  # zipfile words it by its version
        raise EOFError
    return file.read(info)


def _tensor(key: str, data: bytes, meta: Mapping[str, Any]) -> Tensor:
    """A tensor of its own from raw bytes. Sizes and strides must stay inside the record."""
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None:
        raise ModelError(f"{key!r} has an element type (number {meta['dtype']}) that is not read.", _RESAVE)
    sizes, strides = ([_integer(number) for number in meta[field]] for field in ("sizes", "strides"))
    offset = _integer(meta["storage_offset"])
    count = 1
    for size in sizes:
        count *= size
    itemsize = torch.empty(0, dtype=dtype).element_size()
    if len(data) % itemsize or count * itemsize > len(data):
        raise ValueError(f"{key}: {sizes} does not fit {len(data)} bytes")
    if count == 0:
        return torch.empty(sizes, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=dtype)
    return flat.as_strided(sizes, strides, offset).clone(memory_format=torch.contiguous_format)


def _integer(number: Mapping[str, Any]) -> int:
    value = number["as_int"]
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value
