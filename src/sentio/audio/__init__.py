"""Sound in: files to samples (`io`), samples to features, recordings to windows of features (`windows`)."""

#: front ends by name -> module in this folder
MEMBERS = {"log-mel": "windows", "scalogram": "scalogram", "waveform": "waveform"}
