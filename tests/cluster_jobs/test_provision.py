"""What the provision Job makes beside topics and tables."""

from __future__ import annotations

from pathlib import Path

from headrace.cluster.provision import dropped, make_event_log_folder


def test_the_folder_of_event_logs_is_made_where_drivers_write_some_and_not_elsewhere(tmp_path: Path) -> None:
    place = tmp_path / "a" / "events"
    conf = {"spark.eventLog.dir": f"file:{place}"}
    make_event_log_folder(conf)
    assert not place.exists()
    for _ in range(2):
        make_event_log_folder(conf | {"spark.eventLog.enabled": "true"})
        assert place.is_dir()
    make_event_log_folder({"spark.eventLog.enabled": "true", "spark.eventLog.dir": "s3a://bucket/events"})


def test_a_producer_that_was_dropped_is_known_by_the_login_that_it_had(tmp_path: Path) -> None:
    for user in ("pos_sales", "producer-webshop", "producer-till"):
        (tmp_path / f"{user}.kafka.username").write_text(user)
    assert dropped(tmp_path, ["webshop"]) == ["producer-till"]
    assert dropped(tmp_path, ["webshop", "till"]) == []
