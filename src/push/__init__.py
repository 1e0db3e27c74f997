"""Push: the events of the log, as they come, to whoever listens."""
