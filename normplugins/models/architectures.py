"""Architectures for ``fairseq-train --arch``: transformer_{ln,bn,pnv,pn}_{iwslt_de_en,wmt_en_de,wmt_en_de_big}."""

from argparse import Namespace

from fairseq.models import register_model_architecture

from normplugins.models import transformer  # noqa: F401  (registers the model that these are sizes of)

NORMS = ("ln", "bn", "pnv", "pn")
SIZES = {  # width, feed-forward width, heads, dropout
    "iwslt_de_en": (512, 1024, 4, 0.3),
    "wmt_en_de": (512, 2048, 8, 0.1),
    "wmt_en_de_big": (1024, 4096, 16, 0.3),
}


def _register(norm: str, size: str) -> None:
    dim, inner, heads, dropout = SIZES[size]
    settings = {"dropout": dropout, "encoder_norm": norm, "decoder_norm": "ln", "normalize_before": True}
    for side in ("encoder", "decoder"):
        settings |= {f"{side}_embed_dim": dim, f"{side}_ffn_embed_dim": inner, f"{side}_attention_heads": heads}
        settings |= {f"{side}_layers": 6}

    @register_model_architecture("norm_transformer", f"transformer_{norm}_{size}")
    def architecture(args: Namespace) -> None:
        """Fill in missing settings: the paper's placement, with the norm in the encoder and LN in the decoder."""
        for name, value in settings.items():
            setattr(args, name, getattr(args, name, value))


for _norm in NORMS:
    for _size in SIZES:
        _register(_norm, _size)
