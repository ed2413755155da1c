"""Fast implementations of the norms for CPUs and GPUs. Their reference is the plain code in ``norms/``."""
