"""Everything that runs the service from outside: shared by tests, chaos, bench and demo."""
