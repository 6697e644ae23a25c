"""The page of ``robodiff play`` in a real browser: acting by mouse and keys, disturbing a policy, hostile names."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.play import COUNT_PICTURES, TASKS, Hand, demonstrated, served
from tests.browser import WIDTHS, Browse, wait_until
from tests.conftest import use_env
from tests.play.playing import opened, playing

from robodiff.data.recordings import open_path
from robodiff.envs.pusht.spec import SPEC
from robodiff.policies.checkpoint import save_policy

Run = Callable[..., tuple[int, str, str]]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e" + "x" * 10_000


def opened_page(browse: Browse, link: str, **options: Any) -> Any:
    page = browse(link, **options)
    wait_until(page, "state !== null")
    return page


def move(page: Any, x: float, y: float) -> None:
    """Move the mouse to a place in the picture."""
    box = page.locator("#scene").bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


@pytest.fixture
def policy(small_policy: Callable, tmp_path: Path) -> Path:
    save_policy(small_policy(), tmp_path / "policy")
    return tmp_path / "policy"


def test_the_agent_follows_the_mouse_and_what_is_kept_is_recorded(browse: Browse, tmp_path: Path) -> None:
    out = tmp_path / "mine.zarr"
    with playing(opened(env="pusht", out=out)) as link:
        page = opened_page(browse, link)
        assert page.locator("#say").inner_text() == "Press in the picture, or Space, to start."
        assert page.locator("#keep").is_disabled()
        move(page, 0.8, 0.8)
        page.mouse.down()
        wait_until(page, "state.step > 6")
        move(page, 0.9, 0.3)
        wait_until(page, "Math.hypot(state.bodies[2][0] - 0.9, state.bodies[2][1] - 0.3) < 0.01")
        page.mouse.up()
        page.keyboard.press(" ")
        wait_until(page, "state.paused")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press(".")
        wait_until(page, "Math.abs(state.hand[0] - 0.89) + Math.abs(state.hand[1] - 0.35) < 0.005")
        page.keyboard.press("Enter")
        wait_until(page, "state.phase === 'ended'")
        page.locator("#keep").click()
        wait_until(page, "state.kept === 1 && state.seed === 1")
        assert page.locator("#kept").inner_text() == "1"
        page.locator("#at").fill("77")
        page.get_by_text("Begin there").click()
        wait_until(page, "state.seed === 77")
        assert page.evaluate("place[0] === state.hand[0] && place[1] === state.hand[1]")  # where a step would go
    actions = open_path(str(out)).read().arrays["action"]
    np.testing.assert_allclose(actions[0], [0.8 * 512, 0.8 * 512], atol=1)
    np.testing.assert_allclose(actions[-1], [0.89 * 512, 0.35 * 512], atol=1)


@pytest.mark.slow
@pytest.mark.parametrize("env", [*TASKS])
def test_an_episode_demonstrated_by_mouse_is_trained_on(
    env: str, browse: Browse, robodiff: Run, tmp_path: Path
) -> None:
    out = tmp_path / "mine.zarr"
    with served(env, "--out", str(out)) as link:
        hand = Hand(opened_page(browse, link))
        assert demonstrated(hand, TASKS[env])
        assert hand.press("k", "state.seed === 1")["kept"] == 1
    small = ("--model.down_dims", "[8, 16]", "--model.n_groups", 4, "--trainer.max_steps", 2)
    options = ("--config", TASKS[env].preset, "--data", out, "--run", tmp_path / "run", "--data.val_split", 0)
    code, _, error = robodiff("fit", *options, *small, "--rollout.env", "null")
    assert code == 0, error
    assert (tmp_path / "run" / "policy" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_policy_is_watched_disturbed_taken_over_and_sampled_otherwise(
    browse: Browse, policy: Path, tmp_path: Path
) -> None:
    with playing(opened(env="pusht", policy=policy, out=tmp_path / "d.zarr")) as link:
        page = opened_page(browse, link)
        assert page.locator("#who").inner_text() == "The policy acts"
        page.keyboard.press(".")
        wait_until(page, "state.step === 1 && state.fans[0].stages.length === 5")
        page.keyboard.press(" ")
        wait_until(page, "state.step > 2 && state.fans[0].paths.length === 13")
        x, y, angle = page.evaluate("state.bodies[1]")
        move(page, x, y)
        page.mouse.down()
        wait_until(page, "state.holds")
        move(page, 0.5, 0.3)
        page.keyboard.press("e")
        wait_until(page, f"Math.abs(state.bodies[1][2] - {angle}) > 0.1")
        page.mouse.up()
        wait_until(page, "!state.holds && state.disturbed")
        assert np.hypot(*np.subtract(page.evaluate("state.bodies[1].slice(0, 2)"), [0.5, 0.3])) < 0.05
        page.locator("#sampler").select_option("DDIM")
        page.locator("#steps").fill("3")
        page.locator("#steps").press("Tab")
        page.locator("#samples").fill("4")
        page.locator("#samples").press("Tab")
        wait_until(page, "state.sampler === 'DDIM' && state.steps === 3 && state.fans[0].paths.length === 5")
        page.locator("#scene").focus()
        page.keyboard.press("t")
        wait_until(page, "state.by_person")
        move(page, 0.2, 0.2)
        step = page.evaluate("state.step")
        wait_until(page, f"state.step > {step} + 5")
        page.keyboard.press("t")
        wait_until(page, "!state.by_person && state.fans.length")
        page.keyboard.press("Enter")
        wait_until(page, "state.can_keep")
        page.keyboard.press("k")
        wait_until(page, "state.kept === 1")
    recorded = open_path(str(tmp_path / "d.zarr")).read()
    assert recorded.expert is not None
    assert 5 <= recorded.expert.sum() < len(recorded.expert)


def test_bodies_move_evenly_between_two_steps(browse: Browse) -> None:
    with playing(opened(env="pusht")) as link:
        page = opened_page(browse, link)
        page.evaluate(COUNT_PICTURES + "0")
        page.locator("#speed").select_option("0.1")
        page.locator("#scene").focus()
        page.keyboard.press(" ")
        wait_until(page, "state.step === 1")
        drawn = page.evaluate("pictures")
        wait_until(page, "state.step === 2")  # a second later
        assert page.evaluate("pictures") - drawn >= 10


def test_chunks_are_seen_to_come_about_from_noise(browse: Browse) -> None:
    fan = {
        "agent": 0,
        "number": 1,
        "chosen": 0,
        "paths": [[[1, 4], [0, 0]]],
        "stages": [[[[0, 0], [0, 0]]], [[[1, 0], [0, None]]]],
    }
    with playing(opened(env="pusht")) as link:
        page, still = opened_page(browse, link), opened_page(browse, link, reduced_motion=True)
        assert page.evaluate("(fan) => between([...fan.stages, fan.paths], 0.75)", fan) == [[[1, 2], [0, None]]]
        for each in (page, still):
            each.evaluate(COUNT_PICTURES + "0")
            each.evaluate("(fan) => scene.showFans([fan], 1, 1e6)", fan)
            wait_until(each, "pictures > 0")
        wait_until(page, "pictures > 5")  # it goes on
        page.evaluate("(fan) => scene.showFans([{ ...fan, stages: [] }], 2, 1e6)", fan)  # the same one
        drawn = page.evaluate("pictures")
        wait_until(page, f"pictures > {drawn} + 5")
        assert still.evaluate("pictures") < 3
        page.evaluate("scene.showFans([], 0, 0)")
        wait_until(page, "new Promise((done) => { const n = pictures; setTimeout(() => done(n === pictures), 200); })")


@pytest.mark.slow
def test_every_width_fits_in_both_schemes_and_nothing_moves_by_itself(browse: Browse, policy: Path) -> None:
    with playing(opened(env="pusht", policy=policy)) as link:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                page = opened_page(browse, link, width=width, scheme=scheme, reduced_motion=True)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.evaluate("state.phase") == "ready"


def test_hostile_names_do_nothing(browse: Browse, small_policy: Callable, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "<img src=x onerror=alert(3)>"
    save_policy(small_policy(), folder)
    use_env(monkeypatch, replace(SPEC, name=HOSTILE, success=HOSTILE))
    dialogs: list[Any] = []
    with playing(opened(env=HOSTILE, policy=folder), title=HOSTILE) as link:
        page = browse(link)
        page.on("dialog", lambda dialog: (dialogs.append(dialog), dialog.dismiss()))
        wait_until(page, "state !== null")
        assert page.locator("h1").inner_text().startswith("<script>alert(1)</script>")
        assert page.locator("h1").inner_text().count("x") < 300
        page.locator("#sampler").evaluate("(field) => { field.innerHTML = '<option>&lt;b&gt;x</option>'; }")
        page.locator("#sampler").select_option("<b>x")
        wait_until(page, "state.note")
        assert "<b>x" in page.locator("#say").inner_text()
        assert page.locator("main img, main script, h1 *").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert dialogs == []
