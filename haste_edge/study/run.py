"""One configuration on the whole network: what it costs in accuracy and what it saves.

A baseline keeps on every patch of every picture as many channels as the policy "mean" kept there in a network where all
layers merge by "mean". So that run comes first, once in a process for all baselines of the same setting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from haste_edge import method, torch_graph
from haste_edge.importance import channel_importance
from haste_edge.method import Grouping, Rule
from haste_edge.patches import CHUNK_BYTES, chunks
from haste_edge.study import cost, hashes
from haste_edge.study.baselines import GROUPERS, Layer
from haste_edge.study.configuration import LADDER, Configuration, StudyError
from haste_edge.study.cost import Work
from haste_edge.study.subject import Subject
from haste_runtime.flops import LayerCounts
from haste_runtime.graph import Node
from haste_runtime.plan import BUDGETED, CODED
from haste_runtime.projection import projection_of

MOST_REFERENCES = 2  # runs of "mean" that a process remembers

GroupLayer = Callable[[str, Tensor, int], tuple[int, Grouping, Work, Tensor | None]]
"""(node, its input (N, C, H, W), number of the first picture) -> tile side, groups of the patches, all that is executed
but the convolution."""


@dataclass(frozen=True)
class Result:
    """What a configuration did on the study's pictures. Percentages are 0 to 100.

    top1, dense_top1: right answers, and those of the dense network; drop: points lost, negative where they were won;
    all None without labels. agreement: answers equal to the dense network's. flops_reduction: over the layers that may
    merge; flops_reduction_network: over all convolutions and linear layers; flops_reduction_half_adds: the same where
    an addition or comparison counts half; flops_reduction_kept: the same where only what is kept is counted, and
    neither hashing nor merging. kept: by layer, kept channels as a share, mean over patches weighted by real pixels.
    seconds: it took to simulate, which says nothing of devices.
    """

    pictures: int
    top1: float | None
    dense_top1: float | None
    drop: float | None
    agreement: float
    flops_reduction: float
    flops_reduction_network: float
    flops_reduction_half_adds: float
    flops_reduction_kept: float
    kept: Mapping[str, float]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        digits = {"seconds": 2}
        values = {k: round(v, digits.get(k, 4)) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return values | {"kept": {node: round(share, 4) for node, share in self.kept.items()}}


@dataclass
class _Simulation:
    """A network as it ran: answers (N,), and sums over the pictures by layer. kept: groups of every patch, (N, P)."""

    answers: Tensor
    counts: dict[str, LayerCounts]
    works: dict[str, Work]
    kept: dict[str, Tensor]
    seconds: float


@dataclass
class _References:
    """The latest runs of "mean" on a subject, and a lock for those who need them at the same time."""

    runs: dict[Configuration, _Simulation] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_references: WeakKeyDictionary[Subject, _References] = WeakKeyDictionary()
_references_lock = threading.Lock()


def run(subject: Subject, configuration: Configuration) -> Result:
    """Runs the network on all pictures. Raises StudyError for a ladder that the subject doesn't have, InputError where
    merging meets NaN or infinity."""
    if configuration.policy == LADDER:
        layers, group = _by_ladder(subject, configuration)
        able = tuple(p.node for p in subject.bundles[configuration.bundle].plan.layers if p.variants)
        return _result(subject, _simulate(subject, layers, group), able)
    if configuration.policy == "dead":
        simulation = _simulate(subject, subject.layers, _by_baseline(subject, configuration, None))
    elif configuration.baseline:
        reference = _reference(subject, configuration.reference)
        simulation = _simulate(subject, subject.layers, _by_baseline(subject, configuration, reference))
    elif configuration == configuration.reference:
        simulation = _reference(subject, configuration)
    else:
        simulation = _simulate(subject, subject.layers, _by_policy(subject, configuration))
    return _result(subject, simulation, subject.layers)


# --- how a layer is grouped -------------------------------------------------------------------------------------------


def _by_policy(subject: Subject, configuration: Configuration) -> GroupLayer:
    family = configuration.hash

    def group(node: str, x: Tensor, first: int) -> tuple[int, Grouping, Work, Tensor | None]:
        m = tile_side(subject, node, configuration.patch)
        matrix = hashes.projection(
            family, configuration.seed, node, subject.geometries[node], m, configuration.bits, configuration.sparsity
        )
        if configuration.policy not in CODED:
            side = subject.geometries[node].patch_side(m)
            matrix = torch.from_numpy(projection_of(configuration.policy, 0, 0, side))
        importance = _importance(subject, node) if configuration.policy in BUDGETED else None
        bits = min(configuration.bits, len(matrix))
        rule = Rule(m, matrix, bits, configuration.policy, importance, configuration.budget)
        return m, *_by_rule(subject, node, x, rule, family)

    return group


def _by_ladder(subject: Subject, configuration: Configuration) -> tuple[tuple[str, ...], GroupLayer]:
    """The layers that merge at the level, and their rules."""
    bundle = subject.bundles.get(configuration.bundle)
    if bundle is None or not 0 < configuration.level < len(bundle.plan.levels):
        raise StudyError(f"The study has no level {configuration.level} of a bundle {configuration.bundle!r}.")
    choices = bundle.plan.levels[configuration.level].choices

    def group(node: str, x: Tensor, first: int) -> tuple[int, Grouping, Work, Tensor | None]:
        choice = choices[node]
        variant = bundle.plan.layer(node).variants[choice.variant]
        matrix = torch.from_numpy(bundle.projections[variant.projection])
        weighing = (
            torch.from_numpy(bundle.importance[variant.importance].astype("int64")) if variant.importance else None
        )
        rule = Rule(variant.patch, matrix, choice.bits, variant.policy, weighing, choice.budget, variant.dense_above)
        return variant.patch, *_by_rule(subject, node, x, rule, "integer")

    return tuple(choices), group


def _by_rule(subject: Subject, node: str, x: Tensor, rule: Rule, family: str) -> tuple[Grouping, Work, Tensor | None]:
    """One of the method's policies, with codes of any family; and how much channels weigh in a group's plane."""
    geometry, m = subject.geometries[node], rule.patch
    n = geometry.patch_side(m)
    if rule.policy not in CODED:
        family, (_, grouping) = "integer", method.group_layer(x, geometry, rule)
    else:
        found = []
        for _, _, block in chunks(x, geometry, m, (n, n), CHUNK_BYTES):
            patches = block.flatten(2)
            q, live = method.quantise(patches)
            found.append(method.decide(q, hashes.codes(family, patches, q, live, rule.projection, rule.bits), rule))
        grouping = method.join_groupings(found)
        if rule.dense_above < 1:
            _, grouping = method.stay_dense(grouping, len(x), geometry.middle(m), rule.dense_above)
    counts = method.counts(grouping, geometry, m, (x.shape[2], x.shape[3]))
    nonzeros = int(rule.projection[: rule.bits].count_nonzero())
    hashing = cost.hashing(family, geometry.channels_in, n * n, nonzeros, rule.bits, counts.patches - counts.unseen)
    work = hashing.plus(cost.deciding(geometry, m, counts, rule.policy, family != "float", rule.bits))
    return grouping, work, rule.weights


def _by_baseline(subject: Subject, configuration: Configuration, reference: _Simulation | None) -> GroupLayer:
    grouper = GROUPERS[configuration.policy]

    def group(node: str, x: Tensor, first: int) -> tuple[int, Grouping, Work, Tensor | None]:
        geometry, m = subject.geometries[node], tile_side(subject, node, configuration.patch)
        rows, columns = geometry.grid(m)
        kept, share = torch.zeros(len(x) * rows * columns, dtype=torch.int64), 0.0
        if reference is not None:
            kept = reference.kept[node][first : first + len(x)].flatten().long()
            share = _kept_share(subject, node, reference.counts[node])
        importance = _importance(subject, node)
        layer = Layer(node, geometry, m, configuration.sparsity, configuration.seed, importance, share)
        return m, *grouper(layer, x, kept, first), None

    return group


def tile_side(subject: Subject, node: str, patch: int) -> int:
    """The patch a layer has where ``patch`` is asked for: no larger than its map."""
    return min(patch, max(subject.geometries[node].out))


def _importance(subject: Subject, node: str) -> Tensor:
    return torch.from_numpy(channel_importance(subject.weight(node).numpy()).astype("int64"))


def _reference(subject: Subject, configuration: Configuration) -> _Simulation:
    with _references_lock:
        references = _references.setdefault(subject, _References())
    with references.lock:
        if configuration not in references.runs:
            while len(references.runs) >= MOST_REFERENCES:
                del references.runs[next(iter(references.runs))]
            group = _by_policy(subject, configuration)
            references.runs[configuration] = _simulate(subject, subject.layers, group)
        return references.runs[configuration]


# --- running and counting ---------------------------------------------------------------------------------------------


def _simulate(subject: Subject, layers: tuple[str, ...], group: GroupLayer) -> _Simulation:
    """The network on all pictures, with these layers merged."""
    started = time.perf_counter()
    counts, works = dict.fromkeys(layers, LayerCounts()), dict.fromkeys(layers, Work())
    kept: dict[str, list[Tensor]] = {node: [] for node in layers}
    answers = []
    for first, batch in subject.batches():

        def convolve(node: Node, x: Tensor, first: int = first) -> Tensor:
            name, geometry = node.name, subject.geometries[node.name]
            m, grouping, work, weights = group(name, x, first)
            weight, bias = subject.weight(name), subject.bias(name)
            y, count = method.convolve_groups(x, grouping, weight, bias, geometry, m, weights)
            counts[name] += count
            works[name] = works[name].plus(work)
            own = torch.arange(geometry.channels_in)
            kept[name].append((grouping.leaders == own).sum(1).short().view(len(x), -1))
            return y

        run = torch_graph.run(subject.prepared, batch, convolve=dict.fromkeys(layers, convolve))
        answers.append(run.outputs[subject.graph.outputs[0]].argmax(1))
    return _Simulation(
        torch.cat(answers),
        counts,
        works,
        {node: torch.cat(parts) for node, parts in kept.items()},
        time.perf_counter() - started,
    )


def _kept_share(subject: Subject, node: str, counts: LayerCounts) -> float:
    geometry = subject.geometries[node]
    return counts.kept_pixels / (len(subject.images) * geometry.channels_in * geometry.out[0] * geometry.out[1])


def _result(subject: Subject, simulation: _Simulation, able: tuple[str, ...]) -> Result:
    """able: the layers that may merge, of which a level of a ladder may leave some dense."""
    pictures, merged = len(subject.images), simulation.counts
    kept = Work().plus(*(cost.convolution(subject.geometries[node], counts) for node, counts in merged.items()))
    total = kept.plus(*simulation.works.values())
    before = pictures * sum(subject.dense[node] for node in merged)
    of_able = pictures * sum(subject.dense[node] for node in able)
    of_network = pictures * (sum(subject.dense.values()) + subject.linear)

    top1 = dense_top1 = drop = None
    if subject.labels is not None:
        labels = torch.from_numpy(subject.labels)
        top1, dense_top1 = (_percent(answers == labels) for answers in (simulation.answers, subject.exact))
        drop = dense_top1 - top1
    return Result(
        pictures=pictures,
        top1=top1,
        dense_top1=dense_top1,
        drop=drop,
        agreement=_percent(simulation.answers == subject.exact),
        flops_reduction=_share(before - total.executed, of_able),
        flops_reduction_network=_share(before - total.executed, of_network),
        flops_reduction_half_adds=_share(before - total.half_adds, of_network),
        flops_reduction_kept=_share(before - kept.executed, of_network),
        kept={node: _kept_share(subject, node, counts) for node, counts in merged.items()},
        seconds=simulation.seconds,
    )


def _share(saved: float, dense: int) -> float:
    return 100.0 * saved / dense if dense else 0.0


def _percent(true: Tensor) -> float:
    return 100.0 * float(true.double().mean())
