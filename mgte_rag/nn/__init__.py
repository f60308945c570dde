"""Tensors in, tensors out: the packed encoder. It knows no files, no texts and no configuration objects' origin."""
