#!/usr/bin/env python3
"""An int8 twin of an ONNX model, made by ONNX Runtime's quantizer: quantize.py MODEL.onnx OUT.onnx [--keep-lstm]

Exporters leave slices and concatenations between an LSTM and its weights. The quantizer only sees weights that are constants, and would
silently leave such an LSTM in f32; so constants are folded first. The LSTM becomes DynamicQuantizeLSTM, which ONNX Runtime alone has: with --keep-lstm
nothing is folded and the LSTM stays as it is, for other engines.

Needs `pip install onnxruntime onnx`.
"""
import pathlib
import sys
import tempfile

import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

args = [a for a in sys.argv[1:] if a != "--keep-lstm"]
if len(args) != 2:
    sys.exit(__doc__)
source, out = args
with tempfile.TemporaryDirectory() as folder:
    if "--keep-lstm" not in sys.argv:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(pathlib.Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        source = options.optimized_model_filepath
    quantize_dynamic(source, out, per_channel=True, weight_type=QuantType.QInt8)
