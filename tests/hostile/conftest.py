"""Fixtures that the tests of authentication have too."""

from auth.conftest import make_key as make_key
