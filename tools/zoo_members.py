"""The published architectures that tools/run_zoo.py takes, family by family."""

from __future__ import annotations

from dataclasses import dataclass

CLASSIFIER, SEGMENTATION, DETECTOR, RESOLUTION = "classifier", "segmentation", "detector", "super-resolution"
REGNETS = ("400m", "800m", "1_6g", "3_2g", "8g", "16g", "32g")
PUBLISHED = 224  # height and width that most ImageNet classifiers were published with


@dataclass(frozen=True)
class Member:
    """source: where the architecture comes from, as `tools/zoo_export.py` calls it. size: height and width of the
    input. ladder: its levels are planned and timed, too, rather than level 0 alone."""

    name: str
    family: str
    kind: str = CLASSIFIER
    source: str = "torchvision"
    size: int = PUBLISHED
    channels: int = 3
    ladder: bool = False


def _family(family: str, names: str, ladder: str = "", **same: object) -> list[Member]:
    """names, ladder: with spaces between; ladder: those whose levels are planned."""
    chosen = ladder.split()
    return [Member(name, family, ladder=name in chosen, **same) for name in names.split()]  # type: ignore[arg-type]


MEMBERS: tuple[Member, ...] = (
    *_family("AlexNet", "alexnet", "alexnet"),
    *_family("VGG", "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn", "vgg11_bn"),
    *_family("SqueezeNet", "squeezenet1_0 squeezenet1_1", "squeezenet1_1"),
    *_family("GoogLeNet", "googlenet", "googlenet"),
    *_family("Inception v3", "inception_v3", "inception_v3", size=299),
    *_family("ResNet", "resnet18 resnet34 resnet50 resnet101 resnet152", "resnet18 resnet50"),
    *_family("ResNeXt", "resnext50_32x4d resnext101_32x8d resnext101_64x4d", "resnext50_32x4d"),
    *_family("Wide ResNet", "wide_resnet50_2 wide_resnet101_2", "wide_resnet50_2"),
    *_family("DenseNet", "densenet121 densenet169 densenet201 densenet161", "densenet121"),
    *_family("MobileNet v2", "mobilenet_v2", "mobilenet_v2"),
    *_family("MobileNet v3", "mobilenet_v3_small mobilenet_v3_large", "mobilenet_v3_large"),
    *_family("MNASNet", "mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3", "mnasnet1_0"),
    *_family("ShuffleNet v2", " ".join(f"shufflenet_v2_x{n}" for n in ("0_5", "1_0", "1_5", "2_0")),
             "shufflenet_v2_x1_0"),
    *_family("EfficientNet", " ".join(f"efficientnet_b{n}" for n in range(8)), "efficientnet_b0"),
    *_family("EfficientNet v2", "efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l", "efficientnet_v2_s"),
    *_family("EfficientNet-Lite", " ".join(f"efficientnet_lite{n}" for n in range(5)), "efficientnet_lite0",
             source="timm"),
    *_family("RegNet", " ".join(f"regnet_x_{n}f" for n in REGNETS),
             "regnet_x_1_6gf"),
    *_family("RegNet", " ".join(f"regnet_y_{n}f" for n in (*REGNETS, "128g")),
             "regnet_y_400mf"),
    *_family("ConvNeXt", "convnext_tiny convnext_small convnext_base convnext_large", "convnext_tiny"),
    *_family("DeepLab v3", "deeplabv3_mobilenet_v3_large deeplabv3_resnet50 deeplabv3_resnet101",
             "deeplabv3_mobilenet_v3_large", kind=SEGMENTATION),
    *_family("FCN", "fcn_resnet50 fcn_resnet101", kind=SEGMENTATION),
    *_family("LR-ASPP", "lraspp_mobilenet_v3_large", "lraspp_mobilenet_v3_large", kind=SEGMENTATION),
    *_family("U-Net", "unet", "unet", kind=SEGMENTATION, source="own", size=284),
    *_family("ESPCN", "espcn", "espcn", kind=RESOLUTION, source="own", channels=1),
    *_family("YOLOX", "yolox_nano yolox_tiny yolox_s", "yolox_nano", kind=DETECTOR, source="yolox", size=416),
)  # fmt: skip
BY_NAME = {member.name: member for member in MEMBERS}
NOT_CONVOLUTIONAL = ("vit_", "swin_", "maxvit_")  # how torchvision's names of transformers begin
