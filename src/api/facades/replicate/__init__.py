"""Replicate's API, version 1, under `/replicate`."""
