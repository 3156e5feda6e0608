"""Sound in: files to samples (`io`), samples to features (`frontend`), recordings to windows (`windows`)."""

#: front ends by name -> module in this folder
MEMBERS = {"log-mel": "windows"}
