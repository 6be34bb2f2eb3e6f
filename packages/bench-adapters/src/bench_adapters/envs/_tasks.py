"""What is known about ManiSkill's tasks before one of them is built."""

import inspect
import os
from typing import Any

from bench_adapters.errors import SimulatorUnavailableError
from bench_adapters.specs import ActionSpec, Dimension, end_effector_spec

INSTRUCTIONS = {
    "DrawTriangle-v1": "draw the triangle on the canvas",
    "LiftPegUpright-v1": "lift the peg and stand it upright",
    "PegInsertionSide-v1": "insert the peg into the hole of the box",
    "PickCube-v1": "pick up the red cube and move it to the goal",
    "PlaceSphere-v1": "place the sphere into the bin",
    "PlugCharger-v1": "plug the charger into the receptacle",
    "PokeCube-v1": "poke the cube with the peg",
    "PullCube-v1": "pull the cube to the goal",
    "PullCubeTool-v1": "pull the cube closer with the tool",
    "PushCube-v1": "push the cube to the goal",
    "PushT-v1": "push the T-shaped block onto the goal",
    "RollBall-v1": "roll the ball to the goal",
    "StackCube-v1": "stack the red cube on the green cube",
    "StackPyramid-v1": "stack the cubes into a pyramid",
    "TwoRobotPickCube-v1": "hand over the red cube and move it to the goal",
    "TwoRobotStackCube-v1": "place the green cube on the target and stack the blue cube on it",
}
"""Instruction given to the policy, by task; other tasks are named by their class name."""

ROTATING = ("LiftPegUpright-v1", "PegInsertionSide-v1", "PlugCharger-v1")
"""Tasks that cannot be solved without turning the tool. ``pd_ee_target_delta_pose`` turns it by up
to 0.1 rad per step, ``pd_ee_delta_pose``, whose target follows the lagging tool, by 0.04 rad."""

ACROSS = ("LiftPegUpright-v1", "PokeCube-v1", "PullCubeTool-v1", "RollBall-v1")
"""Tasks in which the fingers must close across the robot's forward axis, as those of the plain
Panda do; the hand of the Panda with a wrist camera starts a quarter turn away from that."""


def registry() -> dict[str, Any]:
    """Return ManiSkill's task specifications by name.

    Raises:
        SimulatorUnavailableError: If ManiSkill cannot be imported.
    """
    # A task that lacks an asset must fail, not wait for somebody to answer a prompt.
    os.environ.setdefault("MS_SKIP_ASSET_DOWNLOAD_PROMPT", "1")
    try:
        import mani_skill.envs  # noqa: F401  registers the tasks
        from mani_skill.agents.robots.panda import panda_wristcam  # noqa: F401  and this robot
        from mani_skill.utils.registration import REGISTERED_ENVS
    except ImportError as error:
        remedy = "pip install bench-adapters[maniskill]"
        if ".so" in str(error):  # not a module but a shared library of the system
            remedy = "bench-adapters doctor --fix"
        raise SimulatorUnavailableError(
            f"ManiSkill cannot be imported ({error}); run `{remedy}`"
        ) from error
    return {uid: spec for uid, spec in REGISTERED_ENVS.items() if uid[-1].isdigit()}


def default_robot(spec: Any) -> Any:
    """Return the robot of a task: the wrist-camera Panda where it suits, else the task's own.

    None is a task whose robot cannot be chosen.
    """
    if spec.uid in ACROSS:
        return "panda"
    supported = getattr(spec.cls, "SUPPORTED_ROBOTS", None) or []
    own = spec.default_kwargs.get("robot_uids")
    if own is None:
        parameter = inspect.signature(spec.cls.__init__).parameters.get("robot_uids")
        if parameter is None:
            return None
        own = parameter.default
    return "panda_wristcam" if {"panda", "panda_wristcam"} & {*supported, own} else own


def default_control_mode(name: str, robot: Any) -> str | None:
    """Return the controller that our experts and policies use; None is the robot's own."""
    from mani_skill.agents.registration import REGISTERED_AGENTS

    uid = robot[0] if isinstance(robot, tuple) else robot
    if uid not in REGISTERED_AGENTS or not uid.startswith("panda"):
        return None
    if uid == "panda_stick":  # no gripper
        return "pd_ee_delta_pos"
    return "pd_ee_target_delta_pose" if name in ROTATING else "pd_ee_delta_pos"


def obs_mode(spec: Any) -> str:
    """Return the observation mode that renders colours."""
    supported = getattr(spec.cls, "SUPPORTED_OBS_MODES", ("rgb",))
    return "rgb" if "rgb" in supported else next((m for m in supported if "rgb" in m), "rgb")


def default_reward_mode(spec: Any) -> str:
    """Return ``sparse`` where the task knows success, else ``none``."""
    return "sparse" if "sparse" in spec.cls.SUPPORTED_REWARD_MODES else "none"


def require_assets(spec: Any, robot: Any) -> None:
    """Complain about assets that a task or its robot would download.

    Args:
        spec: ManiSkill's specification of the task.
        robot: Name of the robot, or a tuple of names.

    Raises:
        SimulatorUnavailableError: If something is not on this machine; the message names the
            command that fetches it.
    """
    from mani_skill.agents.registration import REGISTERED_AGENTS

    missing = _missing(spec.asset_download_ids)
    if missing:
        raise SimulatorUnavailableError(
            f"task {spec.uid!r} needs assets that are not on this machine: {missing[:5]}; "
            f"run `python -m mani_skill.utils.download_asset {spec.uid}`"
        )
    for uid in robot if isinstance(robot, tuple) else (robot,):
        agent = REGISTERED_AGENTS.get(uid) if isinstance(uid, str) else None
        missing = _missing(agent.asset_download_ids) if agent is not None else []
        if missing:
            raise SimulatorUnavailableError(
                f"task {spec.uid!r} needs the robot {uid!r}, which is not on this machine; "
                f"run `python -m mani_skill.utils.download_asset {missing[0]}`"
            )


def _missing(asset_ids: Any) -> list[str]:
    from mani_skill.utils import assets

    return [
        source
        for asset in asset_ids or []
        for source in (
            assets.expand_data_group_into_individual_data_source_ids(asset)
            if asset in assets.DATA_GROUPS
            else [asset]
        )
        if not assets.is_data_source_downloaded(source)
    ]


def action_spec(control_mode: str | None, action_dim: int) -> ActionSpec:
    """Return what the numbers of an action mean, of one arm after the other.

    Args:
        control_mode: ManiSkill's controller; others than the Panda's tool steps are only numbered.
        action_dim: Numbers of an action, of all arms.
    """
    start = "commanded tool pose" if "target" in (control_mode or "") else "tool pose"
    frame = f"base, added to the {start}"
    arms = {
        "pd_ee_delta_pos": end_effector_spec(translation_unit="0.1 m", frame=frame),
        "pd_ee_delta_pose": end_effector_spec(
            translation_unit="0.1 m",
            rotation_unit="-0.1 rad",  # ManiSkill 3.0.1 scales rotations by their lower bound
            frame=frame,
            rotation="euler XYZ",
        ),
    }
    arm = arms.get((control_mode or "").replace("_target", ""))
    if arm is None or action_dim % len(arm.dimensions):
        return ActionSpec(
            tuple(Dimension(f"{control_mode} {i}", "normalised") for i in range(action_dim))
        )
    return ActionSpec(arm.dimensions * (action_dim // len(arm.dimensions)))
