"""Tasks in the forms of other services' APIs."""
