"""CTranslate2: writes a translation model in its format and translates with it.

CTranslate2 has LayerNorm and RMSNorm. Its sublayers without a norm have no residual connection either, so it cannot
express models with folded norms.
"""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from normplugins.evaluation.beam_search import Hypothesis
from normplugins.evaluation.bleu import batches
from normplugins.models.layers import Residual
from normplugins.models.norm_settings import all_norm_names
from normplugins.models.transformer import NormTransformer
from normplugins.norms.layer_norm import LayerNorm
from normplugins.norms.rms_norm import RMSNorm
from normplugins.utils.errors import UserError

OTHERWISE = "use --format onnx (translate: --engine onnx), which supports every norm"


def write(model: NormTransformer, task: Any, folder: Path, quantization: str = "float32") -> None:
    """Write a model to an existing folder; the model is on a CPU and in evaluation mode, and is not changed.

    ``task`` is its fairseq task, and ``quantization`` one of ``QUANTIZATIONS["ctranslate2"]``.

    Raises:
        UserError: CTranslate2 cannot express the model.
    """
    from ctranslate2.specs import TransformerSpec, common_spec
    from ctranslate2.specs.transformer_spec import TransformerDecoderSpec, TransformerEncoderSpec

    cfg: Any = model.decoder.cfg
    if others := [name for name in all_norm_names(cfg) if name not in ("ln", "rms")]:
        raise UserError(f"CTranslate2 has no norm {', '.join(others)}, only ln and rms with one group: {OTHERWISE}")
    activation = getattr(common_spec.Activation, cfg.activation_fn.upper())
    sides: list[Any] = []
    for side, kind in (("encoder", TransformerEncoderSpec), ("decoder", TransformerDecoderSpec)):
        placement = cfg.placement_of(f"{side}_norm")
        if placement.output_norm or placement.embeddings or placement.scale != 1 or cfg.qk_norm:
            what = f"qk_norm={cfg.qk_norm}" if cfg.qk_norm else f"placement={cfg.placement}"
            raise UserError(f"CTranslate2 has no {what}: {OTHERWISE}")
        layers, heads = len(getattr(model, side).layers), getattr(cfg, f"{side}_attention_heads")
        sides.append(kind(layers, heads, pre_norm=placement.pre_norm, activation=activation))
    spec = TransformerSpec(*sides)
    _set_stack(spec.encoder, model.encoder, spec.encoder.embeddings[0])
    _set_stack(spec.decoder, model.decoder, spec.decoder.embeddings)
    spec.decoder.projection.weight = _array(model.decoder.output_projection.weight)
    spec.register_source_vocabulary(list(task.source_dictionary.symbols))
    spec.register_target_vocabulary(list(task.target_dictionary.symbols))
    spec.config.decoder_start_token = spec.config.eos_token
    spec.config.layer_norm_epsilon = next((m.eps for m in model.modules() if isinstance(m, LayerNorm | RMSNorm)), 1e-5)
    spec.validate()
    spec.optimize(quantization)
    spec.save(str(folder))


class Engine:
    """Translates with the model that :func:`write` has written to ``folder``.

    Only the maximum lengths are read from ``model``. The engine computes in float32 if CTranslate2 does not support
    ``quantization`` on this processor; ``computes_in`` names the type. CTranslate2 excludes empty translations by
    renormalizing the probabilities, so its scores exceed ours by a constant divided by length^penalty.

    Raises:
        UserError: the folder cannot be loaded.
    """

    def __init__(self, folder: Path, quantization: str, model: Any, task: Any) -> None:
        import ctranslate2

        if quantization not in ctranslate2.get_supported_compute_types("cpu"):
            quantization = "float32"
        try:
            threads = torch.get_num_threads()
            self.translator = ctranslate2.Translator(
                str(folder), compute_type=quantization, inter_threads=1, intra_threads=threads
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(f"CTranslate2 cannot load {folder} ({error}): delete the folder to export again") from error
        self.computes_in = str(self.translator.compute_type)
        self.model, self.task = model, task

    def __call__(self, sentences: list[Tensor], search: DictConfig) -> list[list[Hypothesis]]:
        """Translate sentences (T,) that end in ``</s>``, with the settings of the config's section ``evaluate``."""
        source, target = self.task.source_dictionary, self.task.target_dictionary
        found: list[list[Hypothesis]] = [[] for _ in sentences]
        dataset = self.task.build_dataset_for_inference(sentences, [len(sentence) for sentence in sentences])
        for sample in batches(self.model, self.task, dataset, search):
            numbers = sample["id"].tolist()
            longest = max(len(sentences[number]) for number in numbers)
            limit = int(search.max_length_a * longest + search.max_length_b)
            most = min(limit, self.model.max_decoder_positions() - 1)
            results = self.translator.translate_batch(
                [[source[token] for token in sentences[number].tolist()] for number in numbers],
                beam_size=search.beam,
                num_hypotheses=search.beam,
                length_penalty=search.length_penalty,
                max_input_length=0,
                max_decoding_length=most + 1,
                return_scores=True,
            )
            for number, result in zip(numbers, results, strict=True):
                for words, score in zip(result.hypotheses, result.scores, strict=True):
                    tokens = torch.tensor([*map(target.index, words[:most]), target.eos()])
                    found[number].append({"tokens": tokens, "score": torch.tensor(score)})
        return found


def _set_stack(spec: Any, stack: Any, embeddings: Any) -> None:
    embeddings.weight = _array(stack.embed_tokens.weight)
    spec.position_encodings.encodings = _array(stack.positions.table[stack.positions.padding_idx + 1 :])
    for layer_spec, layer in zip(spec.layer, stack.layers, strict=True):
        _set_sublayer(layer_spec.self_attention, layer.self_attention, "qkv", "out")
        if layer.cross_attention is not None:
            _set_sublayer(layer_spec.attention, layer.cross_attention, "q", "kv", "out")
        _set_sublayer(layer_spec.ffn, layer.feed_forward, "fc1", "fc2")
    if stack.final_norm is not None:
        _set_norm(spec, stack.final_norm)


def _set_sublayer(spec: Any, residual: Residual, *linears: str) -> None:
    _set_norm(spec, residual.norm)
    for number, name in enumerate(linears):
        linear: Any = getattr(residual.sublayer, name)
        place = getattr(spec, f"linear_{number}") if hasattr(spec, "linear_0") else spec.linear[number]
        place.weight, place.bias = _array(linear.weight), _array(linear.bias)


def _set_norm(spec: Any, norm: nn.Module) -> None:
    from ctranslate2.specs.common_spec import LayerNormSpec

    if isinstance(norm, RMSNorm) and norm.groups != 1:
        raise UserError(f"CTranslate2 has no norm rms with {norm.groups} groups, only with one: {OTHERWISE}")
    spec.layer_norm = LayerNormSpec(rms_norm=isinstance(norm, RMSNorm))
    spec.layer_norm.gamma = _array(norm.get_parameter("weight"))
    if isinstance(norm, LayerNorm):
        spec.layer_norm.beta = _array(norm.get_parameter("bias"))


def _array(value: Tensor) -> Any:
    return value.detach().float().cpu().numpy().copy()  # CTranslate2 quantizes in place
