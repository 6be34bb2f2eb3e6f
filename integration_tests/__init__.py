"""Tests and pipelines in which the four packages meet."""
