"""Pure functions: arrays or tensors in, arrays or tensors out."""
