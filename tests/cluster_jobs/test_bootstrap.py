"""What the bootstrap Job makes: every Secret once, nothing overwritten, nothing printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from kubernetes import client  # type: ignore[import-untyped]

from headrace.access.credentials import scram_record
from headrace.cluster import bootstrap, kubernetes_secrets, pki
from headrace.cluster.bootstrap import Bootstrap, Config, System
from headrace.contract.load import load_pipelines
from headrace.errors import HeadraceError


@dataclass
class Kept:
    """Secrets in memory; `writable` False is the right of the Job that only makes (tests/charts/rights.yaml)."""

    content: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    writable: bool = False
    kinds: dict[tuple[str, str], str] = field(default_factory=dict)

    def read(self, namespace: str, name: str) -> dict[str, str] | None:
        return self.content.get((namespace, name))

    def kind(self, namespace: str, name: str) -> str:
        return self.kinds.get((namespace, name), "Opaque") if (namespace, name) in self.content else ""

    def create(self, namespace: str, name: str, content: dict[str, str], kind: str = "Opaque") -> None:
        assert (namespace, name) not in self.content
        self.content[namespace, name] = dict(content)
        self.kinds[namespace, name] = kind

    def replace(self, namespace: str, name: str, content: dict[str, str]) -> None:
        assert self.writable or name == bootstrap.LOGINS, "the account may not overwrite"
        self.content[namespace, name] = dict(content)


@pytest.fixture
def config(project: Path) -> Config:
    return Config(
        namespace="headrace",
        spark="spark",
        airflow="airflow",
        kafka=System(namespace="kafka"),
        cassandra=System(namespace="cassandra"),
        pipelines=project / "pipelines",
    )


def test_a_pipeline_that_comes_later_gets_its_bindings_and_changes_nobody_elses_login(
    config: Config, tmp_path: Path
) -> None:
    fewer = tmp_path / "pipelines"
    shutil.copytree(config.pipelines, fewer)
    (fewer / "pos_sales.yaml").unlink()
    kept = Kept()
    Bootstrap(config.model_copy(update={"pipelines": fewer}), kept).run()
    before = {place: dict(content) for place, content in kept.content.items()}
    assert Bootstrap(config, kept).run() == [
        "spark/kafka-pos-sales",
        "spark/cassandra-pos-sales",
        "airflow/pipeline-logins",
    ]
    for place, content in before.items():
        assert kept.content[place] | content == kept.content[place]
    logins = kept.content["airflow", "pipeline-logins"]
    assert logins["pos_sales.kafka.password"] == kept.content["spark", "kafka-pos-sales"]["password"]


def test_everything_is_made_once_and_a_second_run_changes_nothing(config: Config, project: Path) -> None:
    kept = Kept()
    made = Bootstrap(config, kept).run()
    pipelines = load_pipelines(project / "pipelines")
    assert {name for namespace, name in kept.content if namespace == "spark"} == {
        f"{system}-{pipeline.replace('_', '-')}" for pipeline in pipelines for system in ("kafka", "cassandra")
    }
    assert ("headrace", "headrace-ca") in kept.content
    assert len(made) == len(kept.content)
    before = json.dumps(sorted(kept.content.items()))
    assert Bootstrap(config, kept).run() == []
    assert json.dumps(sorted(kept.content.items())) == before


def test_a_binding_has_what_a_driver_reads_and_its_own_login(config: Config) -> None:
    kept = Kept()
    Bootstrap(config, kept).run()
    binding = kept.content["spark", "kafka-pos-sales"]
    admin = kept.content["airflow", "kafka-admin"]
    assert binding["bootstrapServers"] == "kafka.kafka.svc.cluster.local:9092"
    assert (binding["securityProtocol"], binding["saslMechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert binding["username"] == "pos_sales"
    assert binding["password"] != admin["password"]
    assert kept.content["airflow", "pipeline-logins"]["pos_sales.kafka.password"] == binding["password"]
    assert not any("ca.key" in content for place, content in kept.content.items() if place[0] != "headrace")
    passwords = [content["password"] for content in kept.content.values() if "password" in content]
    assert len(set(passwords)) == len(passwords) - 1  # cassandra's admin stands in two namespaces


def test_a_break_half_way_is_completed_by_the_next_run(config: Config) -> None:
    kept = Kept()
    Bootstrap(config, kept).run()
    complete = dict(kept.content)
    del kept.content["spark", "kafka-pos-sales"], kept.content["airflow", "pipeline-logins"]
    made = Bootstrap(config, kept).run()
    assert made == ["spark/kafka-pos-sales", "airflow/pipeline-logins"]
    assert set(kept.content) == set(complete)


def test_renewed_certificates_are_of_the_same_authority_and_passwords_stay(config: Config) -> None:
    kept = Kept(writable=True)
    Bootstrap(config, kept).run()
    before = {place: dict(content) for place, content in kept.content.items()}
    changed = Bootstrap(config, kept, "renew-certificates").run()
    assert changed == ["kafka/kafka-tls", "cassandra/cassandra-tls"]
    for place, content in kept.content.items():
        if place[1].endswith("-tls"):
            assert content["server.pem"] != before[place]["server.pem"]
            assert content["ca.crt"] == before[place]["ca.crt"]
        else:
            assert content == before[place]


def test_a_rotated_password_is_in_the_binding_and_in_what_provisions_it(config: Config) -> None:
    kept = Kept(writable=True)
    Bootstrap(config, kept).run()
    before = {place: dict(content) for place, content in kept.content.items()}
    Bootstrap(config, kept, "rotate-passwords", frozenset({"pos_sales"})).run()
    changed = {place for place, content in kept.content.items() if content != before[place]}
    assert changed == {("spark", "kafka-pos-sales"), ("spark", "cassandra-pos-sales"), ("airflow", "pipeline-logins")}
    logins = kept.content["airflow", "pipeline-logins"]
    assert logins["pos_sales.kafka.password"] == kept.content["spark", "kafka-pos-sales"]["password"]


def _external(config: Config, *, plain: bool = False, **given: str) -> tuple[Config, Kept]:
    kept = Kept()
    binding = {
        "bootstrapServers": "broker.example.org:9093",
        "securityProtocol": "SASL_SSL",
        "saslMechanism": "SCRAM-SHA-512",
        "username": "ops",
        "password": "p",
    }
    kept.content["headrace", "my-kafka"] = {key: value for key, value in (binding | given).items() if value}
    kafka = System(mode="external", binding="my-kafka")
    return config.model_copy(update={"kafka": kafka, "allow_plaintext": plain}), kept


def test_an_external_system_keeps_its_endpoint_and_gets_no_certificate(config: Config) -> None:
    external, kept = _external(config)
    Bootstrap(external, kept).run()
    assert kept.content["spark", "kafka-pos-sales"]["bootstrapServers"] == "broker.example.org:9093"
    assert kept.content["spark", "kafka-pos-sales"]["username"] == "pos_sales"
    assert kept.content["airflow", "kafka-admin"]["username"] == "ops"
    assert not any(name == "kafka-tls" for _, name in kept.content)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"password": ""}, "lacks password"),
        ({"securityProtocol": "SASL_PLAINTEXT"}, "plain text"),
    ],
)
def test_an_external_binding_that_does_not_serve_is_refused_in_a_sentence(
    config: Config, given: dict[str, str], sentence: str
) -> None:
    external, kept = _external(config, plain=False, **given)
    with pytest.raises(HeadraceError, match=sentence):
        Bootstrap(external, kept).run()


def test_plain_text_passes_with_consent_and_a_missing_binding_is_named(config: Config) -> None:
    external, kept = _external(config, plain=True, securityProtocol="SASL_PLAINTEXT")
    Bootstrap(external, kept).run()
    kept.content.clear()
    with pytest.raises(HeadraceError, match="no Secret my-kafka in namespace headrace"):
        Bootstrap(external, kept).run()


DOCKER = "kubernetes.io/dockerconfigjson"
LOGIN, OTHER_LOGIN = {".dockerconfigjson": '{"auths": {}}'}, {".dockerconfigjson": '{"auths": {"r": {}}}'}


def _private(config: Config, kind: str = DOCKER, *, writable: bool = False) -> tuple[Config, Kept]:
    kept = Kept(writable=writable)
    kept.content["headrace", "regcred"], kept.kinds["headrace", "regcred"] = LOGIN, kind
    return config.model_copy(update={"pull_secret": "regcred"}), kept


def _copies(kept: Kept) -> dict[str, tuple[str, dict[str, str]]]:
    return {
        place[0]: (kept.kinds[place], content)
        for place, content in kept.content.items()
        if place[1] == "regcred" and place[0] != "headrace"
    }


def test_the_pull_secret_is_copied_with_its_type_to_where_pods_run_and_a_second_run_changes_nothing(
    config: Config,
) -> None:
    private, kept = _private(config)
    made = Bootstrap(private, kept).run()
    assert _copies(kept) == dict.fromkeys(("kafka", "cassandra", "spark", "airflow"), (DOCKER, LOGIN))
    assert {f"{namespace}/regcred" for namespace in _copies(kept)} <= set(made)
    assert {kept.kinds[place] for place in kept.content if place[1] != "regcred"} == {"Opaque"}
    assert Bootstrap(private, kept).run() == []


def test_the_pull_secret_is_no_business_of_a_namespace_without_pods_nor_of_a_deployment_without_one(
    config: Config,
) -> None:
    private, kept = _private(config)
    kept.content["headrace", "my-kafka"] = _external(config)[1].content["headrace", "my-kafka"]
    Bootstrap(
        private.model_copy(update={"kafka": System(mode="external", namespace="kafka", binding="my-kafka")}), kept
    ).run()
    assert set(_copies(kept)) == {"cassandra", "spark", "airflow"}
    _, open_to_all = _private(config)
    Bootstrap(config, open_to_all).run()
    assert _copies(open_to_all) == {}


def test_a_changed_pull_secret_is_kept_from_the_copies_until_they_are_removed_or_rotated(config: Config) -> None:
    private, kept = _private(config, writable=True)
    Bootstrap(private, kept).run()
    kept.content["headrace", "regcred"] = OTHER_LOGIN
    for action in ("ensure", "renew-certificates"):
        assert not [secret for secret in Bootstrap(private, kept, action).run() if "regcred" in secret]
    del kept.content["spark", "regcred"]
    assert Bootstrap(private, kept).run() == ["spark/regcred"]
    assert [place for place, (_, content) in _copies(kept).items() if content == OTHER_LOGIN] == ["spark"]
    changed = Bootstrap(private, kept, "rotate-passwords").run()
    assert _copies(kept) == dict.fromkeys(("kafka", "cassandra", "airflow", "spark"), (DOCKER, OTHER_LOGIN))
    assert "spark/regcred" not in changed


@pytest.mark.parametrize(("kind", "sentence"), [("", "does not exist"), ("Opaque", "has type Opaque")])
def test_a_pull_secret_that_nodes_cannot_pull_by_is_refused_in_a_sentence_with_the_remedy(
    config: Config, kind: str, sentence: str
) -> None:
    private, kept = _private(config, kind)
    if not kind:
        kept.content.clear()
    message = f"^Secret regcred in namespace headrace {sentence}, .* {DOCKER}. Create it with kubectl create secret docker-reg"
    with pytest.raises(HeadraceError, match=message):
        Bootstrap(private, kept).run()
    assert _copies(kept) == {}


def test_a_pull_secret_with_the_name_of_a_secret_of_ours_is_refused_and_overwrites_nothing(config: Config) -> None:
    private, kept = _private(config, writable=True)
    place = ("headrace", "kafka-pos-sales")
    kept.content[place], kept.kinds[place] = LOGIN, DOCKER
    with pytest.raises(HeadraceError, match=r"kafka-pos-sales in namespace spark .* Give yours another name"):
        Bootstrap(private.model_copy(update={"pull_secret": place[1]}), kept, "rotate-passwords").run()
    assert kept.content["spark", "kafka-pos-sales"]["username"] == "pos_sales"


def test_the_cluster_is_asked_for_a_secrets_type_and_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, client.V1Secret] = {}

    def read(name: str, namespace: str) -> client.V1Secret:
        if name not in made:
            raise client.ApiException(status=404)
        return made[name]

    api = SimpleNamespace(
        read_namespaced_secret=read,
        create_namespaced_secret=lambda namespace, body: made.update({body.metadata.name: body}),
    )
    monkeypatch.setattr(kubernetes_secrets, "_api", lambda: api)
    secrets = kubernetes_secrets.ClusterSecrets()
    assert (secrets.kind("spark", "regcred"), secrets.read("spark", "regcred")) == ("", None)
    secrets.create("spark", "regcred", LOGIN, DOCKER)
    secrets.create("spark", "binding", {"type": "kafka"})
    assert (secrets.kind("spark", "regcred"), secrets.kind("spark", "binding")) == (DOCKER, "Opaque")
    assert made["regcred"].string_data == LOGIN


def test_a_secret_that_is_written_again_loses_the_keys_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    # A patch keeps what it does not name (RFC 7386): the password of a producer that was dropped stayed.
    sent: list[dict[str, object]] = []
    api = SimpleNamespace(
        read_namespaced_secret=lambda name, namespace: client.V1Secret(data={"a": "eA==", "b": "eA=="}),
        patch_namespaced_secret=lambda name, namespace, body: sent.append(body),
    )
    monkeypatch.setattr(kubernetes_secrets, "_api", lambda: api)
    kubernetes_secrets.ClusterSecrets().replace("airflow", "pipeline-logins", {"a": "y"})
    assert sent == [{"stringData": {"a": "y"}, "data": {"b": None}}]


def test_a_leaf_serves_the_pods_names_and_ends_within_its_authority() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    authority = pki.make_authority("test CA", now)
    leaf = pki.make_leaf(authority, "kafka", bootstrap.hosts("kafka", "k"), now)
    assert leaf.startswith("-----BEGIN " + "PRIVATE KEY-----")  # PKCS#8
    certificate, signer = x509.load_pem_x509_certificates(leaf[leaf.index("-----BEGIN CERT") :].encode())
    certificate.verify_directly_issued_by(signer)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )
    assert {"kafka.k.svc.cluster.local", "*.kafka.k.svc.cluster.local"} <= set(names)
    assert certificate.subject.rfc4514_string() == "CN=kafka"
    assert 364 < pki.days_left(leaf, now) < 366
    late = pki.make_leaf(authority, "kafka", ["kafka"], now + timedelta(days=pki.CA_DAYS - 10))
    assert pki.days_left(late, now + timedelta(days=pki.CA_DAYS - 10)) < 11


def test_a_scram_record_has_no_password_and_is_what_the_tool_takes() -> None:
    record = scram_record("admin", "hush-hush")
    assert "hush" not in record
    assert re.fullmatch(
        r'SCRAM-SHA-512=\[name=admin,iterations=8192,salt="[A-Za-z0-9+/=]+",saltedpassword="[A-Za-z0-9+/=]{88}"\]',
        record,
    )


def test_an_object_stores_binding_is_given_to_spark_and_airflow_and_follows_a_rotation(config: Config) -> None:
    login = {"region": "eu-central-1", "accessKey": "user", "secretKey": "one"}
    kept = Kept({("headrace", "my-store"): dict(login)}, writable=True)
    asked = config.model_copy(update={"object_store": "my-store"})
    made = Bootstrap(asked, kept).run()
    assert {"spark/object-store", "airflow/object-store"} <= set(made)
    wanted = login | {"type": "s3", "endpoint": ""}
    assert kept.content["spark", "object-store"] == kept.content["airflow", "object-store"] == wanted
    kept.content["headrace", "my-store"]["secretKey"] = "two"
    assert Bootstrap(asked, kept).run() == []
    assert {"spark/object-store", "airflow/object-store"} <= set(Bootstrap(asked, kept, "rotate-passwords").run())
    assert kept.content["spark", "object-store"]["secretKey"] == "two"


def test_an_object_stores_binding_that_does_not_serve_is_refused(config: Config) -> None:
    asked = config.model_copy(update={"object_store": "my-store"})
    with pytest.raises(HeadraceError, match=r"There is no Secret my-store .* your object-store"):
        Bootstrap(asked, Kept()).run()
    with pytest.raises(HeadraceError, match="my-store lacks secretKey"):
        Bootstrap(asked, Kept({("headrace", "my-store"): {"accessKey": "user"}})).run()


def test_a_refusal_ends_the_job_with_a_sentence_and_a_code_of_its_own() -> None:
    command = [sys.executable, "-m", "headrace.cluster.bootstrap", "rotate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == bootstrap.REFUSED != 1
    assert done.stderr.startswith("Unknown action rotate. Use ensure, renew-certificates, or")
