"""Exports trained models: their weights, vocabulary and model card in formats that need no pickle."""

ENGINES = {"ctranslate2": ("ctranslate2",), "onnx": ("onnx", "onnxruntime")}
"""The decoding engines beside our own, and the packages that they need."""
QUANTIZATIONS = {"ctranslate2": ("float32", "int8", "bfloat16"), "onnx": ("float32",)}
"""The types in which an engine's format stores weights."""
