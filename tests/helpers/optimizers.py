"""Parameters with the same gradients for every optimizer, and the config that optimizers are built from."""

import io
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

SHAPES = [(7,), (5, 3), (2, 4, 3), (1,), (33, 9)]
# The position of eps in the equation affects the result only if eps is not small compared with sqrt(v).
OPTIONS = {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-2, "weight_decay": 0.1}


def parameters(dtype: torch.dtype, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def give_gradients(params: list[nn.Parameter], update: int, without: tuple[int, ...] = ()) -> None:
    """Set gradients of very different sizes, the same for every optimizer, and none for the parameters ``without``."""
    generator = torch.Generator().manual_seed(1000 + update)
    for index, parameter in enumerate(params):
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 10.0 ** (index - 3)
        parameter.grad = None if index in without else drawn.to(parameter.dtype)


def run(optimizer: Any, params: list[nn.Parameter], updates: range) -> None:
    for update in updates:
        give_gradients(params, update)
        optimizer.step()


def state_of(optimizer: Any) -> dict[str, Any]:
    """The state that a checkpoint holds, after it was saved to a file and loaded."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def config(**changes: Any) -> Any:
    """The parts of a run's config that an optimizer is built from."""
    of_optimizer = {"_name": "fused_adam", "adam_betas": [0.9, 0.98], "lr": [0.01], "tpu": False}
    return OmegaConf.create(
        {
            "optimizer": of_optimizer | changes,
            "common": {
                **{"bf16": False, "fp16_no_flatten_grads": True, "fp16_scale_window": None, "fp16_init_scale": 128},
                **{"fp16_scale_tolerance": 0.0, "threshold_loss_scale": None, "min_loss_scale": 1e-4},
                "model_parallel_size": 1,
            },
            "optimization": {"update_freq": [1]},
            "distributed_training": {"distributed_world_size": 1},
        }
    )
