"""What pages carry besides text: data, scripts and styles, of which nothing acts that should not."""

import base64
import hashlib
import json
import re
from typing import Any

import pytest

from robodiff.report import pages
from robodiff.report.pages import fill, to_json

HOSTILE = "</script><!--<img src=x>&\u2028\u202e\x1b]0;t\x07\x7f\ud800"


@pytest.mark.kind("a name that acts instead of being shown")
def test_no_text_in_data_acts() -> None:
    text = to_json({HOSTILE: [HOSTILE, 1.5, None, True]})
    assert not re.search("[<>&\x7f\u2028]", text)
    assert text.isascii()
    ((key, (value, *others)),) = json.loads(text).items()
    assert key == value == pages.printable(HOSTILE)
    assert others == [1.5, None, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_null(value: float) -> None:
    assert json.loads(to_json([value, {"a": value}])) == [None, {"a": None}]


def test_only_scripts_of_robodiff_run() -> None:
    page = fill("page.html", title="t")
    (rules,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    allowed = re.search(r"script-src ([^;]*)", rules.replace("&#39;", "'"))
    assert allowed is not None
    for path in pages._STATIC.glob("*.js"):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()}'" in allowed[1]
    assert "unsafe" not in allowed[1]
    assert "default-src &#39;none&#39;" in rules


@pytest.mark.parametrize("name", [path.name for path in pages._STATIC.iterdir()])
def test_what_is_inlined_cannot_end_its_element(name: str) -> None:
    text: Any = pages._static(name)
    assert "</" not in text
    assert text == pages.printable(text)  # else it would not be what its digest says
    assert len(text) < 20_000
