"""The torch method against the numpy definition of hash and merging, and against a loop that really merges channels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from haste_edge import method
from haste_edge.method import Rule
from haste_runtime import hashing, merge
from haste_runtime.errors import InputError
from haste_runtime.flops import LayerCounts, constant_adds
from haste_runtime.geometry import ConvGeometry, output_size
from haste_runtime.grouping import Grouping
from haste_runtime.plan import BUDGETED, CODED, POLICIES
from haste_runtime.projection import draw


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_geometry(
    channels: int,
    filters: int,
    size: tuple[int, int],
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
) -> ConvGeometry:
    top, left, bottom, right = padding
    out = (
        output_size(size[0] + top + bottom, kernel, stride, dilation),
        output_size(size[1] + left + right, kernel, stride, dilation),
    )
    pairs = [(number, number) for number in (kernel, stride, dilation)]
    return ConvGeometry(channels, filters, pairs[0], pairs[1], pairs[2], padding, 1, out)


def projection_for(geometry: ConvGeometry, m: int, bits: int = 14, seed: int = 1) -> Tensor:
    return torch.from_numpy(draw(seed, bits, geometry.patch_side(m)))


def rule_for(
    geometry: ConvGeometry, m: int, bits: int, policy: str = "mean", budget: float = 0.3, rows: int = 14
) -> Rule:
    """Some rule for a layer; every sixth channel counts for nothing, if the policy asks."""
    importance = torch.arange(geometry.channels_in) * 700 % 4200
    return Rule(m, projection_for(geometry, m, rows), bits, policy, importance, budget)


def definition(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, rule: Rule
) -> list[merge.Merged]:
    """The runtime's, map by map."""
    assert rule.importance is not None
    numbers = rule._replace(projection=rule.projection.numpy(), importance=rule.importance.numpy().astype(np.uint16))
    bias_ = None if bias is None else bias.numpy()
    return [merge.merged_conv(map_.numpy(), weight.numpy(), bias_, geometry, merge.Rule(*numbers)) for map_ in x]


def slow_patches(x: np.ndarray, geometry: ConvGeometry, m: int) -> np.ndarray:
    """(P, C, n, n) of one map (C, H, W), pixel by pixel."""
    n, stride = geometry.patch_side(m), geometry.stride[0]
    tiles = geometry.tiles(m)
    patches = np.zeros((len(tiles), len(x), n, n), np.float32)
    for p, tile in enumerate(tiles):
        for i in range(n):
            for j in range(n):
                y = tile.ty * m * stride - geometry.padding[0] + i
                z = tile.tx * m * stride - geometry.padding[1] + j
                if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                    patches[p, :, i, j] = x[:, y, z]
    return patches


def slow_merged_conv(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    geometry: ConvGeometry,
    m: int,
    found: list[Grouping | None],
    weighs: np.ndarray,
) -> tuple[np.ndarray, LayerCounts]:
    """Really merges, in double precision: planes of channels, sums of filters times scales, K_p products per tap.

    found: the groups of each patch, None where it is dead. weighs: how much each channel weighs in a plane, (C,).
    """
    y = np.zeros((geometry.channels_out, *geometry.out))
    y += bias[:, None, None]
    stride, dilation = geometry.stride[0], geometry.dilation[0]
    counts = LayerCounts()
    patches = slow_patches(x, geometry, m).astype(float)
    inside = slow_patches(np.ones_like(x[:1]), geometry, m)[:, 0].astype(float)
    adds = constant_adds(geometry, (x.shape[1], x.shape[2]), m).tolist()
    for patch, ones, add, grouping, tile in zip(patches, inside, adds, found, geometry.tiles(m), strict=True):
        counts += LayerCounts(1)
        if grouping is None:
            continue
        affine = grouping.offsets is not None
        members = [np.flatnonzero(grouping.leaders == leader) for leader in dict.fromkeys(grouping.leaders.tolist())]
        members = [channels for channels in members if grouping.leaders[channels[0]] >= 0]
        merged = sum(len(channels) - affine for channels in members if len(channels) > 1)
        kept_pixels = len(members) * tile.height * tile.width
        counts += LayerCounts(0, len(members), merged, kept_pixels, grouping.compared, grouping.verified)
        planes = []
        if affine and grouping.offsets.any():
            counts += LayerCounts(levelled=np.count_nonzero(grouping.offsets), constant_adds=add)
            step = np.float32(np.abs(patch).max()) / np.float32(127)
            planes.append((ones, np.tensordot(weight.astype(float), grouping.offsets * step, (1, 0))))
        for channels in members:
            s = grouping.scales[channels].astype(float)
            share = weighs[channels] * s
            plane = np.tensordot(share, patch[channels], 1) / (share @ s) if s.any() else 0 * patch[0]
            plane = patch[grouping.leaders[channels[0]]] if affine else plane
            planes.append((plane, np.tensordot(weight[:, channels].astype(float), s, (1, 0))))
        for plane, filters in planes:
            for i in range(tile.height):
                for j in range(tile.width):
                    for ky in range(weight.shape[2]):
                        for kx in range(weight.shape[3]):
                            pixel = plane[i * stride + ky * dilation, j * stride + kx * dilation]
                            y[:, tile.ty * m + i, tile.tx * m + j] += filters[:, ky, kx] * pixel
    return y, counts


# --- the hash ---------------------------------------------------------------------------------------------------------


@st.composite
def awkward_patches(draw_: st.DrawFn) -> np.ndarray:
    """(P, C, d) with many zeros, equal values, halves that tie when rounded, denormals, and patches small and huge."""
    patches, channels, d = draw_(st.integers(1, 4)), draw_(st.integers(2, 7)), draw_(st.integers(1, 12))
    halves = st.integers(-254, 254).map(lambda i: i / 2)
    values = st.one_of(st.just(0.0), halves, st.floats(-127, 127, width=32))
    x = draw_(st.lists(values, min_size=patches * channels * d, max_size=patches * channels * d))
    scales = draw_(
        st.lists(
            st.sampled_from([1.0, 0.0, 2.0**-100, 2.0**-107, 2.0**-120, 2.0**-149, 1e-30, 2.0**120, 0.1]),
            min_size=patches,
            max_size=patches,
        )
    )
    return np.array(x, np.float32).reshape(patches, channels, d) * np.array(scales, np.float32)[:, None, None]


@settings(deadline=None, max_examples=150)
@given(x=awkward_patches(), seed=st.integers(0, 99))
def test_integer_hash_is_the_definition_bit_for_bit(x: np.ndarray, seed: int) -> None:
    matrix = np.random.default_rng(seed).integers(-1, 2, (6, x.shape[2])).astype(np.int8)
    q, live = method.quantise(torch.from_numpy(x))
    expected_q, expected_live = hashing.quantise(x)
    np.testing.assert_array_equal(q.numpy(), expected_q)
    np.testing.assert_array_equal(live.numpy(), expected_live)
    codes = method.codes(q, torch.from_numpy(matrix), 5)
    assert codes.dtype == torch.int32
    np.testing.assert_array_equal(codes.numpy(), hashing.codes(expected_q, matrix, 5))


def test_halves_round_to_even() -> None:
    x = torch.tensor([[[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5]]])
    q, live = method.quantise(x)
    assert q.tolist() == [[[127, 0, 2, 2, 0, -2, 126]]]
    assert live.tolist() == [True]


def test_a_patch_is_dead_below_2_to_the_minus_100() -> None:
    smallest = np.float32(2.0**-100)
    x = torch.tensor([[[smallest]], [[-smallest]], [[np.nextafter(smallest, np.float32(0))]], [[0.0]]])
    q, live = method.quantise(x)
    assert q.flatten().tolist() == [127, -127, 0, 0]
    assert live.tolist() == [True, True, False, False]


def test_quantising_divides_instead_of_multiplying_by_a_reciprocal() -> None:
    a = torch.linspace(1, 2, 4001)
    largest = a[(a.reciprocal() * 127) != (torch.full_like(a, 127) / a)]
    assert len(largest) > 100  # so the two do differ, and the definition's is the division
    x = (largest[:, None, None] * torch.linspace(-1, 1, 509)[None, None]).contiguous()
    np.testing.assert_array_equal(method.quantise(x)[0].numpy(), hashing.quantise(x.numpy())[0])


def test_equality_with_the_mean_gives_0() -> None:
    q = torch.tensor([[[3.0], [3.0], [3.0]], [[1.0], [2.0], [3.0]]])
    assert method.codes(q, torch.ones(1, 1, dtype=torch.int8), 1).tolist() == [[0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("channels", [2, 130])
def test_sums_beyond_what_single_precision_holds_are_exact(channels: int) -> None:
    d = 375 * 375  # 127 * d > 2^24; with 130 channels, C * sum > 2^31
    q = np.full((1, channels, d), 127, np.int8)
    q[0, 0, 0] = 126  # one unit below the others in a sum of 17.9 million, an odd number
    matrix = np.ones((2, d), np.int8)
    matrix[1] = -1
    codes = method.codes(torch.from_numpy(q), torch.from_numpy(matrix), 2)
    assert codes.tolist() == [[2] + [1] * (channels - 1)]
    q[0, 0], q[0, 1:] = 127, 0
    codes = method.codes(torch.from_numpy(q), torch.from_numpy(matrix), 2)
    assert codes.tolist() == [[1] + [2] * (channels - 1)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    x = torch.zeros(2, 3, 4)
    x[1, 2, 3] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        method.quantise(x)


@pytest.mark.parametrize("bits", [0, 15, 32])
def test_bits_the_projection_does_not_have_are_refused(bits: int) -> None:
    geometry = make_geometry(4, 2, (4, 4))
    with pytest.raises(ValueError, match="bits asked of a projection"):
        method.layer_codes(torch.ones(1, 4, 4, 4), geometry, 4, projection_for(geometry, 4), bits)
    with pytest.raises(ValueError, match="bits asked of a projection"):
        method.layer_codes(torch.ones(1, 4, 4, 4), geometry, 4, projection_for(geometry, 4), bits, hash="float")


def test_unknown_hash_is_refused() -> None:
    geometry = make_geometry(4, 2, (4, 4))
    with pytest.raises(ValueError, match="'double'"):
        method.layer_codes(torch.ones(1, 4, 4, 4), geometry, 4, projection_for(geometry, 4), 4, hash="double")


def test_float_hash_is_the_textbooks() -> None:
    x = torch.randn(5, 9, 36)
    matrix = draw(3, 10, 6)
    codes = method.float_codes(x, torch.from_numpy(matrix), 10)
    centred = x.double().numpy() - x.double().numpy().mean(1, keepdims=True)
    products = centred @ matrix.T.astype(float)
    assert (np.abs(products) > 1e-4).all()  # none so near to 0 that single precision could differ
    np.testing.assert_array_equal(codes.numpy(), ((products > 0) << np.arange(10)).sum(-1))


def test_integers_decide_nearly_as_the_textbook_does() -> None:
    geometry = make_geometry(32, 8, (16, 16))
    x = torch.randn(4, 32, 16, 16).relu()
    matrix = projection_for(geometry, 8)
    textbook = method.layer_codes(x, geometry, 8, matrix, 14, hash="float")
    integers = method.layer_codes(x, geometry, 8, matrix, 14)
    bits = torch.arange(14)
    equal = ((textbook[..., None] >> bits) & 1) == ((integers[..., None] >> bits) & 1)
    assert equal.float().mean() > 0.99


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_decide_as_their_float32_values(dtype: torch.dtype, policy: str) -> None:
    geometry = make_geometry(8, 4, (7, 5))
    x, w = torch.randn(2, 8, 7, 5).to(dtype), torch.randn(4, 8, 3, 3).to(dtype)
    rule = rule_for(geometry, 3, 4, policy)
    found = method.merged_conv(x, w, None, geometry, rule)
    assert found.output.dtype == dtype
    expected = method.merged_conv(x.float(), w.float(), None, geometry, rule)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.leaders, expected.leaders)
    assert found.counts == expected.counts
    rounding = torch.finfo(torch.float32 if dtype == torch.float64 else dtype).eps
    torch.testing.assert_close(found.output.float(), expected.output, atol=40 * rounding, rtol=8 * rounding)


def test_autocast_does_not_touch_the_hash() -> None:
    geometry = make_geometry(64, 4, (16, 16))
    x, matrix = torch.rand(4, 64, 16, 16), projection_for(geometry, 4)
    for hash in method.HASHES:
        expected = method.layer_codes(x, geometry, 4, matrix, 14, hash=hash)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(method.layer_codes(x, geometry, 4, matrix, 14, hash=hash), expected)


# --- the layer --------------------------------------------------------------------------------------------------------

SHAPES = [
    # (channels, size, kernel, stride, dilation, padding, m)
    (6, (8, 8), 3, 1, 1, (1, 1, 1, 1), 4),
    (5, (7, 9), 3, 1, 1, (1, 1, 1, 1), 4),  # edge tiles in both directions
    (6, (9, 8), 3, 2, 1, (1, 1, 1, 1), 2),
    (4, (8, 8), 3, 2, 1, (0, 0, 0, 0), 2),  # the last row and column are never read by the kernel
    (7, (5, 6), 1, 1, 1, (0, 0, 0, 0), 2),
    (4, (9, 9), 1, 2, 1, (0, 0, 0, 0), 3),
    (4, (6, 6), 1, 3, 1, (0, 0, 0, 0), 1),
    (4, (7, 7), 5, 1, 1, (2, 2, 2, 2), 3),
    (3, (11, 8), 7, 2, 1, (3, 3, 3, 3), 4),
    (4, (9, 8), 3, 1, 2, (2, 2, 2, 2), 4),
    (4, (6, 7), 3, 2, 3, (3, 3, 3, 3), 2),
    (4, (6, 5), 3, 1, 1, (0, 1, 2, 0), 3),  # a different padding on each side
    (9, (2, 2), 3, 1, 1, (1, 1, 1, 1), 8),  # a map much smaller than the tile
    (6, (3, 12), 3, 1, 1, (1, 1, 1, 1), 8),
    (4, (1, 1), 3, 1, 1, (1, 1, 1, 1), 1),
    (2, (4, 4), 4, 1, 1, (1, 1, 2, 2), 4),
]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("channels", "size", "kernel", "stride", "dilation", "padding", "m"), SHAPES)
def test_merged_conv_equals_really_merging(
    channels: int,
    size: tuple[int, int],
    kernel: int,
    stride: int,
    dilation: int,
    padding: tuple[int, int, int, int],
    m: int,
    policy: str,
) -> None:
    geometry = make_geometry(channels, 3, size, kernel, stride, dilation, padding)
    x = torch.randn(3, channels, *size)
    x[0, 1:3] = torch.tensor([1.0, -2.0])[: channels - 1, None, None] * x[0, :1]
    x[1].relu_()
    x[2] = 0.0  # dead throughout
    weight, bias = torch.randn(3, channels, kernel, kernel), torch.randn(3)
    rule = rule_for(geometry, m, 2, policy)
    found = method.merged_conv(x, weight, bias, geometry, rule)
    assert found.output.shape == (3, *geometry.output_shape)
    assert found.codes.shape == found.leaders.shape
    total, by_definition = LayerCounts(), definition(x, weight, bias, geometry, rule)
    for i, expected in enumerate(by_definition):
        np.testing.assert_array_equal(found.codes[i].numpy(), expected.codes)
        np.testing.assert_array_equal(found.leaders[i].numpy(), expected.leaders)
        tolerance = 1e-4 * np.abs(expected.output).max()
        np.testing.assert_allclose(found.output[i].numpy(), expected.output, rtol=0, atol=tolerance)
        patches = slow_patches(x[i].numpy(), geometry, m)
        q, live = hashing.quantise(patches.reshape(*patches.shape[:2], -1))
        importance = np.asarray(rule.importance, np.uint16)
        runtime_rule = merge.Rule(m, rule.projection.numpy(), 2, policy, importance, rule.budget)
        inside = slow_patches(np.ones((1, *size), np.float32), geometry, m).reshape(len(q), -1) > 0
        groups = [
            merge.group(one, codes, runtime_rule, ones) if alive else None
            for one, codes, alive, ones in zip(q, expected.codes, live, inside, strict=True)
        ]
        weighs = importance.astype(float) if policy == "budget" else np.ones(channels)
        y, counts = slow_merged_conv(x[i].numpy(), weight.numpy(), bias.numpy(), geometry, m, groups, weighs)
        np.testing.assert_allclose(found.output[i].numpy(), y, rtol=0, atol=tolerance)
        assert counts == expected.counts
        total += counts
    assert found.counts == total
    dead = found.output[2]
    assert torch.equal(dead, bias[:, None, None].expand_as(dead))  # a dead patch gives the bias, exactly


@pytest.mark.parametrize("policy", POLICIES)
def test_frames_whose_middle_keeps_too_much_stay_dense(policy: str) -> None:
    geometry = make_geometry(9, 3, (10, 11), 3, padding=(1, 1, 1, 1))
    x, weight, bias = torch.randn(5, 9, 10, 11), torch.randn(3, 9, 3, 3), torch.randn(3)
    x[1:, 1:4] = x[1:, :1]  # all but the first frame have channels that merge
    x[2:, 5:] = x[2:, 4:5] * torch.tensor([2.0, 0.5, 1.5, 3.0])[:, None, None]
    rule = rule_for(geometry, 4, 9, policy)._replace(dense_above=0.6)
    found, expected = method.merged_conv(x, weight, bias, geometry, rule), definition(x, weight, bias, geometry, rule)
    dense = [one.counts.unseen > 0 for one in expected]
    assert dense[0]
    assert not all(dense)
    for i, one in enumerate(expected):
        np.testing.assert_array_equal(found.codes[i].numpy(), one.codes)
        np.testing.assert_array_equal(found.leaders[i].numpy(), one.leaders)
        tolerance = 1e-4 * np.abs(one.output).max()
        np.testing.assert_allclose(found.output[i].numpy(), one.output, rtol=0, atol=tolerance)
    assert found.counts == sum((one.counts for one in expected), LayerCounts())
    plain = torch.nn.functional.conv2d(x[:1], weight, bias, padding=1)
    torch.testing.assert_close(found.output[:1], plain, rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    m=st.integers(1, 6),
    chunk_bytes=st.sampled_from([1, 500, 3000, method.CHUNK_BYTES]),
    policy=st.sampled_from(POLICIES),
)
def test_patches_and_chunks_of_any_shape(
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: tuple[int, int, int, int],
    m: int,
    chunk_bytes: int,
    policy: str,
) -> None:
    geometry = make_geometry(4, 2, size, kernel, stride, padding=padding)
    if min(geometry.out) < 1:
        return
    x, weight, bias = torch.randn(3, 4, *size), torch.randn(2, 4, kernel, kernel), torch.randn(2)
    patches = method.extract_patches(x, geometry, m)
    expected = np.stack([slow_patches(map_.numpy(), geometry, m) for map_ in x])
    np.testing.assert_array_equal(patches.numpy(), expected.reshape(*expected.shape[:3], -1))
    rule = rule_for(geometry, m, 3, policy)
    found = method.merged_conv(x, weight, bias, geometry, rule, chunk_bytes=chunk_bytes)
    q, live = method.quantise(patches)
    codes = method.codes(q, rule.projection, 3).masked_fill(~live[..., None], hashing.DEAD_CODE)
    assert torch.equal(method.layer_codes(x, geometry, m, rule.projection, 3, chunk_bytes=chunk_bytes), codes)
    if policy not in CODED:
        codes = codes.clamp(max=0)
    assert torch.equal(found.codes, codes)
    inside = torch.from_numpy(slow_patches(np.ones((1, *size), np.float32), geometry, m)).flatten(1)
    grouping = method.decide(q.flatten(0, 1), codes.flatten(0, 1), rule, inside.repeat(3, 1))
    assert torch.equal(found.leaders, grouping.leaders.view(codes.shape))
    weighs = rule.importance if policy == "budget" else None
    y, counts = method.convolve_groups(x, grouping, weight, bias, geometry, m, weighs)
    torch.testing.assert_close(found.output, y)
    assert found.counts == counts == method.counts(grouping, geometry, m, size)


def test_channels_that_all_differ_give_the_plain_convolution() -> None:
    geometry = make_geometry(5, 4, (9, 10), stride=2)
    x, weight, bias = torch.randn(2, 5, 9, 10), torch.randn(4, 5, 3, 3), torch.randn(4)
    y, counts, codes, leaders = method.merged_conv(x, weight, bias, geometry, rule_for(geometry, 3, 31, rows=31))
    assert torch.equal(leaders, torch.arange(5).expand_as(leaders))
    assert all(len(set(patch)) == 5 for patch in codes.flatten(0, 1).tolist())
    assert counts == LayerCounts(2 * 4, 2 * 4 * 5, 0, 2 * 5 * 5 * 5)
    torch.testing.assert_close(y, F.conv2d(x, weight, bias, 2, 1), atol=1e-5, rtol=1e-5)


def test_equal_channels_merge_without_error() -> None:
    geometry = make_geometry(8, 4, (8, 8))
    x = torch.randn(1, 2, 8, 8).repeat_interleave(4, 1)
    weight = torch.randn(4, 8, 3, 3)
    for policy in (p for p in POLICIES if p != "drop"):  # which merges none
        rule = rule_for(geometry, 8, 14, policy, budget=1e-9)._replace(importance=torch.ones(8, dtype=torch.int32))
        y, counts, _, leaders = method.merged_conv(x, weight, None, geometry, rule)
        looked_at = (7 + 3, 7 + 3) if policy in BUDGETED else (0, 0)  # the second leader is found at channel 4
        assert counts == LayerCounts(1, 2, 6 if policy == "affine" else 8, 2 * 64, *looked_at)
        assert leaders.tolist() == [[[0] * 4 + [4] * 4]]
        torch.testing.assert_close(y, F.conv2d(x, weight, None, 1, 1), atol=1e-5, rtol=1e-5)


def test_multiples_and_dead_channels_cost_next_to_nothing_where_scales_are_allowed() -> None:
    geometry = make_geometry(6, 4, (8, 8))
    x = torch.randn(1, 1, 8, 8) * torch.tensor([2.0, -4.0, 0.0, 1.0, 4.0, 0.0])[:, None, None]
    weight = torch.randn(4, 6, 3, 3)
    ones = torch.ones(6, dtype=torch.int32)
    rule = rule_for(geometry, 8, 14, "budget", budget=0.02)._replace(importance=ones)  # 127 / 2 has to be rounded
    y, counts, _, leaders = method.merged_conv(x, weight, None, geometry, rule)
    assert leaders.tolist() == [[[0, 0, -1, 0, 0, -1]]]
    assert counts == LayerCounts(1, 1, 4, 64, 3, 3)
    exact = F.conv2d(x, weight, None, 1, 1)
    assert (y - exact).abs().max() < 0.01 * exact.abs().max()


@pytest.mark.parametrize("policy", CODED)
def test_the_textbooks_codes_with_every_policy(policy: str) -> None:
    """Its codes propose, the quantised patch decides; a patch of zeros is not dead, but has the one code 0."""
    geometry = make_geometry(12, 4, (10, 10))
    x = torch.randn(2, 12, 10, 10).relu()
    x[1] = 0.0
    rule = rule_for(geometry, 5, 3, policy)
    found = method.merged_conv(x, torch.randn(4, 12, 3, 3), None, geometry, rule, hash="float")
    patches = method.extract_patches(x, geometry, 5).flatten(0, 1)
    codes = method.float_codes(patches, rule.projection, 3)
    assert torch.equal(found.codes.flatten(0, 1), codes)
    assert torch.equal(found.leaders.flatten(0, 1), method.decide(method.quantise(patches)[0], codes, rule).leaders)
    assert (found.leaders[1] == (0 if policy == "mean" else -1)).all()
    assert not found.output[1].any()


def test_codes_nest() -> None:
    geometry = make_geometry(24, 4, (10, 10))
    x = torch.randn(2, 24, 10, 10).relu()
    x[0, :, 5:] = 0
    matrix = projection_for(geometry, 4)
    codes = method.layer_codes(x, geometry, 4, matrix, 14)
    assert (codes == hashing.DEAD_CODE).any()
    leaders = [method.group_by_mean(method.prefix(codes, bits).flatten(0, 1)).leaders for bits in range(1, 15)]
    for bits in range(1, 15):
        assert torch.equal(method.prefix(codes, bits), method.layer_codes(x, geometry, 4, matrix, bits))
    for coarse, fine in pairwise(leaders):
        dead = fine == -1
        assert torch.equal(coarse == -1, dead)
        through = coarse.gather(1, fine.masked_fill(dead, 0)).masked_fill(dead, -1)
        assert torch.equal(through, coarse)  # a finer group lies in one coarser group: its leader's


@settings(deadline=None, max_examples=60)
@given(
    codes=st.lists(st.lists(st.integers(0, 63), min_size=6, max_size=6), min_size=1, max_size=5),
    dead=st.booleans(),
)
def test_kept_per_bits_counts_every_prefix(codes: list[list[int]], dead: bool) -> None:
    rows = [*codes, [-1] * 6] if dead else codes
    kept, merged = method.kept_per_bits(torch.tensor(rows, dtype=torch.int32), 6)
    assert kept.shape == merged.shape == (7, len(rows))
    for bits in range(7):
        for p, row in enumerate(rows):
            short = [] if row[0] == -1 else [code & ((1 << bits) - 1) for code in row]
            assert kept[bits, p] == len(set(short))
            assert merged[bits, p] == sum(short.count(code) > 1 for code in short)


def test_kept_per_bits_agrees_with_the_counts_of_the_layer() -> None:
    geometry = make_geometry(16, 4, (9, 9))
    x, weight = torch.randn(3, 16, 9, 9), torch.randn(4, 16, 3, 3)
    codes = method.layer_codes(x, geometry, 4, projection_for(geometry, 4, 31), 31)
    kept, merged = method.kept_per_bits(codes, 31)
    assert kept.shape == (32, 3, 9)
    for bits in (1, 4, 31):
        counts = method.merged_conv(x, weight, None, geometry, rule_for(geometry, 4, bits, rows=31)).counts
        assert (counts.kept, counts.merged) == (int(kept[bits].sum()), int(merged[bits].sum()))
