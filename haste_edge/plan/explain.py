"""A plan as a table for people: every convolution, its shape, what was chosen, how strongly it merges, and why."""

from __future__ import annotations

from haste_runtime.flops import conv_geometries
from haste_runtime.geometry import ConvGeometry
from haste_runtime.graph import Graph
from haste_runtime.operators import check_graph
from haste_runtime.plan import BUDGETED, LayerPlan, Plan

HEADER = ("layer", "shape", "choice", "bits or budget at levels", "reason")


def explain(plan: Plan, graph: Graph) -> str:
    """The table as text, and below it what each level is expected to save. graph: the one the plan was made for."""
    geometries = conv_geometries(graph, check_graph(graph))
    rows = [HEADER]
    rows += [(p.node, _shape(geometries[p.node]), _choice(p), _strengths(plan, p), p.reason) for p in plan.layers]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("")
    for number, level in enumerate(plan.levels):
        agreement = (
            ""
            if level.agreement is None
            else (f", same answer as level 0 on {level.agreement:.0f} % of the pictures planned with")
        )
        lines.append(
            f"level {number}: {len(level.choices)} layers merged, {level.flops_reduction_network:.1f} % of all FLOPs "
            f"saved ({level.flops_reduction:.1f} % of the layers that may merge){agreement}"
        )
    return "\n".join(lines)


def _shape(geometry: ConvGeometry) -> str:
    (ky, kx), (height, width) = geometry.kernel, geometry.out
    stride = f"/{geometry.stride[0]}" if max(geometry.stride) > 1 else ""
    groups = f" groups {geometry.groups}" if geometry.groups > 1 else ""
    return f"{geometry.channels_in}->{geometry.channels_out} {ky}x{kx}{stride} on {height}x{width}{groups}"


def _choice(layer: LayerPlan) -> str:
    merged = ", ".join(
        f"{v.policy}, patch {v.patch}{'' if v.algorithm == 'direct' else f', {v.algorithm}'}" for v in layer.variants
    )
    if layer.algorithm == "direct":
        return merged or "dense"
    return f"{merged}, else {layer.algorithm}" if merged else f"dense, {layer.algorithm}"


def _strengths(plan: Plan, layer: LayerPlan) -> str:
    """One number per level above 0; a dot where the layer is dense."""
    shown = []
    for level in plan.levels[1:]:
        choice = level.choices.get(layer.node)
        if choice is None:
            shown.append(".")
        else:
            budgeted = layer.variants[choice.variant].policy in BUDGETED
            shown.append(f"{choice.budget:g}" if budgeted else str(choice.bits))
    return " ".join(shown)
