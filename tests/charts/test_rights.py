"""What every service account may do, computed from the rendered charts, is the committed list tests/charts/rights.yaml.

That a cluster grants the same is asked by tests/cluster/test_safety.py. To write the list anew: HEADRACE_WRITE=1.
"""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import product

import yaml

from headrace.cluster.bootstrap import LOGINS
from tests.support.charts import NAMESPACES, PULL_SECRET, ROOT, Object, kind, pods, render

SNAPSHOT = ROOT / "tests" / "charts" / "rights.yaml"
HEAD = "# namespace/account: {namespace: {resource or resource name: verbs}}; made and compared by tests/charts/test_rights.py.\n"
# The base chart's actions that bring a right with them.
ACTIONS = {"": (), " during renew-certificates": ("job.action=renew-certificates",)}
Rights = dict[str, dict[str, dict[str, str]]]


def _rights(objects: list[Object]) -> Rights:
    """Return account -> namespace -> resource -> verbs, as `kubectl auth can-i --list` would say them.

    A right on one object alone is `resource name`.
    """
    rules = {
        (role["metadata"]["namespace"], role["metadata"]["name"]): role["rules"]
        for role in kind(tuple(objects), "Role")
    }
    accounts = kind(tuple(objects), "ServiceAccount")
    rights: Rights = {f"{made['metadata']['namespace']}/{made['metadata']['name']}": {} for made in accounts}
    verbs: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for binding in kind(tuple(objects), "RoleBinding"):
        namespace = binding["metadata"]["namespace"]
        assert binding["roleRef"]["kind"] == "Role"
        for subject in binding["subjects"]:
            assert subject["kind"] == "ServiceAccount", binding["metadata"]["name"]
            account = f"{subject['namespace']}/{subject['name']}"
            assert account in rights, f"{binding['metadata']['name']} is for {account}, which no chart makes"
            for rule in rules[namespace, binding["roleRef"]["name"]]:
                assert set(rule) - {"resourceNames"} == {"apiGroups", "resources", "verbs"}
                for group, resource, name in product(
                    rule["apiGroups"], rule["resources"], rule.get("resourceNames", [""])
                ):
                    plural, slash, part = resource.partition("/")
                    what = f"{plural}.{group}".rstrip(".") + f"{slash}{part} {name}".rstrip()
                    verbs[account, namespace, what] |= set(rule["verbs"])
    for (account, namespace, resource), allowed in sorted(verbs.items()):
        rights[account].setdefault(namespace, {})[resource] = " ".join(sorted(allowed))
    return rights


def _installed(*base: str) -> list[Object]:
    """Return the objects of all charts, each with the namespace that helm would install it into."""
    return [
        {**rendered, "metadata": {"namespace": namespace, **rendered["metadata"]}}
        for chart, namespace in NAMESPACES.items()
        for rendered in render(chart, *(base if chart == "base" else ()))
    ]


def test_every_account_has_the_rights_of_the_committed_list() -> None:
    now: Rights = {}
    for words, settings in ACTIONS.items():
        for account, rights in _rights(_installed(*settings)).items():
            if words == "" or rights != now[account]:
                now[account + words] = rights
    text = HEAD + yaml.safe_dump(now, sort_keys=True, width=120)
    if os.environ.get("HEADRACE_WRITE"):
        SNAPSHOT.write_text(text)
    assert SNAPSHOT.read_text() == text


def test_every_pods_account_is_one_that_is_made_or_the_default_one_without_rights() -> None:
    for chart, namespace in NAMESPACES.items():
        made = {account["metadata"]["name"] for account in kind(render(chart), "ServiceAccount")}
        for who, spec, _ in pods(render(chart)):
            assert spec.get("serviceAccountName", "default") in made | {"default"}, f"{namespace}: {who}"
    bound = {
        subject["name"]
        for binding in _installed()
        if binding["kind"] == "RoleBinding"
        for subject in binding["subjects"]
    }  # fmt: skip
    assert "default" not in bound


def test_the_bootstrap_overwrites_the_list_of_logins_and_nothing_else_unless_it_renews() -> None:
    rights = _rights(_installed())["headrace/bootstrap"]
    patched = [(where, what) for where, named in rights.items() for what, verbs in named.items() if "patch" in verbs]
    assert patched == [(NAMESPACES["airflow"], f"secrets {LOGINS}")]


def test_to_copy_a_pull_secret_takes_no_right_more() -> None:
    for action in ACTIONS.values():
        assert _rights(_installed(*action, *PULL_SECRET)) == _rights(_installed(*action))


def test_a_right_more_is_seen() -> None:
    objects = _installed()
    before = _rights(objects)
    (role,) = [
        candidate
        for candidate in objects
        if candidate["kind"] == "Role" and candidate["metadata"]["name"] == "spark-driver"
    ]
    wider = {**role, "rules": [*role["rules"], {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}]}
    after = _rights([wider if rendered is role else rendered for rendered in objects])
    assert after["headrace-spark/spark-driver"]["headrace-spark"]["deployments.apps"] == "get"
    assert after != before
