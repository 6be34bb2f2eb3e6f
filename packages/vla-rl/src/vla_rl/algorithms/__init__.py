"""Training loops: one algorithm per module."""
