"""What the environment may say."""

import pytest

from threadkeep import settings
from threadkeep.base.problems import StartRefused


def test_address_that_libpq_cannot_read_stops_the_start_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: one line in place of a trace; what libpq says of an address may hold a part of it."""
    monkeypatch.setenv("DATABASE_URI", "postgresql://ada:secret@db/threadkeep?host=/run&secret")

    with pytest.raises(StartRefused) as refused:
        settings.load()

    assert str(refused.value) == "settings: DATABASE_URI: Value error, libpq can't read it"
