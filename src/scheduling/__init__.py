"""Which held tasks are queued next: a book of what is active, kept from the log, and pure decisions over it."""
