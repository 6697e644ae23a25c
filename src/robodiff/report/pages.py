"""HTML pages from the templates beside this file, with the styles and scripts of ``static/`` inside them."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from robodiff import __version__
from robodiff.errors import UsageError
from robodiff.files import replacing
from robodiff.text import counted, duration, printable, shortened

_STATIC = Path(__file__).parent / "static"
_ACTING = re.compile("[<>&\x7f]")
"""What JSON leaves as it is and HTML, or a terminal that shows the source, does not."""


def write_page(path: Path, template: str, **context: Any) -> Path:
    """Fill a template and write the page, whole or not at all: see ``fill``.

    Raises:
        UsageError: a folder is at ``path``.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name the page to write, such as {path / template}")
    with replacing(path) as temporary:
        temporary.write_text(fill(template, **context), encoding="utf-8")
    return path


def fill(template: str, **context: Any) -> str:
    """Return a page; text is escaped, figures (``| svg``) are not.

    No character of a name acts on the page or its source: see ``printable``. No script runs but those of ``static/``.
    """
    return printable(_templates().get_template(template).render(version=__version__, **context))


def _inlined(tag: str, name: str) -> Any:
    """Return a file of ``static/`` as an element."""
    from markupsafe import Markup

    return Markup(f"<{tag}>{_static(name)}</{tag}>")


def _json_block(id: str, value: Any) -> Any:
    """Return data for a script of the page; numbers that are not finite become null.

    Args:
        id: of the element, whose text the script parses.
        value: mappings with texts for keys, lists, texts, numbers, true, false, None.
    """
    from markupsafe import Markup

    return Markup(f'<script type="application/json" id="{id}">{to_json(value)}</script>')


def to_json(value: Any) -> str:
    """Return JSON in ASCII that may stand in HTML, without blanks; texts in it are ``printable``."""
    text = json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)
    return _ACTING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {printable(key): _plain(each) for key, each in value.items()}
    return [*map(_plain, value)] if isinstance(value, list | tuple) else value


@lru_cache(maxsize=32)
def _static(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _content_policy() -> str:
    """Return what a page may load: nothing but what it carries, and of scripts the files of ``static/`` alone."""
    digests = (hashlib.sha256(path.read_bytes()).digest() for path in sorted(_STATIC.glob("*.js")))
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    rules = {
        "default-src": "'none'",
        "script-src": scripts,
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "media-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


@lru_cache(maxsize=1)
def _templates() -> Any:
    import jinja2
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"svg": Markup, "counted": counted, "duration": duration, "short": shortened}
    environment.globals |= {
        "script": lambda name: _inlined("script", name),
        "style": lambda name: _inlined("style", name),
        "json_block": _json_block,
        "content_policy": _content_policy,
    }
    return environment
