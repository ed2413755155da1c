"""Norms in training on a CPU by compiled kernels, in as few passes over memory as each norm needs."""
