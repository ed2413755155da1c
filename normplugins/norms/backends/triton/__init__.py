"""The norms as Triton kernels, for GPUs. Nothing here is imported unless a norm asks for it; nor is Triton."""
