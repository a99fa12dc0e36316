"""What a frame costs on this computer, level by level: measured once, kept beside the bundle, used from then on.

The compiler saves FLOPs and predicts time; only the device knows milliseconds. `haste_runtime.calibration.measure`
takes them, `record` says what they are and what follows from them, `sidecar` keeps them, and `calibrated` gives them to
a session. ``haste-run calibrate BUNDLE`` is the command.
"""
