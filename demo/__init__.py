"""The demos that `make demo` and `make demo-queue` run: real processes at work, and a kill -9 in the middle."""
