"""`capture`: what is in the file for each scope, that it is whole or not there, and that its copies are the answers."""

from __future__ import annotations

import gc
import io
import os
import stat
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from kubectl_netpol import answers, bundle, capturing
from kubectl_netpol.cli import run
from kubectl_netpol.errors import ExitCode
from kubectl_netpol.model.snapshot import Collection, NodeReading, Snapshot
from tests.unit.builders import NODE, article, node, pod

EXAMPLE = Path(__file__).resolve().parents[2] / "kubectl_netpol" / "examples" / "article.tar.gz"


def capture(*arguments: str, source: Path = EXAMPLE) -> int:
    return run(["capture", *arguments, "--bundle", str(source)])


def members(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        found = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None and member.isfile() and member.mode == 0o644
            found[member.name] = content.read().decode()
        return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "made" / "bundle.tar.gz"


@pytest.fixture(autouse=True)
def made_directory(out: Path) -> None:
    out.parent.mkdir()


@pytest.mark.parametrize("scope", [["pod/nginx"], ["-n", "default"], [], ["--node", "NODE"], ["-A"]])
def test_every_scope_has_the_files_that_its_page_names(scope: list[str], out: Path, capsys) -> None:
    name = bundle.read(str(EXAMPLE)).items("nodes")[0]["metadata"]["name"]
    assert capture(*[name if part == "NODE" else part for part in scope], "-f", str(out)) == 0
    found = members(out)
    assert next(iter(found)) == "bundle.json" and list(found)[-1] == "nodes.json"
    for expected in ("README.txt", "policies/networkpolicies.yaml", "nodes/0.json", "answers/check.yaml"):
        assert expected in found
    pods = {n.split("/")[2] for n in found if n.startswith("answers/default/")}
    assert len(pods) == (1 if scope == ["pod/nginx"] else 3)
    assert "1 node, 0 findings" in capsys.readouterr().err


def test_the_copies_are_what_the_verbs_print(out: Path, capsys) -> None:
    assert capture("-A", "-f", str(out)) == 0
    capsys.readouterr()
    found = members(out)
    for name, text in found.items():
        if not name.startswith("answers/"):
            continue
        parts = name.removesuffix(".yaml").split("/")[1:]
        asked = [parts[-1], f"{parts[0]}/{parts[1]}"] if len(parts) == 3 else [parts[0]]
        asked += {"check": ["-A"], "drops": ["--all"]}.get(asked[0], [])
        run([*asked, "-o", "yaml", "--bundle", str(out)])
        assert capsys.readouterr().out == text, name


def test_the_policies_are_yaml_that_kubectl_could_apply(out: Path) -> None:
    assert capture("-A", "-f", str(out)) == 0
    (policy,) = yaml.safe_load_all(members(out)["policies/networkpolicies.yaml"])
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    assert policy["metadata"]["name"] == "access-nginx" and policy["spec"]["podSelector"]


def test_the_file_is_its_owners_alone_and_has_no_neighbours(out: Path) -> None:
    assert capture("-f", str(out)) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert os.listdir(out.parent) == [out.name]


def test_a_link_stays_a_link(out: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.tar.gz"
    out.symlink_to(target)
    assert capture("-f", str(out)) == 0
    assert out.is_symlink() and bundle.read(str(target))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("x"), OSError(28, "No space left on device")])
def test_what_is_not_finished_is_not_there(error, out: Path, monkeypatch, capsys) -> None:
    out.write_bytes(b"the one before")

    def broken(self: object) -> None:
        raise error

    monkeypatch.setattr(capturing._Captured, "close", broken)
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    assert capture("-f", str(out)) == (ExitCode.INTERRUPTED if error is KeyboardInterrupt else ExitCode.UNDECIDED)
    assert out.read_bytes() == b"the one before" and os.listdir(out.parent) == [out.name]
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(("error: ", "hint: "))
    gc.collect()
    assert ignored == [], "said by the interpreter when it collects what was begun"


class Disk(io.BytesIO):
    full = False

    def write(self, data: object) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("why", ["closed", "full"])
def test_what_is_given_up_writes_no_more(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 and newer print what goes wrong when the interpreter collects it."""
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    file = Disk()
    writer = bundle.Writer(file, taken_at="2025-01-01T00:00:00Z", tool_version="0", namespace="default")
    if why == "closed":
        file.close()
    else:
        file.full = True
        with pytest.raises(OSError, match="No space left"):
            writer.close()
    del writer
    gc.collect()
    assert ignored == []


def test_a_file_that_cannot_be_made_is_one_line(out: Path, capsys) -> None:
    assert capture("-f", str(out / "no" / "b.tar.gz")) == ExitCode.USAGE
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_stdout_and_devices(out: Path, capfdbinary) -> None:
    assert capture("-f", "-") == 0
    out.write_bytes(capfdbinary.readouterr().out)
    assert bundle.read(str(out)).nodes
    assert capture("-f", "/dev/null") == 0
    assert capture("-f", "/dev/full") == ExitCode.UNDECIDED
    assert b"No space left on device" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nginx", "-A"], "POD names one pod: it goes without -A"),
        (["nginx", "--node", "x"], "goes without --node"),
        (["-A", "--node", "x"], "-A goes without --node"),
        (["-A", "-n", "x"], "-A goes without -n"),
        (["--redact-names", "x"], "goes with --redact"),
        (["--redact", "--redact-names", "OUT"], "are the same file"),
        (["-n", "nowhere"], 'namespace "nowhere" not found'),
        (["--node", "nowhere"], "nowhere"),
        (["nothing"], "nothing"),
    ],
)
def test_wrong_questions(arguments: list[str], message: str, out: Path, capsys) -> None:
    arguments = [str(out) if part == "OUT" else part for part in arguments]
    assert capture(*arguments, "-f", str(out)) == ExitCode.USAGE
    assert message in capsys.readouterr().err
    assert not out.exists() and not os.listdir(out.parent)


def written(snapshot: Snapshot, path: Path) -> Path:
    bundle.write(snapshot, str(path))
    return path


def test_a_node_that_cannot_be_read_is_named_and_the_rest_is_there(out: Path, tmp_path: Path, capsys) -> None:
    whole = article()
    more = {**whole.collections, "nodes": Collection((*whole.items("nodes"), node("node-b")))}
    nodes = {**whole.nodes, "node-b": NodeReading(None, "it is NotReady")}
    source = written(Snapshot(more, nodes, whole.taken_at, "1", "default"), tmp_path / "in.tar.gz")
    assert capture("-A", "-f", str(out), source=source) == ExitCode.UNDECIDED
    said = capsys.readouterr().err
    assert "warning: node node-b: it is NotReady; the bundle does not hold it" in said and "1 not read" in said
    found = bundle.read(str(out)).nodes
    assert found["node-b"].reason == "it is NotReady" and found[NODE].document is not None


def test_api_only_reads_no_node(out: Path, capsys) -> None:
    assert capture("-A", "--api-only", "-f", str(out)) == 0
    assert all(reading.document is None for reading in bundle.read(str(out)).nodes.values())
    assert "answers/check.yaml" in members(out)
    assert "warning" not in capsys.readouterr().err


def test_odd_objects_and_names_do_not_keep_the_bundle_from_being_written(out: Path, tmp_path: Path) -> None:
    whole = article()
    odd = {
        "metadata": {"name": "../../evil", "namespace": ".."},
        "spec": {"nodeName": NODE},
        "status": {"podIP": "10.9.9.9"},
    }
    kinds = {**whole.collections, "pods": Collection((*whole.items("pods"), odd))}
    kinds["networkpolicies"] = Collection(({"metadata": {"name": "p", "namespace": "default"}, "spec": 5},))
    source = written(Snapshot(kinds, whole.nodes, whole.taken_at, "1", "default"), tmp_path / "in.tar.gz")
    assert capture("-A", "-f", str(out), source=source) in (0, 3)
    found = members(out)
    assert not any(".." in name for name in found)
    assert "error" in yaml.safe_load(found["answers/check.yaml"])


def test_a_node_that_check_cannot_judge_is_not_one_without_findings(out: Path, monkeypatch, capsys) -> None:
    def broken(self: object, name: str, reading: NodeReading) -> None:
        raise TypeError("odd")

    monkeypatch.setattr(answers.Check, "node", broken)
    assert capture("-A", "-f", str(out)) == 0
    assert "odd" in yaml.safe_load(members(out)["answers/check.yaml"])["error"]
    assert "findings not known" in capsys.readouterr().err


def test_half_a_character_does_not_keep_the_policies_from_being_written(out: Path, tmp_path: Path) -> None:
    whole = article()
    odd = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"note": "\ud800 \x1b[31m"}}
    kinds = {**whole.collections, "networkpolicies": Collection((odd, odd))}
    source = written(Snapshot(kinds, whole.nodes, whole.taken_at, "1", "default"), tmp_path / "in.tar.gz")
    assert capture("-A", "-f", str(out), source=source) in (0, 3)
    text = members(out)["policies/networkpolicies.yaml"]
    assert len(list(yaml.safe_load_all(text))) == 2 and "\x1b" not in text


def test_many_pods_do_not_get_files_of_their_own(out: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(answers, "MOST_PODS", 1)
    assert capture("-A", "-f", str(out)) == 0
    assert len({n.split("/")[2] for n in members(out) if n.startswith("answers/default/")}) == 1


def test_a_full_bundle_says_which_nodes_it_left_out(out: Path, monkeypatch) -> None:
    monkeypatch.setattr(bundle, "LARGEST_TOTAL", bundle.ROOM + 25_000)
    assert capture("-A", "-f", str(out)) == ExitCode.UNDECIDED
    assert "the bundle is full" in next(iter(bundle.read(str(out)).nodes.values())).reason


def test_a_redacted_bundle_stays_redacted(out: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.tar.gz"
    assert capture("-A", "--redact", "-f", str(first)) == 0
    assert capture("-A", "-f", str(out), source=first) == 0
    assert bundle.read(str(out)).redacted


def test_pods_without_a_node_are_in_it(out: Path, tmp_path: Path) -> None:
    whole = article()
    waiting = pod("waiting", "", node="")
    kinds = {**whole.collections, "pods": Collection((*whole.items("pods"), waiting))}
    source = written(Snapshot(kinds, whole.nodes, whole.taken_at, "1", "default"), tmp_path / "in.tar.gz")
    assert capture("waiting", "-f", str(out), source=source) == 0
    found = bundle.read(str(out))
    assert not found.nodes and any(p["metadata"]["name"] == "waiting" for p in found.items("pods"))
