"""What arrays are called by their own names."""

from robodiff.data.naming import usual_names


def test_the_command_again_is_no_observation() -> None:
    kinds = {"data/head_camera": "image", "data/state": "vector", "data/tcp_action": "vector", "data/action": "vector"}
    names = ["observation.images.head_camera", "observation.state", None, "action"]
    assert [*usual_names(kinds).values()] == names
