"""Exports trained models: their weights, vocabulary and model card in formats that need no pickle."""
