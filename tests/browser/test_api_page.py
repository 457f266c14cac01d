"""The page that shows the REST paths."""

import re
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow  # its studio takes a while to start, and the page is 1.5 MB of JavaScript


@pytest.mark.parametrize("path", ["/api/docs", "/api/"])
def test_the_api_page_shows_the_document_and_calls_it(visit: Any, path: str) -> None:
    visitor = visit()
    page = visitor.page
    page.goto(path)
    expect(page.get_by_role("heading", name=re.compile("^Atelier"))).to_be_visible()
    operations = page.locator(".opblock")
    expect(page.locator("#operations-CatalogService-CatalogService_ListModels")).to_be_visible()
    assert operations.count() >= 40
    visitor.shot("api-docs", whole=False)
    listing = page.locator("#operations-CatalogService-CatalogService_ListModels")
    listing.get_by_role("button").first.click()
    listing.get_by_role("button", name="Execute").click()
    expect(listing.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
    visitor.shot("api-docs-open", whole=False)
    assert visitor.complaints == []
