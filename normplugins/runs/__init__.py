"""Runs: from a Hydra config to a published record."""
