"""Write the tables of ``results/`` into the README and the docs, between their marks.

A mark that names tables gets those, as in ``measured acting:``; others get all of their page.
"""

import json
import re
from pathlib import Path

from benchmarks.common import RESULTS, markdown

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": ("time_to_skill", "windows", "video", "training_gpu", "training_cpu", "samplers"),
    "docs/concepts.md": ("denoisers", "denoisers_pixels"),
    "docs/evaluation.md": ("sequential", "sequential_errors", "acting"),
    "docs/cameras.md": ("image_skill", "image_skill_gpu", "image_variations", "frozen", "frozen_latency"),
    "docs/tabletop.md": ("tabletop", "tabletop_speed", "tabletop_skill"),
    "docs/walking.md": ("walking", "walking_speed"),
    "docs/hybrid.md": ("hybrid", "hybrid_600", "prediction_types"),
    "docs/push-t.md": ("recipe",),
    "docs/improving.md": ("improving",),
    "docs/deployment.md": ("latency", "latency_gpu", "precision", "busy"),
    "docs/serving.md": ("serving",),
    "docs/your-robot.md": ("delay",),
    "docs/data.md": ("pages",),
    "docs/play.md": ("play", "play_speed"),
}
TITLES = {
    "denoisers": "Push-T from keypoints, human demonstrations; success with its 95 % interval",
    "denoisers_pixels": "Push-T from pixels, human demonstrations; success with its 95 % interval",
    "recipe": "Push-T from keypoints, one thing or some things different from preset `pusht_keypoints`",
    "time_to_skill": "Push-T from keypoints, preset `pusht_keypoints` without rollouts; with 95 % intervals",
    "improving": "Push-T, from a policy of `make demo`; success with its 95 % interval, McNemar's p over equal seeds",
    "training_cpu": "Samples (windows) a second of training, whole steps of `robodiff fit`",
    "training_gpu": "Samples (windows) a second on a GPU, whole steps of `fit`, human Push-T from images, one run each",
    "windows": "Training windows gathered per second",
    "video": "Training windows from a camera's video per second, and decoding it for the first time",
    "tabletop": "Successes of the scripted experts without noise and with the usual noise",
    "tabletop_speed": "Steps with observations of the state, and images of 1 / 2 / 3 cameras, a CPU second",
    "tabletop_skill": "Successes of policies, preset `tabletop_state`, one training seed",
    "hybrid": "Successes on `biped`, preset `biped_hybrid`, 1,500 steps, with the 95 % interval of all training seeds",
    "hybrid_600": "The same after 600 steps",
    "prediction_types": "What a network gives and what its loss is of, on `biped` from 100 demonstrations, 50 seeds",
    "walking": "The expert of `biped` on fresh seeds, undisturbed but for what the row says",
    "walking_speed": "Steps with the state observed, a CPU second, and demonstrations with the usual disturbances",
    "frozen": "Windows a second of training, preset `mycobot` (ResNet-34 at 224 x 224), in turn in one process",
    "frozen_latency": "Milliseconds of a whole decision of a policy of preset `mycobot`, from an image to an action",
    "image_skill": "From images, encoder EfficientNet-Lite0; success with its 95 % interval on 100 unseen seeds",
    "image_skill_gpu": "From images on a GPU, encoder trained from scratch; success as above on 100 unseen seeds",
    "image_variations": "`lift_cube` after 1,000 optimizer steps, one thing different in each row",
    "latency": "From one observation to its chunk, frames always new, random weights",
    "latency_gpu": "The same in torch on a GPU",
    "precision": "Normalised actions and successes on equal seeds of trained policies, against torch",
    "busy": "Milliseconds of work in a process of its own, alone and beside a second program",
    "serving": "Milliseconds of a chunk over the loopback interface, preset `pusht_keypoints`",
    "acting": "Ways of acting with trained policies; p against the first, the policy's own, corrected for their number",
    "delay": "Success with its 95 % interval, mean maximum reward, and jump, of 100 equal seeds in virtual time",
    "sequential": "Pairs that find a difference 4 times of 5, by McNemar's test and by this; 4,000 simulated trials",
    "sequential_errors": "How often two equal policies are told apart within 500 pairs, simulated likewise",
    "pages": "Pages as Chromium opens them from disk",
    "play": "Success with its 95 % interval, one training seed",
    "play_speed": "Pictures a second that the page draws, environment, policy and browser on one machine",
    "samplers": "Milliseconds for one chunk of actions, batch 1, cosine schedule with 100 timesteps",
}


def tables(names: tuple[str, ...]) -> str:
    parts = []
    for name in names:
        path, title = RESULTS / f"{name}.json", TITLES[name]
        if not path.exists():
            parts.append(f"{title}: not measured.\n")
        else:
            kept = json.loads(path.read_text())
            machine = kept["hardware"]
            cores = f"{machine['cores']} {'core' if machine['cores'] == 1 else 'cores'}"
            on = f"{machine['cpu']}, {cores}, {machine['gpu'] or 'no GPU'}, torch {machine['torch']}"
            parts.append(f"{title} ({on}):\n\n{markdown(kept['rows'])}\n")
    return "\n".join(parts)


def main() -> None:
    marks = re.compile(r"(<!-- measured(?: ([\w ]+))?: .*? -->\n).*?(<!-- /measured -->)", re.DOTALL)
    for page, names in PAGES.items():

        def filled(mark: re.Match[str], names: tuple[str, ...] = names) -> str:
            return f"{mark[1]}\n{tables(tuple(mark[2].split()) if mark[2] else names)}\n{mark[3]}"

        (ROOT / page).write_text(marks.sub(filled, (ROOT / page).read_text()))


if __name__ == "__main__":
    main()
