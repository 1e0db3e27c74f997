"""The roles of callers."""

ROLES = ("user", "admin", "service", "auditor")
