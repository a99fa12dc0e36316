"""What each TFLite operator becomes in the graph: one small rule per family, in the modules named here.

To support another operator: write a rule in one of them and decorate it with its name in the schema. Rules refuse
rather than approximate.
"""

from __future__ import annotations

from haste_edge.frontends import tflite_elementwise, tflite_layers, tflite_shapes
from haste_edge.frontends.builder import Rules
from haste_edge.frontends.tflite_call import Call

RULES = Rules[Call]({**tflite_layers.RULES, **tflite_elementwise.RULES, **tflite_shapes.RULES})
