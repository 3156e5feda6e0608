"""Pictures in: video files to frames (`decoding`), frames to clips that a network takes (`video`)."""

#: front ends by name -> module in this folder
MEMBERS = {"video": "video"}
