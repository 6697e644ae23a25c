"""What arrays and files are called, and whose they are."""

from pathlib import Path

from robodiff.data.naming import agent_files, usual_names


def test_files_of_agents(tmp_path: Path) -> None:
    names = ["Lift[a]_Agent0_150.zarr", "Lift[a]_Agent10_150.zarr", "Lift[a]_Agent2_150.zarr", "Lift[a]_Agent0_50.zarr",
             "Lift[a]_Agent0_old_150.zarr", "Lift[a]_Agent_150.zarr", "arm3/arm3.npz", "arm3/arm4.npz"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = agent_files(f"{tmp_path}/Lift[a]_Agent{{agent}}_150.zarr")
    assert found == {agent: f"{tmp_path}/Lift[a]_Agent{agent}_150.zarr" for agent in ("0", "2", "10")}
    assert [*found] == ["0", "2", "10"]
    assert agent_files(f"{tmp_path}/arm{{agent}}/arm{{agent}}.npz") == {"3": f"{tmp_path}/arm3/arm3.npz"}
    assert agent_files(f"{tmp_path}/{names[0]}") == {}


def test_the_command_again_is_no_observation() -> None:
    kinds = {"data/head_camera": "image", "data/state": "vector", "data/tcp_action": "vector", "data/action": "vector"}
    names = ["observation.images.head_camera", "observation.state", None, "action"]
    assert [*usual_names(kinds).values()] == names
