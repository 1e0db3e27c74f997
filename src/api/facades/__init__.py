"""APIs of other services, so that their clients run here unmodified."""
