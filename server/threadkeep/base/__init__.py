"""Base: every other folder uses it, and it uses none of them."""
