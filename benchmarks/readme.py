"""Write the tables of ``results/`` into the README, between its marks."""

import json
import re
from pathlib import Path

from benchmarks.common import RESULTS, markdown

README = Path(__file__).parent.parent / "README.md"
TITLES = {
    "time_to_skill": "Push-T from keypoints, preset `pusht_keypoints`; success with its 95 % interval",
    "windows": "Training windows gathered per second",
    "video": "Training windows from a camera's video per second, and decoding it for the first time",
    "samplers": "Milliseconds for one chunk of actions, batch 1, cosine schedule with 100 timesteps",
}


def tables() -> str:
    parts = []
    for name, title in TITLES.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            kept = json.loads(path.read_text())
            machine = kept["hardware"]
            on = f"{machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}, torch {machine['torch']}"
            parts.append(f"{title} ({on}):\n\n{markdown(kept['rows'])}\n")
    return "\n".join(parts)


def main() -> None:
    text = README.read_text()
    marks = re.compile(r"(<!-- measured: .*? -->\n).*?(<!-- /measured -->)", re.DOTALL)
    README.write_text(marks.sub(lambda m: f"{m[1]}\n{tables()}\n{m[2]}", text))


if __name__ == "__main__":
    main()
