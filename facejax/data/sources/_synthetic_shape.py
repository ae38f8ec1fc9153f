"""The geometry of a synthetic head: where its features lie, and how they reach the picture.

The head is a unit sphere, seen straight on in its own frame: u to the viewer's right, v down, and
the face looks at the viewer. Features are curves over (u, v), and the nose stands out of the sphere
by a height. The pose turns the sphere; then the outline of this face stretches it sideways, row by
row, and the framing puts it into the picture. Every step has a closed form both ways (the nose, one
fixed point), so pixels are looked up in (u, v) and landmarks are carried from (u, v) to pixels.

Arrays here broadcast: parameters [n, 1] against points [n, k], or [n, 1, 1] against pixels.
Only additions, products, quotients and square roots touch arrays, because these round the same way
on every machine and for every batch; angles go through `math`, one face at a time.
"""

import math
from types import SimpleNamespace

import numpy as np

# Per expression: brow lift, lift of the inner brow ends, eye opening, mouth corners up, mouth gap,
# mouth width, wrinkled nose.
_ACTIONS = np.array(
    [
        (0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.0),
        (0.01, 0.00, -0.25, 0.10, 0.05, 0.22, 0.0),
        (0.00, 0.07, -0.20, -0.08, 0.00, -0.08, 0.0),
        (0.09, 0.02, 0.45, 0.00, 0.17, -0.22, 0.0),
        (0.06, 0.06, 0.35, -0.04, 0.08, 0.12, 0.0),
        (-0.04, -0.02, -0.35, -0.05, 0.03, 0.02, 1.0),
        (-0.06, -0.07, -0.15, -0.05, 0.00, -0.10, 0.5),
    ]
)


def _trig(degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angles = [math.radians(float(d)) for d in degrees]
    return np.array([math.cos(a) for a in angles]), np.array([math.sin(a) for a in angles])


def derive(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds to parameters f64[n] what follows from them: the shape under expression, age and pose.

    Returns:
        A new dict, name -> f64[n].
    """
    p = SimpleNamespace(**params)
    acts = _ACTIONS[p.expression.astype(np.int64)] * p.intensity[:, None]
    lift, inner, opening, corners, gap, widen, wrinkle = acts.T
    nose_tip = p.eye_level + p.nose_length
    mouth_level = nose_tip + p.lip_gap
    cos_yaw, sin_yaw = _trig(p.yaw)
    cos_pitch, sin_pitch = _trig(p.pitch)
    cos_roll, sin_roll = _trig(p.roll)
    cos_azimuth, sin_azimuth = _trig(p.azimuth)
    cos_elevation, sin_elevation = _trig(p.elevation)
    years = (p.age - 18.0) / 62.0
    return params | {
        "nose_tip": nose_tip,
        "mouth_level": mouth_level,
        "mouth_half": p.mouth_width * (1 + widen),
        "corners": corners,
        "gap": gap,
        "eye_up": p.eye_height * (1 + opening),
        "eye_down": p.eye_height * 0.55 * (1 + 0.5 * opening),
        "brow_level": p.eye_level - p.brow_gap - lift,
        "brow_inner": inner,
        "wrinkle": wrinkle,
        "wrinkles": np.clip(years * 1.25 - 0.25, 0, 1),
        "grey": p.greying * np.clip((p.age - 40.0) / 25.0, 0, 1),
        "cos_yaw": cos_yaw,
        "sin_yaw": sin_yaw,
        "cos_pitch": cos_pitch,
        "sin_pitch": sin_pitch,
        "cos_roll": cos_roll,
        "sin_roll": sin_roll,
        "light_x": sin_azimuth * cos_elevation,
        "light_y": -sin_elevation,
        "light_z": cos_azimuth * cos_elevation,
    }


def shaped(params: dict[str, np.ndarray], axes: int, dtype: str) -> SimpleNamespace:
    """The parameters as attributes, with `axes` trailing axes of length 1."""
    return SimpleNamespace(
        **{k: v.astype(dtype).reshape((-1,) + (1,) * axes) for k, v in params.items()}
    )


def bump(t2: np.ndarray) -> np.ndarray:
    """A smooth bump of height 1 that ends where the squared distance `t2` reaches 1."""
    t = np.maximum(1 - t2, 0)
    return t * t


# ---------------------------------------------------------------------------- picture and sphere


def _outline(p: SimpleNamespace, y: np.ndarray) -> np.ndarray:
    """Half the width of the head at height `y`, relative to a sphere of the same height."""
    low = np.minimum(np.maximum(y * 1.25, 0), 1)
    high = np.minimum(np.maximum(-y * 1.4, 0), 1)
    cheek = bump(((y - 0.25) * 2.2) ** 2)
    return p.face_width * (
        1 + p.jaw * low * low * (3 - 2 * low) + p.forehead * high * high + p.cheek * cheek
    )


def to_plane(p: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image coordinates in [0, 1] to the plane in which the turned sphere is the unit disc."""
    x, y = (x - p.centre_x) / p.scale, (y - p.centre_y) / p.scale
    x, y = p.cos_roll * x + p.sin_roll * y, p.cos_roll * y - p.sin_roll * x
    return x / _outline(p, y), y


def _from_plane(p: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = x * _outline(p, y)
    x, y = p.cos_roll * x - p.sin_roll * y, p.cos_roll * y + p.sin_roll * x
    return p.centre_x + p.scale * x, p.centre_y + p.scale * y


def _turn_back(
    p: SimpleNamespace, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """From the plane to (u, v, depth in the head's frame, depth in the viewer's)."""
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0))
    depth = p.cos_pitch * z - p.sin_pitch * y
    v = p.cos_pitch * y + p.sin_pitch * z
    return p.cos_yaw * x - p.sin_yaw * depth, v, p.sin_yaw * x + p.cos_yaw * depth, z


def look_up(
    p: SimpleNamespace, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which point of the head is seen at a point of the plane.

    Returns:
        u, v, the depth in the head's frame (negative at the back) and in the viewer's frame.
    """
    u, v, *_ = _turn_back(p, x, y)
    height = nose_height(p, u, v)
    return _turn_back(p, x - height * p.sin_yaw, y + height * (p.sin_pitch * p.cos_yaw))


def project(p: SimpleNamespace, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points (u, v) of the face lie in the image, in [0, 1]; hidden ones on its outline."""
    w = np.sqrt(np.maximum(1 - u * u - v * v, 0))
    height = nose_height(p, u, v)
    depth = p.cos_yaw * w - p.sin_yaw * u
    x = p.cos_yaw * u + p.sin_yaw * (w + height)
    y = p.cos_pitch * v - p.sin_pitch * (depth + height * p.cos_yaw)
    z = p.sin_pitch * v + p.cos_pitch * depth
    inside = np.where(z < 0, 1 / np.sqrt(np.maximum(x * x + y * y, 1e-6)), 1)
    return _from_plane(p, x * inside, y * inside)


# --------------------------------------------------------------------------------- features


def nose_half(p: SimpleNamespace, v: np.ndarray) -> np.ndarray:
    """Half the width of the nose at height `v`."""
    t = np.minimum(np.maximum((v - p.eye_level) / p.nose_length, 0), 1)
    return p.nose_bridge + (p.nose_width - p.nose_bridge) * t * t


def nose_height(p: SimpleNamespace, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far the nose stands out of the sphere at (u, v)."""
    t = np.minimum(np.maximum((v - p.eye_level + 0.1) / (p.nose_length + 0.1), 0), 1)
    below = np.maximum(v - p.nose_tip, 0) * 5.5
    across = u / (nose_half(p, v) + 0.10)
    return p.nose_height * t * (1.15 - 0.15 * t) * bump(across * across) * bump(below * below)


def eye_lids(p: SimpleNamespace, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle line, upper and lower lid (v) of an eye at t, from -1 (inner corner) to 1 (outer)."""
    middle = p.eye_level - p.eye_tilt * p.eye_width * t
    arc = 1 - t * t
    return middle, middle - p.eye_up * arc, middle + p.eye_down * arc


def brow_line(p: SimpleNamespace, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle line (v) and half thickness of a brow at t, from -1 (inner end) to 1 (outer end)."""
    rise = p.brow_arch * (1 - t * t) + p.brow_slope * t + p.brow_inner * (0.5 - 0.5 * t)
    return p.brow_level - rise, p.brow_thickness * (1.05 - 0.35 * t)


def brow_centre(p: SimpleNamespace) -> np.ndarray:
    """How far from the middle of the face a brow has its centre."""
    return p.eye_gap + 0.02


def lip_lines(
    p: SimpleNamespace, t: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Top of the upper lip, its bottom, top of the lower lip, its bottom (v) at t in [-1, 1]."""
    middle = p.mouth_level - p.corners * (t * t - 0.35)
    arc = 1 - t * t
    opening = p.gap * np.maximum(1 - 1.3 * t * t, 0)  # ends before the corners, which stay closed
    dip = 1 - p.cupid_bow * bump((t * 3) ** 2)
    return (
        middle - (0.4 * p.gap + p.upper_lip * dip) * arc,
        middle - 0.4 * opening,
        middle + 0.6 * opening,
        middle + (0.6 * p.gap + p.lower_lip) * arc,
    )


def landmarks(params: dict[str, np.ndarray], size: int) -> np.ndarray:
    """The 68 points of the iBUG scheme, f32[n, 68, 2]: x, y in pixels, pixel centres at integers.

    Args:
        params: from `derive`.
        size: side of the image in pixels.
    """
    p = shaped(params, 1, "float64")
    theta = [math.pi * (0.02 + 0.96 * i / 16) for i in range(17)]
    jaw_u = np.array([[-0.985 * math.cos(a) for a in theta]])
    jaw_v = np.array([[0.985 * math.sin(a) for a in theta]])

    brow_t = np.array([[1.0, 0.5, 0.0, -0.5, -1.0]])  # the subject's right brow, from outside
    brow_v = brow_line(p, brow_t)[0]
    brow_u = brow_centre(p) + p.brow_length * brow_t

    bridge_v = p.eye_level + p.nose_length * np.array([[0.0, 0.33, 0.67, 1.0]])
    base_v = p.nose_tip + np.array([[0.03, 0.06, 0.07, 0.06, 0.03]])
    base_u = p.nose_width * np.array([[-0.9, -0.45, 0.0, 0.45, 0.9]])

    eye_t = np.array([[1.0, 0.35, -0.35, -1.0, -0.35, 0.35]])  # right eye: outer corner, top, ...
    middle, upper, lower = eye_lids(p, eye_t)
    eye_v = np.concatenate([middle[:, :1], upper[:, 1:3], middle[:, 3:4], lower[:, 4:]], 1)
    eye_u = p.eye_gap + p.eye_width * eye_t

    outer_t = np.array([[-0.95, -0.6, -0.25, 0, 0.25, 0.6, 0.95, 0.6, 0.25, 0, -0.25, -0.6]])
    inner_t = np.array([[-0.85, -0.35, 0, 0.35, 0.85, 0.35, 0, -0.35]])
    lips = [lip_lines(p, outer_t), lip_lines(p, inner_t)]
    mouth_u = p.mouth_half * np.concatenate([outer_t, inner_t], 1)
    mouth_v = np.concatenate(
        [lips[0][0][:, :7], lips[0][3][:, 7:], lips[1][1][:, :5], lips[1][2][:, 5:]], 1
    )

    n = len(p.eye_level)
    other_eye = [3, 2, 1, 0, 5, 4]
    u = [jaw_u, -brow_u, brow_u[:, ::-1], np.zeros((1, 4)), base_u, -eye_u, eye_u[:, other_eye]]
    v = [jaw_v, brow_v, brow_v[:, ::-1], bridge_v, base_v, eye_v, eye_v[:, other_eye]]
    u, v = (
        np.concatenate([np.broadcast_to(part, (n, part.shape[1])) for part in parts], 1)
        for parts in ([*u, mouth_u], [*v, mouth_v])
    )
    x, y = project(p, u, v)
    return (np.stack([x, y], -1) * size - 0.5).astype(np.float32)
