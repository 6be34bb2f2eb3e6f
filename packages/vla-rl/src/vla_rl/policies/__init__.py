"""Policies that act, score past decisions and learn from demonstrations."""
