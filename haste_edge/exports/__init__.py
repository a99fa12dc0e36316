"""Networks of bundles written for other runtimes, and proved before they get their names.

export.py        what is the same for every kind of file: reading, proving, renaming
onnx_model.py    ONNX; onnx_nodes.py and onnx_moving.py say what every operator becomes, onnx_writer.py writes it down
tflite_model.py  TFLite, likewise; tflite_builder.py writes the flatbuffer
"""
