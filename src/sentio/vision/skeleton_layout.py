"""The 25 joints of Kinect v2, as NTU RGB+D has them, counted from 0."""

from __future__ import annotations

#: names of the joints, in order
NTU_JOINTS = (
    "base of spine",
    "middle of spine",
    "neck",
    "head",
    "left shoulder",
    "left elbow",
    "left wrist",
    "left hand",
    "right shoulder",
    "right elbow",
    "right wrist",
    "right hand",
    "left hip",
    "left knee",
    "left ankle",
    "left foot",
    "right hip",
    "right knee",
    "right ankle",
    "right foot",
    "shoulders' middle",
    "left fingertips",
    "left thumb",
    "right fingertips",
    "right thumb",
)
JOINTS = len(NTU_JOINTS)
#: the joint that all others hang on
ROOT = 20
#: (child, parent), towards the root: Yan et al., AAAI 2018
NTU_LINKS: tuple[tuple[int, int], ...] = (
    (0, 1),
    (1, 20),
    (2, 20),
    (3, 2),
    (4, 20),
    (5, 4),
    (6, 5),
    (7, 6),
    (8, 20),
    (9, 8),
    (10, 9),
    (11, 10),
    (12, 0),
    (13, 12),
    (14, 13),
    (15, 14),
    (16, 0),
    (17, 16),
    (18, 17),
    (19, 18),
    (21, 22),
    (22, 7),
    (23, 24),
    (24, 11),
)
