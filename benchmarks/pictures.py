"""The pictures of docs/first-policy.md: parts of a run's report, as Chromium shows them.

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


def main() -> None:
    report = (Path(sys.argv[1]) / "report.html").read_text()
    top, *sections = report.split("<h2>")
    head, _, answer = top.partition("<body>")
    by_title = {section.partition("</h2>")[0]: f"<h2>{section}" for section in sections}
    PICTURES.mkdir(exist_ok=True)
    for name, title in PARTS.items():
        body = (answer if name == "answer" else "") + by_title[title]
        with tempfile.TemporaryDirectory() as folder:
            page, picture = Path(folder) / "part.html", Path(folder) / "part.png"
            page.write_text(f"{head}<body>{body}")
            subprocess.run(
                ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                 "--window-size=1000,1600", f"--screenshot={picture}", page.as_uri()],
                check=True, capture_output=True,
            )  # fmt: skip
            image = Image.open(picture).convert("RGB")
        box = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
        assert box is not None
        image.crop((0, 0, image.width, box[3] + 20)).quantize(128).save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
