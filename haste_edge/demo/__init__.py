"""The demo: a CIFAR-10 network trained by ``tools/train_demo.py`` and 500 test pictures, both inside the package.

The network is in `haste_edge.demo.network`; this module finds its weights and the pictures, wherever the package was
installed. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from haste_runtime.errors import HasteError

if TYPE_CHECKING:
    from torch import nn


class DemoError(HasteError, FileNotFoundError):
    """A file of the demo is not in the package."""

    exit_code = 3


def _shipped(name: str, remedy: str) -> Path:
    path = Path(str(files("haste_edge.demo"))) / name
    if not path.is_file():
        raise DemoError(f"The demo's {name} is not in the package ({path}).", remedy)
    return path


def weights_path() -> Path:
    """The network's weights, float16 safetensors. Raises DemoError where they are missing."""
    return _shipped("demo.safetensors", "Install haste-edge again, or make them with tools/train_demo.py.")


def images_path() -> Path:
    """The 500 pictures. Raises DemoError where they are missing."""
    return _shipped("images.npz", "Install haste-edge again, or make them with tools/make_demo_data.py.")


def images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures ``(500, 32, 32, 3)`` RGB and labels ``(500,)``: 50 of each class of the CIFAR-10 test set, shuffled."""
    with np.load(images_path()) as arrays:
        return arrays["x"], arrays["y"]


def load() -> nn.Module:
    """The trained network in eval mode, float32."""
    from safetensors.torch import load_file

    from haste_edge.demo.network import network

    model = network()
    state = {key: value.float() for key, value in load_file(weights_path()).items()}
    counters = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}  # not shipped, not used
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) - counters or unexpected:
        raise DemoError(
            "The demo's weights do not fit the demo's network.",
            "Install haste-edge again: its files are of two versions.",
        )
    return model.eval()
