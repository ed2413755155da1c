"""Compiled CPU kernels for norms in training, with as few passes over memory as each norm needs."""
