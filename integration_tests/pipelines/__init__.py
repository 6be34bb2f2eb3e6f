"""Whole jobs made of the public API of the four packages."""
