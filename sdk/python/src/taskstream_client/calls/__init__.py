"""The calls of the clients, by subject. Each is written once, as a flow: see `call.py`."""
