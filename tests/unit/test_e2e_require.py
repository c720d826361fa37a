"""What tests/e2e say where there is no cluster to be had: which thing is missing, why, and what can be done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import images, require

Stub = Callable[[str, str], None]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Puts a shell script on a PATH that has nothing else but the shell. No variable names another image or program."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for one in images.ALL:
        monkeypatch.delenv(one.variable, raising=False)

    def put(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return put


class Config:
    """Options of a run that names none."""

    def getoption(self, name: str) -> None:
        return None


def test_no_docker(stub: Stub) -> None:
    with pytest.raises(require.MissingError, match=r"^no Docker: the program docker is not installed \("):
        require.docker()


def test_no_daemon(stub: Stub) -> None:
    stub("docker", 'echo "Server:" >&2; echo "Cannot connect to the Docker daemon at unix:///x." >&2; exit 1')
    with pytest.raises(require.MissingError, match=r"^no Docker: Cannot connect to the Docker daemon at unix"):
        require.docker()


def test_a_daemon_that_hangs(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(require, "ANSWER_SECONDS", 0.2)
    stub("docker", "exec /bin/sleep 30")
    for ask in (require.docker, lambda: require.image("some:1", "a thing", "SOME")):
        with pytest.raises(require.MissingError, match=r"^no Docker: the daemon does not answer within 0\.2 s$"):
            ask()


def test_no_node_image(stub: Stub) -> None:
    stub("docker", '[ "$1" = pull ] && echo "Error: no such host" >&2; exit 1')
    with pytest.raises(require.MissingError) as told:
        require.image(images.NODE.value, images.NODE.purpose, images.NODE.variable)
    said = str(told.value)
    assert said.startswith(f"no image {images.NODE.value} (the cluster's node; ") and "Error: no such host" in said
    assert "NETPOL_E2E_NODE_IMAGE" in said and "tests/e2e/images/build" in said


def test_an_image_that_is_there_is_not_pulled(stub: Stub) -> None:
    stub("docker", '[ "$1" = image ]')
    require.image("some:1", "a thing", "SOME")


def test_no_kind(stub: Stub) -> None:
    with pytest.raises(require.MissingError, match=r"^no kind: kind is not there; name it with --kind-bin or NETPOL"):
        require.kind(Config())  # type: ignore[arg-type]


def test_images_are_replaced_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in images.ALL:
        monkeypatch.delenv(one.variable, raising=False)
        assert one.value == one.default
        monkeypatch.setenv(one.variable, "other:2")
        assert one.value == "other:2"


def test_the_builder_sets_all_of_them() -> None:
    text = (Path(require.__file__).parent / "images/build").read_text()
    assert [one.variable for one in images.ALL if f"export {one.variable}=" not in text] == []


def test_skipped_with_the_reason_or_failed_where_it_is_required(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub("kubectl", "exit 0")
    monkeypatch.setattr(require.require, "missing", lambda: ())
    monkeypatch.delenv("NETPOL_E2E_REQUIRED", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no cluster: no Docker: the program docker is not installed"):
        require.or_skip(Config())  # type: ignore[arg-type]
    monkeypatch.setenv("NETPOL_E2E_REQUIRED", "1")
    with pytest.raises(pytest.fail.Exception, match="no cluster: no Docker"):
        require.or_skip(Config())  # type: ignore[arg-type]
