"""Fast implementations of the norms for CPUs and GPUs. The equations in ``norms/`` are their reference."""
