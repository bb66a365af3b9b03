"""From when on a topic that the platform writes is whole, whatever retention took."""

from __future__ import annotations

from headrace.batch.reconcile.retained import EndsAt, complete_since_ms, with_ends

NOW = 1_000


def test_a_topic_that_begins_at_0_is_complete() -> None:
    assert complete_since_ms({0: 0, 1: 0}, {1: 500}, [], NOW) == 0


def test_a_partition_that_lost_its_beginning_is_complete_from_its_first_record_on() -> None:
    assert complete_since_ms({0: 7, 1: 0}, {0: 500, 1: 100}, [], NOW) == 500


def test_a_partition_or_topic_that_retention_emptied_is_complete_from_now_on_only() -> None:
    assert complete_since_ms({0: 7, 1: 0}, {1: 100}, [], NOW) == NOW
    assert complete_since_ms({0: 7, 1: 3}, {}, [], NOW) == NOW


def test_an_emptied_partition_is_complete_since_it_was_seen_to_end_where_it_begins_now() -> None:
    notes = [EndsAt(200, {0: 5}), EndsAt(300, {0: 7}), EndsAt(400, {0: 7})]
    assert complete_since_ms({0: 7}, {}, notes, NOW) == 300
    assert complete_since_ms({0: 8}, {}, notes, NOW) == NOW, "records were written and removed since the last note"
    assert complete_since_ms({0: 7, 1: 2}, {1: 600}, notes, NOW) == 600, "the youngest beginning counts"


def test_an_observation_without_news_leaves_the_earlier_one() -> None:
    first = with_ends([], EndsAt(200, {0: 5}))
    assert with_ends(first, EndsAt(300, {0: 5})) == first
    assert [note.at_ms for note in with_ends(first, EndsAt(300, {0: 6}))] == [200, 300]
