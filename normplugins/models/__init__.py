"""fairseq models built from the project's own layers; importing the package registers them."""

from normplugins.models import language_model, tensor_transformer, transformer  # noqa: F401
