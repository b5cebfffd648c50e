"""What is compared two by two is made once and dropped after its last pair."""

from functions.registration.keeping import in_turn


def test_each_is_made_once_and_dropped_after_its_last_pair() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name.upper()

    pairs = [("a", "b"), ("b", "c"), ("a", "c"), ("d", "c")]
    assert list(in_turn(pairs, make)) == [("A", "B"), ("B", "C"), ("A", "C"), ("D", "C")]
    assert made == ["a", "b", "c", "d"]
    assert list(in_turn([], make)) == []


def test_of_a_grid_two_rows_are_held_at_most() -> None:
    side, held, most = 8, set(), 0

    class Tile:
        def __init__(self, name: tuple[int, int]) -> None:
            nonlocal most
            self.name = name
            held.add(name)
            most = max(most, len(held))

        def __del__(self) -> None:
            held.discard(self.name)

    pairs = [
        pair
        for y in range(side)
        for x in range(side)
        for pair in (((y, x), (y, x + 1)), ((y, x), (y + 1, x)))
        if pair[1][0] < side and pair[1][1] < side
    ]
    for a, b in in_turn(pairs, Tile):
        assert a.name != b.name
        del a, b
    assert most <= 2 * side + 2
