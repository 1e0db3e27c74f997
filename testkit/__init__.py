"""Fake backends, launchers, load and stream clients: shared by tests, chaos, bench and demo."""
