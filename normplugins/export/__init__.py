"""Exports trained models: weights, vocabulary and model card, in formats without pickle."""

ENGINES = {"ctranslate2": ("ctranslate2",), "onnx": ("onnx", "onnxruntime")}
"""The decoding engines other than our own, with the packages that each one needs."""
QUANTIZATIONS = {"ctranslate2": ("float32", "int8", "bfloat16"), "onnx": ("float32",)}
"""The types in which an engine's format stores weights."""
