"""The keys of the configuration and their values in words."""

from __future__ import annotations

from chatd.key_values import expects, sections


def test_every_key_is_explained() -> None:
    for section in sections().values():
        assert section.description
        for key in section.keys.values():
            assert key.description.endswith(".")
            assert expects(key.kind)
