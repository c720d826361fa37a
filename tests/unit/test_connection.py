"""kubeconfig and kubectl's connection flags -> one configuration."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path

import pytest
import yaml
from kubernetes.config import kube_config

from kubectl_netpol.cluster import connection
from kubectl_netpol.cluster.api import Api
from kubectl_netpol.cluster.connection import ConnectionFlags, connect, may_connect
from kubectl_netpol.errors import ConnectionFailed, UsageError


def config(*names: str, current: str | None = "a", namespace: str = "", user=None) -> dict:
    """A kubeconfig with a context, cluster and user for each name."""
    found: dict = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": f"c-{n}", "cluster": {"server": f"https://{n}.example:6443"}} for n in names],
        "users": [{"name": f"u-{n}", "user": user or {"token": f"token-{n}"}} for n in names],
        "contexts": [{"name": n, "context": {"cluster": f"c-{n}", "user": f"u-{n}"}} for n in names],
    }
    if namespace:
        found["contexts"][0]["context"]["namespace"] = namespace
    if current is not None:
        found["current-context"] = current
    return found


@pytest.fixture
def kubeconfig(tmp_path, monkeypatch):
    """Write kubeconfig files and return the list as KUBECONFIG has it."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    def write(*configs) -> str:
        paths = []
        for number, content in enumerate(configs):
            path = tmp_path / f"config-{number}"
            path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
            paths.append(str(path))
        return ":".join(paths)

    return write


def token(made) -> str:
    return dict(Api(made).headers()).get("authorization", "")


def test_the_current_context(kubeconfig):
    made = connect(ConnectionFlags(kubeconfig=kubeconfig(config("a", "b", namespace="shop"))))
    assert (made.configuration.host, made.context, made.namespace) == ("https://a.example:6443", "a", "shop")
    assert token(made) == "Bearer token-a"


@pytest.mark.parametrize(
    ("flags", "host", "bearer", "namespace"),
    [
        ({}, "a", "token-a", "shop"),
        ({"context": "b"}, "b", "token-b", "default"),
        ({"cluster": "c-b"}, "b", "token-a", "shop"),
        ({"user": "u-b"}, "a", "token-b", "shop"),
        ({"context": "b", "cluster": "c-a", "user": "u-a"}, "a", "token-a", "default"),
        ({"namespace": "other"}, "a", "token-a", "other"),
        ({"token": "mine"}, "a", "mine", "shop"),
    ],
    ids=str,
)
def test_overrides(flags, host, bearer, namespace, kubeconfig):
    made = connect(ConnectionFlags(kubeconfig=kubeconfig(config("a", "b", namespace="shop")), **flags))
    assert made.configuration.host == f"https://{host}.example:6443"
    assert token(made) == f"Bearer {bearer}"
    assert made.namespace == namespace


def test_server_and_tls_flags(kubeconfig):
    flags = ConnectionFlags(
        kubeconfig=kubeconfig(config("a")),
        server="https://other:1/",
        certificate_authority="/ca",
        client_certificate="/cert",
        client_key="/key",
        tls_server_name="name",
        insecure_skip_tls_verify=True,
        request_timeout=7.0,
    )
    made = connect(flags)
    found = made.configuration
    assert (found.host, found.ssl_ca_cert, found.cert_file, found.key_file) == (
        "https://other:1",
        "/ca",
        "/cert",
        "/key",
    )
    assert (found.tls_server_name, found.verify_ssl, made.request_timeout) == ("name", False, 7.0)


def test_several_files_are_merged_and_the_first_one_wins(kubeconfig):
    second = config("a", "b", current="b")
    second["clusters"][0]["cluster"]["server"] = "https://not-this-one.example"
    paths = kubeconfig(config("a", current="a"), second)
    assert connect(ConnectionFlags(kubeconfig=paths)).configuration.host == "https://a.example:6443"
    assert connect(ConnectionFlags(kubeconfig=paths, context="b")).configuration.host == "https://b.example:6443"


def test_the_first_file_that_names_a_current_context_chooses(kubeconfig):
    paths = kubeconfig(config("a", current=None), config("b", current=""), config("c", current="b"))
    assert connect(ConnectionFlags(kubeconfig=paths)).context == "b"


def test_files_of_the_list_that_are_missing_or_empty_do_not_matter(kubeconfig, tmp_path):
    paths = f"{tmp_path}/missing:{kubeconfig('', config('a'))}:/dev/null:"
    assert connect(ConnectionFlags(kubeconfig=paths)).context == "a"


def test_the_environment_is_the_default(kubeconfig, monkeypatch):
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig(config("a")))
    assert connect(ConnectionFlags()).context == "a"


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (config("a", "b"), {"context": "x"}, 'context "x" does not exist in the kubeconfig (known contexts: a, b)'),
        (config("a", current="x"), {}, 'context "x" does not exist in the kubeconfig (known contexts: a)'),
        (config("a", current=None), {}, "no current context is set in the kubeconfig (known contexts: a)"),
        (config(current=None), {}, "no current context is set in the kubeconfig (known contexts: none)"),
        (config("a"), {"cluster": "x"}, 'cluster "x" does not exist in the kubeconfig'),
        (config("a"), {"user": "x"}, 'user "x" does not exist in the kubeconfig'),
        ("a: [", {}, "kubeconfig "),
        (config("a"), {"as_groups": ("g",)}, "--as-group and --as-uid need --as"),
        (config("a"), {"as_uid": "1"}, "--as-group and --as-uid need --as"),
    ],
)
def test_what_the_kubeconfig_does_not_have(content, flags, message, kubeconfig):
    with pytest.raises(UsageError) as failed:
        connect(ConnectionFlags(kubeconfig=kubeconfig(content), **flags))
    assert failed.value.message.startswith(message)
    assert "\n" not in failed.value.message


@pytest.mark.parametrize("section", ["clusters", "users"])
def test_a_context_whose_parts_are_missing(section, kubeconfig):
    broken = {**config("a"), section: []}
    if section == "users":
        # As in kubectl: a user that does not exist has no credentials.
        assert token(connect(ConnectionFlags(kubeconfig=kubeconfig(broken)))) == ""
        return
    with pytest.raises(ConnectionFailed, match='kubeconfig context "a": '):
        connect(ConnectionFlags(kubeconfig=kubeconfig(broken)))


def test_a_context_without_settings_is_an_error_and_no_crash(kubeconfig):
    broken = {**config("a"), "contexts": [{"name": "a", "context": None}]}
    with pytest.raises(ConnectionFailed, match='kubeconfig context "a": '):
        connect(ConnectionFlags(kubeconfig=kubeconfig(broken)))


def test_a_directory_is_no_kubeconfig(tmp_path):
    with pytest.raises(UsageError, match="Is a directory"):
        connect(ConnectionFlags(kubeconfig=str(tmp_path)))


# ---- without a kubeconfig


def test_a_home_that_nobody_has_is_no_crash(monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "~nobody-of-that-name/config")
    assert may_connect(ConnectionFlags())
    with pytest.raises(UsageError, match="kubeconfig ~nobody-of-that-name/config: Could not determine home directory"):
        connect(ConnectionFlags(kubeconfig="~nobody-of-that-name/config"))


def test_a_server_that_is_no_address_is_one_line(kubeconfig):
    flags = ConnectionFlags(kubeconfig=str(kubeconfig(config("a"))), server="https://[::1")
    with pytest.raises(UsageError, match=r"^--server https://\[::1: Invalid IPv6 URL"):
        connect(flags)


def test_a_kubeconfig_may_come_through_a_pipe(kubeconfig, tmp_path):
    """As in `--kubeconfig <(...)`, which kubectl reads."""
    text = Path(kubeconfig(config("a"))).read_text()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writing = threading.Thread(target=pipe.write_text, args=(text,), daemon=True)
    writing.start()
    assert connect(ConnectionFlags(kubeconfig=str(pipe))).context == "a"
    writing.join(10)
    assert not writing.is_alive()


def test_an_asked_kubeconfig_must_exist(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        connect(ConnectionFlags(kubeconfig=str(tmp_path / "no")))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "no"))
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_to_connect_to(nowhere):
    with pytest.raises(ConnectionFailed, match="no cluster to connect to") as failed:
        connect(ConnectionFlags())
    assert "--bundle" in failed.value.hint


def test_a_context_needs_a_kubeconfig(nowhere):
    with pytest.raises(UsageError, match='context "a" does not exist: there is no kubeconfig at'):
        connect(ConnectionFlags(context="a"))


def test_a_server_and_a_token_are_enough(nowhere):
    made = connect(ConnectionFlags(server="https://x:1", token="t"))
    assert (made.configuration.host, made.namespace, token(made)) == ("https://x:1", "default", "Bearer t")


def test_a_pod_of_the_cluster_has_the_namespace_of_its_service_account(nowhere, tmp_path, monkeypatch):
    from kubernetes.config import incluster_config

    place = tmp_path / "namespace"
    place.write_text("shop\n")
    monkeypatch.setattr(connection, "SERVICE_ACCOUNT_NAMESPACE", place)
    monkeypatch.setattr(incluster_config, "load_incluster_config", lambda client_configuration: None)
    assert connect(ConnectionFlags()).namespace == "shop"
    place.unlink()
    assert connect(ConnectionFlags()).namespace == "default"


# ---- credentials plugins


def plugin(tmp_path, script: str) -> dict:
    path = tmp_path / "plugin"
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": str(path), "args": []}}


CREDENTIAL = """import json
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1beta1", "kind": "ExecCredential",
                  "status": {"token": "from-plugin"}}))"""
FAILING = "import sys; sys.exit('Error: the SSO session has expired\\nrun aws sso login')"


def test_a_plugin_gives_the_token(kubeconfig, tmp_path):
    made = connect(ConnectionFlags(kubeconfig=kubeconfig(config("a", user=plugin(tmp_path, CREDENTIAL)))))
    assert token(made) == "Bearer from-plugin"


@pytest.mark.parametrize(
    ("script", "says"),
    [(FAILING, "the SSO session has expired run aws sso login"), ("print('no json')", "failed to decode")],
)
def test_a_plugin_that_fails_is_one_line_with_its_own_words(script, says, kubeconfig, tmp_path):
    with pytest.raises(ConnectionFailed) as failed:
        connect(ConnectionFlags(kubeconfig=kubeconfig(config("a", user=plugin(tmp_path, script)))))
    assert failed.value.message.startswith('the credentials plugin of kubeconfig context "a" failed: ')
    assert says in failed.value.message
    assert "\n" not in failed.value.message
    assert failed.value.hint == "try `kubectl --context a version`: kubectl uses the same plugin"


def test_a_plugin_that_is_not_installed(kubeconfig):
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "no-such-plugin"}}
    with pytest.raises(ConnectionFailed, match="no-such-plugin"):
        connect(ConnectionFlags(kubeconfig=kubeconfig(config("a", user=user))))


def test_on_a_terminal_the_plugin_has_spoken_for_itself(kubeconfig, tmp_path, monkeypatch):
    """The package then has no stderr to quote, and stumbles over that."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    silent = tmp_path / "silent"
    with (
        silent.open("w") as stderr,
        silent.open() as stdin,
        monkeypatch.context() as patched,
        pytest.raises(ConnectionFailed, match="failed: see what it says above"),
    ):
        patched.setattr(sys, "stderr", stderr)
        patched.setattr(sys, "stdin", stdin)
        connect(ConnectionFlags(kubeconfig=kubeconfig(config("a", user=plugin(tmp_path, FAILING)))))


def test_a_failing_plugin_does_not_matter_where_a_token_is_given(kubeconfig, tmp_path):
    user = plugin(tmp_path, FAILING)
    assert token(connect(ConnectionFlags(kubeconfig=kubeconfig(config("a", user=user)), token="t"))) == "Bearer t"


def test_impersonation(kubeconfig):
    flags = ConnectionFlags(kubeconfig=kubeconfig(config("a")), as_user="jane", as_uid="7", as_groups=("x", "y"))
    headers = Api(connect(flags)).headers()
    assert [h for h in headers if h[0].startswith("Impersonate")] == [
        ("Impersonate-User", "jane"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "x"),
        ("Impersonate-Group", "y"),
    ]


def test_overrides_survive_the_refresh_of_credentials(kubeconfig):
    """The kubernetes package sets host and certificates anew whenever it asks for the token."""
    flags = ConnectionFlags(
        kubeconfig=kubeconfig(config("a")), server="https://elsewhere:6443", certificate_authority="ca"
    )
    api = Api(connect(flags))
    assert "authorization" in dict(api.headers())
    assert api.host == "https://elsewhere:6443"
    assert api.connection.configuration.ssl_ca_cert == "ca"
