"""What is seen: files of poses and landmarks to arrays, arrays to windows of features."""

#: front ends by name -> module in this folder
MEMBERS = {"landmarks": "landmarks", "skeleton": "skeletons"}
