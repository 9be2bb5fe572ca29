"""Commands beside `serve`: a module or package for each. `cli.py` has their options."""
