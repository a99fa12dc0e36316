"""Networks of bundles written for other runtimes: `onnx_nodes` and `onnx_moving` say what every operator becomes."""
