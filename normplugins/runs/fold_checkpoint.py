"""``normplugins fold``: writes a copy of a checkpoint whose norms are folded into linear layers."""

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn

import normplugins
from normplugins.models.check import MODELS
from normplugins.models.embeddings import CLUSTER_WEIGHTS
from normplugins.models.fold import fold
from normplugins.models.import_checkpoint import numbered_dictionary
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256


def fold_checkpoint(source: Path, destination: Path | None = None) -> Path:
    """Fold every norm of a checkpoint that can be folded, write the result and print what became of all norms.

    The weights are computed in float64 and stored in the checkpoint's dtypes. The optimizer state is dropped;
    ``extra_state["folded_from"]`` records the source.

    The result is written to ``destination``, or to NAME_folded.pt beside NAME.pt. Returns its path.

    Raises:
        UserError: ``source`` is not such a checkpoint, is already folded or has no norm that can be folded, or
            ``destination`` is ``source`` or cannot be written.
    """
    normplugins.register()
    destination = destination or source.with_name(f"{source.stem}_folded{source.suffix}")
    if destination.resolve() == source.resolve():
        raise UserError(f"{destination} is the checkpoint to fold: name another file to write")
    state = checkpoints.load(source)
    extra = state.get("extra_state") or {}
    if "folded_from" in extra:
        raise UserError(f"{source} is folded already, from {extra['folded_from']['checkpoint']}")
    model = _build(state, source)
    cfg, before = model.decoder.cfg, _count(model)
    try:
        settings, outcomes = fold(model.double())
    except ValueError as error:
        raise UserError(f"{source} has no norm that can be folded. {error}") from error
    _model_section(state).update(settings)
    origin = {
        "checkpoint": source.name,
        "sha256": sha256(source),
        "settings": {key: getattr(cfg, key) for key in settings},
    }
    state["extra_state"] = {key: extra[key] for key in ("averaged_from",) if key in extra} | {"folded_from": origin}
    state["model"] = _as_stored(model.state_dict(), state["model"])
    state.pop("last_optimizer_state", None)
    checkpoints.write(state, destination)
    for outcome in outcomes:
        stack = outcome.key.removesuffix("norm").removesuffix("_") or "decoder"
        norms = "norm at the end" if outcome.end else f"{outcome.count} norms"
        became = f"folded into {outcome.into}" if outcome.into else f"stays: {outcome.stays}"
        print(f"{stack}  {outcome.norm:8}  {norms:15}  {became}")
    norms = ", ".join(f"{key}={value}" for key, value in settings.items() if not key.startswith("norm_"))
    print(f"settings: {norms}")
    print(f"parameters and statistics: {before:,} before, {_count(model):,} after")
    return destination


def _build(state: dict[str, Any], source: Path) -> Any:
    """Build the checkpoint's model in float64."""
    settings, weights = _model_section(state), state["model"]
    name = ARCH_MODEL_NAME_REGISTRY.get(settings.get("_name"), settings.get("_name"))
    if name not in MODELS:
        raise UserError(f"{source} is not a checkpoint of {', '.join(MODELS)}, the models whose norms can be folded")
    sources, targets = (numbered_dictionary(_words(weights, stack)) for stack in ("encoder", "decoder"))
    task = Namespace(source_dictionary=sources, target_dictionary=targets)
    model: nn.Module = MODEL_REGISTRY[name].build_model(Namespace(**settings), task).double()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{source}: its weights are not those of the {name} that its settings describe") from error
    return model


def _model_section(state: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint's model; ``_name`` is its architecture if fairseq-train has written it."""
    section = (state.get("cfg") or {}).get("model") or {}
    if isinstance(section, Namespace):
        return vars(section)
    return section if isinstance(section, dict) else {}


def _words(weights: Mapping[str, Tensor], stack: str) -> int:
    """Return the size of the dictionary of a stack; a language model has only a decoder."""
    if f"{stack}.embed_tokens.weight" in weights:
        return len(weights[f"{stack}.embed_tokens.weight"])
    if "decoder.vocabulary.embeddings" in weights:
        return len(weights["decoder.vocabulary.embeddings"]) + 2  # <s> and <pad> have no embedding
    return sum(len(weight) for name, weight in weights.items() if re.fullmatch(CLUSTER_WEIGHTS, name))


def _as_stored(folded: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert each tensor to its stored dtype, and new tensors to the dtype of the checkpoint's parameters."""
    usual = next(value.dtype for name, value in stored.items() if name.endswith("fc1.bias"))
    return {name: value.to(stored[name].dtype if name in stored else usual) for name, value in folded.items()}


def _count(model: nn.Module) -> int:
    """Return the number of values in the model's state dict; tied weights count once."""
    return sum({value.data_ptr(): value.numel() for value in model.state_dict().values()}.values())
