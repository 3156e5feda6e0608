"""Networks by name: a new network is a file here and a row in this table."""

#: name -> module in this folder
MEMBERS = {
    "dcase2024-baseline": "cp_mobile",
    "resnet8": "resnet",
    "resnet20": "resnet",
    "resnet50": "resnet",
    "tap-cnn": "tap_cnn",
    "tiny-cnn": "tiny_cnn",
}
