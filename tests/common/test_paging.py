import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.common.paging import decode_token, encode_token, page_size


@given(st.integers(), st.text())
def test_a_token_comes_back_as_it_went(number: int, text: str) -> None:
    assert decode_token(encode_token(number, text), int, str) == (number, text)


def test_no_token_is_the_first_page() -> None:
    assert decode_token("", int) is None


@pytest.mark.parametrize("token", ["garbage", "é", "AAAA", encode_token("7"), encode_token(1, 2), "=" * 9])
def test_a_foreign_token_names_its_field(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_token(token, int)
    assert list(caught.value.violations) == ["page_token"]


def test_page_sizes_have_a_default_and_a_maximum() -> None:
    assert (page_size(0), page_size(7), page_size(5000)) == (50, 7, 1000)
