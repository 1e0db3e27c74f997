"""Push: the events of the log, sent to subscribers as they come."""
