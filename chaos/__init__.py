"""`python -m chaos`: break a real service by a plan, and see from outside whether it kept its promises."""
