"""The demo network: ResNet-18 at half width for 32x32 images, trained on CIFAR-10 by ``tools/train_demo.py``."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)  # of the CIFAR-10 training images, RGB, after division by 255
STD = (0.2470, 0.2435, 0.2616)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, section 3.3); a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Four stages of two basic blocks; stage s has ``width << s`` channels, and all but the first halve the map.

    Input ``(N, 3, H, W)``, RGB / 255 normalised with `MEAN` and `STD`; output ``(N, classes)`` logits.
    """

    def __init__(self, width: int = 32, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        channels_in = width
        for stage in range(4):
            channels = width << stage
            for stride in (2 if stage else 1, 1):
                blocks.append(BasicBlock(channels_in, channels, stride))
                channels_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(y.mean((2, 3)))


def network() -> nn.Module:
    """The demo network with untrained weights; `haste_edge.demo.load` gives it the shipped ones."""
    return ResNet()
