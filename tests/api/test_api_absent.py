"""What is not offered is refused by name."""

import pytest

from server.absent import ABSENT
from tests.support.api import Api


@pytest.mark.parametrize("path", sorted(ABSENT))
def test_features_that_do_not_exist_are_named(path: str) -> None:
    response = Api().post(path.replace("{rest:path}", "speech").replace("{slot_id}", "0"), {})
    assert response.status_code == 501
    assert ABSENT[path] in response.text
    assert response.headers["x-should-retry"] == "false"  # the makers' clients would, at 500 and above
