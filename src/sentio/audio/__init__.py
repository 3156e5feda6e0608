"""Sound in: files to samples (`io`), samples to features (`frontend`), clips to windows (`windows`)."""

#: front ends by name -> module in this folder
MEMBERS = {"log-mel": "frontend"}
