"""The networks that are trained for the study of the method, as plain torch modules for CIFAR-10.

`tools/train_networks.py` trains them and docs/networks.md describes them. All take ``(N, 3, H, W)``, RGB / 255,
normalised with `MEAN` and `STD` of `haste_edge.demo.network`, and give ``(N, 10)`` logits. They are made for 32x32
pictures; the training also gives them smaller ones. The factories have no arguments, as ``haste-edge compile`` wants.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from haste_edge.demo.network import CLASSES


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, section 3.3); a 1x1 convolution where the shape changes."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down = projection(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.down is None else self.down(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut (He et al. 2015, section 4.1); the 3x3 one has the stride."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels = self.expansion * width
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.down = projection(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.down is None else self.down(x)))


def projection(channels_in: int, channels: int, stride: int) -> nn.Module | None:
    """The shortcut's 1x1 convolution, or None where the input can be added as it is."""
    if stride == 1 and channels_in == channels:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class ResNet(nn.Module):
    """An ImageNet ResNet with a 3x3 stem, then a max-pool 3/2: four stages, all but the first halve the map.

    blocks: how many in each stage. Blocks of stage s have ``width << s`` channels, times their expansion at the end.
    """

    def __init__(self, block: type[Basic] | type[Bottleneck], blocks: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        stages = []
        for stage, count in enumerate(blocks):
            layer: list[nn.Module] = []
            for i in range(count):
                layer.append(block(channels, width << stage, 2 if stage and i == 0 else 1))
                channels = block.expansion * (width << stage)
            stages.append(nn.Sequential(*layer))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class VGG(nn.Module):
    """VGG of Simonyan and Zisserman 2014 with batch norm, and one linear layer for a classifier.

    stages: the channels of the 3x3 convolutions of each; a max-pool 2/2 follows each stage. The pools round up, which
    makes no difference at 32x32 (a 1x1 map is left) and lets smaller pictures through.
    """

    def __init__(self, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels_in = 3
        for stage in stages:
            for channels in stage:
                layers += [
                    nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                ]
                channels_in = channels
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels_in, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def resnet34() -> ResNet:
    """ResNet-34 of full width: 64, 128, 256 and 512 channels on maps of 16, 8, 4 and 2 pixels a side."""
    return ResNet(Basic, (3, 4, 6, 3), 64)


def vgg16bn() -> VGG:
    """VGG16-BN: 13 convolutions of 64 to 512 channels on maps of 32 to 2 pixels a side."""
    return VGG(([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3))


def bottleneck() -> ResNet:
    """ResNet-50 at half width: 32 to 256 channels inside its blocks and 128 to 1024 between them."""
    return ResNet(Bottleneck, (3, 4, 6, 3), 32)


def with_identity_blocks(network: ResNet) -> ResNet:
    """The network, whose residual blocks now start as their shortcuts: gamma of each last batch norm is 0.

    It eases the first epochs of a deep network (Goyal et al. 2017, arXiv 1706.02677, section 5.1).
    """
    for module in network.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)
        elif isinstance(module, Basic):
            nn.init.zeros_(module.bn2.weight)
    return network
