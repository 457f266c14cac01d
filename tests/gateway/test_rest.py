"""The guide's paths, as curl would use them."""

import base64
import io
import json
import uuid

import pytest
from atelier_client import Atelier
from atelier_client.stack import Stack
from PIL import Image

from tests.clips_made import film
from tests.gateway.conftest import eventually, lines_of, noise, unzipped
from tests.gateway.http import Http


def test_the_guides_whole_way_by_rest(http: Http, starter: int) -> None:
    dataset = http("POST", "/api/datasets", {"name": "by rest", "type": "DATASET_TYPE_IMAGE"}).json["dataset"]
    for word in ("red%20apple", "blue+heart", "cat"):
        path = f"/api/datasets/{dataset['id']}/images?filename={word}.png&caption={word}"
        answer = http("POST", path, noise(), content_type="image/png")
        assert answer.status == 200
    assert answer.json["image"]["caption"] == "cat"
    images = http("GET", f"/api/datasets/{dataset['id']}/images").json
    assert [image["caption"] for image in images["images"]] == ["red apple", "blue heart", "cat"]
    assert http("POST", f"/api/datasets/{dataset['id']}/refresh", {}).json["dataset"]["num_items"] == "3"

    wanted = {"dataset_id": dataset["id"], "base_model_id": starter, "config": {"max_steps": 2, "batch_size": 1}}
    job = http("POST", "/api/training", wanted).json["job"]
    assert job["status"] == "JOB_STATUS_PENDING"
    assert http("POST", f"/api/training/{job['id']}/start", {}).status == 200
    with http.open("GET", f"/api/training/{job['id']}/events") as response:
        *_, last = [json.loads(line) for line in response]
    assert "done" in last["event"]

    models = http("GET", "/api/models?category=image").json["models"]
    (trained,) = [model for model in models if model["name"] == f"Trained-{job['id'][:8]}"]
    request = {"settings": {"model_id": trained["id"], "prompt": "red apple", "steps": 2, "seed": 11}}
    drawn = http("POST", "/api/generate/text-to-image", request).json
    picture = base64.b64decode(drawn["images"][0]["data"])
    generation = drawn["generation"]["id"]
    kept = http("GET", f"/api/generations/{generation}/images/0")
    assert kept.headers["content-type"] == "image/png"
    assert kept.body == picture
    assert Image.open(io.BytesIO(picture)).size == (64, 64)


def test_a_mask_is_put_shown_and_deleted(http: Http, dataset: int) -> None:
    image = http("GET", f"/api/datasets/{dataset}/images").json["images"][0]
    put = http("PUT", f"/api/images/{image['id']}/mask", noise(), content_type="image/png")
    assert put.status == 200
    assert put.json["image"]["mask_sha256"]
    mask = http("GET", f"/api/images/{image['id']}/content?variant=IMAGE_VARIANT_MASK")
    assert mask.headers["content-type"] == "image/png"
    assert mask.headers["cache-control"] == "no-cache", "another mask may be put in its place"
    assert Image.open(io.BytesIO(mask.body)).mode == "L"
    picture = http("GET", f"/api/images/{image['id']}/content")
    assert picture.headers["cache-control"] == "private, max-age=86400"
    assert http("DELETE", f"/api/images/{image['id']}/mask").json["image"]["mask_sha256"] == ""
    assert http("GET", f"/api/images/{image['id']}/content?variant=IMAGE_VARIANT_MASK").status == 404


def test_a_clip_goes_up_and_comes_back_as_what_it_is(http: Http) -> None:
    films = http("POST", "/api/datasets", {"name": "films", "type": "DATASET_TYPE_VIDEO"}).json["dataset"]
    path = f"/api/datasets/{films['id']}/images?filename=a.mp4"
    image = http("POST", path, clip := film(), content_type="video/mp4").json["image"]
    assert (image["format"], image["num_frames"]) == ("IMAGE_FORMAT_MP4", 10)
    shown = http("GET", f"/api/images/{image['id']}/content")
    assert (shown.headers["content-type"], shown.body) == ("video/mp4", clip)


def test_paths_end_in_a_slash_or_not(http: Http) -> None:
    assert http("GET", "/api/models/?category=image").json == http("GET", "/api/models?category=image").json


def test_a_query_takes_short_and_full_names(http: Http) -> None:
    def ids(query: str) -> list[int]:
        return [model["id"] for model in http("GET", f"/api/models?{query}").json["models"]]

    assert ids("category=video") == [3]
    assert ids("category=MODEL_CATEGORY_VIDEO&type=base_model") == [3]
    assert ids("type=lora&category=video") == []


@pytest.mark.parametrize(
    ("query", "words"),
    [("category=sculpture", "sculpture"), ("colour=red", "colour"), ("page_size=5000", "page_size")],
)
def test_a_query_that_is_wrong_is_refused_with_its_name(http: Http, query: str, words: str) -> None:
    answer = http("GET", f"/api/models?{query}")
    assert answer.status == 400
    assert answer.json["code"] == 3
    assert words in json.dumps(answer.json)


def test_errors_have_one_shape_and_their_details(http: Http) -> None:
    answer = http("GET", "/api/models/999999")
    assert answer.status == 404
    assert answer.json["code"] == 5
    assert answer.json["details"][0]["reason"] == "NOT_FOUND"
    assert "999999" in answer.json["message"]
    for path in ("/api/nothing", "/api/", "/api/models/1/2/3"):
        assert (http("GET", path).status, http("GET", path).json["code"]) == (404, 5)
    broken = http("POST", "/api/datasets", b'{"name": ')
    assert (broken.status, broken.json["code"]) == (400, 3)
    unknown = http("POST", "/api/datasets", {"nam": "a"})
    assert unknown.status == 400
    assert "nam" in unknown.json["message"]


def test_a_field_that_is_refused_is_named(http: Http) -> None:
    answer = http("POST", "/api/datasets", {"name": ""})
    assert answer.status == 400
    (bad,) = [detail for detail in answer.json["details"] if detail["@type"].endswith("BadRequest")]
    assert bad["field_violations"][0]["field"] == "name"


def test_pictures_come_as_they_were_and_as_thumbnails(http: Http, edge: Atelier) -> None:
    made = edge.datasets.create(f"pictures {uuid.uuid4()}")
    sent = noise(600)
    image = http("POST", f"/api/datasets/{made.id}/images?filename=n.png", sent, content_type="image/png").json["image"]
    original = http("GET", f"/api/images/{image['id']}/content")
    assert (original.body, original.headers["content-type"]) == (sent, "image/png")
    small = http("GET", f"/api/images/{image['id']}/content?variant=thumbnail")
    assert small.headers["content-type"] == "image/webp"
    assert max(Image.open(io.BytesIO(small.body)).size) < 600
    assert small.headers["cache-control"] == "private, max-age=86400"
    assert "cache-control" not in http("GET", "/api/images/999999/content").headers


def test_a_text_as_an_image_is_refused_with_the_reason(http: Http, dataset: int) -> None:
    answer = http("POST", f"/api/datasets/{dataset}/images?filename=a.png", b"no image", content_type="image/png")
    assert answer.status == 400
    assert "UNSUPPORTED_FORMAT" in [detail.get("reason") for detail in answer.json["details"]]


def test_json_is_compressed_for_who_can_read_it(http: Http) -> None:
    plain = http("GET", "/api/models")
    small = http("GET", "/api/models", accept_encoding="gzip")
    assert small.headers["content-encoding"] == "gzip"
    assert unzipped(small.body) == plain.body


def test_the_request_id_is_in_the_answer_the_access_log_and_the_services_log(http: Http, stack: Stack) -> None:
    mine = str(uuid.uuid4())
    answer = http("GET", "/api/models/424242", x_request_id=mine)
    assert answer.headers["x-request-id"] == mine

    def line(name: str) -> list[dict[str, object]]:
        found = lines_of(stack.log_dir / f"{name}.log")
        return [each for each in found if each.get("request_id") == mine]

    (access,) = eventually(lambda: line("gateway"))
    assert (access["method"], access["path"], access["status"]) == ("GET", "/api/models/424242", 404)
    assert (access["service"], access["rpc"]) == ("catalog", "/atelier.catalog.v1.CatalogService/GetModel")
    (served,) = eventually(lambda: line("catalog"))
    assert served["code"] == "NOT_FOUND"
    given = http("GET", "/api/models").headers["x-request-id"]
    assert uuid.UUID(given), "who brings none gets one"
