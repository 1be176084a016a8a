"""The judge of requests, in both dialects: each kind of mistake is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contract.openapi import Description

SWAGGER = """
swagger: "2.0"
basePath: /
paths:
  /:
    get: {responses: {200: {description: fine, schema: {$ref: "#/definitions/Info"}}}}
  /drives/{drive_id}:
    put:
      parameters:
        - {name: drive_id, in: path, required: true, type: string}
        - {name: body, in: body, required: true, schema: {$ref: "#/definitions/Drive"}}
      responses: {204: {description: made}, 400: {description: refused}, default: {description: no}}
definitions:
  Info:
    type: object
    required: [state, cpus]
    properties:
      state: {type: string, enum: [Running, Paused]}
      cpus: {type: integer, minimum: 1}
      more: {type: string}
  Drive:
    type: object
    required: [drive_id]
    properties:
      drive_id: {type: string}
      read_only: {type: boolean}
      engine: {type: string, enum: [Sync, Async]}
      queues: {type: integer, minimum: 1, maximum: 4}
      limits: {type: array, items: {$ref: "#/definitions/Limit"}}
      labels: {type: object, additionalProperties: {type: string}}
  Limit: {type: object, required: [size], properties: {size: {type: integer, format: int8}}}
"""

OPENAPI = """
openapi: 3.0.1
servers: [{url: http://localhost/api/v1}]
paths:
  /vm.boot:
    put: {responses: {204: {description: booted}, 404: {description: not created}}}
  /vm.create:
    put:
      requestBody:
        content: {application/json: {schema: {$ref: "#/components/schemas/Config"}}}
        required: true
      responses: {204: {description: created}}
  /vm.add:
    put:
      requestBody: {content: {application/json: {schema: {type: object}}}}
      responses:
        200: {content: {application/json: {schema: {$ref: "#/components/schemas/Config"}}}}
        204: {description: only created}
components:
  schemas:
    Config:
      required: [kernel]
      properties:
        kernel: {type: string}
        mask: {type: array, items: {type: integer, format: uint16}}
        cpus: {type: integer, default: 3}
"""


@pytest.fixture
def swagger(tmp_path: Path) -> Description:
    (tmp_path / "swagger.yaml").write_text(SWAGGER)
    return Description(tmp_path / "swagger.yaml")


@pytest.fixture
def openapi(tmp_path: Path) -> Description:
    (tmp_path / "openapi.yaml").write_text(OPENAPI)
    return Description(tmp_path / "openapi.yaml")


GOOD = {
    "drive_id": "root", "read_only": True, "engine": "Sync", "queues": 4,
    "limits": [{"size": -128}, {"size": 255}], "labels": {"any": "text"},
}  # fmt: skip


def test_what_is_right(swagger: Description) -> None:
    assert swagger.check("PUT", "/drives/root", json.dumps(GOOD).encode()) == []
    assert swagger.check("GET", "/", b"") == []


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"drive_id": None}, "drive_id is None, not of type string"),
        ({"drive": "root"}, "drive is not described"),
        ({"read_only": "yes"}, "read_only is 'yes', not of type boolean"),
        ({"engine": "Fast"}, "engine is 'Fast', not one of ['Sync', 'Async']"),
        ({"queues": 5}, "queues is 5, not in 1 to 4"),
        ({"queues": 0}, "queues is 0, not in 1 to 4"),
        ({"queues": True}, "queues is True, not of type integer"),
        ({"queues": 2.0}, "queues is 2.0, not of type integer"),
        ({"limits": {}}, "limits is {}, not of type array"),
        ({"limits": [{"size": 1}, {"size": 300}]}, "limits[1].size is 300, not in -128 to 255"),
        ({"limits": [{}]}, "limits[0].size is missing"),
        ({"labels": {"any": 1}}, "labels.any is 1, not of type string"),
    ],
)
def test_a_wrong_field(swagger: Description, change: dict[str, object], mistake: str) -> None:
    body = json.dumps(GOOD | change).encode()
    assert swagger.check("PUT", "/drives/root", body) == [mistake]


@pytest.mark.parametrize(
    ("method", "path", "body", "mistake"),
    [
        ("PUT", "/drive/root", b"{}", "no path /drive/root is described"),
        ("PUT", "/drives/", b"{}", "no path /drives/ is described"),
        ("PUT", "/drives/a/b", b"{}", "no path /drives/a/b is described"),
        ("PUT", "/drives/a-b", b"{}", "no path /drives/a-b is described"),
        ("POST", "/drives/root", b"{}", "/drives/root takes PUT, not POST"),
        ("PUT", "/drives/root", b"", "a body is required"),
        ("GET", "/", b"{}", "a body is not wanted"),
        ("PUT", "/drives/root", b"{}", "drive_id is missing"),
        ("PUT", "/drives/root", b"[]", "the body is [], not of type object"),
        ("PUT", "drives/root", b"{}", "drives/root: paths begin with /"),
    ],
)
def test_a_wrong_request(
    swagger: Description, method: str, path: str, body: bytes, mistake: str
) -> None:
    assert swagger.check(method, path, body) == [mistake]


def test_what_is_no_json(swagger: Description) -> None:
    (mistake,) = swagger.check("PUT", "/drives/root", b"{")
    assert mistake.startswith("the body is no JSON: ")


def test_the_other_dialect(openapi: Description) -> None:
    good = {"kernel": "k", "mask": [0, 65_535]}
    assert openapi.check("PUT", "/api/v1/vm.create", json.dumps(good).encode()) == []
    assert openapi.check("PUT", "/api/v1/vm.boot", b"") == []
    assert openapi.check("PUT", "/api/v1/vm.add", b'{"any": 1}') == []
    assert openapi.check("PUT", "/vm.boot", b"") == ["/vm.boot: paths begin with /api/v1/"]
    assert openapi.check("PUT", "/api/v1/vm.boot", b"{}") == ["a body is not wanted"]
    assert openapi.check("PUT", "/api/v1/vm.create", b"") == ["a body is required"]
    assert openapi.check("PUT", "/api/v1/vm.create", b'{"mask": [65536]}') == [
        "kernel is missing",
        "mask[0] is 65536, not in 0 to 65535",
    ]
    assert openapi.check("PUT", "/api/v1/vmXcreate", b"{}") == ["no path /vmXcreate is described"]


def test_answers(swagger: Description, openapi: Description) -> None:
    operation = swagger.find("GET", "/")
    assert not isinstance(operation, str)
    assert operation.answer is not None
    assert operation.status == 200
    assert swagger.sample(operation.answer) == {"state": "Running", "cpus": 1}
    operation = swagger.find("PUT", "/drives/root")
    assert not isinstance(operation, str)
    assert (operation.status, operation.answer) == (204, None)
    operation = openapi.find("PUT", "/api/v1/vm.add")
    assert not isinstance(operation, str)
    assert operation.status == 200
    assert openapi.sample({"$ref": "#/components/schemas/Config"}) == {"kernel": ""}
    assert openapi.sample({"type": "integer", "default": 3}) == 3
