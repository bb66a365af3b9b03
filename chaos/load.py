"""Records for all pipelines: good, late, refused, large, and in transactions that commit or abort.

Each record has a header `chaos`: "good" or "bad" in terms of the contract. The checker reads that header, so it needs no
decoder. Records of an aborted transaction are marked "aborted" and must be in no sink.
"""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import KafkaException, Producer

BURST, PAUSE_SECONDS = 15, 0.25
ODD = 0.01  # the share of each kind of irregular record
LARGE = 300_000  # bytes
KAFKA_SECONDS = 240
USERS = 20
"""How many users are known: u0 to u19."""

INSERTS = (f"INSERT INTO test_db.users (login_id, user_name) VALUES ('u{n}', 'User {n}');" for n in range(USERS))
KNOWN_USERS = f"BEGIN BATCH {' '.join(INSERTS)} APPLY BATCH"


class Load:
    """Sends bursts in a separate thread until it is closed. `sent` counts the acknowledged records."""

    def __init__(self, config: Mapping[str, str], topics: Sequence[str], seed: int) -> None:
        self.sent, self._topics = 0, topics
        self._began = datetime.now(UTC) - timedelta(minutes=30)
        self._config, self._rng, self._number = dict(config), random.Random(seed), 0
        self._shown: deque[tuple[str, datetime]] = deque(maxlen=50)  # the newest impressions
        self._turn, self._end = threading.Lock(), threading.Event()
        self._error: BaseException | None = None
        self._plain = self._producer()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Stop sending until `resume`. Raises any error that occurred while sending."""
        self._turn.acquire()
        if self._error:
            raise RuntimeError(f"the load ended: {self._error}") from self._error

    def resume(self) -> None:
        """Continue sending."""
        self._turn.release()

    def renew(self) -> None:
        """Use a new producer: the old one numbers its records for a topic that was deleted. The load is paused."""
        self._plain = self._producer()

    def close(self) -> None:
        """Stop sending for good."""
        self._end.set()
        if not self._turn.locked():
            self._thread.join(KAFKA_SECONDS)

    def _producer(self, **more: str | int) -> Producer:
        settings = {"enable.idempotence": True, "compression.type": "lz4", "message.max.bytes": 16_000_000}
        patient = {"delivery.timeout.ms": KAFKA_SECONDS * 1000, "log_level": 2}
        return Producer(self._config | settings | patient | more)

    def _run(self) -> None:
        try:
            while not self._end.wait(PAUSE_SECONDS):
                with self._turn:
                    if self._rng.random() < 0.08:
                        self._transaction()
                    else:
                        self._send(self._plain, "")
                        if self._plain.flush(KAFKA_SECONDS):
                            raise RuntimeError(f"Kafka acknowledged nothing for {KAFKA_SECONDS} s")
        except BaseException as error:  # raised again by pause()
            self._error = error

    def _transaction(self) -> None:
        """Send a burst in a transaction and end it. If Kafka's death interrupts it, the next one with its id aborts it."""
        settings = {"transactional.id": f"chaos-{uuid.uuid4().hex[:8]}"}
        producer = self._producer(**settings, **{"transaction.timeout.ms": 60_000, "delivery.timeout.ms": 50_000})
        aborts = self._rng.random() < 0.5
        try:
            producer.init_transactions(KAFKA_SECONDS)
            producer.begin_transaction()
            before = self.sent
            self._send(producer, "aborted" if aborts else "")
            if aborts:
                self.sent = before
                producer.abort_transaction(KAFKA_SECONDS)
            else:
                producer.commit_transaction(KAFKA_SECONDS)
        except KafkaException:
            producer.purge()  # Kafka decides its outcome: the checker reads only committed records

    def _send(self, producer: Producer, kind: str) -> None:
        for _ in range(BURST):
            topic = self._rng.choice(self._topics)
            self._number += 1
            judged, key, value = self._record(topic)
            producer.produce(topic, value, key, headers=[("chaos", (kind or judged).encode())])
            self.sent += 1

    def _record(self, topic: str) -> tuple[str, bytes, bytes]:
        """Return ("good" or "bad", key, value) of the next record of a topic."""
        draw, now = self._rng.random(), datetime.now(UTC) - timedelta(seconds=1)
        made = {
            "pos": self._sale,
            "quickstart": self._event,
            "sensor_readings": self._reading,
            "logins": self._login,
            "impressions": self._impression,
            "clicks": self._click,
        }[topic]
        late = timedelta(minutes=self._rng.choice([12, 25, 60])) if draw > 1 - ODD else timedelta(0)
        key, row = made(now, late)
        if draw < ODD:
            return "bad", key, self._rng.choice([b"\xff\xfe no JSON", b"[1, 2", b'{"amount": "x"}', b"x" * LARGE])
        if draw < 2 * ODD:
            row["unknown"] = "y" * LARGE
        unknown = topic == "logins" and int(row["login_id"][1:]) >= USERS
        return "bad" if unknown else "good", key, json.dumps(row).encode()

    def _sale(self, now: datetime, late: timedelta) -> tuple[bytes, dict[str, Any]]:
        product = f"p{self._rng.randrange(40)}"
        cents = self._rng.randrange(-500, 5000)
        sign, cents = ("-" if cents < 0 else ""), abs(cents)
        row = {
            "product_id": product,
            "amount": f"{sign}{cents // 100}.{cents % 100:02}",
            "create_date": _text(now - late),
        }
        return product.encode(), row

    def _event(self, now: datetime, late: timedelta) -> tuple[bytes, dict[str, Any]]:
        domain = f"site{self._rng.randrange(5)}.example"
        row = {"city": f"City {self._number}", "domain": domain, "event": self._rng.choice(["view", "buy"])}
        return domain.encode(), row

    def _reading(self, now: datetime, late: timedelta) -> tuple[bytes, dict[str, Any]]:
        sensor = f"s{self._rng.randrange(10)}"
        # Increasing milliseconds, minus the lateness: no two readings of a sensor have the same time.
        moment = self._began + timedelta(milliseconds=self._number) - late
        row = {
            "sensor_id": sensor,
            "celsius": f"{self._rng.randrange(-2000, 4000) / 100:.2f}",
            "read_at": _text(moment),
        }
        return sensor.encode(), row

    def _login(self, now: datetime, late: timedelta) -> tuple[bytes, dict[str, Any]]:
        user = f"u{self._rng.randrange(USERS + 1)}"  # the last one is not known
        device = self._rng.choice(["web", "ios", "android"])
        moment = self._began + timedelta(milliseconds=self._number) - late
        return user.encode(), {"login_id": user, "login_at": _text(moment), "device": device}

    def _impression(self, now: datetime, late: timedelta) -> tuple[bytes, dict[str, Any]]:
        name = f"i{self._number}"
        # Six times as fast as real time, so that the five minutes of a click pass within a round; never in the future.
        moment = self._began - timedelta(hours=8) + timedelta(milliseconds=100 * self._number) - late
        self._shown.append((name, moment))
        return name.encode(), {"uuid": name, "create_date": _text(moment), "ad_id": f"ad{self._rng.randrange(9)}"}

    def _click(self, now: datetime, late: timedelta) -> tuple[bytes, dict[str, Any]]:
        name, shown = self._rng.choice(self._shown) if self._shown else ("none", self._began)
        moment = shown + timedelta(milliseconds=self._rng.randrange(400_000)) - late  # some are too long afterwards
        return name.encode(), {"uuid": name, "create_date": _text(moment)}


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
