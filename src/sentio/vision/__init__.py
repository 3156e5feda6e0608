"""What is seen: images, videos, poses and landmarks; files to arrays, arrays to windows that a network takes."""

#: front ends by name -> module in this folder
MEMBERS = {"image": "images", "landmarks": "landmarks", "skeleton": "skeletons", "video": "video"}
