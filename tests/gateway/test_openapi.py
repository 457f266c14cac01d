"""The OpenAPI document: valid, complete, and true to what the edge does."""

import json
import re

from atelier_client import Atelier
from openapi_spec_validator import validate

from gateway.envoy.contract import http_rule, methods
from tests.gateway.http import Http


def test_the_document_is_valid_and_has_every_rest_path(http: Http) -> None:
    answer = http("GET", "/api/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    validate(answer.json)
    served = {(verb.upper(), path) for path, verbs in answer.json["paths"].items() for verb in verbs}
    assert served == {rule for _, method in methods() if (rule := http_rule(method))}


def test_the_rules_and_the_words_of_the_protos_are_in_it(http: Http) -> None:
    document = http("GET", "/api/openapi.json").json
    schemas = document["components"]["schemas"]
    settings = schemas["atelier.generator.v1.GenerationSettings"]["properties"]
    assert (settings["width"]["minimum"], settings["width"]["maximum"]) == (32, 4096)
    assert "must be a multiple of 8" in settings["width"]["description"]
    assert settings["prompt"]["maxLength"] == 10000
    assert settings["steps"]["description"].startswith("Denoising steps.")
    listing = document["paths"]["/api/models"]["get"]
    (category,) = [each for each in listing["parameters"] if each["name"] == "category"]
    assert category["schema"]["enum"][:2] == ["image", "video"]
    upload = document["paths"]["/api/datasets/{dataset_id}/images"]["post"]
    assert {each["name"]: each["in"] for each in upload["parameters"]} == {
        "dataset_id": "path",
        "filename": "query",
        "caption": "query",
        "request_id": "query",
    }


def test_an_answer_follows_its_schema(http: Http, edge: Atelier, starter: int, dataset: int) -> None:
    from jsonschema import Draft202012Validator

    job = edge.training.create(dataset, starter, config={"max_steps": 1})
    edge.generate("red apple", model=starter, steps=1)
    document = http("GET", "/api/openapi.json").json
    known = {"dataset_id": dataset, "job_id": job.id, "model_id": starter}
    lists = [path for path, verbs in document["paths"].items() if "get" in verbs and "events" not in path]
    checked = 0
    for path in lists:
        content = document["paths"][path]["get"]["responses"]["200"]["content"].get("application/json")
        if content is None or not set(re.findall(r"{(\w+)}", path)) <= set(known):
            continue
        schema = {**content["schema"], "components": document["components"]}
        for line in http("GET", path.format(**known)).body.splitlines():  # a stream has an object a line
            Draft202012Validator(schema).validate(json.loads(line))
        checked += 1
    assert checked >= 15
    error = document["components"]["responses"]["Error"]["content"]["application/json"]["schema"]
    Draft202012Validator({**error, "components": document["components"]}).validate(http("GET", "/api/models/9999").json)


def test_the_rules_are_the_requests_alone(http: Http) -> None:
    from jsonschema import Draft202012Validator

    document = http("GET", "/api/openapi.json").json
    schemas = document["components"]["schemas"]
    assert "minimum" not in schemas["atelier.generator.v1.GenerationSettings.Answer"]["properties"]["width"]
    body = document["paths"]["/api/generate/text-to-image"]["post"]["requestBody"]["content"]["application/json"]
    check = Draft202012Validator({**body["schema"], "components": document["components"]})
    check.validate({"settings": {"model_id": 4, "prompt": "red apple"}})
    assert not check.is_valid({"settings": {"model_id": 4, "prompt": "red apple", "width": 7}})
