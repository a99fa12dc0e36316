"""The other runtimes. A new one is one entry here and one adapter in ``foreign/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata

from haste_runtime.errors import InputError


@dataclass(frozen=True)
class Export:
    """A script of ``foreign/`` that adds ``file`` to the folder with the network, in an environment of its own.

    read: a file of that folder that it is told to read, where it can read more than one.
    """

    script: str
    environment: str
    file: str
    read: str = ""


@dataclass(frozen=True)
class Own:
    """A file that haste-edge's own exporters write: see `haste_edge.bench.own_exports`."""

    file: str


@dataclass(frozen=True)
class Peer:
    """A runtime.

    environment: where it runs. adapter: of ``foreign/``. exports: what makes its files of a torch program, in order.
    own: the same, where the others get our own exports.
    """

    name: str
    environment: str
    adapter: str
    exports: tuple[Export, ...]
    own: tuple[Export | Own, ...] = ()


ONNX = Export("export_onnx.py", "torch", "model.onnx")
TORCHSCRIPT = Export("export_torchscript.py", "torch", "for_pnnx.pt")
TFLITE = Export("export_tflite.py", "litert-torch", "model.tflite")
NCNN = Export("export_ncnn.py", "torch", "model.ncnn.bin", "for_pnnx.pt")
OWN_ONNX, OWN_TFLITE, OWN_PNNX = Own("model.onnx"), Own("model.tflite"), Own("for_pnnx.onnx")

PEERS = {
    peer.name: peer
    for peer in (
        Peer("onnxruntime", "onnxruntime", "runtime_onnxruntime.py", (ONNX,), (OWN_ONNX,)),
        Peer("openvino", "openvino", "runtime_openvino.py", (ONNX,), (OWN_ONNX,)),
        Peer("litert", "litert", "runtime_tflite.py", (TFLITE,), (OWN_TFLITE,)),
        Peer("tflite", "tflite", "runtime_tflite.py", (TFLITE,), (OWN_TFLITE,)),
        Peer("ncnn", "ncnn", "runtime_ncnn.py", (TORCHSCRIPT, NCNN), (OWN_PNNX, replace(NCNN, read=OWN_PNNX.file))),
        Peer("torch", "torch", "runtime_torch.py", (TORCHSCRIPT,), (TORCHSCRIPT,)),  # it reads no other format
    )
}


def requirements(environment: str) -> tuple[str, ...]:
    """What pip installs there. torch is the release that runs here, since it reads what this one saves."""
    torch = f"torch=={metadata.version('torch').partition('+')[0]}"
    return {
        "onnxruntime": ("numpy", "onnxruntime"),
        "openvino": ("numpy", "openvino"),
        "litert": ("numpy", "ai-edge-litert"),
        "tflite": ("numpy<2", "tflite-runtime"),  # built against numpy 1 without saying so
        "ncnn": ("numpy", "ncnn"),
        "torch": ("numpy", torch, "onnx", "onnxscript", "pnnx"),
        "litert-torch": ("numpy", torch, "litert-torch"),
    }[environment]


def choose(text: str) -> list[Peer]:
    """The peers named, in that order, with commas between them; "all" for all. Raises InputError."""
    names: Sequence[str] = list(PEERS) if text.strip() == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PEERS:
            raise InputError(
                f"There is no runtime called {name!r} to compare with.", f"Choose from {', '.join(PEERS)}."
            )
    return [PEERS[name] for name in dict.fromkeys(names)]
