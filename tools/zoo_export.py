"""Write a published architecture with random weights as an ONNX file.

    python zoo_export.py torchvision resnet18 --size 224 --out resnet18.onnx
    python zoo_export.py --versions

It runs in an environment with torch, torchvision, timm, onnx and onnxscript, where haste-edge is not installed;
`tools/run_zoo.py` makes that environment and calls this. The file is what `torch.onnx.export` makes by default, for a
batch of one. The last line that is printed is JSON: the model's parameters and the file's operator set.

Weights as they are initialised would make a poor test: constants of zero and one hide mistakes, and without training
numbers die away or overflow within some layers. So, from one seed: parameters that are the same number everywhere are
made different, and one pass with noise sets every convolution's and linear layer's scale so that what it gives has a
deviation of one, and every batch norm's statistics to what it sees.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "pixeltable-yolox")
CALIBRATION = 8  # pictures; with few, whatever is rare in them is not kept in range, and grows from layer to layer
CALIBRATED_ON = f"{CALIBRATION} of white noise and of squares"
SPREAD = 0.1  # deviation of what is added to parameters that are one number everywhere
TINY = 1e-3  # scales of residual branches below this leave nothing of the branch, and would test nothing


class UNet(nn.Module):
    """U-Net for segmentation (Ronneberger et al. 2015, arXiv 1505.04597): unpadded 3x3 convolutions, 64 to 1024
    channels, cropped skips, two classes."""

    def __init__(self, depth: int = 5, width: int = 64, classes: int = 2) -> None:
        super().__init__()
        sizes = [width * 2**i for i in range(depth)]
        before = [3, *sizes]
        self.down = nn.ModuleList(self._pair(before[i], size) for i, size in enumerate(sizes))
        self.up = nn.ModuleList(nn.ConvTranspose2d(size, size // 2, 2, 2) for size in reversed(sizes[1:]))
        self.join = nn.ModuleList(self._pair(size, size // 2) for size in reversed(sizes[1:]))
        self.last = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _pair(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.ReLU(), nn.Conv2d(outputs, outputs, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips[:-1]), strict=True):
            x = up(x)
            top, left = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
            skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
            x = join(torch.cat([skip, x], 1))
        result: Tensor = self.last(x)
        return result


class ESPCN(nn.Module):
    """Super-resolution by sub-pixel convolution (Shi et al. 2016, arXiv 1609.05158): luma, three times as large."""

    def __init__(self, factor: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh(),
            nn.Conv2d(32, factor**2, 3, padding=1), nn.PixelShuffle(factor),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


class Maps(nn.Module):
    """Of a torchvision segmentation network the scores alone, without the names it gives them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x)["out"]
        return result


OWN = {"unet": UNet, "espcn": ESPCN}


def build(source: str, name: str) -> nn.Module:
    """An architecture with the weights it is initialised with. source: "torchvision", "timm", "yolox" or "own"."""
    if source == "own":
        return OWN[name]()
    if source == "timm":
        network: nn.Module = importlib.import_module("timm").create_model(name, pretrained=False)
        return network
    if source == "yolox":
        return YOLOX(name)
    models = importlib.import_module("torchvision.models")
    if name in models.list_models(module=models.segmentation):
        return Maps(models.get_model(name, weights=None, weights_backbone=None))
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}  # they draw each weight with care
    classifier: nn.Module = models.get_model(name, weights=None, **slow)
    return classifier


class YOLOX(nn.Module):
    """YOLOX (Ge et al. 2021, arXiv 2107.08430), of pixeltable-yolox: (N, places, 4 + 1 + 80), boxes, whether there is
    something, and scores. Boxes are still relative to their places, as in the files that its authors export."""

    SIZES: ClassVar[dict[str, tuple[float, float, bool]]] = {
        "yolox_nano": (0.33, 0.25, True),
        "yolox_tiny": (0.33, 0.375, False),
        "yolox_s": (0.33, 0.5, False),
    }

    def __init__(self, name: str) -> None:
        super().__init__()
        depth, width, depthwise = self.SIZES[name]
        models = importlib.import_module("yolox.models")
        channels = [256, 512, 1024]
        self.backbone = models.YoloPafpn(depth, width, in_channels=channels, depthwise=depthwise)
        self.head = models.YoloxHead(80, width, in_channels=channels, depthwise=depthwise)
        self.head.decode_in_inference = False

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.backbone(x))
        return result


def randomise(network: nn.Module, generator: torch.Generator) -> None:
    """Parameters that are the same number everywhere, as those of norms and most biases are, become different ones."""
    with torch.no_grad():
        for parameter in network.parameters():
            values = parameter.flatten()
            if len(values) > 1 and bool((values == values[0]).all()):
                start = 0.5 if 0 < abs(float(values[0])) < TINY else float(values[0])
                parameter.copy_(start + SPREAD * torch.randn(parameter.shape, generator=generator))


def calibrate(network: nn.Module, pictures: Tensor) -> None:
    """One pass over pictures (N, C, H, W). Every weight is scaled so that its layer gives a deviation of one, at the
    layer's first use; every batch norm takes the statistics of what it sees for its own."""
    network.eval()
    scaled: set[nn.Module] = set()

    def scale(layer: nn.Module, given: Any, result: Tensor) -> Tensor | None:
        if layer in scaled:
            return None
        scaled.add(layer)
        factor = 1 / result.std().clamp_min(1e-6)
        for parameter in layer.parameters(recurse=False):
            parameter.mul_(factor)
        return result * factor

    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    kept = [(norm, norm.momentum) for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        network(pictures)
    for hook in hooks:
        hook.remove()
    for norm, momentum in kept:
        norm.momentum = momentum
    network.eval()


def noise(count: int, channels: int, size: int, generator: torch.Generator) -> Tensor:
    """Pictures (count, C, size, size) as networks see them: pixels of 0 to 1, less 0.45, divided by 0.225. In turn
    white noise and squares of one colour. With only one of them some channels would be silent here and loud on the
    other: as layers multiply that, deep networks would get numbers of which float32 keeps nothing."""
    white = torch.rand(count, channels, size, size, generator=generator)
    squares = torch.rand(count, channels, 8, 8, generator=generator)
    fine = 0.06 * torch.randn(count, channels, size, size, generator=generator)
    smooth = (nn.functional.interpolate(squares, (size, size)) + fine).clamp(0, 1)
    return (torch.stack([white, smooth], 1).flatten(0, 1)[:count] - 0.45) / 0.225


def export(network: nn.Module, example: Tensor, out: Path) -> int:
    """Returns the version of the operators that were used."""
    torch.onnx.export(network, (example,), out, input_names=["pixels"], verbose=False)
    onnx = importlib.import_module("onnx")
    model = onnx.load(str(out), load_external_data=False)
    return next(int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx"))


def versions() -> dict[str, Any]:
    """Of the packages, and what torchvision calls its classifiers."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    models = importlib.import_module("torchvision.models")
    return {"versions": found, "classifiers": models.list_models(module=models)}


def limit_memory(gigabytes: float) -> None:
    if gigabytes and sys.platform == "linux":
        import resource

        most = int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", choices=["torchvision", "timm", "yolox", "own"])
    parser.add_argument("name", nargs="?", help="as its package calls it; own: " + ", ".join(OWN))
    parser.add_argument("--size", type=int, default=224, help="height and width of the input (default: 224)")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the .onnx file; weights may go to a file beside it")
    parser.add_argument("--memory", type=float, default=0, help="GB that may be used (Linux; default: any)")
    parser.add_argument("--versions", action="store_true", help="print the packages' versions and classifiers, as JSON")
    args = parser.parse_args()
    if args.versions:
        print(json.dumps(versions()))
        return
    if not (args.source and args.name and args.out):
        parser.error("give a source, a name and --out")
    limit_memory(args.memory)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(args.seed)
    network = build(args.source, args.name)
    randomise(network, generator)
    calibrate(network, noise(CALIBRATION, args.channels, args.size, generator))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    opset = export(network, noise(1, args.channels, args.size, generator), args.out)
    print(json.dumps({"parameters": parameters, "opset": opset, "calibrated_on": CALIBRATED_ON}))


if __name__ == "__main__":
    main()
