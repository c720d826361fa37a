"""One report in the asked format."""

from __future__ import annotations

import io
import json

import pytest
import yaml

from kubectl_netpol.diagnose.explain import explain
from kubectl_netpol.diagnose.layers import node_views, pod_kernel
from kubectl_netpol.diagnose.plan import Question, make_plan
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy.world import World
from kubectl_netpol.report import explain as explain_report
from kubectl_netpol.report import maps as maps_report
from kubectl_netpol.report.output import API_VERSION, Format, emit
from tests.unit.builders import ACCESS_MAP, NGINX, article, ct_key, map_row, pod_document


def written(form, data=None, text="x"):
    stream = io.StringIO()
    emit(stream, form, lambda: data, lambda wide: f"{text} wide={wide}")
    return stream.getvalue()


@pytest.mark.parametrize(("form", "expected"), [(Format.TABLE, "x wide=False\n"), (Format.WIDE, "x wide=True\n")])
def test_text(form, expected):
    assert written(form) == expected


HOSTILE = {"name": "x\x1b[2J\u202e", "list": [1, None, True], "empty": {}, "long": "word " * 100}


@pytest.mark.parametrize(("form", "load"), [(Format.JSON, json.loads), (Format.YAML, yaml.safe_load)])
def test_data_comes_back_and_is_ascii(form, load):
    text = written(form, HOSTILE)
    assert load(text) == HOSTILE
    assert text.isascii()
    assert "\x1b" not in text
    assert text.endswith("\n")


def test_the_order_of_fields_is_kept():
    assert written(Format.YAML, {"b": 1, "a": 2}) == "b: 1\na: 2\n"
    assert list(json.loads(written(Format.JSON, {"b": 1, "a": 2}))) == ["b", "a"]


def documents():
    """Every kind of document that a verb prints, with every kind of map content."""
    key = ct_key("10.0.1.218", 4000, "10.0.4.5", 80, "10.0.4.5", 7)
    doc = pod_document(NGINX, ingress=ACCESS_MAP, conntrack=[(key, 5)])
    odd = map_row(102, 11, 8, 96, [(bytes(8), bytes(96))])
    snapshot = article({**doc, "maps": [odd if m["id"] == 102 else m for m in doc["maps"]]})
    world = World(snapshot)
    for question in (Question("nginx"), Question("nginx", source="accesstrue", port="80")):
        yield explain_report.as_data(explain(make_plan(question, "default", world), snapshot))
    kernel = pod_kernel(NGINX, node_views(snapshot))
    yield maps_report.as_data(NGINX, kernel, tuple(Direction), world)


def test_every_document_is_the_same_in_json_and_yaml():
    for data in documents():
        assert data["apiVersion"] == API_VERSION
        assert json.loads(written(Format.JSON, data)) == yaml.safe_load(written(Format.YAML, data)) == data


def test_maps_text_has_every_kind_of_content():
    key = ct_key("10.0.1.218", 4000, "10.0.4.5", 80, "10.0.4.5", 7)
    foreign = ct_key("10.9.9.9", 4000, "10.9.9.8", 80, "10.9.9.8", 9)
    doc = pod_document(NGINX, ingress=ACCESS_MAP, conntrack=[(key, 5), (foreign, 5)])
    odd = map_row(101, 11, 8, 100, [(b"\1" * 8, b"\2" * 100)])
    plain, raw = article(doc), article({**doc, "maps": [odd if m["id"] == 101 else m for m in doc["maps"]]})
    for wide in (False, True):
        text = maps_text(plain, wide)
        assert "10.0.1.218/32" in text
        assert "pod default/accesstrue" in text
        assert "POLICIES_APPLIED" in text
        assert "10.0.1.218:4000 -> 10.0.4.5:80 TCP" in text
        assert "10.9.9.9" not in text
        assert f"0x{'01' * 8}" in maps_text(raw, wide)


def maps_text(snapshot, wide):
    kernel = pod_kernel(NGINX, node_views(snapshot))
    return maps_report.as_text(NGINX, kernel, tuple(Direction), World(snapshot), wide, True)
