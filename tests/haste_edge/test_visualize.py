"""What `haste-edge visualize` sees in a picture, against the runtime's definition, and that it draws it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GraphBuilder, alike_channels, bundle_for, conv_graph, geometry_of, random_network
from numpy.typing import NDArray
from PIL import Image

from haste_edge import cli
from haste_edge.observe import FATES, LayerSeen, observe, telling_channels, typical_patch
from haste_edge.visualize import MOST_CHANNELS, group_colours, save_visualization
from haste_runtime import Session, merge
from haste_runtime.bundle import Bundle, write_bundle
from haste_runtime.errors import InputError, LevelError
from haste_runtime.geometry import ConvGeometry
from haste_runtime.plan import POLICIES, Choice, Variant
from haste_runtime.preprocessing import Preprocessing, image_to_input

MERGED, DROPPED, UNTOUCHED = range(len(FATES))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def classifier(policy: str = "budget", budget: float = 1.0) -> Bundle:
    """Input "x" (3, 12, 12), three 3x3 convolutions of which two merge, five named classes."""
    b = GraphBuilder(7, x=(3, 12, 12))
    b.conv("stem", "x", 3, 12, 3, activation="relu")
    b.conv("first", "stem", 12, 12, 3, activation="relu", residual="stem")
    b.conv("second", "first", 12, 10, 3, 2, activation="relu")
    b.node("mean", "mean", "second", keepdim=0)
    b.linear("logits", "mean", 10, 5)
    bundle = bundle_for(b.graph(), bits=8, policy=policy, budget=[budget / 4, budget / 2, budget])
    merging = [
        {node: choice for node, choice in level.choices.items() if node != "stem"} for level in bundle.plan.levels
    ]
    levels = tuple(replace(level, choices=some) for level, some in zip(bundle.plan.levels, merging, strict=True))
    return replace(bundle, plan=replace(bundle.plan, levels=levels), classes=("a", "b", "c $x", "d", "e"))


def layer_of(leaders: list[list[int]], energies: list[float]) -> LayerSeen:
    """A layer by its groups alone; each channel's map is constant."""
    found = np.array(leaders)
    sizes = [np.bincount(row[row >= 0], minlength=found.shape[1]) for row in found]
    fates = [
        [DROPPED if c < 0 else MERGED if size[c] > 1 else UNTOUCHED for c in row]
        for row, size in zip(found, sizes, strict=True)
    ]
    geometry = ConvGeometry(found.shape[1], 4, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1, (4, 4 * len(found)))
    maps = np.ones((found.shape[1], 4, 4 * len(found)), np.float32) * np.float32(energies)[:, None, None]
    variant = Variant(4, 8, 2 / 3, 0, "p")
    return LayerSeen("layer", geometry, variant, Choice(0, 8), maps, maps, found, np.array(fates))


# --- what is seen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_groups_and_kept_channels_are_those_of_the_definition(policy: str, rng: np.random.Generator) -> None:
    graph = conv_graph(14, 6, 3, h=9, w=14)
    bundle = bundle_for(graph, bits=10, levels=[10, 4], policy=policy, budget=0.5)
    x = alike_channels(rng, (14, 9, 14)).clip(0)
    x[3] = 0
    seen = observe(bundle, x)
    for level in (1, 2):
        variant, choice = bundle.plan.layers[0].variants[0], bundle.plan.levels[level].choices["conv"]
        rule = merge.Rule(
            variant.patch, bundle.projections[variant.projection], choice.bits, policy,
            bundle.importance.get(variant.importance), choice.budget,
        )  # fmt: skip
        expected = merge.merged_conv(x, graph.constants["conv.weight"], None, geometry_of(graph), rule)
        assert seen.levels[level].kept["conv"] == expected.counts.kept / (14 * len(expected.leaders))
    np.testing.assert_array_equal(seen.layer.leaders, expected.leaders)
    sizes = [np.bincount(row[row >= 0], minlength=14) for row in expected.leaders]
    for row, size, fates in zip(expected.leaders, sizes, seen.layer.fates, strict=True):
        for leader, fate in zip(row, fates, strict=True):
            assert FATES[fate] == ("dropped" if leader < 0 else "merged" if size[leader] > 1 else "untouched")
    met = {FATES[fate] for fate in np.unique(seen.layer.fates)}
    assert met >= {"mean": {"merged"}, "drop": {"dropped"}}.get(policy, {"merged", "dropped"})


@pytest.mark.parametrize("policy", POLICIES)
def test_what_stands_for_the_channels_gives_the_merged_output(policy: str, rng: np.random.Generator) -> None:
    """With a 1x1 kernel patches do not overlap, so the map after merging is all that the convolution sees."""
    graph = conv_graph(12, 5, 1, h=10, w=7)
    x = alike_channels(rng, (12, 10, 7), noise=0.3).clip(0)
    seen = observe(bundle_for(graph, bits=6, levels=[6], policy=policy, budget=1.0), x)
    weight, bias = graph.constants["conv.weight"][:, :, 0, 0], graph.constants["conv.bias"]
    wanted = np.einsum("oc,chw->ohw", weight, seen.layer.after) + bias[:, None, None]
    np.testing.assert_allclose(seen.chosen.outputs["conv"], wanted, atol=1e-5)
    assert np.abs(seen.layer.after - seen.layer.before).max() > 0.1


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        (3, 1, None, 1),
        (3, 2, (1, 1, 1, 1), 1),
        (5, 1, (0, 0, 0, 0), 1),
        (3, 1, (4, 0, 4, 2), 2),
        (1, 2, (0, 0, 0, 0), 1),
    ],
)
def test_channels_that_stay_alone_are_put_together_again(
    kernel: int, stride: int, padding: Any, dilation: int, rng: np.random.Generator
) -> None:
    graph = conv_graph(3, 4, kernel, stride, h=13, w=18, padding=padding, dilation=dilation)
    x = rng.standard_normal((3, 13, 18), np.float32)
    layer = observe(bundle_for(graph, bits=24, levels=[24]), x).layer
    assert (layer.fates == UNTOUCHED).all()
    read = np.isfinite(layer.after)
    np.testing.assert_array_equal(layer.after[read], layer.before[read])
    unread = (~read).any(axis=0)
    if kernel >= stride:
        assert not unread[: 8 * stride, : 12 * stride].any()
    else:
        assert unread[7].all()  # the line between two patches
        assert unread.mean() < 0.3


def test_dead_patches_are_dropped_whole(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 8, 12), np.float32)
    x[:, :, :6] = 0
    layer = observe(bundle_for(conv_graph(6, 4, 3, h=8, w=12), bits=12, levels=[12]), x).layer
    dead = (layer.fates == DROPPED).all(axis=1)
    np.testing.assert_array_equal(dead, [True, False, False] * 2)
    assert not layer.after[:, :, :4].any()
    assert layer.patches_by_fate.sum(axis=1).tolist() == [6] * 6


def test_levels_are_those_of_the_runtime(rng: np.random.Generator) -> None:
    bundle = classifier("scaled")
    x = rng.standard_normal((3, 12, 12), np.float32)
    seen = observe(bundle, x)
    assert (seen.level, seen.agrees(0), seen.change(0)) == (3, True, 0.0)
    with Session(bundle, backend="numpy") as session:
        for level in seen.levels:
            session.level = level.number
            y = session.run(x[None])[0]
            np.testing.assert_allclose(level.outputs["logits"], y, atol=1e-4)
            for node, stats in session.stats.layers.items():
                assert level.kept[node] == pytest.approx(stats.kept)
            assert level.totals == session.stats.totals
            likely = seen.likeliest(level.number)
            assert [one.index for one in likely] == np.argsort(-y)[:3].tolist()
            assert likely[0].name == bundle.classes[likely[0].index]
            assert likely[0].probability == pytest.approx(float(np.exp(y).max() / np.exp(y).sum()), abs=1e-4)
            assert seen.agrees(level.number) == (y.argmax() == seen.exact.outputs["logits"].argmax())


def test_by_default_the_strongest_level_and_the_most_merged_early_layer(rng: np.random.Generator) -> None:
    bundle = bundle_for(random_network(3), bits=6, levels=[6, 2])
    x = rng.standard_normal(bundle.graph.inputs[0].shape, np.float32)
    seen = observe(bundle, x)
    convolutions = [node.name for node in bundle.graph.nodes if node.op == "conv"]
    early = {name: share for name, share in seen.levels[2].kept.items() if name in convolutions[:3]}
    assert seen.level == 2
    assert seen.layer.node == min(early, key=early.__getitem__)
    late = observe(bundle, x, level=1, layer="pointwise")
    assert (late.level, late.layer.node) == (1, "pointwise")
    assert len(late.layer.before) == bundle.graph.constants["pointwise.weight"].shape[1]


@pytest.mark.parametrize(
    ("shape", "preprocessing"),
    [
        ((3, 9, 11), Preprocessing((0.5, 0.4, 0.3), (0.25, 0.2, 0.1))),
        ((3, 9, 11), Preprocessing((100.0,), (2.0,), scale=1.0, colour="BGR", layout="NHWC")),
        ((1, 9, 11), Preprocessing((0.5,), (0.25,))),
    ],
)
def test_the_picture_is_what_the_network_sees(
    shape: tuple[int, int, int], preprocessing: Preprocessing, rng: np.random.Generator
) -> None:
    b = GraphBuilder(0, x=shape)
    b.conv("stem", "x", shape[0], 8, 3)
    b.conv("conv", "stem", 8, 4, 3)
    bundle = replace(bundle_for(b.graph(), bits=4), preprocessing=preprocessing)
    picture = rng.integers(0, 256, (9, 11, 3), np.uint8)
    seen = observe(bundle, image_to_input(picture, shape, preprocessing))
    wanted = picture / 255 if shape[0] == 3 else (picture / 255 @ [[0.299], [0.587], [0.114]]).repeat(3, 2)
    np.testing.assert_allclose(seen.picture, wanted, atol=1e-5)


def test_what_cannot_be_looked_at_is_refused(rng: np.random.Generator) -> None:
    bundle, x = classifier(), rng.standard_normal((3, 12, 12), np.float32)
    for level, words in ((0, "Level 0 merges nothing"), (4, "no level 4"), (-1, "no level -1")):
        with pytest.raises(LevelError, match=words) as refused:
            observe(bundle, x, level=level)
        assert refused.value.hint == "Give one of 1, 2, 3."
    for layer, words in (("stem", "not merged at level 3"), ("nothing", "no convolution 'nothing'")):
        with pytest.raises(InputError, match=words) as wrong:
            observe(bundle, x, layer=layer)
        assert wrong.value.hint == "Merged at level 3: first, second."
    dense = replace(bundle, plan=replace(bundle.plan, levels=bundle.plan.levels[:1]))
    with pytest.raises(LevelError, match="No level"):
        observe(dense, x)
    x[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        observe(bundle, x)
    with pytest.raises(InputError, match="2 inputs"):
        observe(bundle_for(conv_graph(6, 6, 3, residual=True), bits=4), x)


# --- what is chosen to be drawn -------------------------------------------------------------------------------------


def test_channels_of_every_fate_are_shown_and_groups_together() -> None:
    #          0  1  2  3   4  5  6   7  8  9
    leaders = [0, 1, 0, 1, -1, 5, 0, -1, 8, 0]
    layer = layer_of([leaders], [1, 6, 2, 5, 0.1, 9, 3, 0.2, 1, 4])
    assert telling_channels(layer, 8) == [1, 3, 9, 6, 7, 4, 5, 8]  # of group 0 the two liveliest
    assert telling_channels(layer, 4) == [1, 3, 7, 5]
    assert sorted(telling_channels(layer, 24)) == list(range(10))
    alone = layer_of([list(range(5))], [1, 2, 3, 4, 5])
    assert telling_channels(alone, 3) == [4, 3, 2]


def test_a_channels_fate_is_what_it_met_most_often() -> None:
    layer = layer_of([[0, 0, -1, 3], [0, 1, -1, 1], [0, 0, 2, 3]], [1, 1, 1, 1])
    assert layer.patches_by_fate.tolist() == [[2, 0, 1], [3, 0, 0], [0, 2, 1], [1, 0, 2]]
    assert [FATES[fate] for fate in layer.usual_fate] == ["merged", "merged", "dropped", "untouched"]
    assert typical_patch(layer) == 0


def test_a_group_has_one_colour_and_no_other_has_it() -> None:
    layer = layer_of([[0, 1, 0, 1, -1, 5], [0, 0, 2, 2, 4, -1]], [1] * 6)
    colours = group_colours(layer)
    assert colours.shape == (2, 6, 3)
    assert 0 <= colours.min() <= colours.max() <= 1

    def same(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
        return bool(np.allclose(a, b))

    assert same(colours[0, 0], colours[0, 2])
    assert same(colours[0, 0], colours[1, 1])  # the same first channel
    assert same(colours[0, 4], colours[1, 5])  # dropped
    assert same(colours[0, 5], colours[1, 4])  # untouched
    for a, b in ((0, 1), (0, 4), (0, 5), (1, 4), (1, 5), (4, 5)):
        assert not same(colours[0, a], colours[0, b])


def test_drawing_leaves_no_half_a_picture(tmp_path: Path, rng: np.random.Generator) -> None:
    """Of a network whose output is a map, with more channels than it has, and with names that look like formulas."""
    graph = conv_graph(6, 4, 3, h=8, w=12)
    seen = observe(bundle_for(graph, bits=3, levels=[3] * 14), rng.standard_normal((6, 8, 12), np.float32))
    assert seen.likeliest(0) == []
    save_visualization(seen, tmp_path / "n.png", "net_$a.haste", MOST_CHANNELS)
    assert [path.name for path in tmp_path.iterdir()] == ["n.png"]
    with Image.open(tmp_path / "n.png") as picture:
        pixels = np.array(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 1000
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="could not be written"):
        save_visualization(seen, tmp_path / "folder", "n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "n.png"]


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("visualize")
    rng = np.random.default_rng(3)
    write_bundle(folder / "net.haste", classifier())
    Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(folder / "picture.png")
    (folder / "broken.png").write_bytes(b"\x89PNG and no more")
    np.save(folder / "frames.npy", rng.standard_normal((2, 3, 12, 12), np.float32))
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs ``haste-edge visualize`` in the folder: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("HASTE_DEBUG", raising=False)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["haste-edge", "visualize", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return command


def test_the_command_draws_and_prints_the_numbers(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "seen.png"
    arguments = ("net.haste", "picture.png", "-o", str(out), "--level", "2", "--layer", "second", "--channels", "5")
    code, printed, _ = run(*arguments, "--json")
    assert code == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"
    about = json.loads(printed)
    assert (about["level"], about["layer"], about["policy"], about["out"]) == (2, "second", "budget", str(out))
    assert [level["level"] for level in about["levels"]] == [0, 1, 2, 3]
    assert about["levels"][0]["kept"] == {}
    assert about["levels"][0]["flops_reduction_network"] == 0
    for level in about["levels"][1:]:
        assert set(level["kept"]) == {"first", "second"}
        assert all(0 <= share <= 1 for share in level["kept"].values())
        assert len(level["likeliest"]) == 3
    assert about["levels"][3]["kept"]["second"] < about["levels"][1]["kept"]["second"]
    assert [channel["channel"] for channel in about["channels"]] == list(range(12))
    for channel in about["channels"]:
        assert channel[channel["fate"]] == max(channel[fate] for fate in FATES)
        assert sum(channel[fate] for fate in FATES) == 4  # tiles of 4x4 on the output's 6x6


def test_the_command_says_in_words_what_it_drew(run: Run, tmp_path: Path) -> None:
    code, printed, _ = run("net.haste", "picture.png", "-o", str(tmp_path / "n.PNG"), "--channels", "1")
    assert code == 0
    first, second = printed.splitlines()
    assert first.startswith("Level 3 saves ")
    assert first.endswith(" answer as level 0." if "the same" in first else " answer than level 0.")
    assert str(tmp_path / "n.PNG") in second
    assert [path.name for path in tmp_path.iterdir()] == ["n.PNG"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing.haste", "picture.png"), 3, "nothing.haste"),
        (("net.haste", "nothing.png"), 2, "no file nothing.png"),
        (("net.haste", "broken.png"), 2, "can't be decoded"),
        (("net.haste", "frames.npy"), 2, "holds 2 frames"),
        (("net.haste", "picture.png", "--level", "0"), 2, "Give one of 1, 2, 3"),
        (("net.haste", "picture.png", "--layer", "stem"), 2, "first, second"),
        (("net.haste", "picture.png", "--channels", "0"), 2, "--channels"),
    ],
)
def test_the_command_refuses_with_a_sentence(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    got, printed, said = run(*arguments, "-o", str(tmp_path / "n.png"))
    assert (got, printed) == (code, "")
    assert words in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("out", "words"), [("n.jpg", "ends in .png"), ("nowhere/n.png", "mkdir -p nowhere")])
def test_the_command_looks_first_where_to_write(run: Run, out: str, words: str) -> None:
    code, _, said = run("net.haste", "picture.png", "-o", out)
    assert code == 2
    assert words in said
