"""What each ONNX operator becomes in the graph: one small rule per family, in the modules named here.

To support another operator: write a rule in one of them and decorate it with its ONNX names. Rules refuse rather than
approximate. Where a version of the standard moved an attribute to an input, a rule takes both.
"""

from __future__ import annotations

from haste_edge.frontends import onnx_elementwise, onnx_layers, onnx_norms, onnx_resize, onnx_shapes
from haste_edge.frontends.builder import Rules
from haste_edge.frontends.onnx_values import Call

RULES = Rules[Call](
    {**onnx_layers.RULES, **onnx_norms.RULES, **onnx_elementwise.RULES, **onnx_resize.RULES, **onnx_shapes.RULES}
)
