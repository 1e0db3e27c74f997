"""Limits, fairness and order: pure decisions about which held task is queued next, and which queue is served next."""
