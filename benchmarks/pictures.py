"""The pictures of README.md and docs/first-policy.md: parts of a run's report, as Chromium shows them.

python -m benchmarks.pictures RUN        (needs Debian's package chromium)
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PARTS = {
    "answer": "Which episodes fail",
    "training": "Training",
    "chunks": "What the policy would do where the demonstrator was",
    "denoising": "From noise to a chunk",
}


STRIP = "<style>body{padding:0;margin:8px;max-width:none}.grid{display:flex;gap:8px}figure{flex:1;margin:0}</style>"
"""The panels of the denoising in one row."""


def main() -> None:
    report = (Path(sys.argv[1]) / "report.html").read_text()
    top, *sections = report.split("<h2>")
    head, _, answer = top.partition("<body>")
    by_title = {section.partition("</h2>")[0]: f"<h2>{section}" for section in sections}
    PICTURES.mkdir(exist_ok=True)
    for name, title in PARTS.items():
        take(f"{head}<body>{answer if name == 'answer' else ''}{by_title[title]}", PICTURES / f"{name}.png")
    panels = by_title[PARTS["denoising"]].partition('<div class="grid">')[2]
    take(f'{head}{STRIP}<body><div class="grid">{panels}', PICTURES / "strip.png", width=1600)


def take(page: str, picture: Path, width: int = 1000) -> None:
    """Take a picture of a page, cut below what it shows."""
    with tempfile.TemporaryDirectory() as folder:
        html, shot = Path(folder) / "part.html", Path(folder) / "part.png"
        html.write_text(page)
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={width},1600", f"--screenshot={shot}", html.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        image = Image.open(shot).convert("RGB")
    box = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    assert box is not None
    image.crop((0, 0, image.width, min(box[3] + 20, image.height))).quantize(128).save(picture, optimize=True)


if __name__ == "__main__":
    main()
