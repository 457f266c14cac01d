"""The page that shows the REST paths."""

import re
from pathlib import Path
from typing import Any

import pytest
from atelier_client import Atelier
from playwright.sync_api import expect

from gateway.envoy.contract import http_rule, methods

pytestmark = pytest.mark.slow  # its studio takes a while to start, and the page is 1.5 MB of JavaScript


@pytest.mark.parametrize(("path", "scheme"), [("/api/docs", "light"), ("/api/", "dark")])
def test_the_api_page_shows_the_document_and_calls_it(visit: Any, path: str, scheme: str) -> None:
    visitor = visit(color_scheme=scheme)
    page = visitor.page
    page.goto(path)
    expect(page.get_by_role("heading", name=re.compile("^Atelier"))).to_be_visible()
    operations = page.locator(".opblock")
    expect(page.locator("#operations-CatalogService-CatalogService_ListModels")).to_be_visible()
    assert operations.count() == sum(http_rule(method) is not None for _, method in methods())
    visitor.shot(f"{scheme}-api-docs", whole=False)
    listing = page.locator("#operations-CatalogService-CatalogService_ListModels")
    listing.get_by_role("button").first.click()
    listing.get_by_role("button", name="Execute").click()
    expect(listing.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
    visitor.shot(f"{scheme}-api-docs-open", whole=False)
    hosts = page.evaluate("performance.getEntriesByType('resource').map(({name}) => new URL(name).host)")
    assert set(hosts) == {page.url.split("/")[2]}, "nothing from elsewhere"
    assert visitor.complaints == []
    page.get_by_role("link", name="Atelier", exact=True).click()
    expect(page).to_have_url(re.compile("/datasets$"))


def test_a_picture_is_uploaded_from_the_api_page(visit: Any, client: Atelier, pictures: list[Path]) -> None:
    made = client.datasets.create("by the page of the paths")
    visitor = visit()
    page = visitor.page
    page.goto("/api/docs#/CatalogService/CatalogService_UploadImage")
    upload = page.locator("#operations-CatalogService-CatalogService_UploadImage")
    upload.get_by_placeholder("dataset_id").fill(str(made.id))
    upload.get_by_placeholder("filename").fill("apple.png")
    upload.locator("input[type=file]").set_input_files(pictures[0])
    upload.get_by_role("button", name="Execute").click()
    expect(upload.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
    visitor.shot("api-docs-upload")
    assert client.datasets.get(made.id).num_items == 1
