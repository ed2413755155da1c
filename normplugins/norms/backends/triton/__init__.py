"""The norms as Triton kernels, for GPUs. Norms import them, and Triton, only when they use them."""
