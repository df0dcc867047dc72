"""Reports of data that somebody has changed by hand."""

from __future__ import annotations

from chatd.journal.damage import MOST, Damage
from chatd.model import Record


class Reports:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, object, object]] = []

    def __call__(self, event: str, /, **fields: object) -> None:
        self.lines.append((event, fields["state"], fields["detail"]))


def test_each_damage_is_reported_once_and_counted_always() -> None:
    reports = Reports()
    damage = Damage(reports)
    for detail in ("one", "two", "one"):
        damage.note(detail)
    assert reports.lines == [("store", "damaged", "one"), ("store", "damaged", "two")]
    assert damage.found == 3


def test_no_more_is_reported_than_is_remembered() -> None:
    reports = Reports()
    damage = Damage(reports)
    for number in range(MOST + 5):
        damage.note(str(number))
    assert len(reports.lines) == MOST
    assert damage.found == MOST + 5


def test_records_that_cannot_be_read_are_left_out() -> None:
    def number(record: Record) -> int:
        if record.name == "deep":
            raise RecursionError
        return int(record.value)

    reports = Reports()
    records = [Record("mark", name, value) for name, value in (("a", b"1"), ("b", b"x"))]
    records += [Record("mark", "deep", b"3"), Record("mark", "d", b"4")]
    assert Damage(reports).readable(records, number, "read on") == [1, 4]
    assert [detail for _, _, detail in reports.lines] == [
        f"the record mark {name!r} of the store is not as chatd has written it, and is left out: "
        "read on"
        for name in ("b", "deep")
    ]
