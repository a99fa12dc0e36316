"""Where frames come from. Each kind is a module; `open_source` knows them by what a user writes: KIND or KIND:WHERE.

dir:pictures      npy:frames.npy      camera:0      serial:/dev/ttyACM0      stdin
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from haste_runtime.errors import InputError
from haste_runtime.service.sources.frame import FrameSource
from haste_runtime.session import Session

KINDS = ("dir", "npy", "camera", "serial", "stdin")
FRAMINGS = ("raw", "packets")


def open_source(
    text: str, session: Session, *, watch: bool = False, repeat: bool = False, framing: str | None = None
) -> FrameSource:
    """The source that ``text`` means, for the network of ``session``. Raises InputError for one that makes no sense or
    needs a package that is not installed; what only breaks later is no error here.

    watch: for a folder, wait for more. repeat: begin again at the end. framing: of bytes, `FRAMINGS`.
    """
    kind, colon, where = text.partition(":")
    needs_more = kind not in ("stdin", "camera")
    if kind not in KINDS or (needs_more and not where) or (kind == "stdin" and colon):
        raise InputError(
            f"{text!r} is no source of frames.",
            "Give dir:FOLDER, npy:FILE, camera:NUMBER, serial:PORT or stdin.",
        )
    if len(session.inputs) != 1:
        raise InputError(
            f"This network has {len(session.inputs)} inputs; a service feeds networks with one.",
            "Use haste_runtime.Session in a program of your own.",
        )
    if kind in ("dir", "npy"):
        module: Any = import_module("haste_runtime.service.sources.files")
        if kind == "dir":
            return module.Folder(Path(where), watch=watch, repeat=repeat)
        return module.Npy(Path(where), repeat=repeat)
    if kind == "camera":
        return import_module("haste_runtime.service.sources.camera").Camera(where or "0")
    module = import_module("haste_runtime.service.sources.stream")
    graph, user = session.bundle.graph.inputs[0].shape, tuple(int(n) for n in session.inputs[0].shape[1:] if n)

    def cutter() -> Any:
        raw = (framing or ("raw" if kind == "stdin" else "packets")) == "raw"
        return module.RawPictures(graph) if raw else module.Packets(user)

    cutter()  # what makes no sense is told now
    return module.Stdin(cutter) if kind == "stdin" else module.SerialFrames(where, cutter)
