"""What is seen: images, videos, poses, landmarks; files to arrays, arrays to what a network takes."""

#: front ends by name -> module in this folder
MEMBERS = {
    "image": "images",
    "image-and-sound": "image_and_sound",
    "landmarks": "landmarks",
    "skeleton": "skeletons",
    "video": "video",
}
