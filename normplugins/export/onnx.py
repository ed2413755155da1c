"""ONNX: writes a translation model as two graphs, and translates with them in onnxruntime and our beam search.

The encoder maps ``tokens`` (B, S) to ``memory`` (L, 2, B, H, S, W), the keys and values of each decoder layer's
attention to the source. The decoder makes one step for B sentences with n hypotheses each, N = B * n. Its inputs are

- ``tokens`` (B, n), the last token of each hypothesis, and their ``position``, counted from 1;
- ``origins`` (N,), the index of the hypothesis of the previous step that each hypothesis continues;
- ``past`` (L, 2, N', H, T, W), the keys and values of the N' hypotheses of the previous step;
- ``memory``, and ``memory_mask`` (B, 1, 1, S), which is 0 at tokens and minus infinity at padding.

Its outputs are ``logits`` (N, V), and ``present`` (L, 2, N, H, T + 1, W), the ``past`` of the next step.
"""

import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from normplugins.evaluation.beam_search import Hypothesis
from normplugins.evaluation.bleu import search_sentences
from normplugins.models.attention import padding_attention_mask
from normplugins.models.fold import fold
from normplugins.models.transformer import NormTransformer
from normplugins.utils.errors import UserError

OPSET = 17
_INPUTS = ("tokens", "position", "origins", "past", "memory", "memory_mask")


def write(model: NormTransformer, task: Any, folder: Path, quantization: str = "float32") -> None:  # noqa: ARG001
    """Write ``encoder.onnx``, ``decoder.onnx`` and the dictionaries to an existing folder; fold norms if possible.

    The model is in evaluation mode and is not changed; ``task`` is its fairseq task.

    Raises:
        UserError: a norm uses an operation that ONNX does not have.
    """
    # A deep copy would share the classes of weight-normalized layers, which folding changes.
    copy = type(model).build_model(model.decoder.cfg, task).double()
    copy.load_state_dict(model.state_dict())
    with suppress(ValueError):  # no norm can be folded
        fold(copy)
    copy = copy.float().eval()
    cfg, layers = copy.decoder.cfg, len(copy.decoder.layers)
    heads, width = cfg.decoder_attention_heads, cfg.decoder_embed_dim // cfg.decoder_attention_heads
    tokens = torch.tensor([[task.source_dictionary.pad(), 4, 2], [4, 4, 2]])
    memory, past = torch.randn(layers, 2, 2, heads, 3, width), torch.randn(layers, 2, 4, heads, 2, width)
    origins, mask = torch.arange(4).repeat(2)[:6], torch.zeros(2, 1, 1, 3)
    step = torch.full((2, 3), 4), torch.tensor(3), origins, past, memory, mask
    axes: dict[str, dict[int, str]] = {"tokens": {0: "B", 1: "S"}, "memory": {2: "B", 4: "S"}}
    steps = axes | {"tokens": {0: "B", 1: "n"}, "origins": {0: "N"}, "past": {2: "before", 4: "T"}}
    steps |= {"memory_mask": {0: "B", 3: "S"}, "logits": {0: "N"}, "present": {2: "N", 4: "after"}}
    names = {"input_names": ["tokens"], "output_names": ["memory"]}
    _export(_Encoder(copy), (tokens,), folder / "encoder.onnx", dynamic_axes=axes, **names)
    names = {"input_names": list(_INPUTS), "output_names": ["logits", "present"]}
    _export(_Decoder(copy), step, folder / "decoder.onnx", dynamic_axes=steps, **names)
    for side, dictionary in (("source", task.source_dictionary), ("target", task.target_dictionary)):
        dictionary.save(str(folder / f"dict.{side}.txt"))


class Engine:
    """Translates with our beam search and the graphs that :func:`write` has written to ``folder``.

    The search reads the settings of ``model``.

    Raises:
        UserError: a graph cannot be loaded.
    """

    def __init__(self, folder: Path, quantization: str, model: Any, task: Any) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.encoder, self.decoder = (
                onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
                for name in ("encoder", "decoder")
            )
        except Exception as error:  # onnxruntime has an exception class for each status
            raise UserError(f"onnxruntime cannot load {folder} ({error}): delete the folder to export again") from error
        self.computes_in, self.model, self.task = quantization, model, task

    def __call__(self, sentences: list[Tensor], search: DictConfig) -> list[list[Hypothesis]]:
        """Translate sentences (T,) that end in ``</s>``, with the settings of the config's section ``evaluate``."""
        pad = self.task.source_dictionary.pad()

        def begin(tokens: Tensor) -> _State:
            return _State(self.encoder, self.decoder, tokens.cpu(), pad)

        return search_sentences(self.model, self.task, sentences, search, begin)


class _State:
    """The counterpart of :class:`normplugins.evaluation.incremental_decoding.DecodingState`."""

    device = torch.device("cpu")

    def __init__(self, encoder: Any, decoder: Any, tokens: Tensor, pad: int) -> None:
        self.decoder, self.length = decoder, 0
        self.memory = torch.from_numpy(encoder.run(None, {"tokens": tokens.numpy()})[0])
        self.memory_mask = padding_attention_mask(tokens.eq(pad), torch.float)
        layers, two, batch, heads, _, width = self.memory.shape
        self.past = self.memory.new_zeros(layers, two, batch, heads, 0, width)

    def logits(self, tokens: Tensor, origins: Tensor | None = None, sentences: Tensor | None = None) -> Tensor:
        """See :meth:`normplugins.evaluation.incremental_decoding.DecodingState.logits`."""
        if sentences is not None:
            self.memory, self.memory_mask = self.memory[:, :, sentences], self.memory_mask[sentences]
        origins = torch.arange(tokens.numel()) if origins is None else origins
        self.length += 1
        values = tokens, torch.tensor(self.length), origins, self.past, self.memory, self.memory_mask
        inputs = {name: value.numpy() for name, value in zip(_INPUTS, values, strict=True)}
        logits, past = self.decoder.run(None, inputs)
        self.past = torch.from_numpy(past)
        return torch.from_numpy(logits)


class _Encoder(nn.Module):
    def __init__(self, model: NormTransformer) -> None:
        super().__init__()
        self.encoder, self.layers = model.encoder, model.decoder.layers

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.encoder(tokens)["encoder_out"][0]
        return torch.stack([torch.stack(layer.cross_attention.sublayer.project(x)) for layer in self.layers])


class _Decoder(nn.Module):
    def __init__(self, model: NormTransformer) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, tokens: Tensor, position: Tensor, origins: Tensor, past: Tensor, memory: Tensor, memory_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        stack: Any = self.decoder
        batch, count = tokens.shape
        past, present = past.index_select(2, origins), []

        def written(attention: Any, cached: Tensor, x: Tensor) -> Tensor:
            q, k, v = attention.queries_keys_values(x).view(batch * count, 3, attention.heads, 1, -1).unbind(1)
            keys, values = torch.cat([cached[0], k], dim=2), torch.cat([cached[1], v], dim=2)
            present.append(torch.stack([keys, values]))
            return attention.out(_attend(q, keys, values, 0.0).reshape(batch * count, -1))

        def source(attention: Any, cached: Tensor, x: Tensor) -> Tensor:
            q = attention.queries(x).view(batch, count, attention.heads, -1).transpose(1, 2)
            found = _attend(q, cached[0], cached[1], memory_mask)
            return attention.out(found.transpose(1, 2).reshape(batch * count, -1))

        attentions = [
            (partial(written, layer.self_attention.sublayer, of_past),
             partial(source, layer.cross_attention.sublayer, of_memory))
            for layer, of_past, of_memory in zip(stack.layers, past.unbind(0), memory.unbind(0), strict=True)
        ]  # fmt: skip
        return stack.step(tokens.flatten(), position, attentions), torch.stack(present)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | float) -> Tensor:
    scores = q @ k.transpose(2, 3) * k.size(3) ** -0.5 + mask
    return scores.softmax(-1) @ v


def _rms_norm(graph: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:  # noqa: ARG001
    """Express ``torch.nn.functional.rms_norm`` over the last axis, which ONNX lacks before opset 23."""
    mean = graph.op("ReduceMean", graph.op("Mul", x, x), axes_i=[-1])
    root = graph.op("Sqrt", graph.op("Add", mean, eps))
    normalized = graph.op("Div", x, root)
    return normalized if weight.node().mustBeNone() else graph.op("Mul", normalized, weight)


def _export(module: nn.Module, example: tuple[Tensor, ...], path: Path, **options: Any) -> None:
    """Export a module with these options of ``torch.onnx.export``."""
    torch.onnx.register_custom_op_symbolic("aten::rms_norm", _rms_norm, OPSET)  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # it warns about each condition that tracing fixes
            # PyTorch's newer exporter (dynamo=True) needs another package, onnxscript.
            torch.onnx.export(module.eval(), example, str(path), opset_version=OPSET, dynamo=False, **options)
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"ONNX cannot express the model: {str(error).splitlines()[0]}") from error
