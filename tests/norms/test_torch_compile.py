"""Every norm under ``torch.compile``, in one graph, computes and stores the same as without."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from normplugins.norms import NormConfig, build_norm, end_update, known_norms
from normplugins.norms.registry import updates_in_backward
from tests.helpers.compiler import needs_compiler, needs_torch_compile
from tests.helpers.norms import SHORT, random_affine

pytestmark = [pytest.mark.slow, needs_torch_compile]
SETTINGS: list[tuple[str, dict[str, object]]] = [
    *((name, {**SHORT.get(name, {})}) for name in known_norms() if name != "pn"),
    ("pn", {"per_update": True}),
    ("pn", {"warmup_updates": 2}),  # its forward's psi is the batch's at first, and then the running one
    ("pnv", {"group_scaling": True, "groups": 4}),
    ("rms", {"groups": 4}),
]
SIZES = ((7, 3), (5, 4), (9, 2), (6, 5))  # time and batch of the steps


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch._dynamo.reset()


def batch(step: int) -> tuple[Tensor, Tensor]:
    time, size = SIZES[step]
    mask = torch.zeros(size, time, dtype=torch.bool)
    mask[0, -2:] = True
    return torch.randn(time, size, 16, generator=torch.Generator().manual_seed(step)), mask


def same_steps(norm: nn.Module, backend: str) -> None:
    """Compare steps of several lengths, two batches per update, and an evaluation, with and without compiling."""
    plain, compiled = norm, copy.deepcopy(norm)
    compiled.compile(fullgraph=True, dynamic=True, backend=backend)
    for step in range(len(SIZES)):
        x, mask = batch(step)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [module(one, mask) for module, one in zip((plain, compiled), inputs, strict=True)]
        torch.testing.assert_close(outputs[1], outputs[0])
        g = torch.randn(x.shape, generator=torch.Generator().manual_seed(100 + step))
        for output in outputs:
            output.backward(g)
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
        if step % 2:
            end_update(plain)
            end_update(compiled)
        torch.testing.assert_close(compiled.state_dict(), plain.state_dict())
    gradients = [{name: p.grad for name, p in module.named_parameters()} for module in (plain, compiled)]
    torch.testing.assert_close(gradients[1], gradients[0])
    plain.eval()
    compiled.eval()
    torch.testing.assert_close(compiled(x, mask), plain(x, mask))


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=lambda value: str(value))
def test_compiled_norms_take_the_same_steps_in_one_graph(name: str, settings: dict[str, object]) -> None:
    norm = random_affine(build_norm(NormConfig(name=name, **settings), 16))  # type: ignore[arg-type]
    # aot_eager also compiles the backward, which matters where a norm has its own
    same_steps(norm, "aot_eager" if name == "bn" or updates_in_backward(name) else "eager")


@pytest.mark.parametrize("name", ["bn", "instance"])
def test_masks_and_layouts_are_part_of_the_graph(name: str) -> None:
    norm = build_norm(name, 16, batch_first=True)
    compiled = copy.deepcopy(norm)
    compiled.compile(fullgraph=True, dynamic=True, backend="eager")
    for step in range(2):
        x, mask = batch(step)
        x = x.transpose(0, 1)
        torch.testing.assert_close(compiled(x, attention_mask=(~mask).long()), norm(x, mask))


@needs_compiler
@pytest.mark.skipif(" " in torch.__file__, reason="PyTorch hands its own folder to the compiler unquoted")
def test_inductor_fuses_pn_and_keeps_its_numbers() -> None:
    same_steps(random_affine(build_norm(NormConfig(name="pn", warmup_updates=0), 16)), "inductor")


@pytest.mark.parametrize("name", ["pn", "bn"])
def test_checkpointing_around_a_compiled_norm_is_refused(name: str) -> None:
    """The compiled graph would count the batch twice."""
    norm = build_norm(NormConfig(name=name), 16)
    norm.compile(fullgraph=True, backend="aot_eager")
    x, mask = batch(0)
    y = checkpoint(norm, x.requires_grad_(), mask, use_reentrant=False)
    with pytest.raises(RuntimeError, match="checkpointing"):
        y.sum().backward()
