"""Apply end-effector actions without ManiSkill's per-step tensor bookkeeping."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sapien
from mani_skill.agents.controllers.base_controller import CombinedController
from mani_skill.agents.controllers.pd_ee_pose import PDEEPosController
from mani_skill.agents.controllers.pd_joint_pos import PDJointPosMimicController
from numpy.typing import NDArray

SetAction = Callable[[NDArray[np.float32]], None]


def direct_controller(env: Any) -> SetAction | None:
    """Return a function that sets drive targets as ``env.agent.set_action`` would.

    ManiSkill's controllers serve batches on a GPU; for one environment on the CPU their tensor
    operations cost several times the physics. This does the same arithmetic on plain floats.

    Args:
        env: A ManiSkill environment with one scene on the CPU.

    Returns:
        The function, or None when the controller is not an end-effector position delta with a
        mimicked gripper (``pd_ee_delta_pos``): then use ManiSkill's own.
    """
    combined = env.agent.controller
    if not isinstance(combined, CombinedController) or set(combined.controllers) != {
        "arm",
        "gripper",
    }:
        return None
    arm, gripper = combined.controllers["arm"], combined.controllers["gripper"]
    if not (_is_plain_delta(arm) and _is_plain_target(gripper)):
        return None
    arm_slice, gripper_slice = (slice(*combined.action_mapping[uid]) for uid in ("arm", "gripper"))
    set_arm, set_gripper = _arm_setter(arm), _gripper_setter(gripper)

    def set_action(action: NDArray[np.float32]) -> None:
        set_arm(action[arm_slice])
        set_gripper(action[gripper_slice])

    return set_action


def _is_plain_delta(controller: Any) -> bool:
    config = controller.config
    return (
        type(controller) is PDEEPosController
        and config.use_delta
        and not config.use_target
        and not config.interpolate
        and config.frame == "root_translation"
        and controller._normalize_action
    )


def _is_plain_target(controller: Any) -> bool:
    config = controller.config
    return (
        type(controller) is PDJointPosMimicController
        and not config.use_delta
        and not config.interpolate
        and controller._normalize_action
    )


def _scaler(controller: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    low = np.asarray(controller.action_space_low, np.float32)
    high = np.asarray(controller.action_space_high, np.float32)
    middle, half = 0.5 * (high + low), 0.5 * (high - low)
    return lambda action: middle + half * np.clip(action, -1.0, 1.0)


def _arm_setter(arm: Any) -> SetAction:
    kinematics = arm.kinematics
    scale = _scaler(arm)
    root, tool = arm.root_link._objs[0].entity, arm.ee_link._objs[0].entity
    articulation = arm.articulation._objs[0]
    joints = [joint._objs[0] for joint in arm.joints]
    chain = np.asarray(kinematics.pmodel_active_joint_indices)
    controlled = np.asarray(kinematics.pmodel_controlled_joint_indices)
    mask = np.asarray(kinematics.qmask)
    active = np.asarray(arm.active_joint_indices)

    def set_arm(action: NDArray[np.float32]) -> None:
        current = root.pose.inv() * tool.pose
        target = sapien.Pose(current.p + scale(action), current.q)
        qpos = articulation.qpos
        solution, success, _ = kinematics.pmodel.compute_inverse_kinematics(
            kinematics.end_link_idx,
            target,
            initial_qpos=qpos[chain],
            active_qmask=mask,
            max_iterations=100,
        )
        targets = solution[controlled] if success else qpos[active]
        for joint, value in zip(joints, targets, strict=True):
            joint.set_drive_target(float(value))

    return set_arm


def _gripper_setter(gripper: Any) -> SetAction:
    scale = _scaler(gripper)
    joints = [joint._objs[0] for joint in gripper.joints]
    followers = np.asarray(gripper.mimic_joint_indices)
    leaders = np.asarray(gripper.mimic_control_joint_indices)
    controls = np.asarray(gripper.control_joint_indices)
    multiplier, offset = np.asarray(gripper._multiplier), np.asarray(gripper._offset)

    def set_gripper(action: NDArray[np.float32]) -> None:
        targets = np.zeros(len(joints), np.float32)
        targets[controls] = scale(action)
        targets[followers] = targets[leaders] * multiplier + offset
        for joint, value in zip(joints, targets, strict=True):
            joint.set_drive_target(float(value))

    return set_gripper
