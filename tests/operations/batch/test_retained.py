"""From when on a topic that the platform writes is whole, whatever retention took."""

from __future__ import annotations

from headrace.streaming.reconcile_retained import Look, whole_since_ms, with_look

NOW = 1_000


def test_a_topic_that_begins_at_0_is_whole() -> None:
    assert whole_since_ms({0: 0, 1: 0}, {1: 500}, [], NOW) == 0


def test_a_partition_that_lost_its_beginning_is_whole_from_its_first_record_on() -> None:
    assert whole_since_ms({0: 7, 1: 0}, {0: 500, 1: 100}, [], NOW) == 500


def test_a_partition_or_topic_that_retention_emptied_is_whole_from_now_on_only() -> None:
    assert whole_since_ms({0: 7, 1: 0}, {1: 100}, [], NOW) == NOW
    assert whole_since_ms({0: 7, 1: 3}, {}, [], NOW) == NOW


def test_an_emptied_partition_is_whole_since_it_was_seen_to_end_where_it_begins_now() -> None:
    looks = [Look(200, {0: 5}), Look(300, {0: 7}), Look(400, {0: 7})]
    assert whole_since_ms({0: 7}, {}, looks, NOW) == 300
    assert whole_since_ms({0: 8}, {}, looks, NOW) == NOW, "records were written and removed since the last look"
    assert whole_since_ms({0: 7, 1: 2}, {1: 600}, looks, NOW) == 600, "the youngest beginning counts"


def test_a_look_that_saw_nothing_new_leaves_the_earlier_one() -> None:
    first = with_look([], Look(200, {0: 5}))
    assert with_look(first, Look(300, {0: 5})) == first
    assert [look.at_ms for look in with_look(first, Look(300, {0: 6}))] == [200, 300]
