"""Measures a running service from outside: rates, latency, and CPU time per task of every process."""
