"""fairseq optimizers of our own; importing this package registers them."""
