"""What stands on the table, as data: arms, objects, marks and cameras; and the MuJoCo model that is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.envs.mujoco.library import mujoco

TIMESTEP = 0.002
"""Of the simulation, s."""
PICTURE = 384, 512
"""Height and width of what is drawn for people."""
Color = tuple[float, float, float, float]
Point = tuple[float, float, float]


def drawn_size(longest: int) -> tuple[int, int]:
    """Return height and width of a picture whose longer side has so many pixels, ``PICTURE``'s at most."""
    width = min(longest, PICTURE[1])
    return max(1, width * PICTURE[0] // PICTURE[1]), width


@dataclass(frozen=True)
class ArmModel:
    """A kind of arm: its MJCF file, and what the file does not say.

    In the file a site ``tcp`` is the tool, whose y points along the motion of the fingers and whose z points forward;
    there is a camera ``wrist``; actuators stand in the order of the joints, the gripper's last.
    """

    file: str
    home: tuple[float, ...]
    """Joint angles at the start, rad."""
    opening: float
    """Travel of one finger between closed and open, m."""
    clearance: float
    """How far above things the expert moves, m."""
    speed: float
    """Usual speed of the expert's tool, m/s."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(__file__).with_name("arms") / self.file


PANDA = ArmModel("panda.xml", (0, -0.29, 0, -2.462, 0, 2.172, np.pi / 4), 0.04, 0.12, 0.4)
MYCOBOT = ArmModel("mycobot.xml", (0.35, -0.13, -1.13, -0.31, 0, -1.22), 0.025, 0.05, 0.16)


@dataclass(frozen=True)
class Mount:
    """An arm on the table: where its base is, m, and where it looks, rad about the vertical."""

    arm: ArmModel
    x: float
    y: float
    yaw: float = 0.0

    def ahead(self, forward: float, left: float = 0.0) -> np.ndarray:
        """Return the place (2,) on the table that lies so far before the base and to the left of it, m."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([self.x + c * forward - s * left, self.y + s * forward + c * left])


@dataclass(frozen=True)
class Part:
    """One primitive of an object or a mark."""

    shape: str
    """box, sphere, cylinder or capsule."""
    size: tuple[float, ...]
    """Half sizes of a box; radius, and half length, of the others; m."""
    pos: Point = (0, 0, 0)
    """Of its middle, from the object's origin, m."""
    rgba: Color = (0.8, 0.5, 0.1, 1)


@dataclass(frozen=True)
class Object:
    """Something that can be moved."""

    name: str
    parts: tuple[Part, ...]
    mass: float
    """kg."""
    rest: float
    """Height of its origin above the table where it lies at the start, m."""


@dataclass(frozen=True)
class Camera:
    """A camera that stands still: where it is and at what it looks, m; ``fovy`` is its vertical angle, degrees."""

    name: str
    pos: Point
    target: Point
    fovy: float = 50.0


@dataclass(frozen=True)
class Scene:
    """All that a world is made of."""

    mounts: tuple[Mount, ...]
    objects: tuple[Object, ...]
    marks: tuple[tuple[str, Part], ...]
    """Places by name, which nothing collides with."""
    cameras: tuple[Camera, ...]


def compiled(scene: Scene) -> Any:
    """Return the model of a scene: names of an arm's parts begin with ``agent<i>/``."""
    spec = mujoco.MjSpec()
    spec.option.timestep, spec.option.impratio = TIMESTEP, 10
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    _light(spec)
    spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], material="table")
    for index, mount in enumerate(scene.mounts):
        frame = spec.worldbody.add_frame(pos=[mount.x, mount.y, 0], quat=_about_z(mount.yaw))
        spec.attach(_arm(mount.arm, index, len(scene.mounts)), prefix=f"agent{index}/", frame=frame)
    for item in scene.objects:
        body = spec.worldbody.add_body(name=item.name)
        body.add_freejoint(name=item.name)
        for part in item.parts:
            body.add_geom(**_shape(part), mass=item.mass / len(item.parts), friction=[1, 0.02, 0.001], condim=4)
    for name, part in scene.marks:
        spec.worldbody.add_site(name=name, **_shape(part))
    for camera in scene.cameras:
        spec.worldbody.add_camera(name=camera.name, pos=camera.pos, quat=_looking(camera), fovy=camera.fovy)
    return spec.compile()


def _light(spec: Any) -> None:
    """Light evenly, and make the table a chequered one, so that one sees how far things are."""
    spec.visual.quality.shadowsize, spec.visual.quality.offsamples = 2048, 0
    spec.visual.quality.numslices, spec.visual.quality.numstacks = 14, 8  # half of the usual triangles a side
    spec.visual.headlight.ambient[:], spec.visual.headlight.diffuse[:] = 0.45, 0.15
    spec.visual.headlight.specular[:] = 0
    spec.visual.map.znear = 0.005
    spec.visual.map.shadowclip, spec.stat.extent, spec.stat.center[:] = 3, 2, 0  # shadows all over the table
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=[-0.5, 0.5, 3], dir=[0.1, -0.1, -1], diffuse=[0.45] * 3
    )
    flat = mujoco.mjtBuiltin.mjBUILTIN_FLAT
    sky, wood = [0.82, 0.86, 0.9], [0.86, 0.83, 0.78]
    spec.add_texture(
        name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=flat, rgb1=sky, rgb2=sky, width=8, height=48
    )
    spec.add_texture(
        name="table",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=wood,
        rgb2=[0.94 * each for each in wood],
        width=64,
        height=64,
    )
    table = spec.add_material(name="table", texrepeat=[2, 2], texuniform=True, specular=0)
    table.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "table"


def _arm(model: ArmModel, index: int, count: int) -> Any:
    """Return an arm that carries itself, as real ones do, and whose links meet everything but each other."""
    arm = mujoco.MjSpec.from_file(str(model.path))
    others = sum(2 << other for other in range(count) if other != index)
    for body in arm.bodies:
        body.gravcomp = 1
        for geom in filter(lambda each: each.contype, body.geoms):  # the others are only drawn
            geom.contype, geom.conaffinity = (1 if "finger" in body.name else 2 << index), 1 | others
    return arm


def _about_z(yaw: float) -> list[float]:
    return [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]


def _looking(camera: Camera) -> np.ndarray:
    """Return the quaternion (4,) of a camera that looks at its target, its upper edge up."""
    back = np.subtract(camera.pos, camera.target)
    right = np.cross([0, 0, 1.0], back) if np.abs(back[:2]).max() > 1e-6 else np.array([0, -1.0, 0])
    axes = np.stack([axis / np.linalg.norm(axis) for axis in (right, np.cross(back, right), back)], axis=1)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, axes.ravel())
    return quat


def _shape(part: Part) -> Mapping[str, Any]:
    kind = getattr(mujoco.mjtGeom, f"mjGEOM_{part.shape.upper()}")
    return {"type": kind, "size": [*part.size, 0, 0][:3], "pos": part.pos, "rgba": part.rgba}
