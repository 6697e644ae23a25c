"""HTML pages from the templates beside this file."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from robodiff import __version__
from robodiff.errors import UsageError
from robodiff.files import replacing
from robodiff.text import counted, duration, printable


def write_page(path: Path, template: str, **context: Any) -> Path:
    """Fill a template and write the page, whole or not at all; text is escaped, figures (``| svg``) are not.

    No character of a name acts on the page or its source: see ``printable``.

    Raises:
        UsageError: a folder is at ``path``.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name the page to write, such as {path / template}")
    with replacing(path) as temporary:
        page = _templates().get_template(template).render(version=__version__, **context)
        temporary.write_text(printable(page), encoding="utf-8")
    return path


@lru_cache(maxsize=1)
def _templates() -> Any:
    import jinja2
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"svg": Markup, "counted": counted, "duration": duration}
    return environment
